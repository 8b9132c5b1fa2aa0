"""`corollary prove` as a user meets it, and that a theorem without a broken twin cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corollary.cli import app
from corollary.errors import ConfigError, UserCodeError
from corollary.theory.figure import drawn
from corollary.theory.lab import Lab
from corollary.theory.proving import carry_out, chosen, labs
from corollary.theory.theorem import prove_one, theorem
from corollary.theory.theorems import theorems
from corollary.theory.verdict import Curve, Verdict, apart, at_least, at_most, equal, every, parallel, within

OWN = '''
from corollary.theory.bandit import bandit
from corollary.theory.theorem import theorem
from corollary.theory.tree import tree
from corollary.theory.verdict import equal

@theorem(section="custom.md#a-theorem-of-your-own", source="derived here", broken={"twice": {"times": 2.0}})
def values_are_means(lab, *, times=1.0):
    """V = Σ π Q.

    Proof: by definition.
    Experiment: a token tree, at the root.
    """
    world = lab.tree()
    theta = lab.policy(world)
    return equal(times * world.values(theta)[0], world.expected_reward(theta))

@theorem(section="custom.md#a-theorem-of-your-own", source="derived here", broken={"nothing": {"unused": 1.0}})
def vacuous(lab, *, unused=0.0):
    """1 = 1.

    Proof: clear.
    Experiment: none.
    """
    return equal(1.0, 1.0)

@theorem(section="custom.md#a-theorem-of-your-own", source="derived here", broken={"x": {"x": 1}})
def faulty(lab, *, x=0):
    """0 = 1/0.

    Proof: no.
    Experiment: none.
    """
    return equal(1 / x, 0.0)

def early_end(lab):
    return tree(vocabulary=2, depth=3, end=0, seed=lab.seed)

def two_arms(lab):
    return bandit([1.0, 0.0])

def no_world(lab):
    return 3
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(OWN)
    return file


def ran(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prove", *arguments])
    return result.exit_code, result.output


def test_at_least_110_theorems_and_each_names_its_source_and_experiment() -> None:
    assert len(theorems()) >= 110
    assert all(t.source and t.setup and t.proof and t.broken for t in theorems())


def test_a_theorem_of_the_users_own_is_proved_with_its_twin(own: Path) -> None:
    status, text = ran(f"{own}:values_are_means", "--seeds", "3")
    assert status == 0
    assert "1 of 1 theorems hold in each of 3 labs, 3 of 3 broken twins fail" in text


def test_an_experiment_whose_twin_holds_is_no_proof(own: Path) -> None:
    status, text = ran(f"{own}:vacuous")
    assert status == 1
    assert "0/1 HOLDS: nothing" in text


def test_a_world_of_the_users_own_stands_for_the_tree(own: Path) -> None:
    [lab] = labs([f"{own}:early_end"])
    assert lab.tree().lengths.tolist() == [1, 2, 3, 3]
    assert not carry_out(["B1.a", "B2.a"], [lab], lambda line: None).failed


def test_json_has_the_numbers_of_the_table() -> None:
    status, text = ran("B2.a", "--json")
    [found] = json.loads(text)["theorems"]
    assert (status, found["label"], found["sound"]) == (0, "B2.a", True)
    assert found["measured"] <= found["bound"]
    assert found["twins"][0]["holds"] is False


def test_explain_prints_statement_proof_experiment_twins_and_section() -> None:
    _, text = ran("B2.a", "--explain")
    for part in (
        "E[b(s)",
        "Proof",
        "Experiment",
        "Measured",
        "fails, as it should",
        "Source",
        "docs/theory/foundations.md",
    ):
        assert part in text


@pytest.mark.parametrize("options", [["--explain", "--json"], ["--list", "--json"], ["--explain", "--seeds", "2"]])
def test_options_that_would_change_nothing_are_refused(options: list[str]) -> None:
    assert ran("B2.a", *options)[0] == 2


def test_explain_draws_the_figure_of_a_theorem_that_has_one() -> None:
    found = next(t for t in theorems() if prove_one(t, Lab()).verdict.curve)
    _, text = ran(found.name, "--explain")
    assert "Figure" in text
    assert "●" in text


def test_theorems_are_chosen_by_label_number_name_or_page() -> None:
    assert [t.label for t in chosen(["B2.a"])] == ["B2.a"]
    assert len(chosen(["B2"])) >= 4
    assert {t.section.partition("#")[0] for t in chosen(["foundations"])} == {"foundations.md"}
    assert len(chosen(["B2.a", "B2"])) == len(chosen(["B2"]))


@pytest.mark.parametrize(
    ("names", "world", "said"),
    [
        (["B2.x"], [], "did you mean B2"),
        ([], ["depth=9"], "between 2 and 4, got 9"),
        ([], ["dpeth=2"], "a world has no 'dpeth'"),
        ([], ["depth=two"], "is a number, got 'two'"),
        ([], ["depth"], "no size of a world"),
        ([], ["vocabulary=5", "depth=4"], "625 answers"),
        (["{own}:two_arms"], [], "is no theorem"),
        (["{own}:absent"], [], "absent"),
        (["nowhere.py:x"], [], "nowhere.py"),
        (["mine.py"], [], "write mine.py:NAME"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(names: list[str], world: list[str], said: str, own: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        carry_out([n.format(own=own) for n in names], labs(world), lambda line: None)


def test_a_theorem_that_raises_is_blamed_by_its_line(own: Path) -> None:
    with pytest.raises(UserCodeError, match=r"mine\.py:\d+.*ZeroDivisionError"):
        carry_out([f"{own}:faulty"], [Lab()], lambda line: None)


def test_a_world_in_which_false_statements_are_true_is_refused(own: Path) -> None:
    with pytest.raises(ConfigError, match="have one token"):
        carry_out(["B1.a"], labs([f"{own}:two_arms"]), lambda line: None)


def test_a_world_that_is_none_is_blamed(own: Path) -> None:
    with pytest.raises(UserCodeError, match="returned int, not a World"):
        carry_out(["B1.a"], labs([f"{own}:no_world"]), lambda line: None)


def held(lab: Lab, *, constant: float = 1.0) -> Verdict:
    """1 = 1.

    Proof: clear.
    Experiment: none.
    """
    return equal(constant, 1.0)


@pytest.mark.parametrize(
    ("broken", "doc", "said"),
    [
        ({}, held.__doc__, "has no broken twin"),
        ({"typo": {"konstant": 2.0}}, held.__doc__, "must change some of"),
        ({"nothing": {}}, held.__doc__, "must change some of"),
        ({"twice": {"constant": 2.0}}, "1 = 1.\n\nProof: clear.", "has no Experiment"),
        ({"twice": {"constant": 2.0}}, "", "has no statement"),
    ],
)
def test_a_theorem_without_twin_or_statement_cannot_be_written(broken: dict, doc: str, said: str) -> None:
    def copy(lab: Lab, *, constant: float = 1.0) -> Verdict:
        return held(lab, constant=constant)

    copy.__doc__ = doc
    with pytest.raises(ValueError, match=said):
        theorem(section="x.md#y", source="derived here", broken=broken)(copy)


@pytest.mark.parametrize(
    "false",
    [
        equal(float("nan"), 0.0), equal([1.0, 2.0], [1.0, 2.1]), at_most(float("nan"), 1.0), at_most(2.0, 1.0),
        at_least(float("nan"), 1.0), at_least(1.0, 2.0), apart(1.0, 1.0), apart(float("nan"), 1.0), within(1.2, 1.0, 0.1),
        every(equal(1.0, 1.0), equal(1.0, 2.0)),
    ],
)  # fmt: skip
def test_what_is_false_or_no_number_does_not_hold(false: Verdict) -> None:
    assert not false.holds


def test_every_tells_the_first_that_fails_and_parallel_minds_the_sign() -> None:
    import torch

    a = torch.tensor([1.0, 2.0])
    assert every(equal(1.0, 1.0).at("one"), at_most(2.0, 1.0).at("two")).where == "two"
    assert parallel(a, 3 * a).holds
    assert not parallel(a, -a).holds


def test_a_figure_spans_its_numbers() -> None:
    text = drawn(Curve(x=(1.0, 10.0, 100.0), measured=(1.0, 0.1, 0.01), bound=(2.0, 0.2, 0.02), log_x=True, log_y=True))
    assert text.count("●") >= 3
    assert "0.01" in text
    assert drawn(Curve(x=(1.0,), measured=(float("nan"),))) == "  (nothing finite to draw)"


def test_a_labs_numbers_depend_on_seed_and_name_alone() -> None:
    assert (Lab(seed=1).normal("a", 3) == Lab(seed=1, depth=2).normal("a", 3)).all()
    assert (Lab(seed=1).normal("a", 3) != Lab(seed=2).normal("a", 3)).any()
    assert (Lab().normal("a", 3) != Lab().normal("b", 3)).any()


def test_a_loss_is_checked_from_within_a_bracket_of_the_users_script(tmp_path: Path) -> None:
    """The call stands on a line that, read by itself, is no statement."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from corollary.theory.contract import check\n\n\n"
        "def mine(logprobs, *, scale: float = 1.0):\n"
        '    """A loss."""\n'
        "    return -scale * logprobs\n\n\n"
        "reports = [\n    check(mine, family='likelihood'),\n]\n"
        "print(len(reports))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
