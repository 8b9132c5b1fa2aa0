"""The clause that a loss has kinks and no jumps: what it says of two policies that are almost the same is almost the same."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, loss_of, worst
from corollary.theory.contract.samples import Sample
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only

_FAMILIES = (
    "likelihood",
    "preference",
    "unpaired",
    "reward_model",
    "value",
    "distillation",
)  # a policy's may have masks


def continuous(subject: Subject, at: Sample) -> Measured:
    """Along lines through the sample, the largest steps are halved until they are no wider than rounding: what is left is a jump."""
    found = [Measured(0.0)]
    signed = subject.family in ("value", "reward_model", "distillation")
    for rows in (slice(0, None, 2), slice(1, None, 2)) if at.batch.unit > 1 else (slice(None),):
        pattern = torch.zeros_like(at.output)
        pattern[rows] = 1.0

        def terms(t: float, pattern: Tensor = pattern) -> Tensor:
            return loss_of(subject, at.change(at.output + t * pattern))[at.batch.trained]

        left, right = (-4.0, 4.0) if signed else (-30.0, 0.0)
        found += [
            Measured(_jump(terms, a, b), "the value jumps: two branches do not meet", at)
            for a, b in _steepest(terms, left, right)
        ]
    return worst(*found)


def _steepest(terms: Callable[[float], Tensor], left: float, right: float) -> list[tuple[float, float]]:
    """The two steps of a grid that stand out most from their neighbours."""
    grid = torch.linspace(left, right, 61, dtype=torch.double).tolist()
    values = torch.stack([terms(t) for t in grid])
    curved = values.diff(dim=0).diff(dim=0).abs().amax(1)  # a smooth line has small second differences
    picked = curved.topk(2).indices.tolist()
    return [(grid[i], grid[i + 2]) for i in picked]


def _jump(terms: Callable[[float], Tensor], left: float, right: float) -> float:
    """|f(right) - f(left)| when they are as close as numbers can be, relative to the size of f."""
    low, high = terms(left), terms(right)
    for _ in range(36):
        middle = (left + right) / 2
        value = terms(middle)
        if (value - low).abs().max() >= (high - value).abs().max():
            right, high = middle, value
        else:
            left, low = middle, value
    size = max(1.0, low.abs().max().item())
    return ((high - low).abs().max() / size).nan_to_num(0.0).item()


CLAUSES = (
    Clause(name="continuous", row="2", bound=1e-6, check=continuous, families=_FAMILIES, samples=few(3),
           skip=only(lambda s: s.declaration.cross_sample is None, "declared cross_sample"), means="the value has kinks and no jumps",
           cause="two branches that do not meet"),
)  # fmt: skip
