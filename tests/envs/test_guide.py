"""The guide's environment is the file that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from corollary.config import load
from corollary.errors import UserCodeError
from corollary.run.loop import train
from corollary.run.recipe import PRESETS, Recipe
from models.small import folder as model_folder
from run.recipes import Quiet

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "environments.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("countdown.py", "countdown.yaml"):
        (source,) = re.findall(rf"```\w+\n(# {name}\n.*?)```", GUIDE, re.DOTALL)
        (tmp_path / name).write_text(source)
    model_folder(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_trains(folder: Path) -> None:
    small = ["model={path: model, dtype: float32}", "run.steps=1", "run.threads=1", "run.export=false"]
    run = train(load(Recipe, folder / "countdown.yaml", small, presets=PRESETS).config, Quiet())
    (step,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert step["environment/turns"] >= 1


def test_its_failure_is_the_line_that_it_shows(folder: Path) -> None:
    broken = (folder / "countdown.py").read_text()
    broken = broken.replace("action.strip() != str(self.now - 1)", "int(action) != self.now - 1")
    (folder / "broken").mkdir()
    (folder / "broken" / "countdown.py").write_text(broken)
    other = ["model.path=model", f"environment.type={folder}/broken/countdown.py:Countdown"]
    with pytest.raises(UserCodeError) as failed:
        train(load(Recipe, folder / "countdown.yaml", other, presets=PRESETS).config, Quiet())
    shown = re.search(r"```\n(error\[E0701\].*?)\n```", GUIDE)
    assert shown
    assert str(failed.value).replace(f"{folder}/broken/", "") == shown[1]
