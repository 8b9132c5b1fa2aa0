"""Published files as they are read, and rows of ours as they are written. What lies between is a function per set."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corollary.data.near_duplicates import clusters, side

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = Mapping[str, Any]
"""An object of a published file; its decimals are `Decimal`."""

Conversion = Callable[..., "Iterable[DataclassInstance]"]
"""The rows of each published file, a list per file → rows of ours."""


def rows_of(path: Path) -> list[Row]:
    """The objects of a file: JSON Lines, also compressed by gzip, or one JSON array."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".json":
        return json.loads(content, parse_float=Decimal)
    return [json.loads(line, parse_float=Decimal) for line in content.splitlines()]


def to_jsonl(rows: Iterable[DataclassInstance]) -> bytes:
    """One JSON object a line, in UTF-8."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows).encode()


def held_out(texts: Sequence[str], test_share: float) -> list[bool]:
    """Which of these texts are test: whole groups of near-duplicates, chosen by a hash of their content.

    >>> held_out(["Now Ann has 3 pens.", "Now Bob has 14 pens."], test_share=1.0)
    [True, True]
    """
    test = [False] * len(texts)
    for group in clusters(texts):
        for member in group.members:
            test[member] = side(group, test_share=test_share) == "test"
    return test
