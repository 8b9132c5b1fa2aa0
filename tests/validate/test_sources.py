"""What `corollary validate` appeals to is in the book."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
from book.page import slug

import corollary.validate
from corollary.theory.theorems import select
from corollary.validate.findings import Theorem

ROOT = Path(__file__).parents[2]
NOT_IN_THE_BOOK = {"seal", "Taylor", "bounds"}


def appeals() -> list[Theorem]:
    found = []
    for module in pkgutil.iter_modules(corollary.validate.__path__):
        for value in vars(importlib.import_module(f"corollary.validate.{module.name}")).values():
            found += [value] if isinstance(value, Theorem) else []
            found += [v for v in value.values() if isinstance(v, Theorem)] if isinstance(value, dict) else []
    return found


@pytest.mark.parametrize("appeal", appeals(), ids=lambda a: f"{a.label} {a.says[:30]}")
def test_a_check_names_a_theorem_and_a_section_that_exist(appeal: Theorem) -> None:
    assert appeal.label in NOT_IN_THE_BOOK or select([appeal.label])
    file, _, anchor = appeal.page.partition("#")
    if not file:
        return
    headings = [line.lstrip("#").strip() for line in (ROOT / file).read_text().splitlines() if line.startswith("#")]
    assert not anchor or anchor in {slug(heading) for heading in headings}


def test_there_are_checks_of_every_kind() -> None:
    assert len(appeals()) > 15
