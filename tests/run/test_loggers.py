from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from corollary.errors import ConfigError
from corollary.run.loggers import Loggers


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"pip install 'corollary\[trackio\]'"):
        Loggers(("trackio",), "r", tmp_path, {}, print)


def test_a_tracker_that_fails_is_told_once_and_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = ModuleType("wandb")
    calls: list[int] = []

    def log(metrics: dict[str, float], step: int) -> None:
        calls.append(step)
        raise OSError("backend down")

    broken.init, broken.log, broken.finish = lambda **_: None, log, lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", broken)
    notes: list[str] = []
    loggers = Loggers(("wandb",), "r", tmp_path, {}, notes.append)
    loggers.log(1, {"reward": 1.0})
    loggers.log(2, {"reward": 1.0})
    loggers.close()
    assert calls == [1]
    assert notes == ["wandb failed and is left out: OSError: backend down"]


def test_tensorboard_gets_every_metric(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = Loggers(("tensorboard",), "r", tmp_path, {}, pytest.fail)
    loggers.log(1, {"reward": 0.5, "reward/equation": 0.25})
    loggers.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"reward", "reward/equation"}
