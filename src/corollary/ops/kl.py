"""How far the policy has moved from a reference: per-token estimators of KL(π‖ref) from samples of π, and exact values.

    x = logπ - logref      ρ = π/π_old, which carries the gradient

An estimator's value and its gradient as a loss are two things:

| | value, on samples of π | gradient as a loss |
|---|---|---|
| `k1` | KL(π‖ref), unbiased | 0 in expectation |
| `k2` | biased | ∇KL(π‖ref), on samples of π |
| `k3` | KL(π‖ref), unbiased, never negative | ∇KL(ref‖π), the other direction |
| `k1_reverse`, `k3_reverse` | KL(π‖ref), unbiased, also off-policy | ∇KL(π‖ref) |

Nothing is clamped: a clamped output has no gradient exactly where the policy is furthest away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from corollary.declare import NonNegative, declares

INFINITE = float("inf")


@declares(family="penalty")
def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Log-ratio: estimates KL(π‖ref) without bias; to subtract from a reward, not to differentiate.

        k1 = x      x = logπ - logref

    As a loss its expected gradient is 0: nothing holds the policy back.

    Args:
        logprobs: nats, of the policy, whose samples these are.
        ref_logprobs: nats, of the reference.

    Returns:
        `[B, T]` nats, in float32 at least; negative where the reference is the likelier.

    Source: Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html.
    Theory: docs/theory/losses-policy.md#k1

    >>> k1(torch.tensor([-1.0]), torch.tensor([-1.5]))
    tensor([0.5000])
    """
    return _log_ratio(logprobs, ref_logprobs)


