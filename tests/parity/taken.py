"""What one optimizer step was, on either side, and how far the two are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Row = tuple[tuple[int, ...], tuple[bool, ...]]  # a sequence's tokens, and which of them are trained

CLOSE = 1e-5  # of a norm or of a loss: float32 rounds at 6e-8, and a gradient sums some thousands of products
ALIGNED = 1e-6  # 1 - cosine
ADDED = 1e-4  # of what was added to a weight, which is known to the weight's own rounding only


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One optimizer step."""

    loss: float
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]  # after it
    rows: tuple[Row, ...]  # that train a token, in the order of their tokens
    metrics: Mapping[str, float] = field(default_factory=dict)  # what was told of it


@dataclass(frozen=True, slots=True)
class Residual:
    """How far two steps are apart; the largest of all parameters."""

    loss: float  # relative, and to 0.1 where terms of the size of 1 cancel
    gradient: float  # ‖a - b‖ / ‖b‖
    angle: float  # 1 - cosine
    update: float  # ‖a - b‖ / ‖b‖ of what the optimizer added to the weights

    def __str__(self) -> str:
        return f"loss {self.loss:.0e}  gradient {self.gradient:.0e}  1-cos {self.angle:.0e}  update {self.update:.0e}"


def residual(ours: Taken, theirs: Taken, before: dict[str, Tensor]) -> Residual:
    """The distance between two steps from the same weights.

    Args:
        ours, theirs: the steps.
        before: the weights that both started from.
    """
    assert ours.gradients.keys() == theirs.gradients.keys(), "both train the same parameters"
    pairs = [(ours.gradients[name], theirs.gradients[name]) for name in theirs.gradients]
    moves = [(ours.weights[n] - before[n], theirs.weights[n] - before[n]) for n in theirs.gradients]
    assert all(b.norm() > 0 for _, b in pairs), "every parameter has a gradient to compare"
    return Residual(
        loss=abs(ours.loss - theirs.loss) / max(abs(theirs.loss), 0.1),
        gradient=max(_apart(a, b) for a, b in pairs),
        angle=max(1 - torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item() for a, b in pairs),
        update=max(_apart(a, b) for a, b in moves),
    )  # fmt: skip


def agree(name: str, ours: Taken, theirs: Taken, before: dict[str, Tensor]) -> None:
    """Same tokens, same mask, same loss, same gradients, same new weights; prints the residuals (`pytest -s`)."""
    assert ours.rows == theirs.rows
    apart = residual(ours, theirs, before)
    print(f"\n{name:28} loss {theirs.loss:+.6f}  residuals: {apart}")
    assert max(apart.loss, apart.gradient) <= CLOSE, apart
    assert apart.angle <= ALIGNED, apart
    assert apart.update <= ADDED, apart


def in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows that train a token, by their tokens: which side shuffles how is of no consequence to a sum."""
    return tuple(sorted(row for row in rows if any(row[1])))


def _apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()
