"""docs/guides/contract.md and docs/losses say what the code says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from corollary.catalogue import check_one
from corollary.declare import Declaration, entries

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "guides" / "contract.md").read_text()
COMMANDS = re.findall(r"\$ corollary check (.*)\n((?:.*\n)*?)```", PAGE)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(f"# {name}\n{code}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("command", "printed"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_of_the_page_prints_what_the_page_shows(command: str, printed: str, files: Path) -> None:
    loss, *parameters = shlex.split(command)
    text = check_one(loss, parameters, None).text().replace(f"{files}/", "")
    assert printed
    for line in printed.splitlines():
        assert line in text


def test_the_pages_test_passes(files: Path) -> None:
    assert subprocess.run([sys.executable, "-m", "pytest", "-q", "test_mine.py"], cwd=files).returncode == 0


def test_the_page_names_every_declaration() -> None:
    table = PAGE.split("## What it may declare")[1].split("\n## ")[0]
    assert not [f.name for f in fields(Declaration) if f"`{f.name}" not in table]


def test_the_pages_of_the_formulas_are_up_to_date() -> None:
    script = DOCS.parent / "scripts" / "loss_pages.py"
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_every_formula_says_its_formula_its_source_and_its_inputs() -> None:
    lacking = [e.name for e in entries() if not (e.summary and e.formula and e.source)]
    assert not lacking
    assert len(entries()) > 100


def test_the_docstring_of_a_formula_names_its_section_of_the_book() -> None:
    pages = {page.name: page.read_text() for page in (DOCS / "theory").glob("*.md")}
    places = {e.name: re.fullmatch(rf"docs/theory/(.*)#({e.name})", e.theory) for e in entries()}
    assert not [n for n, at in places.items() if not at or f"\n## {n}\n" not in pages.get(at[1], "")]