@declares(family="penalty", bounds=(0.0, INFINITE), objective="reverse_kl")
def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio: biased in value; as a loss it descends KL(π‖ref), on-policy.

        k2 = x²/2      x = logπ - logref

    Off-policy its gradient is no longer that of KL; `k1_reverse` and `k3_reverse` correct for it.

    Args:
        logprobs: nats, of the policy, whose samples these are; carries the gradient.
        ref_logprobs: nats, of the reference.

    Returns:
        `[B, T]` nats², in float32 at least.

    Source: Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html;
        its gradient: Tang and Munos 2025, https://arxiv.org/abs/2506.09477.
    Theory: docs/theory/losses-policy.md#k2

    >>> k2(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([0.5000])
    """
    return _log_ratio(logprobs, ref_logprobs).square() / 2


@declares(family="penalty", bounds=(0.0, INFINITE))
def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Estimates KL(π‖ref) without bias and never below 0: the one to report. As a loss it descends KL(ref‖π).

        k3 = e^{-x} - 1 + x      x = logπ - logref

    Args:
        logprobs: nats, of the policy, whose samples these are; carries the gradient.
        ref_logprobs: nats, of the reference.

    Returns:
        `[B, T]` nats, in float32 at least; finite in float32 down to x = -88.

    Source: Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html; as GRPO's penalty
        Shao et al. 2024, https://arxiv.org/abs/2402.03300.
    Theory: docs/theory/losses-policy.md#k3

    >>> k3(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0]))
    tensor([0.0000, 0.3679])
    """
    x = _log_ratio(logprobs, ref_logprobs)
    return (-x).expm1() + x


@declares(family="penalty", objective="reverse_kl")
def k1_reverse(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """`k1` weighed by the ratio: estimates KL(π‖ref) from old samples without bias, and as a loss descends it.

        ρ·x      ρ = exp(logπ - logπ_old)      x = logπ - logref

    Args:
        logprobs: nats, of the policy; carries the gradient.
        ref_logprobs: nats, of the reference.
        old_logprobs: nats, of the policy that the tokens were drawn from; `logprobs.detach()` on-policy.

    Returns:
        `[B, T]` nats, in float32 at least.

    Source: Tang and Munos 2025, https://arxiv.org/abs/2506.09477.
    Theory: docs/theory/losses-policy.md#k1_reverse

    >>> k1_reverse(torch.tensor([-1.0]), torch.tensor([-1.5]), torch.tensor([-1.0]))
    tensor([0.5000])
    """
    return _log_ratio(logprobs, old_logprobs).exp() * k1(logprobs, ref_logprobs)


@declares(family="penalty", bounds=(0.0, INFINITE), objective="reverse_kl")
def k3_reverse(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """`k3` weighed by the ratio: estimates KL(π‖ref) from old samples without bias, and as a loss descends it.

        ρ·(e^{-x} - 1 + x)      ρ = exp(logπ - logπ_old)      x = logπ - logref      gradient ρ·x

    Args:
        logprobs: nats, of the policy; carries the gradient.
        ref_logprobs: nats, of the reference.
        old_logprobs: nats, of the policy that the tokens were drawn from; `logprobs.detach()` on-policy.

    Returns:
        `[B, T]` nats, in float32 at least.

    Source: DeepSeek-AI 2025 (DeepSeek-V3.2), https://arxiv.org/abs/2512.02556.
    Theory: docs/theory/losses-policy.md#k3_reverse

    >>> k3_reverse(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([-1.0]))
    tensor([0.3679])
    """
    x, step = _log_ratio(logprobs, ref_logprobs), _log_ratio(logprobs, old_logprobs)
    # ρ·e^{-x} is ref/π_old, a constant; multiplied out, the gradient is ρ·x also where e^{-x} drowns x
    return _log_ratio(ref_logprobs, old_logprobs).expm1() - step.expm1() + step.exp() * x


@declares(family="metric", estimates="reverse_kl")
def kl_exact(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(π‖ref) of each position over the whole vocabulary: no sampling error, and its own gradient.

        Σ_v π_v·(logπ_v - logref_v)      gradient in the logits: π_v·(x_v - KL)

    Args:
        logits: `[..., V]`, of the policy; carries the gradient. -inf forbids a token.
        ref_logits: `[..., V]`, of the reference.

    Returns:
        `[...]` nats, in float32 at least; infinite where the policy allows what the reference forbids.

    Source: Kullback and Leibler 1951, https://doi.org/10.1214/aoms/1177729694.
    Theory: docs/theory/estimators.md#kl_exact

    >>> kl_exact(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.9, 0.1]).log())
    tensor(0.5108)
    """
    logprobs, ref = _log_softmax(logits), _log_softmax(ref_logits)
    p = logprobs.exp()
    return (p * (logprobs - ref).where(p > 0, 0.0)).sum(-1)


@declares(family="metric", estimates="entropy")
def entropy_exact(logits: Tensor) -> Tensor:
    """Entropy of each position over the whole vocabulary, with its gradient.

        H = -Σ_v π_v·logπ_v      gradient in the logits: -π_v·(logπ_v + H)

    The sample estimate -logπ(y) has the same mean, but as a loss an expected gradient of 0.

    Args:
        logits: `[..., V]`; carries the gradient. -inf forbids a token.

    Returns:
        `[...]` nats, between 0 and log V, in float32 at least.

    Source: Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x.
    Theory: docs/theory/estimators.md#entropy_exact

    >>> entropy_exact(torch.zeros(4))                      # log 4
    tensor(1.3863)
    """
    logprobs = _log_softmax(logits)
    p = logprobs.exp()
    return -(p * logprobs.where(p > 0, 0.0)).sum(-1)


@declares(family="penalty")
def entropy_bonus(entropy: Tensor, *, coef: NonNegative = 0.001) -> Tensor:
    """Rewards an undecided policy: the loss falls as the entropy grows.

        -α·H

    Args:
        entropy: nats, of each token's distribution over the whole vocabulary; carries the gradient.
        coef: α ≥ 0, reward units per nat; 0 to 0.01 in use.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Williams and Peng 1991, https://doi.org/10.1080/09540099108946587.
    Theory: docs/theory/losses-policy.md#entropy_bonus

    >>> entropy_bonus(torch.tensor([2.0]), coef=0.5)
    tensor([-1.])
    """
    return -coef * entropy


def _log_ratio(logprobs: Tensor, other: Tensor) -> Tensor:
    """logprobs - other in float32 at least: bfloat16 has too few digits for the difference of what nearly cancels."""
    return logprobs.to(torch.promote_types(logprobs.dtype, torch.float32)) - other


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
