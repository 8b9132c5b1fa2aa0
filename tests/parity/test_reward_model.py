"""Reward models: one step of `trl.RewardTrainer` and one of ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import variant
from corollary.data.collate import as_kind, ended, preference_batch
from corollary.data.sources import DataConfig
from corollary.losses.reward_model import bradley_terry
from corollary.types import PreferenceBatch, Step
from parity import model, ours, theirs
from parity.taken import CLOSE, Taken, agree, in_order, residual

pytestmark = pytest.mark.filterwarnings("ignore")
trl = theirs.trl

ROWS = [
    {"question": "What is two and two?", "chosen": "4", "rejected": "Two and two is five.", "margin": 0.5},
    {"question": "Name an animal.", "chosen": "An ant, and another ant.", "rejected": "No.", "margin": 0.0},
    {"question": "Hi", "chosen": "Hello, how can I help?", "rejected": "Hello, and goodbye then.", "margin": 1.0},
    {"question": "Spell banana.", "chosen": "banana", "rejected": "b a n a", "margin": 0.25},
    {"question": "3 + 4", "chosen": "3 + 4 = 7", "rejected": "3 + 4 = 8", "margin": 2.0},
]

SIDES = ("chosen", "rejected")


def conversation(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": row["question"]}]} | {
        side: [{"role": "assistant", "content": row[side]}] for side in SIDES
    }


def head(width: int = 16) -> Tensor:
    return torch.randn(1, width, generator=torch.Generator().manual_seed(7))


def their_step(folder: Path, rows: Sequence[Mapping[str, Any]], **settings: Any) -> Taken:
    settings = {"per_device_train_batch_size": len(rows), "max_length": None} | settings
    judge = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
    with torch.no_grad():
        judge.score.weight.copy_(head())
    return theirs.step(
        trl.RewardTrainer(
            judge,
            theirs.arguments(trl.RewardConfig, folder, **settings),
            train_dataset=theirs.dataset(rows),
            processing_class=theirs.tokenizer(folder),
        )
    )


class Pairs(Algorithm):
    """A reward model as `losses.reward_model` has it: a value is one of the state before a token, so one stands behind the answer."""

    type: str = "pairs"
    prompts_per_step: int = len(ROWS)
    loss: Any = None
    margins: bool = False
    with_end: bool = True

    def steps(self, engines: Engines) -> Iterator[Step]:
        for prompts in engines.prompts:
            cut = None if self.with_end else -1
            sides = [[engines.encode(p.columns[side])[:cut] for p in prompts] for side in SIDES]
            margins = (
                torch.tensor([p.columns["margin"] for p in prompts]).repeat_interleave(2) if self.margins else None
            )
            batch = as_kind(PreferenceBatch, ended(preference_batch(prompts, *sides)), margins=margins)
            yield Step(engines.trainer.step(batch, self.loss))


def our_step(folder: Path, *, margins: bool = False, with_end: bool = True, **loss: Any) -> Taken:
    config = Pairs(loss=variant(bradley_terry)(**loss), margins=margins, with_end=with_end)
    data = DataConfig(path=str(ours.rows_file(folder / "rows.jsonl", ROWS)), template="{question}")
    return ours.step(config, ours.engines(folder, data, config, head=head()))


def start(folder: Path) -> dict[str, Tensor]:
    return ours.weights(folder) | {"score.weight": head()}


Settings = dict[str, Any]
CASES: dict[str, tuple[Settings, Settings]] = {
    "bradley_terry": ({}, {"type": "bradley_terry"}),
    "centred": ({"center_rewards_coefficient": 0.01}, {"type": "bradley_terry", "centring": 0.01}),
}
"""TRL's settings, and our `algorithm.loss`"""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("margins", [False, True], ids=["no margins", "margins"])
def test_the_step_is_the_same(name: str, margins: bool, tmp_path: Path) -> None:
    folder, (settings, loss) = model.folder(tmp_path), CASES[name]
    rows = [conversation(row) | ({"margin": row["margin"]} if margins else {}) for row in ROWS]
    mine = our_step(folder, margins=margins, **{k: v for k, v in loss.items() if k != "type"})
    seen = tuple((ids[:-1], (*trained[:-2], True)) for ids, trained in mine.rows)  # without the token behind the end
    told = f"reward model, {name}" + ", margins" * margins
    agree(told, replace(mine, rows=in_order(seen)), their_step(folder, rows, **settings), start(folder))


def test_where_padding_is_the_end_theirs_is_the_reward_of_an_answer_without_its_end(tmp_path: Path) -> None:
    """A tokenizer without a pad token is given its end-of-sequence as one, and the last token that is not padding comes before it."""
    folder = model.folder(tmp_path)
    rows = [*map(conversation, ROWS)]
    other = their_step(folder, rows, pad_token=theirs.tokenizer(folder).eos_token)
    assert residual(our_step(folder), other, start(folder)).gradient > 0.1
    assert residual(our_step(folder, with_end=False), other, start(folder)).gradient < CLOSE
