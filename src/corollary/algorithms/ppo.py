"""PPO: a critic says at every token what reward is to be expected; tokens after which more came than that become likelier.

    prompt → answer → reward and critic's values → an advantage per token → clipped loss; the critic learns the returns

    r_t = -β·(logπ_t - logref_t) + r·1[t is the last]      A = GAE(r, V)      R = V + A, with a λ of its own

Sources: Schulman et al. 2017, https://arxiv.org/abs/1707.06347; Ouyang et al. 2022, https://arxiv.org/abs/2203.02155.
Page: docs/algorithms/ppo.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from corollary.algorithms.base import Engines, OnPolicy, OwnCritic
from corollary.algorithms.grpo import mean, measured
from corollary.config import Config, Variant, by_name, choice, variant
from corollary.data.collate import as_kind, ended, parts, policy_batch, sampled
from corollary.engines.base import Sampler, Scorer, Trainer
from corollary.losses.bind import VALUE, Bound, values
from corollary.losses.policy import KL, KLInReward, PolicyObjective
from corollary.losses.probe import probe, probe_average, probe_correction
from corollary.losses.value import clipped, squared
from corollary.ops.kl import k1
from corollary.ops.reduce import Average, TokenMean, segment_mean
from corollary.ops.returns import at_last_token, gae, lambda_returns, length_adaptive_gae, whiten
from corollary.rollout import Player, describe, group_rewards, rollouts
from corollary.types import (
    ActorCriticBatch,
    Group,
    Metrics,
    PolicyBatch,
    Prompt,
    Step,
    Terms,
    ValueBatch,
)

INPUTS = ("rewards", "values", "trained", "bootstrap")
"""what an advantage or a return may take: rewards, values and mask `[B, T]`, and the values behind truncated answers `[B]`"""

GAE: Any = variant(gae)
LambdaReturns: Any = variant(lambda_returns)
Clipped: Any = variant(clipped)

if TYPE_CHECKING:
    Advantage = Returns = ValueLoss = Variant
else:
    Advantage = choice([GAE, variant(length_adaptive_gae)], INPUTS)
    Returns = choice([LambdaReturns], INPUTS)
    ValueLoss = choice([Clipped, variant(squared)], VALUE)


class SharedCritic(Config):
    """The policy itself, with a scalar head beside that of the language: one forward pass, one optimizer."""

    type: Literal["shared"] = "shared"
    coef: float = Field(default=0.5, gt=0)
    """what the critic's loss counts beside the policy's"""


class SeparateCritic(OwnCritic):
    """A model of its own."""

    type: Literal["own"] = "own"
    warmup: int = Field(default=0, ge=0)
    """first batches of rollouts on which the critic alone is trained, the policy not touched"""


Critic = Annotated[SharedCritic | SeparateCritic, Field(discriminator="type"), BeforeValidator(by_name)]


class PPOConfig(OnPolicy):
    """All that a PPO run may vary."""

    type: Literal["ppo"] = "ppo"
    group_size: int = Field(default=1, ge=1)
    """G, answers to each prompt; they are not compared with each other"""
    critic: Critic = SeparateCritic()
    """who says what reward is to be expected"""
    advantage: Advantage = GAE()
    """of each token, from rewards and the critic's values"""
    returns: Returns = LambdaReturns()
    """what the critic learns; at its λ = 1 the rewards alone, whatever λ the advantage has"""
    truncated: Literal["zero", "bootstrap"] = "zero"
    """the value behind an answer that was cut: 0 where the cut answer is judged, the critic's where it would have gone on"""
    scale: Literal["whiten", "none"] = "whiten"
    """advantages with mean 0 and variance 1 over the tokens of the step, or as they are"""
    value_loss: ValueLoss = Clipped()
    """the critic's loss"""
    kl: KL = KLInReward()
    """distance to the reference policy, the model that the run started from"""
    average: Average = TokenMean()
    """of the step's losses over tokens and sequences"""
    epochs: int = Field(default=1, ge=1)
    """passes over one batch of rollouts"""
    minibatches: int = Field(default=1, ge=1)
    """optimizer steps of one pass"""

    @property
    def updates_per_step(self) -> int:
        return self.epochs * self.minibatches

    @property
    def has_scalar_head(self) -> bool:
        return isinstance(self.critic, SharedCritic)

    @property
    def own_critic(self) -> OwnCritic | None:
        return self.critic if isinstance(self.critic, SeparateCritic) else None

    def probe(self) -> None:
        probe(self.loss, PolicyBatch)
        probe(self.value_loss, ValueBatch)
        probe_correction(self.correction)
        probe_average(self.average)

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(
            self,
            trainer=engines.trainer,
            critic=engines.critic if self.own_critic else engines.trainer,
            sampler=engines.sampler,
            player=engines.player,
            prompts=engines.prompts,
            reference=engines.reference if self.needs_reference else None,
            first=engines.first,
        )


