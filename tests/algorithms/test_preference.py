from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from corollary.algorithms import preference
from corollary.algorithms.base import Engines
from corollary.algorithms.preference import OnlinePreferenceConfig, PairsBatch, PreferenceConfig, SFTTerm, paired
from corollary.config import variant
from corollary.data.collate import preference_batch, token_batch
from corollary.declare import entries
from corollary.engines.base import Scorer
from corollary.engines.layout import lay_out
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.errors import DataError
from corollary.losses.preference import dpo
from corollary.ops.reduce import Constant, SequenceMean, SequenceSum, TokenMean
from corollary.rollout import SingleTurn
from corollary.run.loop import train
from corollary.types import Completion, Prompt, Step, TokenBatch
from run import recipes

SMALL = PreferenceConfig(pairs_per_step=4)
LOSSES = [entry.variant for entry in entries("preference")]


def asked() -> Iterator[list[Prompt]]:
    """Four prompts whose chosen answer is fives and whose rejected one is sixes, of unequal lengths, for ever."""
    rows = [{"chosen": "5 " * (1 + i % 3), "rejected": "6 " * (1 + (i + 1) % 4)} for i in range(4)]
    made = [replace(p, columns=row) for p, row in zip(tiny.prompts(3, 5, 2, 4), rows, strict=True)]
    return iter(lambda: made, None)


def encode(text: str) -> list[int]:
    return [*map(int, text.split()), tiny.EOS]


def start(config: PreferenceConfig, lr: float = 3e-3, **settings: object) -> Iterator[Step]:
    trainer = EmbeddedTrainer(
        tiny.model(torch.float32), TrainerConfig(**settings), OptimizerConfig(lr=lr), total_steps=99
    )
    reference = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()) if config.needs_reference else None
    return preference.steps(config, trainer=trainer, encode=encode, examples=asked(), reference=reference)


RISING = {"discopop"}  # its slope at a margin of 0 is positive, as published: from there it learns the wrong way


@pytest.mark.parametrize(
    "loss", [v for v in LOSSES if v.target.__name__ not in RISING], ids=lambda v: v.target.__name__
)
def test_every_loss_of_the_catalogue_learns_to_prefer_fives(loss: type) -> None:
    config = SMALL.model_copy(update={"loss": loss()})
    metrics = [step.metrics for step in islice(start(config), 30)]
    assert metrics[-1]["accuracy"] == 1
    apart = [m["chosen_logprob"] - m["rejected_logprob"] for m in metrics]
    assert apart[-1] > apart[0] + 1


def test_at_the_first_step_dpo_is_log_2_and_the_margin_is_0() -> None:
    first = next(start(SMALL)).metrics
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-5)


def test_every_pair_counts_alike_whatever_its_lengths() -> None:
    """The loss and the metrics of a step are means over pairs, by hand."""
    config = SMALL.model_copy(update={"loss": variant(dpo)(beta=0.5)})
    steps = start(config, lr=0.05)
    next(steps)
    metrics = next(steps).metrics
    model = tiny.model(torch.float32)
    learner = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=0.05), total_steps=99)
    reference = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig())
    prompts = next(asked())
    pairs = [(encode(p.columns["chosen"]), encode(p.columns["rejected"])) for p in prompts]
    batch = preference_batch(prompts, *zip(*pairs, strict=True))
    batch = replace(batch, ref_logprobs=reference.logprobs(batch))
    learner.step(batch, config.loss)
    gains = (learner.logprobs(batch) - batch.ref_logprobs).sum(1)
    z = 0.5 * (gains[0::2] - gains[1::2])
    assert metrics["loss"] == pytest.approx(-F.logsigmoid(z).mean().item(), abs=1e-5)
    assert metrics["margin"] == pytest.approx(z.mean().item(), abs=1e-4)


def test_a_loss_without_a_reference_keeps_none_in_memory() -> None:
    needs = {v.target.__name__: PreferenceConfig(loss=v()).needs_reference for v in LOSSES}
    assert needs["dpo"]
    assert not needs["simpo"]
    assert not needs["orpo"]


