"""KTO: one step of `trl.KTOTrainer` and one of ours, from a policy that has left its reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import variant
from corollary.data.collate import token_batch
from corollary.data.sources import DataConfig
from corollary.losses.unpaired import kto, kto_baseline, mismatched
from corollary.ops.reduce import SequenceMean
from corollary.types import Prompt, Step, UnpairedBatch
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


class Unpaired(Algorithm):
    """KTO as `losses.unpaired` has it: z0 of the step, on each prompt with the answer to the next."""

    type: str = "unpaired"
    prompts_per_step: int = len(ROWS)
    loss: Any = None

    def steps(self, engines: Engines) -> Iterator[Step]:
        for prompts in engines.prompts:
            answers = [engines.encode(p.columns["answer"]) for p in prompts]
            batch = self.batch(engines, prompts, answers)
            others = self.batch(engines, prompts, [answers[i] for i in mismatched(len(answers)).tolist()])
            assert others.ref_logprobs is not None
            z0 = kto_baseline(engines.trainer.logprobs(others).sum(1), others.ref_logprobs.sum(1))
            yield Step(engines.trainer.step(replace(batch, baseline=z0), self.loss))

    def batch(self, engines: Engines, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> UnpairedBatch:
        plain = token_batch(prompts, answers, SequenceMean())
        shared = {f.name: getattr(plain, f.name) for f in fields(plain)}
        desirable = torch.tensor([p.columns["good"] for p in prompts])
        return UnpairedBatch(**shared, desirable=desirable, ref_logprobs=engines.reference.logprobs(plain))


def our_step(folder: Path, **loss: Any) -> tuple[Taken, list[Mapping[str, Any]]]:
    """The step, and the rows in the order in which it met them."""
    config = Unpaired(loss=variant(kto)(**loss))
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
    mine, met = our_step(folder, **{k: v for k, v in loss.items() if k != "type"})
    other = their_step(folder, met[::-1], **settings)
    agree(f"KTO, {name}", mine, other, start)


def test_another_order_is_another_reference_point(folder: Path, start: dict[str, Tensor]) -> None:
    """In our order, their prompts are paired with other answers."""
    mine, met = our_step(folder)
    assert residual(mine, their_step(folder, met), start).gradient > 1e-3


def test_the_reference_point_is_of_the_step_here_and_of_an_accumulated_batch_there(
    folder: Path, start: dict[str, Tensor]
) -> None:
    mine, met = our_step(folder)
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    assert residual(mine, their_step(folder, met[::-1], **split), start).gradient > 1e-3
