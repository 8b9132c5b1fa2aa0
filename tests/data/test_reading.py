from __future__ import annotations

import gzip
import io
import random
import resource
from pathlib import Path

import pytest

from corollary.data.reading import MAX_LINE, BadRow, Row, _lines, parsed, read_jsonl
from corollary.errors import DataError


def lines(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> list[Row | BadRow]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_jsonl(path))


def test_byte_order_mark_crlf_blank_lines_and_a_missing_last_newline_are_accepted(tmp_path: Path) -> None:
    rows = lines(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}')
    assert rows == [Row("rows.jsonl:1", {"a": 1}), Row("rows.jsonl:4", {"a": 2})]


def test_gzip_is_read_under_any_name_and_plain_text_under_the_name_of_gzip(tmp_path: Path) -> None:
    assert lines(tmp_path, gzip.compress(b'{"a": 1}\n'), "wrong.jsonl") == [Row("wrong.jsonl:1", {"a": 1})]
    assert lines(tmp_path, b'{"a": 1}\n', "wrong.jsonl.gz") == [Row("wrong.jsonl.gz:1", {"a": 1})]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    assert lines(tmp_path, b"") == []
    assert lines(tmp_path, b"\n\n") == []


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b'{"a": 1', 8, "expecting ',' delimiter"),
        (b'{"a": "cut', 7, "unterminated string starting"),
        (b"not json", 1, "expecting value"),
        (b'{"a": 1} {"a": 2}', 10, "extra data"),
        (b"[1, 2]", 1, "an array, not an object"),
        (b'  "text"', 3, "a string, not an object"),
        (b"12", 1, "a number, not an object"),
        (b"null", 1, "null, not an object"),
        (b"true", 1, "true or false, not an object"),
        (b'{"NaN": "NaN", "b": NaN}', 21, "NaN is not JSON"),
        (b'{"a": -Infinity}', 7, "-Infinity is not JSON"),
        (b'{"a": 1e999}', 7, "1e999 is beyond the range of a float"),
        (b'{"a": 1, "b": 2, "a": 3}', 18, 'key "a" twice'),
        (b'{"x": {"a": 1, "a": 3}}', 16, 'key "a" twice'),
        (b'{"a": "\xff"}', 8, "invalid UTF-8 (byte 0xff)"),
        (b'{"a": "\xc3', 8, "invalid UTF-8 (byte 0xc3)"),
        (b'{"a": "x\x00y"}', 9, "invalid control character"),
        (b'{"a": "\\ud800"}', 8, "half a surrogate pair, which is no character"),
        (b'{"a": "ok \\ud83d\\ude00 \\udc00"}', 24, "half a surrogate pair, which is no character"),
        (b"[" * 100_000, 1, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", 1, "exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_row_is_named_with_its_place_and_reason(
    tmp_path: Path, line: bytes, column: int, reason: str
) -> None:
    rows = lines(tmp_path, b'{"before": 1}\n' + line + b'\n{"after": 1}\n')
    assert rows[1] == BadRow(f"rows.jsonl:2:{column}", reason)
    assert [r for r in rows if isinstance(r, Row)] == [
        Row("rows.jsonl:1", {"before": 1}),
        Row("rows.jsonl:3", {"after": 1}),
    ]


def test_whole_surrogate_pairs_escapes_of_backslashes_and_line_separators_are_text(tmp_path: Path) -> None:
    rows = lines(
        tmp_path, '{"a": "\\ud83d\\ude00", "b": "\\\\ud800", "c": "x\u2028y\u0085z", "d": "\\u0000"}\n'.encode()
    )
    assert rows == [Row("rows.jsonl:1", {"a": "😀", "b": "\\ud800", "c": "x\u2028y\u0085z", "d": "\0"})]


def test_a_line_of_fifty_megabytes_is_refused_without_being_held(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"a": "')
        for _ in range(50):
            file.write(b"x" * 2**20)
        file.write(b'"}\n{"a": 1}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = list(read_jsonl(path))
    assert rows == [BadRow("rows.jsonl.gz:1:1", "longer than 16 MiB"), Row("rows.jsonl.gz:2", {"a": 1})]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * MAX_LINE / 1024


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"PAR1....", "Parquet"), (b"PK\x03\x04...", "a zip archive"), ('{"a": 1}'.encode("utf-16"), "UTF-16")],
)  # fmt: skip
def test_a_file_of_another_format_is_named_as_what_it_is(tmp_path: Path, content: bytes, name: str) -> None:
    with pytest.raises(DataError, match=f"is {name}, not JSON Lines"):
        lines(tmp_path, content)


def test_compressed_data_that_ends_early_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="damaged gzip data"):
        lines(tmp_path, gzip.compress(random.Random(0).randbytes(10_000))[:-500])


def test_a_folder_or_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        list(read_jsonl(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_jsonl(tmp_path / "none.jsonl"))


def test_two_thousand_damaged_texts_give_rows_and_reasons_and_nothing_else() -> None:
    rng = random.Random(0)
    good = (
        b'{"id": 1, "question": "1 + 1 = \xe2\x82\xac?", "answer": 2.5e3, "u": "\\ud83d\\ude00", "n": [1, {"x": null}]}\r\n'
        * 3
    )
    kinds = set()
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(content))
            match rng.randrange(4):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    del content[at : at + rng.randrange(1, 30)]
                case 2:
                    content[at:at] = rng.choice(
                        [b"NaN", b"\x00", b'"', b"\\ud800", b"[", b"{", b"\n", b"1e999", b"\xff\xfe"]
                    )
                case 3:
                    content += content[at : at + 20]
        for row in _lines("rows", io.BytesIO(content)):
            kinds.add(type(row))
            assert row.where.startswith("rows:")
            assert isinstance(row, Row) or (row.reason and row.where.count(":") == 2)
    assert kinds == {Row, BadRow}


def test_what_is_accepted_is_what_it_says() -> None:
    assert parsed('{"a": [1, 2.5, null, true, "é"]}'.encode()) == {"a": [1, 2.5, None, True, "é"]}
