"""JSON Lines read as a stream: files larger than memory, files that are still being written, lines that are broken.

A file is read twice. The first pass learns where each step's lines lie and keeps nothing else; the second fetches the
few that are wanted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Row = Mapping[str, object]

_STEP_FIRST = re.compile(rb'\{\s*"step"\s*:\s*(\d{1,15})\s*[,}]')  # spares parsing a long line for its step


@dataclass(frozen=True, slots=True)
class Line:
    """Where one line lies in its file."""

    start: int  # bytes from the beginning
    size: int  # bytes, the line's end included


@dataclass(frozen=True, slots=True)
class Index:
    """Where each step's lines lie."""

    steps: Mapping[int, Sequence[Line]]  # in order of step; a step's lines in order of the file
    unreadable: int  # lines that are no JSON object with an integer `step`

    @property
    def lines(self) -> int:
        """Lines that belong to some step."""
        return sum(map(len, self.steps.values()))


def lines(path: Path) -> Iterator[tuple[Line, bytes]]:
    """Each line with its place; nothing where there is no file.

    A last line without its newline that is no JSON object is one that a writer has not finished, and is left out.
    """
    if not path.is_file():
        return
    start = 0
    with path.open("rb") as file:
        for text in file:
            if not text.isspace() and (text.endswith(b"\n") or parsed(text) is not None):
                yield Line(start, len(text)), text
            start += len(text)


def parsed(line: bytes) -> Row | None:
    r"""The object that a line holds, or None where it holds none.

    >>> parsed(b'{"step": 1}\n'), parsed(b'{"step": '), parsed(b"[1]")
    ({'step': 1}, None, None)
    """
    try:
        value = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):  # RecursionError: nested deeper than a reader can follow
        return None
    return value if isinstance(value, dict) else None


def step_of(line: bytes) -> int | None:
    """The step that a line belongs to, read off its first key where that is `step`.

    >>> step_of(b'{"step": 7, "loss": 0.5}'), step_of(b'{"loss": 0.5, "step": 7}'), step_of(b'{"step": null}')
    (7, 7, None)
    """
    match = _STEP_FIRST.match(line)
    step = int(match[1]) if match else (parsed(line) or {}).get("step")
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def index(path: Path) -> Index:
    """Where each step's lines lie in a file, at the cost of one pass and a few bytes a line."""
    steps: dict[int, list[Line]] = {}
    unreadable = 0
    for place, text in lines(path):
        step = step_of(text)
        if step is None:
            unreadable += 1
        else:
            steps.setdefault(step, []).append(place)
    return Index(dict(sorted(steps.items())), unreadable)


def fetch(path: Path, wanted: Iterable[Line]) -> Iterator[bytes]:
    """The lines at these places, in this order."""
    wanted = tuple(wanted)
    if not wanted:
        return
    with path.open("rb") as file:
        for line in wanted:
            file.seek(line.start)
            yield file.read(line.size)


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0 … count-1, evenly spaced, the first and the last among them.

    >>> evenly(4, 9), evenly(101, 5), evenly(7, 1), evenly(0, 5)
    ([0, 1, 2, 3], [0, 25, 50, 75, 100], [0], [])
    """
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / max(limit - 1, 1)) for i in range(limit)]
