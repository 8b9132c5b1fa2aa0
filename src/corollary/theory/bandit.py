"""Answers of one token: a policy is one row of logits, and an answer's advantage is all there is to its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from corollary.theory.tree import World


def bandit(rewards: Sequence[float], *, name: str = "") -> World:
    """One arm for each reward.

    >>> world = bandit([1.0, 0.5, 0.0])
    >>> world.expected_reward(torch.zeros(1, 3, dtype=torch.float64)).item()
    0.5
    """
    arms = torch.arange(len(rewards))[:, None]
    return World(
        name=name or f"{len(rewards)} answers of 1 token",
        tokens=arms,
        lengths=torch.ones(len(rewards), dtype=torch.int64),
        states=torch.zeros_like(arms),
        rewards=torch.tensor(rewards, dtype=torch.float64),
        vocabulary=len(rewards),
    )


def solve_rate_policy(p: float) -> Tensor:
    """`[1, 2]` logits of the policy that pulls the first of two arms with probability p.

    >>> solve_rate_policy(0.25).softmax(-1)
    tensor([[0.2500, 0.7500]], dtype=torch.float64)
    """
    return torch.tensor([[p, 1 - p]], dtype=torch.float64).log()
