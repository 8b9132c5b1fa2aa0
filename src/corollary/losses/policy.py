"""Policy-gradient losses: per-token terms to minimise. Nothing here masks or averages; see `ops.reduce`.

An objective is put together from values: a surrogate, a correction for the sampler's distribution, a KL penalty.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from corollary.config import Config, by_name
from corollary.ops.kl import k1, k2, k3, k3_reverse
from corollary.ops.ratio import token_ratio, truncated
from corollary.types import PolicyBatch, Terms


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Terms:
    """Clipped surrogate of PPO, negated; with `dual_clip`, bounded for bad answers too.

        L = -min(r·A, clip(r, 1-ε_low, 1+ε_high)·A)      r = exp(logπ - logπ_old)
        L = min(L, -c·A) where A < 0                     dual clip

    Args:
        logprobs: nats, of the policy being trained; carries the gradient.
        old_logprobs: nats, of the policy at the start of this update.
        advantages: reward units; constant with respect to the policy.
        clip_low: ε_low ≥ 0, how far a token's ratio may fall below 1.
        clip_high: ε_high ≥ 0, how far it may rise; larger than ε_low in DAPO.
        dual_clip: c > 1, or None.

    Returns:
        Terms with metrics `ratio` and `clipped` (1 where the gradient is cut).

    Raises:
        ValueError: a clip bound is negative, or c ≤ 1.

    Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347; ε_high from DAPO, https://arxiv.org/abs/2503.14476;
        dual clip from Ye et al. 2020, https://arxiv.org/abs/1912.09729.

    >>> up = torch.tensor([1.0, 1.5, 0.5]).log()          # ratios 1, 1.5, 0.5
    >>> ppo_clip(up, torch.zeros(3), torch.ones(3)).loss  # a rise is capped at 1.2, a fall is not
    tensor([-1.0000, -1.2000, -0.5000])
    >>> ppo_clip(torch.tensor([4.0]).log(), torch.zeros(1), -torch.ones(1), dual_clip=3.0).loss
    tensor([3.])
    """
    if clip_low < 0 or clip_high < 0:
        raise ValueError(f"clip bounds must be >= 0, got clip_low={clip_low}, clip_high={clip_high}")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be > 1, got {dual_clip}")
    ratio = token_ratio(logprobs, old_logprobs)
    kept = ratio * advantages
    capped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective = kept.minimum(capped)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, objective.maximum(dual_clip * advantages), objective)
    cut = (objective != kept).detach()
    return Terms(loss=-objective, metrics={"ratio": ratio.detach(), "clipped": cut.to(ratio.dtype)})


def reinforce(logprobs: Tensor, advantages: Tensor) -> Terms:
    """Score-function surrogate, negated.

        L = -A·logπ

    Args:
        logprobs: nats, with gradient.
        advantages: reward units; constant with respect to the policy.

    Source: Williams 1992.

    >>> reinforce(torch.tensor([-2.0]), torch.tensor([0.5])).loss
    tensor([1.])
    """
    return Terms(loss=-advantages * logprobs, metrics={})


class PPOClip(Config):
    """PPO's clipped surrogate: GRPO, DAPO (clip_high 0.28), dual clip."""

    type: Literal["ppo_clip"] = "ppo_clip"
    clip_low: float = Field(default=0.2, ge=0)
    """how far a token's ratio may fall below 1"""
    clip_high: float = Field(default=0.2, ge=0)
    """how far a token's ratio may rise above 1"""
    dual_clip: float | None = Field(default=None, gt=1)
    """bound of the loss of bad answers, in units of |A|; none: unbounded"""

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Terms:
        return ppo_clip(
            logprobs,
            old_logprobs,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )


class Reinforce(Config):
    """Plain policy gradient: RLOO with the leave-one-out advantage."""

    type: Literal["reinforce"] = "reinforce"

    def __call__(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Terms:
        return reinforce(logprobs, advantages)


Surrogate = Annotated[PPOClip | Reinforce, Field(discriminator="type"), BeforeValidator(by_name)]


class NoCorrection(Config):
    """The sampler's log-probabilities are taken to be the trainer's."""

    type: Literal["none"] = "none"

    def __call__(self, old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
        return torch.ones_like(old_logprobs)


class TruncatedImportance(Config):
    """w = min(π_old/π_sampler, C), constant in the policy: corrects for a sampler of other precision (TIS)."""

    type: Literal["tis"] = "tis"
    cap: float = Field(default=2.0, gt=0)
    """C, the largest weight"""

    def __call__(self, old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
        return truncated(token_ratio(old_logprobs, sampler_logprobs), cap=self.cap)


Correction = Annotated[NoCorrection | TruncatedImportance, Field(discriminator="type"), BeforeValidator(by_name)]


class NoKL(Config):
    """No penalty. The distance can still be measured on some sequences of each step."""

    type: Literal["none"] = "none"
    measure: int = Field(default=0, ge=0)
    """sequences per step on which KL to the reference is measured; 0 keeps no reference in memory"""


class KLInLoss(Config):
    """coef times a per-token estimate of KL(π‖ref) is added to the loss."""

    type: Literal["in_loss"] = "in_loss"
    coef: float = Field(default=0.001, gt=0)
    """β, reward units per nat"""
    estimator: Literal["k2", "k3", "k3_reverse"] = "k3_reverse"
    """k3_reverse has the gradient of KL(π‖ref); k2 too, on-policy; k3 has that of KL(ref‖π), as GRPO's paper"""

    def term(self, logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        match self.estimator:
            case "k2":
                return self.coef * k2(logprobs, ref_logprobs)
            case "k3":
                return self.coef * k3(logprobs, ref_logprobs)
            case "k3_reverse":
                return self.coef * k3_reverse(logprobs, ref_logprobs, old_logprobs)


class KLInReward(Config):
    """coef times Σₜ (logπ - logref) of an answer is taken off its reward: the gradient of the sequence's KL, unbiased."""

    type: Literal["in_reward"] = "in_reward"
    coef: float = Field(default=0.001, gt=0)
    """β, reward units per nat"""

    def penalty(self, sampler_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """`[B]` reward units; both log-probabilities are 0 behind the end."""
        return self.coef * k1(sampler_logprobs, ref_logprobs).sum(-1)


KL = Annotated[NoKL | KLInLoss | KLInReward, Field(discriminator="type"), BeforeValidator(by_name)]


class PolicyObjective(Config):
    """Surrogate × correction + KL penalty, as one loss."""

    surrogate: Surrogate = PPOClip()
    correction: Correction = NoCorrection()
    kl: KL = NoKL()

    def __call__(self, logprobs: Tensor, batch: PolicyBatch) -> Terms:
        """Terms `[B, T]`; where `old_logprobs` is None the policy's own forward stands in: the first ratio is exactly 1."""
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        terms = self.surrogate(logprobs, old, batch.advantages)
        gap = (old - batch.sampler_logprobs).abs()
        loss = terms.loss * self.correction(old, batch.sampler_logprobs)
        metrics = terms.metrics | {"sampler_gap": gap}
        if batch.ref_logprobs is not None:
            metrics["kl"] = k3(logprobs, batch.ref_logprobs).detach()
            if isinstance(self.kl, KLInLoss):
                loss = loss + self.kl.term(logprobs, old, batch.ref_logprobs)
        return Terms(loss, metrics)
