"""Policy-gradient losses: per-token terms to minimise. Nothing here averages; see `ops.reduce`. Whole answers: `losses.sequence`.

An objective is put together from values: a surrogate, a correction for the sampler's distribution, a KL penalty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from corollary.config import Config, Variant, by_name, choice, variant
from corollary.custom import is_reference
from corollary.declare import NonNegative, Positive, declares
from corollary.losses.bind import POLICY, Bound, blind, called, token_inputs, where_trained
from corollary.losses.pairs import sigmoid
from corollary.losses.sequence import gmpo, gspo, gspo_token, luspo, vespo
from corollary.ops.kl import k1, k1_reverse, k2, k3, k3_reverse
from corollary.ops.ratio import (
    icepop,
    log_ratio,
    mis,
    pessimistic,
    sequence_mask,
    sequence_product,
    tis,
    token_ratio,
    uncorrected,
)
from corollary.ops.reduce import segment_mean
from corollary.types import PolicyBatch, Terms

Share = Annotated[float, Field(gt=0, le=1)]


@declares(family="policy", objective="J")
def reinforce(logprobs: Tensor, advantages: Tensor) -> Terms:
    """Score-function surrogate, negated.

        L = -A·logπ

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        advantages: `[B, T]` reward units; constant with respect to the policy.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
    Theory: docs/theory/losses-policy.md#reinforce

    >>> reinforce(torch.tensor([-2.0]), torch.tensor([0.5])).loss
    tensor([1.])
    """
    return Terms(loss=-advantages * logprobs, metrics={})


@declares(
    family="policy", on_policy_value=True, pessimistic=True, objective="J",
    probes={"dual_clip": (None, 1.05)},
)  # fmt: skip
def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: NonNegative = 0.2,
    clip_high: NonNegative = 0.2,
    dual_clip: Annotated[float, Field(gt=1)] | None = None,
) -> Terms:
    """Clipped surrogate of PPO, negated: GRPO, DAPO (`clip_high` 0.28); with `dual_clip`, bounded for bad answers too.

        L = -min(r·A, clip(r, 1-ε_low, 1+ε_high)·A)      r = exp(logπ - logπ_old)
        L = min(L, -c·A) where A < 0                     dual clip

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units; constant with respect to the policy.
        clip_low: ε_low ≥ 0, how far a token's ratio may fall below 1.
        clip_high: ε_high ≥ 0, how far it may rise above 1; larger than ε_low in DAPO.
        dual_clip: c > 1, bound of the loss of bad answers, in units of |A|; none: unbounded.

    Returns:
        Terms with metrics `ratio` and `clipped` (1 where the gradient is cut).

    Raises:
        ValueError: a parameter is out of its range.

    Source: Schulman et al. 2017, eq. 7, https://arxiv.org/abs/1707.06347; ε_high from DAPO, https://arxiv.org/abs/2503.14476;
        dual clip from Ye et al. 2020, https://arxiv.org/abs/1912.09729.
    Theory: docs/theory/losses-policy.md#ppo_clip

    >>> up = torch.tensor([1.0, 1.5, 0.5]).log()          # ratios 1, 1.5, 0.5
    >>> ppo_clip(up, torch.zeros(3), torch.ones(3)).loss  # a rise is capped at 1.2, a fall is not
    tensor([-1.0000, -1.2000, -0.5000])
    >>> ppo_clip(torch.tensor([4.0]).log(), torch.zeros(1), -torch.ones(1), dual_clip=3.0).loss
    tensor([3.])
    """
    ratio = token_ratio(logprobs, old_logprobs)
    objective, cut = pessimistic(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    if dual_clip is not None:
        bounded = objective.maximum(dual_clip * advantages)
        objective = torch.where(advantages < 0, bounded, objective)
        cut = cut | (objective != ratio * advantages).detach()
    return Terms(-objective, {"ratio": ratio.detach(), "clipped": cut.to(ratio.dtype)})


def _cispo_gradient(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    return -token_ratio(logprobs, old_logprobs).clamp(1 - clip_low, 1 + clip_high).detach() * advantages


@declares(
    family="policy", stop_gradient=True, gradient=_cispo_gradient, objective="J",
    probes={"clip_low": (1.0, 0.05), "clip_high": (4.0, 0.05)},
)  # fmt: skip
def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: NonNegative = 1.0,
    clip_high: NonNegative = 4.0,
) -> Terms:
    """Clipped importance-sampling weights: REINFORCE times a capped ratio, so that no token's gradient is ever cut.

        L = -sg[clip(r, 1-ε_low, 1+ε_high)]·A·logπ      r = exp(logπ - logπ_old)

    Both bounds are distances from 1, as everywhere here and as in verl and NeMo RL. TRL's `epsilon_high` is the cap itself
    (its 5.0 is `clip_high` 4.0), and it has no lower bound, which is `clip_low` 1.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units; constant with respect to the policy.
        clip_low: ε_low ≥ 0, how far below 1 a weight may be; from 1 on there is no bound.
        clip_high: ε_high ≥ 0, how far above 1 it may be.

    Returns:
        Terms with metrics `ratio` and `clipped` (1 where the weight is not the ratio).

    Raises:
        ValueError: a parameter is out of its range.

    Source: MiniMax 2025, https://arxiv.org/abs/2506.13585; the default cap of 5 from ScaleRL, https://arxiv.org/abs/2510.13786.
    Theory: docs/theory/losses-policy.md#cispo

    >>> old = torch.tensor([-3.0]) - torch.tensor([8.0]).log()     # ratio 8
    >>> cispo(torch.tensor([-3.0]), old, torch.tensor([1.0])).loss  # 5·3
    tensor([15.])
    """
    ratio = token_ratio(logprobs, old_logprobs).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    return Terms(-weight * advantages * logprobs, {"ratio": ratio, "clipped": (weight != ratio).to(ratio.dtype)})


@declares(family="policy", tail=False)
def sapo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    tau_pos: Positive = 1.0,
    tau_neg: Positive = 1.05,
) -> Terms:
    """Soft adaptive policy optimisation: a sigmoid gate on the ratio where PPO has a clip.

        L = -A·(4/τ)·σ(τ·(r - 1))      r = exp(logπ - logπ_old)      τ = τ_pos where A > 0, else τ_neg

    At r = 1 the slope is -A for every τ, and the value -2A/τ.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units; constant with respect to the policy.
        tau_pos: τ > 0 of good answers, how soon the gate closes.
        tau_neg: τ > 0 of bad answers; larger, since their gradient spreads over the vocabulary.

    Returns:
        Terms with metrics `ratio` and `gate`, the slope in r in units of A: 1 at r = 1, 0 where the gate is shut.

    Raises:
        ValueError: a parameter is out of its range.

    Source: "Soft adaptive policy optimization" 2025, https://arxiv.org/abs/2511.20347.
    Theory: docs/theory/losses-policy.md#sapo

    >>> sapo(torch.tensor([-1.0]), torch.tensor([-1.0]), torch.tensor([1.0])).loss
    tensor([-2.])
    """
    ratio = token_ratio(logprobs, old_logprobs)
    tau = torch.where(advantages > 0, ratio.new_tensor(tau_pos), ratio.new_tensor(tau_neg))
    opened = sigmoid(tau * (ratio - 1))
    gate = 4 * opened * sigmoid(tau * (1 - ratio))
    return Terms(-advantages * 4 / tau * opened, {"ratio": ratio.detach(), "gate": gate.detach()})


@declares(family="policy", cross_sample="batch", on_policy="direction")
def gpg(logprobs: Tensor, advantages: Tensor, trained: Tensor) -> Terms:
    """Group policy gradient: REINFORCE, scaled up for the answers that teach nothing.

        L = -α·A·logπ      α = answers / answers whose advantage is not 0

    Groups with equal rewards have no gradient and yet count in the average; α takes them out again. The paper counts groups:
    the same for groups of one size, but for an answer that is exactly as good as its group's mean.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        advantages: `[B, T]` reward units, less the group's mean; of the whole step.
        trained: `[B, T]` bool, the tokens that are trained on.

    Returns:
        Terms with metric `scale`, α.

    Source: Chu et al. 2025, https://arxiv.org/abs/2504.02546.
    Theory: docs/theory/losses-policy.md#gpg

    >>> one = torch.ones(2, 1)
    >>> gpg(-one, torch.tensor([[0.5], [0.0]]), one.bool()).loss  # half of the answers teach: α = 2
    tensor([[1.],
            [0.]])
    """
    kept = advantages.where(trained, 0.0)
    taught = (kept != 0).any(-1).sum().clamp(min=1).to(kept.dtype)
    scale = trained.any(-1).sum() / taught
    return Terms(-scale * kept * logprobs.where(trained, 0.0), {"scale": scale.expand_as(kept)})


@declares(
    family="policy", cross_sample="batch", on_policy=None, homogeneous=False, tail=False,
    probes={"fraction": (2e-4, 0.5), "cov_low": (1.0, 0.01), "cov_high": (5.0, 1.1)},
)  # fmt: skip
def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    clip_low: NonNegative = 0.2,
    clip_high: NonNegative = 0.2,
    fraction: Share = 2e-4,
    cov_low: NonNegative = 1.0,
    cov_high: Positive = 5.0,
) -> Terms:
    """PPO's clip that leaves out a few tokens which would take most of the entropy away.

        L = 0 at the k tokens of largest c with c_low < c < c_high, PPO's clip elsewhere
        c = (A - mean A)·(logπ - mean logπ)      k = max(1, ⌊fraction·tokens⌋)

    The means are over the step's trained tokens. The paper draws the k tokens at random among those in the band; here they
    are the largest, so that one batch has one loss. Tokens that the clip has cut already are none of them.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units; of the whole step.
        trained: `[B, T]` bool, the tokens that are trained on.
        clip_low: ε_low ≥ 0, how far a token's ratio may fall below 1.
        clip_high: ε_high ≥ 0, how far it may rise above 1.
        fraction: in (0, 1], share of the tokens that is left out at most.
        cov_low: c_low ≥ 0, above which a covariance counts as large.
        cov_high: c_high, from which it is an outlier and left alone.

    Returns:
        Terms with metrics `ratio`, `clipped` (1 where the gradient is cut) and `covariance`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617.
    Theory: docs/theory/losses-policy.md#clip_cov

    >>> lp, a = torch.tensor([[-4.0, -1.0, -1.0]]), torch.tensor([[-2.0, 1.0, 1.0]])
    >>> clip_cov(lp, lp, a, a != 0, fraction=0.5).loss  # covariances 4, 1, 1
    tensor([[ 0., -1., -1.]])
    """
    logprobs, old_logprobs, advantages = (x.where(trained, 0.0) for x in (logprobs, old_logprobs, advantages))
    terms = ppo_clip(logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high)
    covariance = _covariances(logprobs, advantages, trained)
    open_ = trained & (terms.metrics["clipped"] == 0) & (covariance > cov_low) & (covariance < cov_high)
    chosen = _largest(covariance, open_, max(1, int(fraction * int(trained.sum()))))
    cut = terms.metrics["clipped"].where(~chosen, 1.0)
    return Terms(terms.loss.where(~chosen, 0.0), terms.metrics | {"clipped": cut, "covariance": covariance})


@declares(
    family="policy", cross_sample="batch", on_policy_value=True, homogeneous=False, pessimistic=True,
    probes={"fraction": (2e-4, 0.5), "coef": (1.0, 0.1)},
)  # fmt: skip
def kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    fraction: Share = 2e-4,
    coef: Positive = 1.0,
) -> Terms:
    """The unclipped surrogate, with a few tokens which would take most of the entropy away held to the old policy.

        L = -r·A + β·|logr| at the k tokens of largest c, -r·A elsewhere      r = exp(logπ - logπ_old)
        c = (A - mean A)·(logπ - mean logπ)      k = max(1, ⌊fraction·tokens⌋)

    The means are over the step's trained tokens.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units; of the whole step.
        trained: `[B, T]` bool, the tokens that are trained on.
        fraction: in (0, 1], share of the tokens that is held.
        coef: β > 0, reward units per nat.

    Returns:
        Terms with metrics `ratio`, `held` (1 at the k tokens) and `covariance`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Cui et al. 2025, https://arxiv.org/abs/2505.22617.
    Theory: docs/theory/losses-policy.md#kl_cov

    >>> new, a = torch.tensor([[-4.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    >>> kl_cov(new, new - torch.tensor([[2.0, 2.0]]).log(), a, a != 0, fraction=1.0, coef=10.0).loss  # ±2 + 10 log 2
    tensor([[8.9315, 4.9315]])
    """
    logprobs, old_logprobs, advantages = (x.where(trained, 0.0) for x in (logprobs, old_logprobs, advantages))
    ratio, gap = token_ratio(logprobs, old_logprobs), log_ratio(logprobs, old_logprobs).abs()
    covariance = _covariances(logprobs, advantages, trained)
    held = _largest(covariance, trained, max(1, int(fraction * int(trained.sum()))))
    loss = -ratio * advantages + (coef * gap).where(held, 0.0)
    return Terms(loss, {"ratio": ratio.detach(), "held": held.to(ratio.dtype), "covariance": covariance})


def _covariances(logprobs: Tensor, advantages: Tensor, trained: Tensor) -> Tensor:
    """Each trained token's share in the covariance of advantage and log-probability; constant."""
    a, lp = (x - segment_mean(x.flatten(), trained.flatten()) for x in (advantages, logprobs.detach()))
    return (a * lp).where(trained, 0.0)


def _largest(values: Tensor, among: Tensor, number: int) -> Tensor:
    """True at the `number` largest of the values that `among` marks."""
    most = min(number, values.numel())
    ranked = values.where(among, -torch.inf).flatten()
    chosen = torch.zeros_like(ranked, dtype=torch.bool).index_fill(0, ranked.topk(most).indices, True)
    return chosen.view_as(among) & among


PPOClip: Any = variant(ppo_clip)
Reinforce: Any = variant(reinforce)
SURROGATES = (ppo_clip, reinforce, gspo, gspo_token, luspo, gmpo, cispo, sapo, vespo, gpg, clip_cov, kl_cov)

NoCorrection: Any = variant(uncorrected, "none")
TruncatedImportance: Any = variant(tis)
CORRECTIONS = (mis, icepop, sequence_product, sequence_mask)

if TYPE_CHECKING:
    Surrogate = Variant
    Correction = Variant
else:
    Surrogate = choice([variant(f) for f in SURROGATES], POLICY)
    Correction = choice([NoCorrection, TruncatedImportance, *(variant(f) for f in CORRECTIONS)], POLICY)


def silent(surrogate: Variant) -> bool:
    """Whether an answer whose advantage is 0 has neither value nor gradient, so that it need not be computed.

    Not where the formula pulls without an advantage, nor where the answer counts in a statistic of the step. A user's own is
    always computed: it may add a term that nobody declared.

    >>> silent(PPOClip()), silent(variant(kl_cov)())
    (True, False)
    """
    declared = Bound(surrogate).declaration
    return declared.homogeneous and declared.cross_sample is None and not is_reference(surrogate.type)


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
    estimator: Literal["k1_reverse", "k2", "k3", "k3_reverse"] = "k3_reverse"
    """the _reverse ones have the gradient of KL(π‖ref); k2 too, on-policy; k3 that of KL(ref‖π), as GRPO's paper; k1 has none"""

    def term(self, logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        match self.estimator:
            case "k1_reverse":
                return self.coef * k1_reverse(logprobs, ref_logprobs, old_logprobs)
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

    @property
    def needs(self) -> frozenset[str]:
        """The names of the inputs of its parts."""
        return Bound(self.surrogate).needs | Bound(self.correction).needs

    @property
    def cross_sample(self) -> bool:
        """Whether a term depends on other samples of the step."""
        return Bound(self.surrogate).cross_sample or Bound(self.correction).cross_sample

    def __call__(self, logprobs: Tensor, batch: PolicyBatch) -> Terms:
        """Terms `[B, T]`; where `old_logprobs` is None the policy's own forward stands in: the first ratio is exactly 1."""
        terms = Bound(self.surrogate)(logprobs, batch)
        inputs = token_inputs(where_trained(logprobs, batch.trained), blind(batch))
        loss = terms.loss * called(self.correction, inputs).detach()
        drift = k3(inputs["old_logprobs"], inputs["logprobs"]).detach()  # KL(π_old‖π), tokens being π_old's
        metrics = terms.metrics | {
            "approx_kl": drift,
            "sampler_gap": (inputs["old_logprobs"] - inputs["sampler_logprobs"]).abs(),
        }
        if "ref_logprobs" in inputs:
            metrics["kl"] = k3_reverse(inputs["logprobs"], inputs["ref_logprobs"], inputs["old_logprobs"]).detach()
            if isinstance(self.kl, KLInLoss):
                loss = loss + self.kl.term(inputs["logprobs"], inputs["old_logprobs"], inputs["ref_logprobs"])
        return Terms(loss, metrics)
