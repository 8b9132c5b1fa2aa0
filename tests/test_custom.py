from __future__ import annotations

from pathlib import Path

import pytest

from corollary.config import Config, choice, load, variant
from corollary.config.problems import InvalidConfig
from corollary.errors import ConfigError, UserCodeError

LOSS = "def twice(x, *, by: float = 2.0):\n    return x * by\n"


def scaled(x: float, *, by: float = 1.0) -> float:
    return x * by


def shifted(x: float, *, by: float = 1.0) -> float:
    return x + by


class Settings(Config):
    change: choice([variant(scaled), variant(shifted)], ["x"]) = variant(scaled)()  # type: ignore[valid-type]


def settings(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "run.yaml").write_text(text)
    return load(Settings, tmp_path / "run.yaml").config


def test_a_function_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(LOSS)
    monkeypatch.chdir(tmp_path)
    made = settings(tmp_path, "change: {type: mine.py:twice, by: 3}")
    assert made.change(x=2.0) == 6.0
    assert made.model_dump() == {"change": {"type": "mine.py:twice", "by": 3.0}}


def test_a_function_is_named_by_its_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_pack").mkdir()
    (tmp_path / "a_pack" / "__init__.py").write_text("")
    (tmp_path / "a_pack" / "losses.py").write_text(LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    assert settings(tmp_path, "change: {type: a_pack.losses:twice}").change(x=2.0) == 4.0


def test_its_unknown_parameters_are_told_with_file_line_key_and_the_nearest_right_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(LOSS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig, match=r"run\.yaml:3: change\.bye: unknown key; did you mean by\?"):
        settings(tmp_path, "change:\n  type: mine.py:twice\n  bye: 3\n")


@pytest.mark.parametrize(
    ("reference", "error", "said"),
    [
        ("no_such_pack.losses:twice", ConfigError, "no module no_such_pack.losses is installed"),
        ("mine.py:thrice", UserCodeError, "there is no function 'thrice' in it"),
        ("other.py:twice", ConfigError, "there is no file"),
        ("json:dumps", UserCodeError, "takes 'obj', which is no input here"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    reference: str, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(LOSS)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        settings(tmp_path, f"change: {{type: '{reference}'}}")