@pytest.mark.parametrize("settings", [{"tokens_per_microbatch": 9}, {"layout": "packed"}], ids=str)
@pytest.mark.parametrize("loss", ["dpo", "aot", "dpo_nll"])
def test_how_a_step_is_computed_changes_no_metric(loss: str, settings: dict[str, object]) -> None:
    config = SMALL.model_copy(update={"loss": next(v for v in LOSSES if v.target.__name__ == loss)()})
    ours, others = ([s.metrics for s in islice(start(config, **kw), 3)] for kw in ({}, settings))
    for a, b in zip(ours, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=2e-4, rel=1e-4), name


def test_a_user_s_loss_of_token_logprobs_gets_the_same_metrics() -> None:
    def last_token(chosen_logprobs: Tensor, rejected_logprobs: Tensor, chosen_trained: Tensor) -> Tensor:
        assert chosen_trained.dtype == torch.bool
        return -F.logsigmoid(chosen_logprobs[:, 0] - rejected_logprobs[:, 0])

    config = SMALL.model_copy(update={"loss": variant(last_token)()})
    assert not config.needs_reference
    assert {"accuracy", "margin", "chosen_logprob", "rejected_logprob"} <= next(start(config)).metrics.keys()


def test_a_column_that_is_missing_is_told_by_prompt_and_setting() -> None:
    config = SMALL.model_copy(update={"rejected": "{worse}"})
    with pytest.raises(DataError, match=r"algorithm.rejected: example p0 .*'worse'.* its columns are chosen, rejected"):
        next(start(config))


# --- the SFT term, several answers, conversations ---


def batch_of(config: PreferenceConfig, rows: list[Prompt]) -> PairsBatch:
    return paired([pair for row in rows for pair in config.usable(row, encode)], config.sft)


def rows_with_two_rejected() -> list[Prompt]:
    """The second row has two rejected answers, the others have one."""
    rows = next(asked())[:3]
    return [
        replace(row, columns=row.columns | {"rejected": ["6", "7 7"]}) if i == 1 else row for i, row in enumerate(rows)
    ]


def nats(trainer: Scorer, row: Prompt, text: str) -> Tensor:
    """Of each token of one answer, computed alone."""
    return trainer.logprobs(token_batch([row], [encode(text)]))[0]


AVERAGES = {
    "token_mean": (TokenMean(), lambda each: torch.cat(each).mean()),
    "sequence_mean": (SequenceMean(), lambda each: torch.stack([x.mean() for x in each]).mean()),
    "sequence_sum": (SequenceSum(), lambda each: torch.stack([x.sum() for x in each]).mean()),
    "constant": (Constant(length=7), lambda each: torch.stack([x.sum() / 7 for x in each]).mean()),
}


@pytest.mark.parametrize("split", [{}, {"tokens_per_microbatch": 9}, {"layout": "packed"}], ids=str)
@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("loss", ["dpo", "simpo", "aot"])
def test_the_sft_term_is_averaged_by_its_own_average_under_any_split(
    loss: str, name: str, split: dict[str, object]
) -> None:
    average, mean = AVERAGES[name]
    made = next(v for v in LOSSES if v.target.__name__ == loss)()
    rows = rows_with_two_rejected()
    trainers = [
        EmbeddedTrainer(tiny.model(), TrainerConfig(**split), OptimizerConfig(lr=1e-2), total_steps=9) for _ in range(2)
    ]
    reference = EmbeddedScorer(tiny.model(torch.float64, seed=3), TrainerConfig())
    metrics = []
    for trainer, sft in zip(trainers, (None, SFTTerm(weight=0.25, average=average)), strict=True):
        config = SMALL.model_copy(update={"loss": made, "sft": sft})
        batch = batch_of(config, rows)
        batch = replace(batch, ref_logprobs=reference.logprobs(batch))
        metrics.append(trainer.step(batch, config.objective))
    fresh = EmbeddedScorer(tiny.model(), TrainerConfig())
    by_hand = -mean([nats(fresh, row, row.columns["chosen"]) for row in rows]).item()
    without, beside = metrics
    assert beside["sft_nll"] == pytest.approx(by_hand, rel=1e-10)
    assert beside["loss"] == pytest.approx(without["loss"] + 0.25 * by_hand, rel=1e-10)
    assert {n: beside[n] for n in without if n not in ("loss", "grad_norm")} == {
        n: without[n] for n in without if n not in ("loss", "grad_norm")
    }, "the term leaves the metrics of the pairs alone"
    assert beside["grad_norm"] != without["grad_norm"]


