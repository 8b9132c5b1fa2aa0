"""GRPO on a tiny real transformer: it learns, its first ratio is one, and the classic mistakes are caught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest
import torch

import tiny
from corollary.algorithms import grpo
from corollary.algorithms.grpo import GRPOConfig, Overlong, dapo, dr_grpo, rloo
from corollary.config import variant
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.losses.policy import (
    KLInLoss,
    KLInReward,
    NoKL,
    PolicyObjective,
    PPOClip,
    Reinforce,
    TruncatedImportance,
    cispo,
    sapo,
)
from corollary.losses.sequence import gmpo, gspo
from corollary.ops.advantage import LeaveOneOut, gdpo, max_rl, pass_at_k_advantage
from corollary.ops.reduce import TokenMean
from corollary.ops.returns import reinforce_plus_plus
from corollary.rollout import SingleTurn
from corollary.selection import DynamicSampling, PassRate, Replay
from corollary.types import Completion, Prompt, Step

SMALL = GRPOConfig(prompts_per_step=4, group_size=8, max_tokens=5)


@dataclass
class Fives:
    """The share of an answer's tokens that are 5."""

    full_mark: float = 1.0

    @dataclass
    class Score:
        reward: float | None
        parts: dict[str, float | None] = field(default_factory=dict)
        faults: tuple[str, ...] = ()

    def score(self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0) -> list[list[Score]]:
        def one(c: Completion) -> Fives.Score:
            value = sum(t == 5 for t in c.token_ids) / len(c.token_ids)
            return Fives.Score(value, {"fives": value})

        return [[one(c) for c in completions] for _, completions in groups]


class Constantly(Fives):
    """The same reward for all."""

    def score(self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0) -> list[list[Fives.Score]]:
        return [[Fives.Score(0.5) for _ in completions] for _, completions in groups]


def asked() -> Iterator[list[Prompt]]:
    return iter(lambda: tiny.prompts(3, 5, 2, 4), None)


def start(
    config: GRPOConfig, *, reward: Fives | None = None, lr: float = 3e-3, **settings: object
) -> tuple[Iterator[Step], EmbeddedTrainer]:
    model = tiny.model(torch.float32)
    trainer = EmbeddedTrainer(model, TrainerConfig(**settings), OptimizerConfig(lr=lr), total_steps=100)
    sampler = EmbeddedSampler(model, decode=tiny.decode, eos_token_ids=[tiny.EOS])
    reference = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()) if config.needs_reference else None
    steps = grpo.steps(
        config,
        trainer=trainer,
        sampler=sampler,
        player=SingleTurn(sampler, reward or Fives()),
        prompts=asked(),
        reference=reference,
    )
    return steps, trainer


PRESETS = {
    "grpo": SMALL,
    "dr_grpo": dr_grpo(5).model_copy(update={"prompts_per_step": 4}),
    "dapo": dapo(5, penalty_from=3).model_copy(update={"prompts_per_step": 4, "overlong": Overlong()}),
    "rloo": rloo().model_copy(update={"prompts_per_step": 4, "max_tokens": 5}),
    "kl in loss": SMALL.model_copy(update={"kl": KLInLoss(coef=0.001)}),
    "kl in reward": SMALL.model_copy(update={"kl": KLInReward(coef=0.001), "advantage": LeaveOneOut()}),
    "tis": SMALL.model_copy(update={"correction": TruncatedImportance()}),
    "two minibatches": SMALL.model_copy(update={"minibatches": 2}),
    "reinforce++": SMALL.model_copy(update={"advantage": variant(reinforce_plus_plus)(), "average": TokenMean()}),
    "max_rl": SMALL.model_copy(update={"advantage": variant(max_rl)()}),
    "gdpo": SMALL.model_copy(update={"advantage": variant(gdpo)()}),
    "replay": SMALL.model_copy(update={"replay": Replay()}),
    "curriculum": SMALL.model_copy(update={"curriculum": PassRate(high=0.7)}),
    "gspo": SMALL.model_copy(update={"loss": variant(gspo)()}),
    "gmpo": SMALL.model_copy(update={"loss": variant(gmpo)()}),
    "cispo": SMALL.model_copy(update={"loss": variant(cispo)(), "average": TokenMean()}),
    "sapo": SMALL.model_copy(update={"loss": variant(sapo)()}),
    "pass@k": SMALL.model_copy(update={"advantage": variant(pass_at_k_advantage)(k=4), "loss": Reinforce()}),
}


