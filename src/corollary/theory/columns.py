"""Tables as plain text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any


def columns(rows: Sequence[Sequence[str]], *, indent: int = 2) -> str:
    """Rows of cells under each other: the first column to the left, the others to the right.

    >>> print(columns([("world", "cosine"), ("tree", "1")], indent=0))  # doctest: +NORMALIZE_WHITESPACE
    world  cosine
    tree        1
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(" " * indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """Numbers that JSON has: None for what is not finite, in whatever `value` holds.

    >>> plain({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _:
            return value


def cosine(value: float) -> str:
    """Six digits, never rounded up to a whole one; `-` where a gradient is 0.

    >>> cosine(0.99999999), cosine(1.0), cosine(float("nan"))
    ('0.999999', '1.000000', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.6f}" if abs(value) > 1 - 1e-9 else f"{math.trunc(value * 1e6) / 1e6:.6f}"


def sentence(text: str) -> str:
    """Prose below a table."""
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  ")


def number(value: float) -> str:
    """Four digits, and 0 for what is 0 up to rounding.

    >>> number(0.125), number(3e-17), number(float("nan"))
    ('0.125', '0', '-')
    """
    if math.isnan(value):
        return "-"
    return "0" if abs(value) < 1e-12 else f"{value:.4g}"
