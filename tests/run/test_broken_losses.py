"""A user's loss that breaks the contract stops a run: one line with the clause and the place, exit status 6, no traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from corollary.errors import ConfigError, CorollaryError, UserCodeError
from corollary.run.loop import check, train
from run import recipes

HEAD = """import torch
from torch import Tensor
import torch.nn.functional as F


"""
GOOD = """
def mine(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1):
    z = beta * (chosen - ref_chosen - rejected + ref_rejected)
    return -F.logsigmoid(z)
"""
PAIRS = """
defaults: {run}
algorithm: {{type: preference, pairs_per_step: 3, chosen: "{{answer}}", rejected: "{{question}}", loss: {{type: {loss}:mine}}}}
rewards: []
evaluation: null
run: {{name: pairs, steps: 3, checkpoint_every: 2}}
"""
# name → (what replaces what in the good loss, the clause, the words, the line that is named counted from `def mine`, 0: none)
BROKEN = {
    "wrong shape": ("return -F.logsigmoid(z)", "return -F.logsigmoid(z)[:, None]", "terms", r"shape \[2, 1\]", 1),
    "already averaged": ("return -F.logsigmoid(z)", "return -F.logsigmoid(z).mean()", "terms", "leave averaging", 1),
    "detached": ("z = beta * (", "z = beta * (chosen - chosen).detach() * (", "gradient", "0 on ordinary", 1),
    "wholly detached": ("return -F.logsigmoid(z)", "return -F.logsigmoid(z.detach())", "gradient", "no gradient", 1),
    "in place": ("z = beta", "chosen -= ref_chosen\n    z = beta", "pure", "'chosen' in place", 1),
    "in place on its own values": (
        "return -F.logsigmoid(z)", "y = z.exp()\n    y.mul_(2)\n    return y.log1p()", "gradient", "cannot be differentiated", 1
    ),
    "NaN": ("return -F.logsigmoid(z)", "return -F.logsigmoid(z) * float('nan')", "finite", "NaN", 1),
    "infinite gradient": ("return -F.logsigmoid(z)", "return (z - z).abs().sqrt() + z", "finite", "gradient", 1),
    "a Python float": ("return -F.logsigmoid(z)", "return float(z.sum())", "terms", "a float, not a tensor", 1),
    "raises": ("return -F", "z = z / [][0]\n    return -F", "runs", "IndexError", 3),
    "an import that fails": ("def mine", "import no_such_package\n\ndef mine", "loads", "no_such_package", -2),
    "a syntax error": ("return -F", "return return -F", "loads", "SyntaxError", 3),
    "an unknown input": ("ref_chosen: Tensor", "ref_choosen: Tensor", "inputs", "did you mean ref_chosen", 1),
    "an input that nobody has": ("ref_chosen: Tensor", "margins: Tensor, ref_chosen: Tensor", "inputs", "'margins'", 1),
    "another name": ("def mine", "def mein", "loads", "did you mean mein", 0),
    "random": ("return -F.logsigmoid(z)", "return -F.logsigmoid(z + torch.rand(()))", "pure", "another value", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe for pairs."""
    path = tmp_path_factory.mktemp("broken")
    recipes.write(path)
    return path


def source(folder: Path, name: str, text: str) -> Path:
    """A loss and the recipe that names it; the recipe's path."""
    loss = folder / f"{re.sub('[^a-z]', '_', name)}.py"
    loss.write_text(HEAD + text)
    made = loss.with_suffix(".yaml")
    made.write_text(PAIRS.format(run=folder / "run.yaml", loss=loss))
    return made


def broken(folder: Path, name: str) -> tuple[Path, str]:
    """The recipe, and what the error names as its place."""
    old, new, _, _, line = BROKEN[name]
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    made = source(folder, name, text)
    start = (HEAD + text).splitlines().index(next(t for t in text.splitlines() if t.startswith("def "))) + 1
    file = made.with_suffix(".py")
    return made, f"{file}:{start + line - 1}" if line > 0 else f"{file}:{start + line}" if line else str(file)


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_found_before_the_model_is_loaded_and_the_line_names_clause_and_place(folder: Path, name: str) -> None:
    made, place = broken(folder, name)
    _, _, clause, words, _ = BROKEN[name]
    with pytest.raises(UserCodeError) as caught:
        train(recipes.recipe(made, "model.path=/no/such/model"), recipes.Quiet())
    line = caught.value.line()
    assert caught.value.exit_status == 6
    assert f"contract clause: {clause}" in line
    assert re.search(words, line), line
    assert line.startswith(f"error[E0700] {place}: "), line
    assert "\n" not in line