@pytest.mark.golden
@pytest.mark.parametrize("name", PRESETS)
def test_it_learns_to_say_five(name: str) -> None:
    steps, _ = start(PRESETS[name])
    metrics = [step.metrics for step in islice(steps, 40)]
    assert metrics[0]["reward"] < 0.3
    assert sum(m["reward"] for m in metrics[-5:]) / 5 > 0.5


def test_at_the_first_step_the_ratio_is_one_and_the_kl_zero_and_the_sampler_agrees() -> None:
    first = next(start(SMALL.model_copy(update={"kl": KLInLoss(coef=0.1)}))[0]).metrics
    assert first["ratio"] == pytest.approx(1, abs=1e-6)
    assert first["kl"] == pytest.approx(0, abs=1e-7)
    assert first["sampler_gap"] < 1e-5
    assert first["clipped"] == 0


def test_the_policys_ratio_to_its_sampler_is_one_under_any_temperature() -> None:
    """Not by construction: these are the sampler's own probabilities against the trainer's forward."""
    for temperature in (1.0, 0.6, 1.7):
        assert sampler_ratio(temperature, temperature) == pytest.approx(1, abs=1e-5)


def sampler_ratio(sampled_at: float, trained_at: float, shift: int = 0) -> float:
    """The largest ratio between trainer and sampler over a batch; mistakes are put in by the arguments."""
    config = SMALL.model_copy(update={"temperature": sampled_at})
    step = next(start(config, lr=0.0)[0])
    batch, _ = grpo.shaped(config, list(step.groups), None)
    batch = replace(batch, temperature=trained_at, targets=batch.targets.roll(shift, 1))
    own = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()).logprobs(batch)
    gap = (own - batch.sampler_logprobs)[batch.weights != 0]
    return gap.abs().max().exp().item()


def test_a_temperature_on_one_side_only_is_seen() -> None:
    assert sampler_ratio(0.6, 1.0) > 1.05


def test_targets_shifted_by_one_are_seen() -> None:
    assert sampler_ratio(1.0, 1.0, shift=1) > 1.05


def test_the_wrong_sign_of_the_advantage_is_seen() -> None:
    """After one step on the answers, the better ones are likelier and the worse ones less likely, to first order."""

    def rise(sign: float) -> float:
        steps, _ = start(SMALL, lr=0.0)
        batch, _ = grpo.shaped(SMALL, list(next(steps).groups), None)
        signed = replace(batch, advantages=sign * batch.advantages)
        learner = EmbeddedTrainer(tiny.model(torch.float32), TrainerConfig(), OptimizerConfig(lr=1e-4), total_steps=1)
        before = learner.logprobs(batch)
        learner.step(signed, PolicyObjective())
        return ((learner.logprobs(batch) - before) * batch.advantages * batch.weights).sum().item()

    assert rise(+1) > 0
    assert rise(-1) < 0


