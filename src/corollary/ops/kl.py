"""Per-token estimators of KL(π‖ref) from samples of π, x = logπ - logref.

As a *loss* the three differ: k1's expected gradient is 0, k3's descends the forward KL(ref‖π); k2, and k1 or k3 times the
ratio π/sg[π], descend the reverse KL that was asked for.
"""

from __future__ import annotations

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k1 = x. Unbiased, can be negative; the one to subtract from a reward.

    >>> import torch
    >>> k1(torch.tensor([-1.0]), torch.tensor([-1.5]))
    tensor([0.5000])
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 = x²/2. Biased in value; on-policy its gradient is ∇KL(π‖ref).

    >>> import torch
    >>> k2(torch.tensor([-1.0]), torch.tensor([-2.0]))
    tensor([0.5000])
    """
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = e^{-x} - 1 + x. Unbiased and never negative; the one to report.

    Source: Schulman 2020, "Approximating KL divergence".

    >>> import torch
    >>> k3(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([0.])
    """
    x = logprobs - ref_logprobs
    return (-x).expm1() + x


def k3_reverse(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """ρ·k3 with ρ = π/π_old carrying gradient: unbiased in value, and its gradient is ∇KL(π‖ref) per token.

    Args:
        logprobs: nats, with gradient.
        ref_logprobs: nats.
        old_logprobs: nats, of the policy that the tokens were drawn from; `logprobs.detach()` on-policy.

    Source: DeepSeek-V3.2, https://arxiv.org/abs/2512.02556.

    >>> import torch
    >>> k3_reverse(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor([-1.0]))
    tensor([0.3679])
    """
    return (logprobs - old_logprobs).exp() * k3(logprobs, ref_logprobs)