def test_the_gradient_is_that_of_the_formula() -> None:
    """DPO with an SFT term, and a prompt with two rejected answers that counts as one: written out and differentiated by torch."""
    config = PreferenceConfig(pairs_per_step=3, loss=variant(dpo)(beta=0.3), sft=SFTTerm(weight=0.5))
    rows, model, old = rows_with_two_rejected(), tiny.model(), tiny.model(seed=3)
    batch = batch_of(config, rows)
    batch = replace(batch, ref_logprobs=EmbeddedScorer(old, TrainerConfig()).logprobs(batch))
    trainer = EmbeddedTrainer(model, TrainerConfig(tokens_per_microbatch=9), OptimizerConfig(lr=0.0), total_steps=1)
    told = trainer.step(batch, config.objective)

    def answer(network: torch.nn.Module, row: Prompt, text: str) -> Tensor:
        ids = torch.tensor([[*row.token_ids, *encode(text)]])
        logits = network(input_ids=ids).logits[0, len(row.token_ids) - 1 : -1]
        return logits.log_softmax(-1).gather(1, ids[0, len(row.token_ids) :, None])[:, 0]

    exact, old = tiny.model(), tiny.model(seed=3)  # a trainer's own would attend its way
    loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        won, worse = answer(exact, row, row.columns["chosen"]), row.columns["rejected"]
        gain = won.sum() - answer(old, row, row.columns["chosen"]).sum().detach()
        worse = worse if isinstance(worse, list) else [worse]
        z = [0.3 * (gain - (answer(exact, row, x).sum() - answer(old, row, x).sum().detach())) for x in worse]
        loss = loss - F.logsigmoid(torch.stack(z)).mean() / 3 - 0.5 * won.mean() / 3
    loss.backward()
    norm = torch.stack([p.grad.square().sum() for p in exact.parameters() if p.grad is not None]).sum().sqrt()
    assert told["loss"] == pytest.approx(loss.item(), rel=1e-9)
    assert told["grad_norm"] == pytest.approx(norm.item(), rel=1e-9)


def test_the_pairs_of_a_prompt_are_laid_out_with_one_prompt() -> None:
    batch = batch_of(SMALL, rows_with_two_rejected())
    assert len(batch.prompts) == 3
    assert batch.prompt_of.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    laid = lay_out(batch, batch.trained, "shared_prefix")
    tokens = sum(len(p.token_ids) for p in rows_with_two_rejected()) + int((batch.lengths - 1).sum())
    assert laid.tokens.numel() == tokens, (
        "each prompt once, and every answer but its last token, which predicts nothing"
    )


def test_weights_of_pairs_sum_to_1_and_those_of_a_prompt_to_its_share() -> None:
    weights = batch_of(SMALL, rows_with_two_rejected()).weights.sum(1).view(-1, 2).sum(1)
    torch.testing.assert_close(weights, torch.tensor([2.0, 1, 1, 2]).double() / 6)
    each = SMALL.model_copy(update={"alike": "pairs"})
    torch.testing.assert_close(
        batch_of(each, rows_with_two_rejected()).weights.sum(), torch.ones((), dtype=torch.double)
    )


def test_a_loss_of_the_user_s_takes_the_data_s_margins() -> None:
    def offset(chosen: Tensor, rejected: Tensor, margins: Tensor) -> Tensor:
        return -F.logsigmoid(chosen - rejected - margins)

    config = SMALL.model_copy(update={"loss": variant(offset)(), "margin": "gap"})
    rows = [replace(row, columns=row.columns | {"gap": i + 1}) for i, row in enumerate(next(asked()))]
    assert batch_of(config, rows).margins.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]  # type: ignore[union-attr]


