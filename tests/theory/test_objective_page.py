"""docs/theory/objective.md says what the code says."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from corollary.theory.objective import report

PAGE = Path(__file__).parents[2] / "docs" / "theory" / "objective.md"
COMMANDS = re.findall(r"\$ corollary check --objective (.*)\n((?:.*\n)*?)```", PAGE.read_text())


@pytest.mark.parametrize(("command", "printed"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_a_command_of_the_page_prints_what_the_page_shows(
    command: str, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = re.findall(r"```python\n(# my_losses\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_losses.py").write_text(file)
    monkeypatch.chdir(tmp_path)
    loss, *words = shlex.split(command)
    options: dict[str, Any] = dict(zip((w[2:].replace("-", "_") for w in words[::2]), words[1::2], strict=True))
    if "group_size" in options:
        options["group_size"] = int(options["group_size"])
    assert report(loss, **options).text() == printed.rstrip("\n")


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) >= 8


def test_the_pages_experiment_prints_what_the_page_shows() -> None:
    text = PAGE.read_text().replace("```", "")
    page = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    found = doctest.DocTestRunner().run(page)
    assert found.failed == 0
    assert found.attempted > 5