def test_the_premise_the_good_loss_trains(folder: Path) -> None:
    made = source(folder, "good", GOOD)
    console = recipes.Quiet()
    train(recipes.recipe(made), console)
    assert console.steps == [1, 2, 3]


@pytest.mark.parametrize("name", ["wrong shape", "raises", "a syntax error"])
def test_the_command_ends_with_one_line_and_status_6(folder: Path, name: str) -> None:
    made, place = broken(folder, name)
    process = recipes.command("train", made, "run.name=never")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 6, err
    assert err.startswith(f"error[E0700] {place}: ")
    assert f"contract clause: {BROKEN[name][2]}" in err
    assert err.count("\n") == 1, err
    assert out == ""


def test_a_missing_file_is_told_by_the_line_that_names_it_and_ends_with_2(folder: Path) -> None:
    made = folder / "missing.yaml"
    made.write_text(PAIRS.format(run=folder / "run.yaml", loss=folder / "godo.py"))
    source(folder, "good", GOOD)
    process = recipes.command("train", made)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.count("\n") == 1, err
    assert f"{made}:3: " in err
    assert "there is no file" in err
    assert "did you mean good.py?" in err


LATE = """
def mine(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1):
    z = beta * (chosen - ref_chosen - rejected + ref_rejected)
    if z.abs().max() > 0.05:
        return -F.logsigmoid(z) {late}
    return -F.logsigmoid(z)
"""


@pytest.mark.parametrize(
    ("late", "clause"),
    [("* torch.nan", "finite"), ("/ [][0]", "runs"), ("[:1]", "terms")],
    ids=["NaN", "raises", "shape"],
)
def test_one_that_breaks_later_loses_nothing_of_the_run(folder: Path, late: str, clause: str) -> None:
    name = f"late {clause}"
    made = source(folder, name, LATE.replace("{late}", late))
    settings = ("optimizer.lr=0.05", f"run.name=late-{clause}", "run.steps=40", "run.checkpoint_every=30")
    console = recipes.Quiet()
    with pytest.raises(UserCodeError, match=f"contract clause: {clause}"):
        train(recipes.recipe(made, *settings), console)
    assert 0 < len(console.steps) < 30, "it broke at once or never, so this test shows nothing"
    saved = [p.name for p in (folder / "runs" / f"late-{clause}" / "checkpoints").iterdir()]
    assert saved == [f"step-{len(console.steps):06d}"]
    made.with_suffix(".py").write_text(HEAD + GOOD)
    with pytest.raises(CorollaryError, match=r"late_\w+\.py is not what the run was started with") as caught:
        train(recipes.recipe(made, *settings), recipes.Quiet(), resume=True)
    assert caught.value.exit_status == 3


def test_a_wrong_parameter_is_told_by_its_line_and_the_nearest_name(folder: Path) -> None:
    annotated = "beta: Annotated[float, Field(gt=0)] = 0.1, gamma: float = 1.0"
    text = "from typing import Annotated\nfrom pydantic import Field\n" + GOOD.replace("beta: float = 0.1", annotated)
    made = source(folder, "typed", text)
    plain = made.read_text()
    for given, said in (
        ("gama: 2", "gama: unknown key; did you mean gamma?"),
        ("beta: -1", "beta: should be greater than 0; got -1"),
        ("gamma: much", "gamma: should be a valid number; got 'much'"),
    ):
        made.write_text(plain.replace("typed.py:mine}", f"typed.py:mine, {given}}}"))
        with pytest.raises(ConfigError) as caught:
            recipes.recipe(made)
        assert f"{made}:3: algorithm.loss.{said}" in str(caught.value)


def test_what_is_checked_before_a_demo_tries_the_user_s_functions_too(folder: Path) -> None:
    made, _ = broken(folder, "NaN")
    with pytest.raises(UserCodeError, match="contract clause: finite"):
        check(recipes.recipe(made), str(folder / "model"), recipes.Quiet())
