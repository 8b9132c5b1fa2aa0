"""The published solutions of HumanEval and MBPP pass; those that do not are known by name."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from corollary.data.reading import Row, read_jsonl
from corollary.models import catalogue
from corollary.rewards.code import exam_of, extracted
from rewards.sandbox.boxes import needed

FAIL = {
    ("bubblewrap", "humaneval"): set(),
    ("bubblewrap", "mbpp/train"): set(),
    ("bubblewrap", "mbpp/test"): {"mbpp/367"},  # its tests make objects of the program's own class
    ("monty", "humaneval"): {"humaneval/38", "humaneval/50"},  # their tests import `string`, which monty lacks
}
ROWS = {"humaneval": 164, "mbpp/train": 234, "mbpp/test": 200}


def rows(name: str) -> list[Mapping[str, object]]:
    if not catalogue.is_entry(name):
        pytest.skip(f"the catalogue has no {name}")
    return [row.values for row in read_jsonl(catalogue.fetch(name)) if isinstance(row, Row)]


@pytest.mark.slow
@pytest.mark.parametrize(("sandbox", "data"), FAIL)
def test_every_reference_solution_passes(sandbox, data):
    box, failed = needed(sandbox, seconds=20), set()
    given = rows(data)
    for row in given:
        exam, stem = exam_of(row["tests"], row["entry_point"], row["setup"])
        if not box.judge(stem + extracted(str(row["solution"]), continues=bool(stem)), exam).passed:
            failed.add(row["id"])
    assert len(given) == ROWS[data]
    assert failed == FAIL[sandbox, data]


@pytest.mark.slow
@pytest.mark.parametrize("sandbox", ["monty", "bubblewrap"])
def test_an_empty_solution_fails(sandbox):
    """The tests do judge: what passes for the solutions does not pass for anything."""
    box = needed(sandbox, seconds=20)
    for row in rows("humaneval")[::8]:
        exam, stem = exam_of(row["tests"], row["entry_point"], row["setup"])
        assert not box.judge(stem + "    return None\n", exam).passed, row["id"]
