"""A policy that has left its reference, so that no log-ratio is 0."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from parity import model, ours


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the models `policy` and `reference`."""
    model.folder(tmp_path / "policy", seed=1)
    model.folder(tmp_path / "reference")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> dict[str, Tensor]:
    """The policy's weights."""
    return ours.weights(folder / "policy")
