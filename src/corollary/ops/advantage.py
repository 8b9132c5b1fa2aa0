"""Advantages from the rewards of one group of answers to the same prompt.

An answer that no reward could judge (NaN here) is left out of its group's statistics and gets advantage 0.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from corollary.config import Config, by_name


class GroupMean(Config):
    """A = r - mean r. No division: Dr. GRPO."""

    type: Literal["group_mean"] = "group_mean"

    def __call__(self, rewards: Tensor) -> Tensor:
        return centred(rewards)


class GroupStd(Config):
    """A = (r - mean r) / (std r + ε): GRPO."""

    type: Literal["group_std"] = "group_std"
    eps: float = Field(default=1e-6, gt=0)
    """ε, reward units, added to the standard deviation."""

    def __call__(self, rewards: Tensor) -> Tensor:
        return standardised(rewards, eps=self.eps)


class LeaveOneOut(Config):
    """A = r - mean of the other answers: RLOO; the unbiased baseline."""

    type: Literal["leave_one_out"] = "leave_one_out"

    def __call__(self, rewards: Tensor) -> Tensor:
        return leave_one_out(rewards)


class BatchStd(Config):
    """A = (r - group mean r) / (std over the batch + ε): one scale for all groups, so none is favoured."""

    type: Literal["batch_std"] = "batch_std"
    eps: float = Field(default=1e-6, gt=0)
    """ε, reward units, added to the standard deviation."""

    def __call__(self, rewards: Tensor) -> Tensor:
        a = centred(rewards)
        seen = a[~rewards.isnan()]
        return a / (seen.std() + self.eps) if len(seen) > 1 else a


Advantage = Annotated[
    GroupMean | GroupStd | LeaveOneOut | BatchStd, Field(discriminator="type"), BeforeValidator(by_name)
]


def _judged(rewards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mask of judged answers, their number per group `[P, 1]`, rewards with 0 elsewhere)."""
    if rewards.dim() != 2 or rewards.shape[-1] < 2:
        raise ValueError(
            f"a group needs at least 2 answers to compare, got rewards of shape {tuple(rewards.shape)}; raise group_size"
        )
    judged = ~rewards.isnan()
    return judged, judged.sum(-1, keepdim=True).clamp(min=1), rewards.where(judged, 0.0)


def centred(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean r.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.

    Returns:
        `[P, G]`; sums to 0 over G; in expectation (G-1)/G of the policy gradient.

    Raises:
        ValueError: G < 2.

    Source: Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783.

    >>> centred(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 0.7500, -0.2500, -0.2500, -0.2500]])
    """
    judged, n, r = _judged(rewards)
    kept = judged & ~_equal(rewards, judged)  # equal rewards give exactly 0, whatever the mean rounds to
    return (r - r.sum(-1, keepdim=True) / n).where(kept, 0.0)


def standardised(rewards: Tensor, *, eps: float = 1e-6) -> Tensor:
    """A_i = (r_i - mean r) / (s + ε), s with G - 1 in the denominator; exactly 0 where all rewards are equal.

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.
        eps: ε > 0, reward units.

    Returns:
        `[P, G]`; sums to 0 over G. For binary rewards the expected gradient is w(p)·∇p, not ∇p.

    Raises:
        ValueError: G < 2.

    Source: Shao et al. 2024 (GRPO), https://arxiv.org/abs/2402.03300.

    >>> standardised(torch.tensor([[0.2, 0.9, 0.4]]))
    tensor([[-0.8320,  1.1094, -0.2773]])
    """
    _, n, _ = _judged(rewards)
    a = centred(rewards)
    std = (a.square().sum(-1, keepdim=True) / (n - 1).clamp(min=1)).sqrt()
    return a / (std + eps)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean_{j≠i} r_j = n/(n-1) · (r_i - mean r).

    Args:
        rewards: `[P, G]` reward units; NaN: not judged.

    Returns:
        `[P, G]`; in expectation the policy gradient itself. 0 where an answer has no judged sibling.

    Raises:
        ValueError: G < 2.

    Source: Kool et al. 2019; Ahmadian et al. 2024 (RLOO), https://arxiv.org/abs/2402.14740.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 1.0000, -0.3333, -0.3333, -0.3333]])
    """
    _, n, _ = _judged(rewards)
    return centred(rewards) * n / (n - 1).clamp(min=1)


def _equal(rewards: Tensor, judged: Tensor) -> Tensor:
    """`[P, 1]` True where all judged rewards of a group are the same number."""
    top = rewards.where(judged, -torch.inf).amax(-1, keepdim=True)
    low = rewards.where(judged, torch.inf).amin(-1, keepdim=True)
    return top <= low


def has_signal(rewards: Tensor) -> Tensor:
    """`[P]` True where a group's judged rewards differ, so that its advantages are not all 0.

    >>> has_signal(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor([ True, False])
    """
    judged, _, _ = _judged(rewards)
    return ~_equal(rewards, judged)[:, 0]


def overlong_penalty(lengths: Tensor, *, longest: int, buffer: int) -> Tensor:
    """DAPO's soft punishment of long answers, added to the reward.

        0 if n ≤ L - c;   (L - c - n) / c if n ≤ L;   -1 beyond

    Args:
        lengths: tokens n of each answer.
        longest: L, tokens.
        buffer: c > 0, tokens over which the penalty grows from 0 to -1.

    Source: Yu et al. 2025 (DAPO), eq. 13, https://arxiv.org/abs/2503.14476.

    >>> overlong_penalty(torch.tensor([16384, 18432, 20480, 24576]), longest=20480, buffer=4096)
    tensor([ 0.0000, -0.5000, -1.0000, -1.0000])
    """
    return ((longest - buffer - lengths) / buffer).clamp(-1, 0) + 0.0
