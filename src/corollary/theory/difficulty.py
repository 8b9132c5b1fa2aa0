"""For rewards of 0 and 1: how hard a loss pushes a prompt by its success probability p, and what objective that adds up to.

    E[-∇loss] = w(p)·∇p        objective = ∫ w dp

w constant: the success rate itself. w = 1/p: its logarithm, hard prompts first. w = 1/√(p(1-p)): 2·arcsin√p, both ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from corollary.ops.advantage import difficulty_weight
from corollary.theory.bandit import bandit, solve_rate_policy
from corollary.theory.expectation import Formula, GroupGradients, expected_gradient
from corollary.theory.tree import gradient_of

GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))  # success probabilities
EXACT, NEAR = 1e-6, 1e-2  # relative residual up to which an objective is named, and is called close
_NODES = (-math.sqrt(0.6), 0.0, math.sqrt(0.6))  # Gauss-Legendre: exact for polynomials up to degree 5
_SHARES = (5 / 18, 8 / 18, 5 / 18)
_FEW = 4  # ordered groups; with more, one order stands for all


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveWeight:
    """w(p) on a grid, and the objective whose derivative it is."""

    p: tuple[float, ...]
    weight: tuple[float, ...]  # E[-∇loss] / ∇p
    objective: tuple[float, ...]  # ∫ w from the first p
    name: str  # of the known objective that it equals or comes close to, up to scale and offset; "" for none
    scale: float  # how many times that objective
    residual: float  # relative, of the named one; inf where none is named

    @property
    def exact(self) -> bool:
        """Whether it is the named objective, and not merely close to it."""
        return self.residual <= EXACT

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "p": self.p, "weight": self.weight, "objective": self.objective, "name": self.name, "exact": self.exact,
            "scale": self.scale, "residual": None if math.isinf(self.residual) else self.residual,
        }  # fmt: skip


def two_arms(
    loss: Formula, advantage: Formula | None, average: Formula, p: float, *, group_size: int
) -> GroupGradients:
    """A prompt that is solved with probability p, answered `group_size` times."""
    return expected_gradient(
        loss, advantage, average, bandit([1.0, 0.0]), group_size=group_size, policy=solve_rate_policy(p), ordered=_FEW
    )


def weight_at(gradients: GroupGradients, p: float) -> float:
    """E[-∇loss] / ∇p at success probability p."""
    slope = gradient_of(bandit([1.0, 0.0]).expected_reward, solve_rate_policy(p))
    return float((gradients.mean * slope).sum() / slope.square().sum())


def effective_weight(
    loss: Formula, advantage: Formula | None, average: Formula, *, group_size: int, p: Sequence[float] = GRID
) -> EffectiveWeight:
    """w(p) at each p, its integral, and the known objective that it is.

    Args:
        loss: of the policy family.
        advantage: as in `expected_gradient`.
        average: as in `expected_gradient`.
        group_size: G.
        p: ascending success probabilities in (0, 1).
    """

    def weight(at: float) -> float:
        return weight_at(two_arms(loss, advantage, average, at, group_size=group_size), at)

    weights = tuple(weight(at) for at in p)
    objective = [0.0]
    for low, high in pairwise(p):
        middle, half = (low + high) / 2, (high - low) / 2
        inside = sum(share * weight(middle + half * x) for x, share in zip(_NODES, _SHARES, strict=True))
        objective.append(objective[-1] + (high - low) * inside)
    name, scale, residual = recognised(p, weights, group_size=group_size)
    return EffectiveWeight(
        p=tuple(p), weight=weights, objective=tuple(objective), name=name, scale=scale, residual=residual
    )


def recognised(p: Sequence[float], weights: Sequence[float], *, group_size: int) -> tuple[str, float, float]:
    """(name, scale, relative residual) of the known objective whose derivative is nearest to `weights`; `("", 0, inf)` for none.

    >>> name, scale, residual = recognised([0.2, 0.5, 0.8], [10.0, 4.0, 2.5], group_size=4)
    >>> name, round(scale, 9)
    ('log p', 2.0)
    """
    w = torch.tensor(weights, dtype=torch.float64)
    best = ("", 0.0, math.inf)
    if not w.isfinite().all() or not w.any():
        return best
    for name, slope in _known(group_size):
        known = torch.tensor([slope(at) for at in p], dtype=torch.float64)
        scale = float((w * known).sum() / known.square().sum())
        residual = float((w - scale * known).norm() / w.norm())
        if residual <= NEAR and residual < best[2] / 2 and best[2] > EXACT / 1e3:  # of two that fit, the simpler one
            best = (name, scale, residual)
    return best


def _known(group_size: int) -> list[tuple[str, Callable[[float], float]]]:
    """(objective, its derivative), the simplest first."""
    size = group_size
    simple: list[tuple[str, Callable[[float], float]]] = [
        ("p", lambda p: 1.0),
        ("log p", lambda p: 1 / p),
        ("2·arcsin√p", lambda p: 1 / math.sqrt(p * (1 - p))),
        ("logit p", lambda p: 1 / (p * (1 - p))),
    ]
    simple += [(f"pass@{k}", lambda p, k=k: k * (1 - p) ** (k - 1)) for k in range(2, max(size, 8) + 1)]
    simple += [(f"pass^{k}", lambda p, k=k: k * p ** (k - 1)) for k in range(2, max(size, 8) + 1)]
    if size < 2:
        return simple
    return [
        *simple,
        (f"Σ pass@k/k for k up to {size} (log p as G grows)", lambda p: (1 - (1 - p) ** size) / p),
        (
            f"group_std's objective at G = {size} (2·arcsin√p as G grows)",
            lambda p: difficulty_weight(p, group_size=size),
        ),
    ]
