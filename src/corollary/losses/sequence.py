"""Policy-gradient losses on whole answers, whose value stands on each of the answer's tokens `[B, T]`.

They are blind to whatever stands at tokens that are not trained, NaN included, in value and in gradient: what is not trained
becomes 0 before anything is multiplied or summed. Averaged by `sequence_mean`, the terms make the mean over answers that the
papers write.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corollary.declare import NonNegative, Positive, declares
from corollary.ops.ratio import exponential, geometric_ratio, log_product_ratio, log_ratio, pessimistic, token_ratio
from corollary.ops.reduce import segment_mean
from corollary.types import Terms


@declares(family="policy", on_policy_value=True)
def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    clip_low: NonNegative = 3e-4,
    clip_high: NonNegative = 4e-4,
) -> Terms:
    """Group sequence policy optimisation: PPO's clip on the geometric mean of an answer's ratios.

        L = -min(s·A, clip(s, 1-ε_low, 1+ε_high)·A)      s = exp(mean_t (logπ - logπ_old))

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units, one per answer; constant with respect to the policy.
        trained: `[B, T]` bool, the answer's tokens.
        clip_low: ε_low ≥ 0, how far an answer's ratio may fall below 1.
        clip_high: ε_high ≥ 0, how far it may rise above 1.

    Returns:
        Terms with metrics `ratio`, s, and `clipped` (1 where the gradient is cut).

    Raises:
        ValueError: a parameter is out of its range.

    Source: Zheng et al. 2025, https://arxiv.org/abs/2507.18071.
    Theory: docs/theory/losses-policy.md#gspo

    >>> up = torch.tensor([[4.0, 1.0]]).log()  # geometric mean 2
    >>> gspo(up, torch.zeros(1, 2), -torch.ones(1, 2), torch.tensor([[True, True]])).loss
    tensor([[2., 2.]])
    """
    ratio = geometric_ratio(logprobs, old_logprobs, trained)[:, None]
    objective, cut = pessimistic(ratio, advantages.where(trained, 0.0), clip_low=clip_low, clip_high=clip_high)
    return Terms(-objective, _metrics(ratio, cut))


def _gspo_token_gradient(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, trained: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    ratio = geometric_ratio(logprobs, old_logprobs, trained)[:, None].detach()
    _, cut = pessimistic(ratio, advantages.where(trained, 0.0), clip_low=clip_low, clip_high=clip_high)
    return (-ratio * advantages).where(trained & ~cut, 0.0)


@declares(family="policy", stop_gradient=True, gradient=_gspo_token_gradient, on_policy_value=True)
def gspo_token(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    clip_low: NonNegative = 3e-4,
    clip_high: NonNegative = 4e-4,
) -> Terms:
    """GSPO with an advantage per token: the answer's ratio in value, the token's own in gradient.

        L = -min(s_t·A_t, clip(s_t, 1-ε_low, 1+ε_high)·A_t)      s_t = sg[s]·π/sg[π]      s as in GSPO

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units, of each token; constant with respect to the policy.
        trained: `[B, T]` bool, the answer's tokens.
        clip_low: ε_low ≥ 0, how far an answer's ratio may fall below 1.
        clip_high: ε_high ≥ 0, how far it may rise above 1.

    Returns:
        Terms with metrics `ratio`, s, and `clipped` (1 where the gradient is cut).

    Raises:
        ValueError: a parameter is out of its range.

    Source: Zheng et al. 2025, https://arxiv.org/abs/2507.18071.
    Theory: docs/theory/losses-policy.md#gspo_token

    >>> up = torch.tensor([[4.0, 1.0]]).log()  # geometric mean 2
    >>> gspo_token(up, torch.zeros(1, 2), torch.tensor([[-1.0, 0.5]]), torch.tensor([[True, True]]), clip_high=2.0).loss
    tensor([[ 2., -1.]])
    """
    own = logprobs.where(trained, 0.0)
    ratio = geometric_ratio(logprobs.detach(), old_logprobs, trained)[:, None] * token_ratio(own, own.detach())
    objective, cut = pessimistic(ratio, advantages.where(trained, 0.0), clip_low=clip_low, clip_high=clip_high)
    return Terms(-objective, _metrics(ratio, cut))


@declares(family="policy", on_policy="direction")
def luspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    clip_low: NonNegative = 3e-4,
    clip_high: NonNegative = 4e-4,
) -> Terms:
    """Length-unbiased sequence policy optimisation: GSPO's term times the answer's length.

        L = -|y|·min(s·A, clip(s, 1-ε_low, 1+ε_high)·A)      s = exp(mean_t (logπ - logπ_old))

    A token of a long answer weighs as much as one of a short answer where the average is `sequence_mean`, which divides by
    the length again. With `sequence_sum` or `token_mean` the length would count twice.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units, one per answer; constant with respect to the policy.
        trained: `[B, T]` bool, the answer's tokens.
        clip_low: ε_low ≥ 0, how far an answer's ratio may fall below 1.
        clip_high: ε_high ≥ 0, how far it may rise above 1.

    Returns:
        Terms with metrics `ratio`, s, and `clipped` (1 where the gradient is cut).

    Raises:
        ValueError: a parameter is out of its range.

    Source: "Length-unbiased sequence policy optimization" 2026, https://arxiv.org/abs/2602.05261.
    Theory: docs/theory/losses-policy.md#luspo

    >>> luspo(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, True]])).loss
    tensor([[-2., -2.]])
    """
    loss, metrics = gspo(logprobs, old_logprobs, advantages, trained, clip_low=clip_low, clip_high=clip_high)
    return Terms(loss * trained.sum(-1, keepdim=True), metrics)


@declares(family="policy", on_policy_value=True, probes={"log_clip_low": (0.4, 0.05), "log_clip_high": (0.4, 0.05)})
def gmpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    log_clip_low: NonNegative = 0.4,
    log_clip_high: NonNegative = 0.4,
) -> Terms:
    """Geometric-mean policy optimisation: the geometric mean of ratios, each clipped on the side where it runs away.

        L = -s·A      s = exp(mean_t x_t)      x_t = min(logr_t, c_high) where A ≥ 0, max(logr_t, -c_low) where A < 0

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy at the start of this update.
        advantages: `[B, T]` reward units, one per answer; constant with respect to the policy.
        trained: `[B, T]` bool, the answer's tokens.
        log_clip_low: c_low ≥ 0 nats, how far a token's log-ratio may fall below 0 in a bad answer.
        log_clip_high: c_high ≥ 0 nats, how far it may rise above 0 in a good answer.

    Returns:
        Terms with metrics `ratio`, s, and `clipped` (1 at tokens whose gradient is cut).

    Raises:
        ValueError: a parameter is out of its range.

    Source: Zhao et al. 2025, https://arxiv.org/abs/2507.20673.
    Theory: docs/theory/losses-policy.md#gmpo

    >>> up = torch.tensor([[4.0, 4.0]]).log()
    >>> gmpo(up, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, True]])).loss  # -exp(0.4)
    tensor([[-1.4918, -1.4918]])
    """
    x, advantages = log_ratio(logprobs, old_logprobs), advantages.where(trained, 0.0)
    kept = torch.where(advantages < 0, x.clamp(min=-log_clip_low), x.clamp(max=log_clip_high))
    ratio = exponential(segment_mean(kept, trained))[:, None]
    return Terms(-ratio * advantages, _metrics(ratio, (kept != x).detach() & trained))


def _vespo_gradient(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, trained: Tensor, **parameters: float
) -> Tensor:
    kernel = _gamma_kernel(logprobs, old_logprobs, advantages, trained, **parameters)
    return (-kernel * advantages).where(trained, 0.0)


@declares(family="policy", stop_gradient=True, gradient=_vespo_gradient, tail=False)
def vespo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    k_pos: NonNegative = 2.0,
    lambda_pos: Positive = 3.0,
    k_neg: NonNegative = 3.0,
    lambda_neg: Positive = 2.0,
) -> Terms:
    """Variational sequence-level soft policy optimisation: REINFORCE times a soft kernel of the answer's own ratio.

        L = -sg[φ(W)]·A·logπ      φ(W) = W^k·e^{λ(1-W)}      W = Π_t π/π_old

    with one pair (k, λ) where A ≥ 0 and another where A < 0. φ(1) = 1; φ is largest at W = k/λ and 0 at both ends.

    Args:
        logprobs: `[B, T]` nats, of the policy being trained; carries the gradient.
        old_logprobs: `[B, T]` nats, of the policy that the answers were drawn from.
        advantages: `[B, T]` reward units, one per answer; constant with respect to the policy.
        trained: `[B, T]` bool, the answer's tokens.
        k_pos: k ≥ 0 of good answers, how fast the kernel falls below W = 1.
        lambda_pos: λ > 0 of good answers, how fast it falls above.
        k_neg: k ≥ 0 of bad answers.
        lambda_neg: λ > 0 of bad answers.

    Returns:
        Terms with metric `kernel`, φ.

    Raises:
        ValueError: a parameter is out of its range.

    Source: "VESPO" 2026, https://arxiv.org/abs/2602.10693; defaults from its code, https://github.com/FloyedShen/VESPO.
    Theory: docs/theory/losses-policy.md#vespo

    >>> new, old = torch.tensor([[-1.0]]), torch.tensor([[-1.0]]) - torch.tensor([[2.0]]).log()  # W = 2
    >>> vespo(new, old, torch.ones(1, 1), torch.tensor([[True]])).loss  # 2²·e⁻³
    tensor([[0.1991]])
    """
    kernel = _gamma_kernel(
        logprobs, old_logprobs, advantages, trained,
        k_pos=k_pos, lambda_pos=lambda_pos, k_neg=k_neg, lambda_neg=lambda_neg,
    )  # fmt: skip
    return Terms(-kernel * advantages.where(trained, 0.0) * logprobs.where(trained, 0.0), {"kernel": kernel})


def _gamma_kernel(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    trained: Tensor,
    *,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
) -> Tensor:
    """φ = exp(k·logW - λ·(W - 1)) `[B, T]`, constant; 0 and not NaN where W overflows."""
    log_weight = log_product_ratio(logprobs, old_logprobs, trained).detach()[:, None]
    good = k_pos * log_weight - lambda_pos * log_weight.expm1()
    bad = k_neg * log_weight - lambda_neg * log_weight.expm1()
    return torch.where(advantages.where(trained, 0.0) < 0, bad, good).exp()


def _metrics(ratio: Tensor, cut: Tensor) -> dict[str, Tensor]:
    return {"ratio": ratio.detach().expand_as(cut), "clipped": cut.to(ratio.dtype)}
