from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from corollary.errors import ModelError
from corollary.models import catalogue
from corollary.models.catalogue import Entry, entries, entry, fetch, is_entry, nearest
from corollary.rewards.latex import math
from models.small import fetched

PROBLEMS = {
    "small-problems/train": 547, "small-problems/test": 217, "small-problems/worked": 538, "small-problems/pairs": 538, "small-problems/test-pairs": 215,
    "word-problems/train": 1998, "word-problems/test": 628, "svamp": 1000, "mawps": 2065, "mawps/singleop": 562,
    "mawps/multiarith": 600, "mawps/addsub": 395, "mawps/singleeq": 508, "asdiv": 2084, "gsm8k/train": 7473, "gsm8k/test": 1319,
    "gsm-hard": 1319, "arithmetic": 1047,
}  # fmt: skip
OTHERS = {
    "conversations/train": 23293, "conversations/test": 1252, "judged-pairs/train": 4827, "judged-pairs/test": 647,
    "judged-pairs-claude/train": 36899, "judged-pairs-claude/test": 5028, "judged-answers/train": 5508,
    "judged-answers/test": 715, "dpo-tiny": 300, "kto-tiny": 300, "math/train": 7484, "math/test": 4996, "math-500": 500,
    "mbpp/train": 234, "mbpp/test": 200, "humaneval": 164, "ifbench": 294, "ifbench/checked": 124, "instructions/train": 9776,
    "instructions/test": 513,
}  # fmt: skip
ROWS = PROBLEMS | OTHERS
COLUMNS = {
    "conversations": {"messages": list}, "judged-pairs": {"question": str, "chosen": str, "rejected": str},
    "judged-pairs-claude": {"question": str, "chosen": str, "rejected": str},
    "judged-answers": {"question": str, "answer": str, "desirable": bool},
    "dpo-tiny": {"messages": list, "chosen": str, "rejected": str},
    "kto-tiny": {"messages": list, "answer": str, "desirable": bool},
    "math": {"question": str, "answer": str, "level": int, "subject": str, "solution": str},
    "math-500": {"question": str, "answer": str, "level": int, "subject": str, "solution": str},
    "mbpp": {"question": str, "entry_point": str, "tests": list, "setup": str, "solution": str},
    "humaneval": {"question": str, "entry_point": str, "tests": str, "setup": str, "solution": str},
    "ifbench": {"question": str, "instructions": list}, "instructions": {"question": str, "instructions": list},
}  # fmt: skip


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fetched(name).read_text(encoding="utf-8").split("\n") if line]


def test_every_entry_is_pinned_licensed_and_described() -> None:
    assert {e.name for e in entries() if e.kind == "data"} == set(ROWS)
    assert [e.name for e in entries() if e.kind == "model"] == ["smollm2-135m-instruct", "gemma3-270m"]
    for e in entries():
        assert all(len(archive.sha256) == 64 and archive.size > 0 for archive in e.archives)
        assert len(e.archives) == 1 or e.whole
        assert set(e.members) <= set(e.archive.members)
        assert all(len(m.sha256) == 64 and m.size > 0 for archive in e.archives for m in archive.members.values())
        assert not any(m.startswith("/") or ".." in Path(m).parts for archive in e.archives for m in archive.members)
        assert all((e.licence, e.licence_note, e.description, e.source.startswith("https://")))
        assert all("|" not in cell and "\n" not in cell for cell in e.row())


def test_what_is_not_known_of_a_licence_is_said() -> None:
    assert entry("mawps").licence == "not stated"
    assert "not verified" in entry("word-problems/train").notice()
    assert {e.licence for e in entries() if e.name.startswith("judged")} == {entry("asdiv").licence} == {"CC-BY-NC-4.0"}
    assert "bind what is trained from it" in entry("gemma3-270m").notice()
    assert not [m for e in entries() if "problems" in e.name for m in e.members if "asdiv" in m]


def test_a_name_that_is_nearly_right_gets_the_right_one() -> None:
    with pytest.raises(ModelError, match=r"the catalogue has no 'gsm8k-train'; did you mean gsm8k/train\?"):
        entry("gsm8k-train")
    with pytest.raises(ModelError, match="it has smollm2-135m-instruct, gemma3-270m, word-problems/train"):
        entry("zzzz")
    assert nearest("smollm2-135m-instruct", "data") == ""
    assert is_entry("svamp")
    assert not is_entry("svam")


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_each_set_has_its_rows_with_their_columns(name: str) -> None:
    made, columns = rows(name), COLUMNS[name.partition("/")[0]]
    assert len(made) == OTHERS[name]
    assert f"{OTHERS[name]:,}" in entry(name).description
    assert len({row["id"] for row in made}) == len(made)
    for row in made:
        assert {key: type(value) for key, value in row.items()} == {"id": str, **columns}
        assert all(row[key] for key, kind in columns.items() if kind in (str, list) and key != "setup")
        if "messages" in row:
            last = "assistant" if name.startswith("conversations") else "user"
            assert row["messages"][-1]["role"] == last
            assert all(set(m) == {"role", "content"} for m in row["messages"])


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["judged-pairs", "judged-pairs-claude"])
def test_no_question_is_on_both_sides_of_any_judge_s_pairs(judge: str) -> None:
    sides = [{row["question"].casefold() for row in rows(f"{judge}/{part}")} for part in ("train", "test")]
    other = [{row["question"].casefold() for row in rows(f"judged-pairs/{part}")} for part in ("train", "test")]
    assert len(sides[0]) > 900
    assert len(sides[1]) > 100
    assert not sides[0] & sides[1]
    assert not sides[0] & other[1]
    assert not other[0] & sides[1]


@pytest.mark.slow
def test_no_task_of_mbpp_and_no_message_of_the_conversations_is_on_both_sides() -> None:
    numbers = [{int(row["id"].partition("/")[2]) for row in rows(f"mbpp/{part}")} for part in ("train", "test")]
    assert numbers[0] < set(range(11, 311))
    assert numbers[1] == set(range(311, 511))
    said = [
        {row["messages"][0]["content"].casefold() for row in rows(f"conversations/{part}")}
        for part in ("train", "test")
    ]
    assert not said[0] & said[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["math/train", "math/test", "math-500"])
def test_the_reward_math_reads_every_answer(name: str) -> None:
    made = rows(name)
    assert set(math([""] * len(made), answer=[row["answer"] for row in made])) == {0.0}


@pytest.mark.slow
def test_answers_of_pairs_are_wanted_where_they_won_more_often_than_they_lost() -> None:
    won: Counter[tuple[str, str]] = Counter()
    for pair in rows("judged-pairs/test"):
        won[pair["question"], pair["chosen"]] += 1
        won[pair["question"], pair["rejected"]] -= 1
    judged = {(row["question"], row["answer"]): row["desirable"] for row in rows("judged-answers/test")}
    assert judged == {key: balance > 0 for key, balance in won.items() if balance}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_each_set_of_problems_has_its_rows_in_one_shape(name: str) -> None:
    made = rows(name)
    assert len(made) == PROBLEMS[name]
    assert f"{PROBLEMS[name]:,}" in entry(name).description or name.startswith("small-problems")
    assert len({r["id"] for r in made}) == len(made)
    for r in made:
        assert "<<" not in r["solution"]
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
    assert provenance["sha256"] == entry("svamp").archive.sha256
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