def test_end_of_sequence_is_trained() -> None:
    """Rewarding answers for being short teaches the model to stop, which it cannot learn where EOS has no weight."""

    class Short(Fives):
        def score(
            self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
        ) -> list[list[Fives.Score]]:
            return [[Fives.Score(1.0 - len(c.token_ids) / 5) for c in cs] for _, cs in groups]

    steps, _ = start(SMALL, reward=Short())
    lengths = [step.metrics["length"] for step in islice(steps, 40)]
    assert lengths[0] > 4
    assert lengths[-1] < 2.5
    groups = next(start(SMALL.model_copy(update={"max_tokens": 40}))[0]).groups
    batch, _ = grpo.shaped(SMALL, list(groups), None)
    ends = [(b, n - 1) for b, n in enumerate(batch.lengths.tolist()) if batch.targets[b, n - 1] == tiny.EOS]
    assert ends, "no answer ended by itself, so this test shows nothing"
    assert all(batch.weights[b, t] > 0 for b, t in ends)


def test_equal_rewards_leave_every_weight_as_it_was_bit_for_bit() -> None:
    steps, trainer = start(SMALL, reward=Constantly())
    before = {n: p.clone() for n, p in trainer.scorer.model.named_parameters()}
    for step in islice(steps, 2):
        assert step.metrics["signal"] == 0
        assert "loss" not in step.metrics
    assert all(torch.equal(p, before[n]) for n, p in trainer.scorer.model.named_parameters())


def test_a_learning_rate_of_zero_leaves_every_weight_and_the_samplers_agreement() -> None:
    steps, trainer = start(SMALL, lr=0.0)
    before = {n: p.clone() for n, p in trainer.scorer.model.named_parameters()}
    gaps = [step.metrics["sampler_gap"] for step in islice(steps, 5)]
    assert all(torch.equal(p, before[n]) for n, p in trainer.scorer.model.named_parameters())
    assert max(gaps) < 1e-5


@pytest.mark.parametrize(
    "settings", [{"tokens_per_microbatch": 7}, {"layout": "packed"}, {"layout": "padded"}], ids=str
)
def test_how_a_step_is_computed_changes_no_metric(settings: dict[str, object]) -> None:
    ours, others = ([s.metrics for s in islice(start(SMALL, **kw)[0], 3)] for kw in ({}, settings))
    for a, b in zip(ours, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], abs=2e-4), name


def test_answers_without_advantage_are_counted_and_not_computed() -> None:
    batch, _ = grpo.shaped(SMALL, list(next(start(SMALL)[0]).groups), None)
    advantages = torch.where(torch.arange(32) < 8, 0.0, torch.linspace(0.1, 1, 32))[:, None]
    zeroed = replace(batch, advantages=advantages.expand_as(batch.targets))
    trainer = start(SMALL)[1]
    parts = grpo.minibatches(SMALL, zeroed, trainer)
    assert len(parts[0].lengths) == 24
    assert parts[0].weights.sum() < 1
    whole = trainer.step(zeroed, PolicyObjective())["loss"]
    cut = start(SMALL)[1].step(parts[0], PolicyObjective())["loss"]
    assert cut == pytest.approx(whole, abs=1e-7)


def test_dynamic_sampling_keeps_groups_whose_rewards_differ_and_goes_on_when_there_are_none() -> None:
    config = SMALL.model_copy(update={"filter": DynamicSampling(max_batches=2)})
    assert next(start(config)[0]).metrics["signal"] == 1
    assert next(start(config, reward=Constantly())[0]).metrics["signal"] == 0


