"""JSON Lines, read strictly: one object a line, UTF-8, plain or gzip; every line is a row or a reason with its place.

Accepted without a word: a byte order mark, CRLF, blank lines, a missing last newline, gzip under any name. Refused by line: what is
not JSON, an array, a number or a string instead of an object, a key twice, NaN and Infinity, a number beyond float range, invalid
UTF-8, half a surrogate pair, a line above `MAX_LINE`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from corollary.errors import DataError

MAX_LINE = 16 * 2**20  # bytes

_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)')
_HALF_PAIR = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_FOREIGN = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip archive",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"ARRO": "Arrow",
}


class Row(NamedTuple):
    """A row and where it stands."""

    where: str  # file:line
    values: dict[str, Any]


class BadRow(NamedTuple):
    """A line that is no row."""

    where: str  # file:line:column, both from 1
    reason: str


class _Fault(ValueError):
    def __init__(self, reason: str, column: int) -> None:
        super().__init__(reason)
        self.reason, self.column = reason, column


def read_jsonl(path: Path) -> Iterator[Row | BadRow]:
    """The lines of a file in their order, blank ones left out.

    Raises:
        DataError: the file cannot be read, is of another format, or its compressed data ends early.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            for magic, name in _FOREIGN.items():
                if head.startswith(magic):
                    raise DataError(f"is {name}, not JSON Lines in UTF-8", where=str(path), code="E0202")
            yield from _lines(path.name, gzip.GzipFile(fileobj=file) if head.startswith(b"\x1f\x8b") else file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"damaged gzip data ({error})", where=str(path), hint="fetch the file again", code="E0202"
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path), code="E0201") from error


def _lines(name: str, file: IO[bytes] | gzip.GzipFile) -> Iterator[Row | BadRow]:
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE)
            yield BadRow(f"{name}:{number}:1", f"longer than {MAX_LINE // 2**20} MiB")
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip(b" \t\r\n"):
            continue
        try:
            yield Row(f"{name}:{number}", parsed(line))
        except _Fault as fault:
            yield BadRow(f"{name}:{number}:{fault.column}", fault.reason)


def parsed(line: bytes) -> dict[str, Any]:
    """The object on one line.

    Raises:
        ValueError: there is none, or one that is not strict JSON.

    >>> parsed(b'{"question": "1 + 1?", "answer": "2"}')
    {'question': '1 + 1?', 'answer': '2'}
    """
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _Fault(f"invalid UTF-8 (byte 0x{line[error.start]:02x})", error.start + 1) from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_object)
    except _Fault as fault:
        raise _Fault(fault.reason, _column(text, fault.reason)) from fault
    except json.JSONDecodeError as error:
        raise _Fault(error.msg[0].lower() + error.msg[1:].removesuffix(" at"), error.colno) from error
    except RecursionError as error:
        raise _Fault("nested too deeply", 1) from error
    except ValueError as error:  # an integer of thousands of digits
        raise _Fault(str(error).split(";")[0].lower(), 1) from error
    if not isinstance(value, dict):
        kinds = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
        raise _Fault(f"{kinds.get(type(value), 'a number')}, not an object", len(text) - len(text.lstrip()) + 1)
    if half := "\\u" in text and _HALF_PAIR.search(text):
        _refuse_surrogates(value, half.start() + 1)
    return value


def _refuse_constant(name: str) -> float:
    raise _Fault(f"{name} is not JSON", 0)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Fault(f"{text[:40]} is beyond the range of a float", 0)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Fault(f"key {json.dumps(twice)} twice", 0)
    return result


def _column(text: str, reason: str) -> int:
    """Where the thing that `reason` names stands; 1 where it cannot be told."""
    if reason.endswith("is not JSON"):
        return next((m.start(1) + 1 for m in _CONSTANT.finditer(text) if m[1]), 1)
    wanted = reason.removeprefix("key ").removesuffix(" twice") if reason.endswith("twice") else reason.split(" is ")[0]
    first = text.find(wanted)
    again = text.find(wanted, first + 1) if reason.endswith("twice") else first
    return max(again, first, 0) + 1


def _refuse_surrogates(value: dict[str, Any], column: int) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _Fault("half a surrogate pair, which is no character", column) from error