def steps(
    config: PPOConfig,
    *,
    trainer: Trainer,
    critic: Trainer,
    sampler: Sampler,
    player: Player,
    prompts: Iterator[list[Prompt]],
    reference: Scorer | None = None,
    first: int = 0,
) -> Iterator[Step]:
    """One batch of rollouts per item. A shared critic is the trainer itself; `first` is the number of the first batch."""
    stream = rollouts(player, prompts, group_size=config.group_size, sampling=config.sampling, first=first)
    for number, groups in enumerate(stream, start=first):
        batch = experience(config, groups, critic, reference)  # [P·G, T]
        metrics = describe(groups, player.full_mark) | fit(batch) | measured(config.kl, batch, trainer, reference)
        warm = isinstance(config.critic, SeparateCritic) and number < config.critic.warmup
        if config.updates_per_step > 1:  # π_old is the policy before the first of them
            batch = replace(batch, old_logprobs=trainer.logprobs(batch))
        cut = [part for _ in range(config.epochs) for part in parts(batch, config.minibatches, config.average)]
        metrics |= mean([update(config, part, trainer, critic, warm) for part in cut])
        sampler.sync(trainer)
        yield Step(metrics, groups, segment_mean(batch.advantages, batch.trained).view(len(groups), -1))


def experience(config: PPOConfig, groups: list[Group], critic: Trainer, reference: Scorer | None) -> ActorCriticBatch:
    """The step's answers with the critic's values, and the advantages and returns that follow from them."""
    plain = policy_batch(groups, torch.zeros(len(groups), len(groups[0])), config.average)
    if reference is not None and config.trains_with_reference:
        plain = replace(plain, ref_logprobs=reference.logprobs(plain).where(sampled(groups), 0.0))
    found = critic.values(ended(plain))  # [B, T + 1]
    old = found[:, :-1].where(plain.trained, 0.0)
    inputs = {
        "rewards": token_rewards(plain, group_rewards(groups), config.kl),
        "values": old,
        "trained": plain.trained,
    }
    if config.truncated == "bootstrap":
        cut = torch.tensor([rollout.completion.truncated for group in groups for rollout in group])
        inputs["bootstrap"] = found.gather(1, plain.lengths[:, None])[:, 0].where(cut, 0.0)
    shape = (plain.targets.shape[0], plain.targets.shape[1])
    advantages, returns = (values(f, inputs, shape=shape) for f in (config.advantage, config.returns))
    if config.scale == "whiten":
        advantages = whiten(advantages, plain.trained)
    return as_kind(ActorCriticBatch, replace(plain, advantages=advantages), returns=returns, old_values=old)


def token_rewards(batch: PolicyBatch, rewards: Tensor, kl: KL) -> Tensor:
    """`[B, T]` an answer's reward at its last sampled token, less the KL penalty of each token where it is in the reward.

    Args:
        batch: of the step, with the reference's log-probabilities.
        rewards: `[P, G]`; NaN: not judged, and not trained.
        kl: see there.
    """
    placed = at_last_token(rewards.flatten(), batch.trained)
    if isinstance(kl, KLInReward):
        assert batch.ref_logprobs is not None, "whoever penalises with a reference has one"
        placed = placed - kl.coef * k1(batch.sampler_logprobs, batch.ref_logprobs)
    return placed.where(batch.trained, 0.0)


def update(config: PPOConfig, part: ActorCriticBatch, trainer: Trainer, critic: Trainer, warm: bool) -> Metrics:
    """One optimizer step of policy and critic; of the critic alone while it warms up."""
    if isinstance(config.critic, SharedCritic):
        return trainer.step(part, ActorCritic(config.objective, Bound(config.value_loss), config.critic.coef))
    learnt = critic.step(as_kind(ValueBatch, part), config.value_loss)
    policy = {} if warm else trainer.step(part, config.objective)
    return policy | {f"critic/{name}": value for name, value in learnt.items()}


@dataclass(frozen=True, slots=True)
class ActorCritic:
    """The policy's loss and coef times that of its own scalar head."""

    policy: PolicyObjective
    value: Bound
    coef: float

    @property
    def needs(self) -> frozenset[str]:
        return self.policy.needs | {"logprobs"} | self.value.needs

    @property
    def cross_sample(self) -> bool:
        return self.policy.cross_sample or self.value.cross_sample

    def __call__(self, logprobs: Tensor, batch: ActorCriticBatch) -> Terms:
        assert batch.values is not None, "the loss needs values"
        policy, value = self.policy(logprobs, batch), self.value(batch.values, as_kind(ValueBatch, batch))
        told = {f"critic/{name}": metric for name, metric in ({"loss": value.loss.detach()} | value.metrics).items()}
        return Terms(policy.loss + self.coef * value.loss, policy.metrics | told)


def fit(batch: ActorCriticBatch) -> Metrics:
    """How well the critic foresaw this step: mean value and return, and the explained variance 1 - Var(R - V)/Var(R)."""
    v, r = (x[batch.trained].double() for x in (batch.old_values, batch.returns))
    if not len(r):
        return {}
    return {"value": v.mean().item(), "return": r.mean().item(), "explained_variance": explained_variance(v, r)}


def explained_variance(values_: Tensor, returns: Tensor) -> float:
    """Share of the returns' variance that the critic foresees: 1 is all, 0 as good as a constant, below 0 worse.

        1 - Var(R - V) / Var(R)      0 where the returns are equal, up to rounding

    >>> explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
    0.75
    """
    spread, rounding = returns.std(correction=0), 1e-6 * torch.maximum(returns.abs(), values_.abs()).max()
    return (1 - (returns - values_).var(correction=0) / spread.square()).item() if spread > rounding else 0.0