# --- the reference ---


class Counted:
    """A real reference that counts the answers it is asked for."""

    def __init__(self) -> None:
        self.scorer, self.asked = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()), 0

    def logprobs(self, batch: TokenBatch) -> Tensor:
        self.asked += len(batch.lengths)
        return self.scorer.logprobs(batch)


class Moved:
    """A mistake: a reference that shares the policy's weights, and so moves with them."""

    def __init__(self, trainer: EmbeddedTrainer) -> None:
        self.logprobs = trainer.logprobs


def test_the_reference_is_frozen_and_one_that_moves_is_seen() -> None:
    trainer = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(lr=3e-3), total_steps=99)
    wrong = preference.steps(
        SMALL, trainer=trainer, encode=encode, examples=asked(), reference=Moved(trainer), kept=Forgets()
    )
    right = start(SMALL)
    margins = [[next(run).metrics["margin"] for _ in range(5)] for run in (right, wrong)]
    assert margins[0][-1] > 0.01
    assert margins[1] == pytest.approx([0] * 5, abs=1e-5)


class Forgets(dict[str, Tensor]):
    """A memory that keeps nothing beyond the step."""

    def __contains__(self, key: object) -> bool:
        return False


def test_each_answer_is_asked_of_the_reference_once_in_a_run() -> None:
    reference, kept = Counted(), dict[str, Tensor]()
    trainer = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(lr=3e-3), total_steps=99)
    run = preference.steps(SMALL, trainer=trainer, encode=encode, examples=asked(), reference=reference, kept=kept)
    found = [step.metrics for step in islice(run, 4)]
    assert reference.asked == 8
    assert sorted(kept) == ["p0/0", "p1/0", "p2/0", "p3/0"]
    assert [m["loss"] for m in found] == [step.metrics["loss"] for step in islice(start(SMALL), 4)]


# --- held-out pairs ---


def engines(trainer: EmbeddedTrainer, reference: Scorer) -> Engines:
    return Engines(
        trainer=trainer,
        sampler=None,
        prompts=asked(),
        reference=reference,
        encode=encode,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_held_out_pairs_are_told_apart_better_after_training(loss: str) -> None:
    config = SMALL.model_copy(update={"loss": next(v for v in LOSSES if v.target.__name__ == loss)()})
    trainer = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(lr=1e-2), total_steps=99)
    lent = engines(trainer, EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()))
    held_out = rows_with_two_rejected()
    before = config.measured(lent, held_out)
    for _ in islice(config.steps(lent), 20):
        pass
    after = config.measured(lent, held_out)
    assert len(before) == len(after) == 3
    if config.needs_reference:
        assert [(m["accuracy"], m["margin"]) for m in before] == [(0.5, 0.0)] * 3
    assert [m["accuracy"] for m in after] == [1, 1, 1]
    assert sum(m["margin"] for m in after) > sum(m["margin"] for m in before)


def test_a_held_out_margin_is_by_how_many_nats_the_chosen_answer_gained_more() -> None:
    trainer = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(), total_steps=99)
    reference = EmbeddedScorer(tiny.model(torch.float32, seed=3), TrainerConfig())
    row = rows_with_two_rejected()[1]
    (found,) = SMALL.measured(engines(trainer, reference), [row])

    def gain(text: str) -> Tensor:
        return nats(trainer, row, text).sum() - nats(reference, row, text).sum()

    margins = torch.stack([gain(row.columns["chosen"]) - gain(text) for text in ("6", "7 7")])
    assert found["margin"] == pytest.approx(margins.mean().item(), abs=1e-5)
    assert found["accuracy"] == pytest.approx((margins > 0).float().mean().item())


def test_a_loss_that_divides_by_length_is_measured_per_token() -> None:
    long = [replace(next(asked())[0], columns={"chosen": "5 5 5 5 5", "rejected": "5"})]
    trainer = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(), total_steps=99)
    config = SMALL.model_copy(update={"loss": next(v for v in LOSSES if v.target.__name__ == "simpo")()})
    (found,) = config.measured(engines(trainer, trainer), long)
    mean = nats(trainer, long[0], "5 5 5 5 5").mean() - nats(trainer, long[0], "5").mean()
    assert found["margin"] == pytest.approx(mean.item(), abs=1e-5)


