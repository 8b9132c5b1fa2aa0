"""What an experiment found: a measured number, the bound that the theory sets it, and where it was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from corollary.theory.columns import plain

EXACT = 1e-12  # of an algebraic identity in float64, relative to its size where that is above 1

Numbers = Tensor | float | Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a theorem's figure shows: measured values over x, and the bound where there is one."""

    x: tuple[float, ...]
    measured: tuple[float, ...]
    bound: tuple[float, ...] = ()
    across: str = ""  # what x is
    up: str = ""  # what is measured
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a statement holds where it was measured."""

    holds: bool
    measured: float
    bound: float  # what `measured` may be at most; at least, where `least`
    where: str = ""  # the experiment's instance that comes nearest to the bound, or what was compared
    least: bool = False
    curve: Curve | None = None

    def at(self, where: str) -> Verdict:
        """The same, said to be measured there."""
        return replace(self, where=where)

    def drawn(self, curve: Curve) -> Verdict:
        """The same, with a figure."""
        return replace(self, curve=curve)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        found = {"holds": self.holds, "measured": self.measured, "bound": self.bound, "least": self.least}
        return plain(found | {"where": self.where})


def equal(left: Numbers, right: Numbers, tolerance: float = EXACT, where: str = "") -> Verdict:
    """Both are the same up to rounding: max|left - right| / max(1, max|right|) ≤ tolerance.

    >>> equal([1.0, 2.0], [1.0, 2.0 + 1e-15]).holds, equal(1.0, 1.1).holds, equal(float("nan"), 0.0).holds
    (True, False, False)
    """
    a, b = _pair(left, right)
    error = float((a - b).abs().max() / b.abs().max().clamp(min=1))
    return Verdict(holds=error <= tolerance, measured=error, bound=tolerance, where=where)


def parallel(left: Tensor, right: Tensor, tolerance: float = EXACT, where: str = "") -> Verdict:
    """Both have the same direction: 1 - cosine ≤ tolerance.

    >>> parallel(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])).holds, parallel(torch.ones(2), -torch.ones(2)).holds
    (True, False)
    """
    a, b = (_tensor(side).flatten() for side in (left, right))
    gap = 1 - float(a @ b / (a.norm() * b.norm()))
    return Verdict(holds=gap <= tolerance, measured=gap, bound=tolerance, where=where)


def at_most(measured: Numbers, bound: Numbers, slack: float = EXACT, where: str = "") -> Verdict:
    """measured ≤ bound in every place; the place with the least room is told.

    >>> found = at_most([1.0, 2.0], [3.0, 2.5])
    >>> found.holds, found.measured, found.bound, found.where
    (True, 2.0, 2.5, 'instance 1 of 2')
    """
    return _ordered(measured, bound, slack, where, least=False)


def at_least(measured: Numbers, bound: Numbers, slack: float = EXACT, where: str = "") -> Verdict:
    """measured ≥ bound in every place; the place with the least room is told.

    >>> at_least([1.0, 2.0], 1.5).holds
    False
    """
    return _ordered(measured, bound, slack, where, least=True)


def within(measured: float | Tensor, target: float | Tensor, relative: float, where: str = "") -> Verdict:
    """|measured - target| ≤ relative·|target|: an approximation, with its error as what is measured.

    >>> within(1.02, 1.0, 0.05).holds
    True
    """
    error = float((_tensor(measured) - _tensor(target)).abs().max() / _tensor(target).abs().max())
    return Verdict(holds=error <= relative, measured=error, bound=relative, where=where)


def apart(left: Numbers, right: Numbers, by: float = 1e-6, where: str = "") -> Verdict:
    """They differ by more than `by`, relative to the larger: what a statement of the kind "is not" needs.

    >>> apart(1.0, 2.0).holds, apart(1.0, 1.0).holds
    (True, False)
    """
    a, b = _pair(left, right)
    gap = float((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max()).clamp(min=1e-300))
    return Verdict(holds=gap > by, measured=gap, bound=by, where=where, least=True)


def every(*verdicts: Verdict) -> Verdict:
    """All hold; the first that does not is told, else the one with the least room.

    >>> every(equal(1.0, 1.0), at_most(3.0, 2.0)).measured
    3.0
    """
    failed = [v for v in verdicts if not v.holds]
    found = failed[0] if failed else min(verdicts, key=_room)
    curves = [v.curve for v in verdicts if v.curve]
    return replace(found, curve=curves[0]) if curves and not found.curve else found


def _room(verdict: Verdict) -> float:
    gap = verdict.measured - verdict.bound if verdict.least else verdict.bound - verdict.measured
    return gap / max(abs(verdict.bound), 1e-300)


def _ordered(measured: Numbers, bound: Numbers, slack: float, where: str, *, least: bool) -> Verdict:
    got, limit = (side.flatten() for side in _pair(measured, bound))
    room = got - limit if least else limit - got
    worst = int(torch.where(room.isnan(), -math.inf, room).argmin())
    place = f"instance {worst} of {len(got)}" if len(got) > 1 else ""
    holds = bool(room[worst] >= -slack * max(1.0, abs(float(limit[worst]))))  # False for nan
    text = f"{where}, {place}" if where and place else where or place
    return Verdict(holds=holds, measured=float(got[worst]), bound=float(limit[worst]), where=text, least=least)


def _pair(left: Numbers, right: Numbers) -> tuple[Tensor, Tensor]:
    """Both as float64 of one shape."""
    a, b = _tensor(left), _tensor(right)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    assert 0 not in shape, "a comparison of nothing shows nothing"
    return a.expand(shape), b.expand(shape)


def _tensor(value: Numbers) -> Tensor:
    return value.detach().double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
