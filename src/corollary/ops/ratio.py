"""Weights that correct for samples drawn from another distribution than the trainer's. Constant in the policy."""

from __future__ import annotations

from torch import Tensor


def token_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """r = exp(logπ - logπ_old), per token; carries the gradient of `logprobs`.

    >>> import torch
    >>> token_ratio(torch.tensor([-1.0]), torch.tensor([-1.0]))
    tensor([1.])
    """
    return (logprobs - old_logprobs).exp()


def truncated(ratio: Tensor, *, cap: float) -> Tensor:
    """w = min(ratio, C): truncated importance sampling (TIS).

    Source: Ionides 2008; Yao et al. 2025.

    >>> import torch
    >>> truncated(torch.tensor([0.4, 1.0, 2.5]), cap=2.0)
    tensor([0.4000, 1.0000, 2.0000])
    """
    return ratio.clamp(max=cap)
