"""A theorem's figure as text: measured values as dots, the bound as a line of dashes."""

from __future__ import annotations

import math

from corollary.theory.columns import number
from corollary.theory.verdict import Curve

WIDTH, HEIGHT = 64, 14


def drawn(curve: Curve) -> str:
    """The curve in characters.

    >>> print(drawn(Curve(x=(0.0, 1.0), measured=(0.0, 1.0), across="t", up="t")).splitlines()[0].strip()[:1])
    1
    """
    x = [_placed(v, log=curve.log_x) for v in curve.x]
    series = [("-", curve.bound), ("●", curve.measured)]
    points = [
        (a, _placed(v, log=curve.log_y), mark)
        for mark, values in series for a, v in zip(x, values, strict=False)
    ]  # fmt: skip
    points = [p for p in points if math.isfinite(p[0]) and math.isfinite(p[1])]
    if not points:
        return "  (nothing finite to draw)"
    left, right = min(p[0] for p in points), max(p[0] for p in points)
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for a, b, mark in points:
        column = round((a - left) / ((right - left) or 1) * (WIDTH - 1))
        row = round((high - b) / ((high - low) or 1) * (HEIGHT - 1))
        grid[row][column] = mark
    top, bottom = (number(_value(v, log=curve.log_y)) for v in (high, low))
    ticks = [top if i == 0 else bottom if i == HEIGHT - 1 else "" for i in range(HEIGHT)]
    lines = [f"  {tick:>10} │{''.join(cells).rstrip()}" for tick, cells in zip(ticks, grid, strict=True)]
    ends = [number(_value(v, log=curve.log_x)) for v in (left, right)]
    axis = ends[0] + curve.across.center(WIDTH - len(ends[0]) - len(ends[1])) + ends[1]
    legend = f"● {curve.up or 'measured'}" + ("   - bound" if curve.bound else "")
    return "\n".join([*lines, f"  {'':>10} └{'─' * WIDTH}", f"  {'':>12}{axis}", f"  {'':>12}{legend}"])


def _placed(value: float, *, log: bool) -> float:
    if not log:
        return value
    return math.log10(value) if value > 0 else math.nan


def _value(place: float, *, log: bool) -> float:
    return 10**place if log else place
