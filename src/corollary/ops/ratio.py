"""Ratios of two policies' probabilities, and the weights that correct for samples drawn from another policy than the trainer's.

A correction is w = π_old/π_sampler, made smaller where it cannot be trusted; a loss is multiplied by it after its own clipping.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corollary.declare import NonNegative, Positive, declares
from corollary.ops.reduce import segment_mean


def log_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """logπ - logπ_old, in float32 at least: the difference of two bfloat16 numbers has two digits. The old policy is a constant.

    >>> log_ratio(torch.tensor([-1.0], dtype=torch.bfloat16), torch.tensor([-1.5], dtype=torch.bfloat16))
    tensor([0.5000])
    """
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    return logprobs.to(dtype) - old_logprobs.detach().to(dtype)


def exponential(x: Tensor) -> Tensor:
    """e^x; where that would overflow, its largest value with the slope of that value, so that inf·0 cannot make a NaN.

    >>> x = torch.tensor([0.0, 1000.0], requires_grad=True)
    >>> exponential(x).sum().backward()
    >>> x.grad.isfinite().all()
    tensor(True)
    """
    limit = 80.0 if x.dtype == torch.float32 else 700.0
    return (x + (x.detach().clamp(max=limit) - x.detach()).nan_to_num(0.0)).exp() if (x > limit).any() else x.exp()


def token_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """r = exp(logπ - logπ_old), per token; carries the gradient of `logprobs`.

    >>> token_ratio(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([1.])
    """
    return exponential(log_ratio(logprobs, old_logprobs))


@declares(family="metric")
def geometric_ratio(logprobs: Tensor, old_logprobs: Tensor, trained: Tensor) -> Tensor:
    """The geometric mean of an answer's ratios, `[B]`; carries gradient.

        s = exp(mean_t (logπ - logπ_old))

    Args:
        logprobs: `[B, T]` nats.
        old_logprobs: `[B, T]` nats.
        trained: `[B, T]` bool; whatever stands at the other tokens, NaN included, changes neither value nor gradient.

    Source: Zheng et al. 2025 (GSPO), https://arxiv.org/abs/2507.18071.
    Theory: docs/theory/estimators.md#geometric_ratio

    >>> ratios = torch.tensor([[4.0, 1.0, torch.nan]])
    >>> geometric_ratio(ratios.log(), torch.zeros(1, 3), torch.tensor([[True, True, False]]))
    tensor([2.])
    """
    return exponential(segment_mean(log_ratio(logprobs, old_logprobs), trained))


def log_product_ratio(logprobs: Tensor, old_logprobs: Tensor, trained: Tensor) -> Tensor:
    """Σ_t (logπ - logπ_old): an answer's log-ratio, `[B]`; blind to what is not trained, and carries gradient.

    >>> log_product_ratio(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -3.0]]), torch.tensor([[True, True]]))
    tensor([3.])
    """
    return log_ratio(logprobs, old_logprobs).where(trained, 0.0).sum(-1)


def pessimistic(ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> tuple[Tensor, Tensor]:
    """min(r·A, clip(r, 1-ε_low, 1+ε_high)·A), PPO's objective of any ratio; and where the clip has cut its gradient.

    >>> pessimistic(torch.tensor([1.5, 0.5]), torch.ones(2), clip_low=0.2, clip_high=0.2)
    (tensor([1.2000, 0.5000]), tensor([ True, False]))
    """
    kept = ratio * advantages
    objective = kept.minimum(ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    return objective, (objective != kept).detach()


@declares(family="correction")
def uncorrected(old_logprobs: Tensor) -> Tensor:
    """The sampler's log-probabilities are taken to be the trainer's.

        w = 1

    Args:
        old_logprobs: `[B, T]` nats, of the trainer's policy before the update.

    Source: Schulman et al. 2017, https://arxiv.org/abs/1707.06347: PPO itself, whose old policy is its sampler.
    Theory: docs/theory/estimators.md#uncorrected

    >>> uncorrected(torch.tensor([-1.0, -2.0]))
    tensor([1., 1.])
    """
    return torch.ones_like(old_logprobs)


@declares(family="correction")
def tis(old_logprobs: Tensor, sampler_logprobs: Tensor, *, cap: Positive = 2.0) -> Tensor:
    """Truncated importance sampling: a weight is never larger than the cap.

        w = min(π_old/π_sampler, C)

    Args:
        old_logprobs: `[B, T]` nats, of the trainer's policy before the update.
        sampler_logprobs: `[B, T]` nats, at sampling.
        cap: C > 0, the largest weight.

    Returns:
        `[B, T]`, constant in the policy.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Ionides 2008; for a sampler of other precision Yao et al. 2025, "Your efficient RL framework secretly brings you
        off-policy RL training".
    Theory: docs/theory/estimators.md#tis

    >>> tis(torch.tensor([0.4, 1.0, 2.5]).log(), torch.zeros(3), cap=2.0)
    tensor([0.4000, 1.0000, 2.0000])
    """
    return token_ratio(old_logprobs, sampler_logprobs).clamp(max=cap).detach()


@declares(family="correction", probes={"cap": (2.0, 1.0)})
def mis(old_logprobs: Tensor, sampler_logprobs: Tensor, *, cap: Positive = 2.0) -> Tensor:
    """Masked importance sampling: a token whose weight is above the cap is left out.

        w = r·1[r ≤ C]      r = π_old/π_sampler

    Args:
        old_logprobs: `[B, T]` nats, of the trainer's policy before the update.
        sampler_logprobs: `[B, T]` nats, at sampling.
        cap: C > 0, the largest weight that is trusted.

    Returns:
        `[B, T]`, constant in the policy.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Liu, Li et al. 2025, "When speed kills stability: demystifying RL collapse from the training-inference mismatch".
    Theory: docs/theory/estimators.md#mis

    >>> mis(torch.tensor([0.4, 1.0, 2.5]).log(), torch.zeros(3), cap=2.0)
    tensor([0.4000, 1.0000, 0.0000])
    """
    ratio = token_ratio(old_logprobs, sampler_logprobs).detach()
    return ratio.where(ratio <= cap, 0.0)


@declares(family="correction")
def icepop(old_logprobs: Tensor, sampler_logprobs: Tensor, *, low: NonNegative = 0.5, high: Positive = 5.0) -> Tensor:
    """A token whose weight lies outside a band is left out, on either side.

        w = r·1[α ≤ r ≤ β]      r = π_old/π_sampler

    Args:
        old_logprobs: `[B, T]` nats, of the trainer's policy before the update.
        sampler_logprobs: `[B, T]` nats, at sampling.
        low: α ≥ 0, the smallest weight that is trusted.
        high: β ≥ α, the largest.

    Returns:
        `[B, T]`, constant in the policy.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Ling team 2025 (Ring-1T), https://arxiv.org/abs/2510.18855.
    Theory: docs/theory/estimators.md#icepop

    >>> icepop(torch.tensor([0.4, 1.0, 2.5, 6.0]).log(), torch.zeros(4))
    tensor([0.0000, 1.0000, 2.5000, 0.0000])
    """
    _ordered(low, high)
    ratio = token_ratio(old_logprobs, sampler_logprobs).detach()
    return ratio.where((ratio >= low) & (ratio <= high), 0.0)


@declares(family="correction", probes={"cap": (None, 1.0)})
def sequence_product(
    old_logprobs: Tensor, sampler_logprobs: Tensor, trained: Tensor, *, cap: Positive | None = None
) -> Tensor:
    """An answer's own importance weight, on each of its tokens: unbiased, with a variance that grows exponentially.

        w = min(Π_t π_old/π_sampler, C)

    Args:
        old_logprobs: `[B, T]` nats, of the trainer's policy before the update.
        sampler_logprobs: `[B, T]` nats, at sampling.
        trained: `[B, T]` bool, the tokens of the product.
        cap: C > 0, the largest weight; none: the largest number of the type.

    Returns:
        `[B, T]`, constant in the policy.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Precup et al. 2000, "Eligibility traces for off-policy policy evaluation"; the cap as in `tis`.
    Theory: docs/theory/estimators.md#sequence_product

    >>> sequence_product(torch.tensor([[6.0, 0.5]]).log(), torch.zeros(1, 2), torch.tensor([[True, True]]))
    tensor([[3., 3.]])
    """
    log_weight = log_product_ratio(old_logprobs, sampler_logprobs, trained).detach()
    largest = torch.finfo(log_weight.dtype).max if cap is None else cap
    return log_weight.exp().clamp(max=largest)[:, None].expand(trained.shape)


@declares(family="correction", probes={"low": (0.9, 1.0), "high": (1.0, 1.1), "cap": (None, 0.9)})
def sequence_mask(
    old_logprobs: Tensor,
    sampler_logprobs: Tensor,
    trained: Tensor,
    *,
    low: NonNegative = 0.999,
    high: Positive = 1.002,
    cap: Positive | None = None,
) -> Tensor:
    """Weights per token, of the answers whose geometric mean weight lies inside a band; other answers are left out.

        w = min(r, C)·1[α ≤ s ≤ β]      r = π_old/π_sampler      s = exp(mean_t log r)

    Args:
        old_logprobs: `[B, T]` nats, of the trainer's policy before the update.
        sampler_logprobs: `[B, T]` nats, at sampling.
        trained: `[B, T]` bool, the tokens of the mean.
        low: α ≥ 0, the smallest geometric mean that is trusted.
        high: β ≥ α, the largest.
        cap: C > 0, the largest weight of a token; none: whatever it is, as NeMo RL's seq-mask-tis.

    Returns:
        `[B, T]`, constant in the policy.

    Raises:
        ValueError: a parameter is out of its range.

    Source: NeMo RL, `truncated_importance_sampling_type: seq-mask-tis`, https://github.com/NVIDIA-NeMo/RL.
    Theory: docs/theory/estimators.md#sequence_mask

    >>> weights = torch.tensor([[2.0, 0.5], [2.0, 1.0]])  # geometric means 1 and √2
    >>> sequence_mask(weights.log(), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool))
    tensor([[2.0000, 0.5000],
            [0.0000, 0.0000]])
    """
    _ordered(low, high)
    mean = geometric_ratio(old_logprobs, sampler_logprobs, trained).detach()
    weight = token_ratio(old_logprobs, sampler_logprobs).detach().clamp(max=math.inf if cap is None else cap)
    return weight.where(((mean >= low) & (mean <= high))[:, None], 0.0)


def _ordered(low: float, high: float) -> None:
    """An empty band would leave out every token of a run, in silence."""
    if low > high:
        raise ValueError(f"low must be <= high, got low={low} and high={high}")
