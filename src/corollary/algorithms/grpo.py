"""GRPO: answer each prompt several times, compare the answers, make the better ones likelier.

    prompt → G answers → rewards → advantages → clipped loss → new weights → sampler

Its relatives are other values of the same settings: Dr. GRPO, DAPO and RLOO stand below as presets.
Source: Shao et al. 2024, https://arxiv.org/abs/2402.03300. Page: docs/algorithms/grpo.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from corollary.algorithms.base import Engines, OnPolicy
from corollary.config import Config, Variant
from corollary.data.collate import parts, policy_batch, sampled
from corollary.engines.base import Sampler, Scorer, Trainer
from corollary.losses.bind import values
from corollary.losses.policy import KL, KLInLoss, KLInReward, NoKL, PPOClip, Reinforce, silent
from corollary.losses.probe import per_token, probe, probe_advantage, probe_average, probe_correction
from corollary.ops.advantage import (
    Advantage,
    GroupMean,
    GroupStd,
    LeaveOneOut,
    LeaveOneOutStd,
    overlong_penalty,
)
from corollary.ops.kl import k3
from corollary.ops.reduce import Average, Constant, SequenceMean, SequenceSum, TokenMean, segment_mean
from corollary.rollout import Player, describe, group_rewards, rollouts
from corollary.selection import (
    Curriculum,
    DynamicSampling,
    EveryPrompt,
    Filter,
    KeepAll,
    Memory,
    NoReplay,
    Replay,
    Replays,
)  # fmt: skip
from corollary.types import Group, Metrics, PolicyBatch, Prompt, Step


class Overlong(Config):
    """What happens to answers that grow too long."""

    penalty_from: int = Field(default=0, ge=0)
    """tokens from which the reward falls linearly, to -1 at max_tokens (DAPO); 0: no penalty"""
    train_truncated: bool = True
    """false leaves answers that were cut at max_tokens out of the loss (DAPO's overlong filtering)"""


class GRPOConfig(OnPolicy):
    """All that a GRPO run may vary."""

    type: Literal["grpo"] = "grpo"
    advantage: Advantage = GroupStd()
    """what an answer's reward is compared with"""
    average: Average = SequenceMean()
    """of the step's loss over tokens and sequences"""
    curriculum: Curriculum = EveryPrompt()
    """which prompts are asked"""
    filter: Filter = KeepAll()
    """which groups are trained on"""
    replay: Replays = NoReplay()
    """which groups are trained on again"""
    overlong: Overlong = Overlong()
    """length shaping"""
    minibatches: int = Field(default=1, ge=1)
    """optimizer steps per batch of rollouts; above 1 the later ones are off-policy"""

    @model_validator(mode="after")
    def _possible(self) -> GRPOConfig:
        if isinstance(self.kl, KLInReward) and isinstance(self.advantage, GroupStd | LeaveOneOutStd):
            raise ValueError(
                f"kl: in_reward goes with group_mean, leave_one_out or batch_std; advantage {self.advantage.type} would blow the KL "
                "of a group with equal rewards up to a full advantage"
            )
        if self.overlong.penalty_from >= self.max_tokens:
            raise ValueError(
                f"overlong.penalty_from ({self.overlong.penalty_from}) must be below max_tokens ({self.max_tokens})"
            )
        return self

    @property
    def updates_per_step(self) -> int:
        return self.minibatches

    @property
    def trains_with_reference(self) -> bool:
        """Whether the reference's log-probabilities of every answer are part of a step."""
        return super().trains_with_reference or "ref_logprobs" in type(self.advantage).inputs

    def probe(self) -> None:
        probe(self.loss, PolicyBatch)
        probe_correction(self.correction)
        probe_advantage(self.advantage)
        probe_average(self.average)

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(
            self,
            trainer=engines.trainer,
            sampler=engines.sampler,
            player=engines.player,
            prompts=engines.prompts,
            reference=engines.reference if self.needs_reference else None,
            first=engines.first,
            memory=engines.memory,
        )


def dr_grpo(max_tokens: int) -> GRPOConfig:
    """No division by the group's standard deviation nor by an answer's length. https://arxiv.org/abs/2503.20783"""
    return GRPOConfig(max_tokens=max_tokens, advantage=GroupMean(), average=Constant(length=max_tokens))


def dapo(max_tokens: int, penalty_from: int) -> GRPOConfig:
    """Clip higher, weigh every token alike, groups with signal only, long answers punished. https://arxiv.org/abs/2503.14476"""
    return GRPOConfig(
        max_tokens=max_tokens,
        loss=PPOClip(clip_high=0.28),
        average=TokenMean(),
        filter=DynamicSampling(),
        overlong=Overlong(penalty_from=penalty_from, train_truncated=False),
    )


def rloo() -> GRPOConfig:
    """Plain policy gradient with the leave-one-out baseline. https://arxiv.org/abs/2402.14740"""
    return GRPOConfig(advantage=LeaveOneOut(), loss=Reinforce(), average=SequenceSum())


def steps(
    config: GRPOConfig,
    *,
    trainer: Trainer,
    sampler: Sampler,
    player: Player,
    prompts: Iterator[list[Prompt]],
    reference: Scorer | None = None,
    first: int = 0,
    memory: Memory | None = None,
) -> Iterator[Step]:
    """One batch of rollouts per item. Whoever pulls decides when to stop.

    `first` is the number of the first batch of prompts and `memory` what was remembered, for a resumed run.
    """
    memory = {} if memory is None else memory
    if config.needs_reference and reference is None:
        raise ValueError(f"kl {config.kl.type} compares with a reference policy, and none was given")
    stream = rollouts(
        player, prompts, group_size=config.group_size, sampling=config.sampling,
        ask=lambda prompt: config.curriculum.asks(prompt, memory), keep=config.filter,
        max_batches=max(config.filter.max_batches, config.curriculum.max_batches), first=first,
    )  # fmt: skip
    for fresh in stream:
        config.curriculum.learns(fresh, player.full_mark, memory)
        groups = config.replay.adds(fresh, memory)
        batch, advantages = shaped(config, groups, reference)  # [P·G, T], [P, G]
        metrics = describe(fresh, player.full_mark) | measured(config.kl, batch, trainer, reference)
        metrics |= mean([trainer.step(part, config.objective) for part in minibatches(config, batch, trainer)])
        sampler.sync(trainer)
        yield Step(metrics, groups, advantages)


def shaped(config: GRPOConfig, groups: list[Group], reference: Scorer | None) -> tuple[PolicyBatch, Tensor]:
    """The step's batch and its advantages: rewards, less length and KL penalties, compared within each group."""
    rewards = group_rewards(groups)  # [P, G]
    lengths = torch.tensor([[len(r.completion.token_ids) for r in group] for group in groups])
    if start := config.overlong.penalty_from:
        rewards = rewards + overlong_penalty(lengths, longest=config.max_tokens, buffer=config.max_tokens - start)
    plain = policy_batch(
        groups, torch.zeros_like(rewards), config.average, train_truncated=config.overlong.train_truncated
    )
    if reference is not None and config.trains_with_reference:
        plain = replace(plain, ref_logprobs=reference.logprobs(plain).where(sampled(groups), 0.0))
    if isinstance(config.kl, KLInReward) and plain.ref_logprobs is not None:
        rewards = rewards - config.kl.penalty(plain.sampler_logprobs, plain.ref_logprobs).view_as(rewards)
    if isinstance(config.replay, Replay):
        plain = replace(plain, old_logprobs=plain.sampler_logprobs)
    return compared(config.advantage, plain, groups, rewards)


def compared(
    advantage: Variant, batch: PolicyBatch, groups: list[Group], rewards: Tensor
) -> tuple[PolicyBatch, Tensor]:
    """The batch with the advantages of its tokens, and those of its answers `[P, G]`: the mean over an answer's tokens.

    Args:
        advantage: of answers or of tokens.
        batch, groups: the step.
        rewards: `[P, G]`, after penalties; NaN: not judged.
    """
    lengths = batch.lengths.view_as(rewards)
    parts = torch.tensor(
        [[[float("nan") if v is None else v for v in r.parts.values()] for r in group] for group in groups]
    )
    tokens = {"logprobs": batch.sampler_logprobs, "ref_logprobs": batch.ref_logprobs, "trained": batch.trained}
    inputs = {"rewards": rewards, "lengths": lengths, "part_rewards": parts, **tokens}
    shape = batch.targets.shape if per_token(advantage) else rewards.shape
    found = values(advantage, {n: v for n, v in inputs.items() if v is not None}, shape=tuple(shape))
    if not per_token(advantage):
        return replace(batch, advantages=found.reshape(-1, 1).expand_as(batch.targets)), found
    each = found.sum(1) / batch.trained.sum(1).clamp(min=1)
    return replace(batch, advantages=found), each.view_as(rewards)


def minibatches(config: GRPOConfig, batch: PolicyBatch, trainer: Trainer) -> list[PolicyBatch]:
    """The batch in `config.minibatches` parts, each weighed as a step of its own; without answers that teach nothing.

    An answer whose advantage is 0 has no gradient unless the loss holds a KL penalty or a term of its own that pulls; so it is
    counted and not computed.
    """
    if config.minibatches > 1 and batch.old_logprobs is None:
        batch = replace(batch, old_logprobs=trainer.logprobs(batch))
    found = []
    for part in parts(batch, config.minibatches, config.average):
        taught = part.trained.any(1)
        if not isinstance(config.kl, KLInLoss) and silent(config.loss):
            taught &= (part.advantages != 0).any(1)
        if taught.any():
            found.append(part.take(taught.nonzero()[:, 0]))
    return found


def mean(steps_: list[Metrics]) -> Metrics:
    """The metrics of several optimizer steps as one; `{}` of none."""
    return {name: sum(m[name] for m in steps_) / len(steps_) for name in steps_[0]} if steps_ else {}


def measured(kl: KL, batch: PolicyBatch, trainer: Trainer, reference: Scorer | None) -> Metrics:
    """KL(π‖ref) per token by k3 on the step's first `kl.measure` answers, before the update."""
    if reference is None or not isinstance(kl, NoKL) or not kl.measure:
        return {}
    some = batch.take(range(min(kl.measure, len(batch.lengths))))
    estimate = k3(trainer.logprobs(some), reference.logprobs(some))
    return {"kl": segment_mean(estimate.flatten(), (some.weights != 0).flatten()).item()}
