"""What the losses of whole answers share: precision, log-ratios, per-token means, the chosen answer's likelihood, metrics."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["sum", "mean", "token_mean"]


def precise(x: Tensor) -> Tensor:
    """`x` in float32 at least: the difference of two bfloat16 sums has no digits to lose.

    >>> precise(torch.ones(1, dtype=torch.bfloat16)).dtype, precise(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sigmoid(x: Tensor) -> Tensor:
    """σ(x) whose gradient σ(x)·σ(-x) keeps its digits far out, where that of torch's, y·(1 - y), has lost them.

    >>> x = torch.tensor([30.0], requires_grad=True)
    >>> sigmoid(x).backward()
    >>> x.grad
    tensor([9.3576e-14])
    """
    return F.logsigmoid(x).exp()


def log_ratio(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """logπ(y) - logref(y), in float32 at least; the reference is a constant.

    Args:
        logprobs: nats, under the policy; carries the gradient.
        ref_logprobs: nats, under the reference.

    >>> log_ratio(torch.tensor([-4.0]), torch.tensor([-5.0]))
    tensor([1.])
    """
    return precise(logprobs) - precise(ref_logprobs.detach())


def per_token(sums: Tensor, lengths: Tensor) -> Tensor:
    """Mean over an answer's tokens; 0 for an answer without tokens.

    Args:
        sums: `[N]` over the tokens of each answer.
        lengths: `[N]` tokens.

    >>> per_token(torch.tensor([-4.0, 0.0]), torch.tensor([2, 0]))
    tensor([-2., 0.])
    """
    return precise(sums) / lengths.clamp(min=1)


def reduced(sums: Tensor, lengths: Tensor, mean_length: Tensor | float, how: Reduction) -> Tensor:
    """An answer's sum, its mean over tokens, or its share of the mean over all tokens of the step.

    Args:
        sums: `[N]` over the tokens of each answer.
        lengths: `[N]` tokens.
        mean_length: tokens of all these answers of the whole step / their number.
        how: `token_mean` is the one whose mean over answers is Σ sums / Σ lengths.

    Raises:
        ValueError: `how` is none of the three.

    >>> sums, lengths = torch.tensor([-4.0, -6.0]), torch.tensor([1, 3])
    >>> reduced(sums, lengths, 2.0, "mean"), reduced(sums, lengths, 2.0, "token_mean")
    (tensor([-4., -2.]), tensor([-2., -3.]))
    """
    match how:
        case "sum":
            return precise(sums)
        case "mean":
            return per_token(sums, lengths)
        case "token_mean":
            return precise(sums) / mean_length
        case _:
            raise ValueError(f"a sum over tokens is reduced by sum, mean or token_mean, not by {how!r}")


def reward_metrics(chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Metrics `reward_chosen`, `reward_rejected`, `margin` between them, and `accuracy` (1 where it is positive).

    >>> reward_metrics(torch.tensor([0.5]), torch.tensor([0.25]))["margin"]
    tensor([0.2500])
    """
    chosen, rejected = chosen.detach(), rejected.detach()
    margin = chosen - rejected
    accuracy = (margin > 0).to(margin.dtype)
    return {"reward_chosen": chosen, "reward_rejected": rejected, "margin": margin, "accuracy": accuracy}