def test_the_same_seed_gives_the_same_bits() -> None:
    runs = [[s.metrics for s in islice(start(SMALL)[0], 3)] for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_measured_kl_needs_no_penalty() -> None:
    config = SMALL.model_copy(update={"kl": NoKL(measure=8)})
    metrics = [s.metrics["kl"] for s in islice(start(config)[0], 3)]
    assert metrics[0] == pytest.approx(0, abs=1e-7)
    assert metrics[2] > 1e-6


def test_clipping_cuts_the_gradient_off_policy() -> None:
    config = SMALL.model_copy(update={"minibatches": 4, "loss": PPOClip(clip_low=0.0, clip_high=0.0)})
    assert next(start(config, lr=0.05)[0]).metrics["clipped"] > 0


def test_kl_in_the_reward_with_a_group_s_deviation_is_refused() -> None:
    """Where a group's rewards are equal, only KL differs, and the deviation would blow it up to a full advantage."""
    with pytest.raises(ValueError, match="group_std"):
        GRPOConfig(kl=KLInReward())


def test_the_overlong_penalty_makes_a_longer_answer_worse() -> None:
    config = SMALL.model_copy(
        update={"max_tokens": 40, "overlong": Overlong(penalty_from=2), "advantage": LeaveOneOut()}
    )
    groups = list(next(start(config, reward=Constantly())[0]).groups)
    _, advantages = grpo.shaped(config, groups, None)
    lengths = torch.tensor([[len(r.completion.token_ids) for r in group] for group in groups])
    assert (lengths[0].max() - lengths[0].min()) > 5, "all answers are of one length, so this test shows nothing"
    assert advantages[0][lengths[0].argmax()] < advantages[0][lengths[0].argmin()]


@pytest.mark.parametrize("kl", [KLInLoss(), NoKL(measure=4)], ids=lambda k: k.type)
def test_a_kl_without_a_reference_is_refused_and_not_dropped(kl: KLInLoss) -> None:
    config = SMALL.model_copy(update={"kl": kl})
    trainer = start(SMALL)[1]
    sampler = EmbeddedSampler(trainer.scorer.model, decode=tiny.decode, eos_token_ids=[tiny.EOS])
    with pytest.raises(ValueError, match="none was given"):
        next(grpo.steps(config, trainer=trainer, sampler=sampler, player=SingleTurn(sampler, Fives()), prompts=asked()))


def test_a_reference_is_kept_where_the_advantage_reads_it() -> None:
    assert SMALL.model_copy(update={"advantage": variant(reinforce_plus_plus)()}).trains_with_reference
    assert not SMALL.trains_with_reference


def test_an_advantage_of_tokens_gives_each_token_its_own_and_tells_the_answer_s_mean() -> None:
    config = SMALL.model_copy(update={"advantage": variant(reinforce_plus_plus)(beta=0.5)})
    steps, _ = start(config)
    step = next(steps)
    reference = EmbeddedScorer(tiny.model(torch.float32, seed=9), TrainerConfig())
    batch, told = grpo.shaped(config, list(step.groups), reference)
    assert (batch.advantages.std(1) > 1e-4).any()
    assert not batch.advantages[~batch.trained].any()
    expected = [row[mask].mean() for row, mask in zip(batch.advantages, batch.trained, strict=True)]
    torch.testing.assert_close(told.flatten(), torch.stack(expected))


def test_what_is_seen_again_is_weighed_against_the_policy_that_sampled_it() -> None:
    config = SMALL.model_copy(update={"replay": Replay()})
    steps, _ = start(config, lr=0.05)
    ratios = [step.metrics["ratio"] for step in islice(steps, 6)]
    assert ratios[0] == pytest.approx(1, abs=1e-4)
    batch, _ = grpo.shaped(config, list(next(steps).groups), None)
    assert batch.old_logprobs is batch.sampler_logprobs


def test_what_is_told_of_a_step_is_what_was_answered_in_it_and_not_what_was_seen_again() -> None:
    class Once(Fives):
        """Rewards that differ in the first step, and never again."""

        calls = 0

        def score(
            self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
        ) -> list[list[Fives.Score]]:
            self.calls += 1
            return [[Fives.Score(float(self.calls == 1 and i % 2)) for i, _ in enumerate(said)] for _, said in groups]

    config = SMALL.model_copy(update={"replay": Replay()})
    first, second, third = islice(start(config, reward=Once())[0], 3)
    assert [step.metrics["reward"] for step in (first, second, third)] == [0.5, 0.0, 0.0]
    assert sum(rollout.reward or 0 for group in second.groups for rollout in group) > 0
