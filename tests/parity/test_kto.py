"""KTO: one step of `trl.KTOTrainer` and one of ours, from a policy that has left its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from corollary.algorithms.unpaired import UnpairedConfig
from corollary.data.sources import DataConfig
from parity import model, ours, theirs
from parity.taken import Taken, agree, residual

pytestmark = pytest.mark.filterwarnings("ignore")
trl = theirs.trl

ROWS = [
    {"question": "What is two and two?", "answer": "4", "good": True},
    {"question": "Name an animal.", "answer": "No.", "good": False},
    {"question": "Hi", "answer": "Hello, how can I help?", "good": True},
    {"question": "Spell banana.", "answer": "b a n a", "good": False},
    {"question": "3 + 4", "answer": "3 + 4 = 7", "good": True},
    {"question": "What am I?", "answer": "A very good man.", "good": True},
]


def conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
        "label": row["good"],
    }


def their_step(folder: Path, rows: Sequence[Mapping[str, Any]] = ROWS, **settings: Any) -> Taken:
    settings = {"per_device_train_batch_size": len(rows), "max_length": None} | settings
    return theirs.step(
        trl.KTOTrainer(
            theirs.model(folder / "policy"),
            theirs.model(folder / "reference"),
            theirs.arguments(trl.KTOConfig, folder, **settings),
            train_dataset=theirs.dataset([*map(conversation, rows)]),
            processing_class=theirs.tokenizer(folder / "policy"),
        )
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy that finds answers likelier than its reference does, so that z0 is above 0."""
    model.folder(tmp_path / "policy")
    model.folder(tmp_path / "reference", seed=1)
    return tmp_path


def our_step(folder: Path, **loss: Any) -> tuple[Taken, list[Mapping[str, Any]]]:
    """The step, and the rows in the order in which it met them."""
    config = UnpairedConfig.model_validate({"examples_per_step": len(ROWS), "desirable": "good", "loss": loss})
    data = DataConfig(path=str(ours.rows_file(folder / "rows.jsonl", ROWS)), template="{question}")
    lent = ours.engines(folder / "policy", data, config, reference=folder / "reference")
    met = [prompt.columns for prompt in next(copy(lent.prompts))]
    return ours.step(config, lent), met


Settings = dict[str, Any]
CASES: dict[str, tuple[Settings, Settings]] = {
    "kto": ({}, {"type": "kto"}),
    "kto, weights": (
        {"beta": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.8},
        {"type": "kto", "beta": 0.5, "desirable_weight": 1.2, "undesirable_weight": 0.8},
    ),
}
"""TRL's settings, and our `algorithm.loss`"""


@pytest.mark.parametrize("name", CASES)
def test_the_step_is_the_same(name: str, folder: Path, start: dict[str, Tensor]) -> None:
    """They pair a prompt with the answer of the row before, ours with that of the row behind: they are given the rows backwards."""
    settings, loss = CASES[name]
    mine, met = our_step(folder, **loss)
    other = their_step(folder, met[::-1], **settings)
    agree(f"KTO, {name}", mine, other, start)


def test_another_order_is_another_reference_point(folder: Path, start: dict[str, Tensor]) -> None:
    """In our order, their prompts are paired with other answers."""
    mine, met = our_step(folder, type="kto")
    assert residual(mine, their_step(folder, met), start).gradient > 1e-3


def test_the_reference_point_is_of_the_step_here_and_of_an_accumulated_batch_there(
    folder: Path, start: dict[str, Tensor]
) -> None:
    mine, met = our_step(folder, type="kto")
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    assert residual(mine, their_step(folder, met[::-1], **split), start).gradient > 1e-3