def test_of_held_out_rows_without_pairs_nothing_is_said() -> None:
    assert SMALL.measured(engines(None, None), tiny.prompts(3)) == ()  # type: ignore[arg-type]


# --- the model's own answers ---


class Fives:
    """A reward: the share of fives among an answer's tokens; one answer in a group may be beyond judgement."""

    full_mark = 1.0

    def score(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
    ) -> Sequence[Sequence[Scored]]:
        return [[Scored(sum(t == 5 for t in c.token_ids) / len(c.token_ids)) for c in answers] for _, answers in groups]


@dataclass(frozen=True)
class Scored:
    reward: float | None
    parts: dict[str, float | None] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def online(config: OnlinePreferenceConfig, steps_: int) -> list[Step]:
    model = tiny.model(torch.float32)
    trainer = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=3e-3), total_steps=99)
    sampler = EmbeddedSampler(model, decode=tiny.decode, eos_token_ids=(tiny.EOS,), seed=0)
    reference = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig())
    run = preference.online_steps(
        config, trainer=trainer, sampler=sampler, player=SingleTurn(sampler, Fives()),
        prompts=iter(lambda: tiny.prompts(3, 5, 2, 4), None), reference=reference,
    )  # fmt: skip
    return list(islice(run, steps_))


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_pairs_of_its_own_answers_teach_it_what_is_rewarded(loss: str) -> None:
    made = next(v for v in LOSSES if v.target.__name__ == loss)()
    config = OnlinePreferenceConfig(prompts_per_step=4, group_size=8, pairs_per_prompt=4, max_tokens=6, loss=made)
    steps_ = online(config, 25)
    rewards = [step.metrics["reward"] for step in steps_]
    assert sum(rewards[-5:]) > 2 * sum(rewards[:5])
    assert all(0 < step.metrics["pairs"] <= 16 for step in steps_)
    versions = [step.groups[0][0].completion.version for step in steps_]
    assert versions == [*range(25)], "each step's answers come from the weights of the step before"
    assert steps_[0].groups


def test_a_step_without_a_pair_trains_nothing_and_says_so() -> None:
    class Alike(Fives):
        def score(self, groups: Any, *, step: int = 0) -> Any:
            return [[Scored(1.0) for _ in answers] for _, answers in groups]

    model = tiny.model(torch.float32)
    trainer = EmbeddedTrainer(model, TrainerConfig(), OptimizerConfig(lr=3e-3), total_steps=9)
    sampler = EmbeddedSampler(model, decode=tiny.decode, eos_token_ids=(tiny.EOS,), seed=0)
    run = preference.online_steps(
        OnlinePreferenceConfig(prompts_per_step=2, group_size=2, max_tokens=3), trainer=trainer, sampler=sampler,
        player=SingleTurn(sampler, Alike()), prompts=iter([tiny.prompts(3, 5)]), reference=trainer,
    )  # fmt: skip
    metrics = next(run).metrics
    assert metrics["pairs"] == 0
    assert "loss" not in metrics
    assert trainer.version == 0


# --- runs ---


def test_a_run_of_the_command_trains_and_is_reported(tmp_path: Path) -> None:
    recipes.write(tmp_path)
    made = tmp_path / "pairs.yaml"
    made.write_text(
        "defaults: run.yaml\nrewards: []\nrun: {name: pairs}\n"
        'algorithm: {type: preference, pairs_per_step: 3, chosen: "{answer}", rejected: "no {answer}", loss: ipo}\n'
    )
    folder = train(recipes.recipe(made), recipes.Quiet())
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == list(range(1, 8))
    assert metrics[-1]["margin"] > metrics[0]["margin"]
    assert (folder / "report.html").exists()
    assert "greedy/strict" in (folder / "evaluation.json").read_text()
