"""The contract's machinery: what it reads off a formula, what it says of a failure, and how the command ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from corollary.cli import main
from corollary.config import Config, variant
from corollary.declare import Positive, declares, entries
from corollary.errors import ConfigError, UserCodeError
from corollary.theory.contract import CLAUSES, Report, assert_contract, check
from corollary.theory.contract.frozen import wide
from corollary.theory.contract.samples import sample, samples
from corollary.theory.contract.subject import family_of, subject_of
from corollary.types import PolicyBatch, PreferenceBatch, UnpairedBatch
from run.recipes import command

GOOD = "def mine(logprobs, advantages):\n    return -advantages * logprobs\n"
BAD = "def mine(logprobs, advantages, trained):\n    return -advantages * logprobs / trained.sum()\n"


def pg(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).exp() * advantages


def over_own_tokens(logprobs, old_logprobs, advantages, trained):
    return pg(logprobs, old_logprobs, advantages) / trained.sum().clamp(min=1)


def failure(report: Report, clause: str) -> Any:
    return next(f for f in report.failures if f.clause == clause)


@pytest.mark.parametrize("entry", entries(), ids=lambda e: f"{e.family}-{e.name}")
def test_a_formula_of_the_library_holds_its_contract_within_twenty_seconds(entry: Any) -> None:
    report = check(entry.function)
    assert not report.failed, report.text()
    assert report.seconds < 20
    assert any(f.status == "holds" for f in report.findings)


# Families -----------------------------------------------------------------------------------------------------------------


def of_rewards(rewards): ...
def of_completions(completions, answer): ...
def of_pairs(chosen, rejected): ...
def of_pairs_of_tokens(chosen_logprobs, rejected_logprobs): ...
def of_labels(sequence_logprobs, desirable): ...
def of_scores(chosen_rewards, rejected_rewards): ...
def of_teacher(logits, teacher_logits): ...
def of_values(values, returns): ...
def of_sampler(old_logprobs, sampler_logprobs): ...
def of_mask(trained): ...
def of_reference(logprobs, ref_logprobs): ...
def of_entropy(entropy): ...
def of_tokens(logprobs): ...
def of_policy_batch(logprobs, batch: PolicyBatch): ...
def of_pair_batch(logprobs, batch: PreferenceBatch): ...
def of_labelled_batch(logprobs, batch: UnpairedBatch): ...
def of_nothing_known(x): ...


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        (pg, "policy"),
        (of_rewards, "advantage"),
        (of_completions, "reward"),
        (of_pairs, "preference"),
        (of_pairs_of_tokens, "preference"),
        (of_labels, "unpaired"),
        (of_scores, "reward_model"),
        (of_teacher, "distillation"),
        (of_values, "value"),
        (of_sampler, "correction"),
        (of_mask, "average"),
        (of_reference, "penalty"),
        (of_entropy, "penalty"),
        (of_tokens, "likelihood"),
        (of_policy_batch, "policy"),
        (of_pair_batch, "preference"),
        (of_labelled_batch, "unpaired"),
        (of_nothing_known, None),
    ],
)
def test_the_family_is_read_off_the_inputs(formula: Callable[..., Any], family: str | None) -> None:
    assert family_of(variant(formula)()) == family


def test_a_formula_whose_inputs_show_no_family_is_an_error_that_says_how_to_name_one() -> None:
    with pytest.raises(ConfigError, match="show no family") as caught:
        check(of_nothing_known)
    assert "declare a family" in str(caught.value.hint)


def test_a_family_may_be_given() -> None:
    assert check(pg, family="policy", model=False).family == "policy"


def test_an_unknown_name_of_the_catalogue_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        check("ppo_clp")
    assert "ppo_clip" in str(caught.value.hint)


def test_an_input_that_the_family_does_not_give_is_the_one_failure() -> None:
    def loss(logprobs, advantages, wieghts):
        return -advantages * logprobs

    report = check(loss)
    assert [f.clause for f in report.failures] == ["inputs"]
    assert "'wieghts'" in report.failures[0].cause


# What is said of a failure --------------------------------------------------------------------------------------------------


def test_a_microbatchs_own_count_is_named_as_the_cause_and_the_smallest_batch_that_shows_it_is_printed() -> None:
    found = failure(check(over_own_tokens, model=False), "split")
    assert "changes when the batch is split in 2" in found.cause
    assert "divides by its own microbatch's count of tokens" in found.cause
    assert "answers of 1, 2 tokens" in found.input  # of one answer there is nothing to split
    assert found.residual > found.bound


@dataclass
class Sized:
    """Wrong from `tokens` tokens on."""

    tokens: int = 1

    def __call__(self, logprobs, advantages, trained):
        wrong = trained.sum(-1, keepdim=True) >= self.tokens
        return -advantages * logprobs * torch.where(wrong, 2.0, 1.0)


@pytest.mark.parametrize(("tokens", "answers"), [(1, "1"), (2, "2"), (3, "4, 1, 3"), (4, "7, 3, 5, 1, 6, 2")])
def test_the_first_batch_that_fails_is_the_smallest(tokens: int, answers: str) -> None:
    found = failure(check(Sized, model=False, tokens=tokens), "on-policy")
    assert f"answers of {answers} tokens" in found.input


def test_samples_grow() -> None:
    sizes = [int(at.batch.lengths.sum()) for at in samples(subject_of(pg))]
    assert sizes[:6] == sorted(sizes[:6])
    assert sizes[0] == 1


def nll_sum(logprobs, trained):
    return -(logprobs * trained).sum(-1)


def detached(logprobs, old_logprobs, advantages):
    return -(logprobs - old_logprobs).exp() * advantages * logprobs.detach().exp()


def dead_option(logprobs, advantages, *, temperature: Positive = 1.0):
    return -advantages * logprobs


def turned(logprobs, old_logprobs, advantages):
    return -pg(logprobs, old_logprobs, advantages)


def k1_in_loss(logprobs, old_logprobs, advantages, ref_logprobs, *, beta: Positive = 0.1):
    return pg(logprobs, old_logprobs, advantages) + beta * (logprobs - ref_logprobs)


@pytest.mark.parametrize(
    ("loss", "clause", "words"),
    [
        (nll_sum, "mask", "a mask that multiplies"),
        (detached, "derivative", "if that is meant, declare stop_gradient=True"),
        (dead_option, "parameters", "temperature: an option that changes nothing"),
        (turned, "on-policy", "the sign is turned"),
        (k1_in_loss, "penalty", "no gradient on average, as k1"),
    ],
)
def test_the_cause_is_told(loss: Callable[..., Any], clause: str, words: str) -> None:
    assert words in failure(check(loss, model=False), clause).cause


def test_the_line_that_stops_the_gradient_is_named() -> None:
    line = detached.__code__.co_firstlineno + 1
    assert f"test_contract.py:{line}" in failure(check(detached, model=False), "derivative").cause


def test_an_option_that_is_off_by_default_is_checked_switched_on() -> None:
    def loss(logprobs, advantages, trained, *, normalise: bool = False):
        terms = -advantages * logprobs
        return terms / trained.sum().clamp(min=1) if normalise else terms

    found = failure(check(loss, model=False), "split")
    assert found.cause.startswith("with normalise=True: ")


def test_a_loss_that_gives_no_terms_is_measured_no_further() -> None:
    report = check(mean_inside, model=False)
    assert [f.clause for f in report.findings] == ["terms"]
    assert "return terms and leave averaging to the weights" in report.failures[0].cause


def mean_inside(logprobs, advantages):
    return -(advantages * logprobs).mean()


# float64 ------------------------------------------------------------------------------------------------------------------


def test_a_formula_that_casts_to_float32_is_measured_as_if_it_cast_to_float64() -> None:
    x = torch.full((2,), 1 / 3, dtype=torch.double)
    with wide(True):
        assert torch.equal(x.float(), x)
        assert torch.equal(x.to(torch.float32), x)
        assert x.log_softmax(-1, dtype=torch.float32).dtype == torch.double
        assert torch.where(x > 0, 0.1, 0.2).dtype == torch.double
    assert x.float().dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_half_precision_inside_is_told() -> None:
    def loss(logprobs, advantages):
        return -advantages.to(torch.bfloat16).to(advantages.dtype) * logprobs

    assert "half precision" in failure(check(loss, model=False), "precision").cause


# Reports ------------------------------------------------------------------------------------------------------------------


def test_a_report_goes_through_json_and_back() -> None:
    report = check(over_own_tokens, model=False)
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert again["failed"] is True
    assert again["name"] == "over_own_tokens"
    assert [f["clause"] for f in again["findings"]] == [f.clause for f in report.findings]
    assert {f["status"] for f in again["findings"]} == {"holds", "fails", "skipped"}


def test_an_infinite_residual_can_be_written() -> None:
    text = json.dumps(check(mean_inside, model=False).to_dict(), allow_nan=False)
    assert '"inf"' in text


def test_assert_contract_fails_a_test_with_the_table() -> None:
    assert_contract(pg, model=False)
    with pytest.raises(AssertionError, match="FAILS split"):
        assert_contract(over_own_tokens, model=False)


def test_every_clause_says_what_it_means_and_has_a_bound() -> None:
    assert all(c.means and c.bound >= 0 and c.families for c in CLAUSES)


def test_the_global_random_stream_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    check(pg, model=False)
    assert torch.equal(torch.rand(1), expected)


# What may be checked ------------------------------------------------------------------------------------------------------


@declares(value_at_reference=math.log(2))
class Own(Config):
    beta: Positive = 0.1

    def __call__(self, chosen, rejected, ref_chosen, ref_rejected):
        return -F.logsigmoid(self.beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))


def test_a_class_of_settings_its_variant_a_name_and_a_file_are_checked_alike(tmp_path: Path) -> None:
    assert not check(Own, model=False, beta=0.3).failed
    assert not check(variant(Own)(beta=0.3), model=False).failed
    assert check("dpo", model=False, beta=0.3).parameters["beta"] == 0.3
    (tmp_path / "mine.py").write_text(GOOD)
    assert not check(f"{tmp_path}/mine.py:mine", model=False).failed


def test_a_loss_that_takes_the_batch_is_given_the_first_steps_old_log_probabilities() -> None:
    def loss(logprobs, batch: PolicyBatch):
        return -(logprobs - batch.old_logprobs).exp() * batch.advantages

    loss.__annotations__["batch"] = PolicyBatch
    assert not check(loss, model=False).failed


def test_a_file_that_does_not_load_is_the_users_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import nothing_of_that_name\n" + GOOD)
    with pytest.raises(UserCodeError) as caught:
        check(f"{tmp_path}/mine.py:mine")
    assert str(caught.value.where).endswith("mine.py:1")


def test_no_rows_keep_their_width() -> None:
    at = sample(subject_of(pg), (3, 2), 0)
    none = at.take([])
    assert none.output.shape == (0, 3)
    assert none.batch.weights.shape == (0, 3)


# The command --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name", "status"),
    [
        (GOOD, "mine.py:mine", 0),
        (BAD, "mine.py:mine", 1),
        (GOOD, "other.py:mine", 2),
        ("import nothing_of_that_name\n" + GOOD, "mine.py:mine", 6),
        (GOOD, "mine.py:nime", 6),
    ],
    ids=["holds", "fails", "no such file", "does not load", "no such name"],
)
def test_the_command_ends_with_a_status_that_says_what_happened(
    code: str, name: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(code)
    assert ended(monkeypatch, "check", f"{tmp_path}/{name}") == status


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command's exit status."""
    monkeypatch.setattr("sys.argv", ["corollary", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command_prints_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(BAD)
    assert ended(monkeypatch, "check", f"{tmp_path}/mine.py:mine", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["failed"]
    assert "split" in [f["clause"] for f in found["findings"] if f["status"] == "fails"]


BROKEN = """
def exits(chosen, rejected, ref_chosen, ref_rejected):
    raise SystemExit(0)

class NoCall:
    beta: float = 0.1

async def later(chosen, rejected):
    return chosen - rejected
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["broken.py:exits"], 1, "raised SystemExit"),
        (["broken.py:NoCall"], 6, "NoCall cannot be loaded: TypeError: 'NoCall' cannot be called"),
        (["broken.py:later"], 6, "later is async; a formula is a plain function"),
        (["dpo", "bta=1"], 2, "dpo: bta is no parameter of it; did you mean beta?"),
        (["dpo", "beta=-1"], 2, "dpo: beta: Input should be greater than 0, got -1"),
        (["dpo", "beta"], 2, "'beta' is no parameter; write name=value"),
        (["dpo", "--against", "J"], 2, "go with --objective"),
        (["--objective", "cispo", "clip_high=2.0"], 0, "cispo(clip_low=1.0, clip_high=2.0)"),
    ],
)
def test_the_command_says_in_one_line_what_it_cannot_do(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    process = command("check", *arguments, cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert said in " ".join((out + err).split())
    assert "Traceback" not in err


def test_two_errors_that_hide_each_other_in_a_margin_are_seen_in_its_pull() -> None:
    def hidden(chosen_rewards, rejected_rewards, margins):  # type: ignore[no-untyped-def]
        return -torch.nn.functional.logsigmoid(chosen_rewards - rejected_rewards + margins) + 2 * margins

    assert "margins" in {f.clause for f in check(hidden, model=False).failures}


def test_branches_that_do_not_meet_are_a_jump_and_a_kink_is_none() -> None:
    def failing(jump: float) -> set[str]:
        def huber(values, returns, *, delta: Positive = 1.0):  # type: ignore[no-untyped-def]
            error = (values - returns).abs()
            return torch.where(error < delta, error.square() / 2, delta * error - delta**2 / 2 + jump)

        return {f.clause for f in check(huber, model=False).failures}

    assert failing(0.01) == {"continuous"}
    assert failing(0.0) == set()
