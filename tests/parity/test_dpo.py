"""Preference losses: one step of `trl.DPOTrainer` and one of ours, from a policy that has left its reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from corollary.algorithms.preference import PreferenceConfig
from corollary.data.sources import DataConfig
from parity import model, ours, theirs
from parity.taken import CLOSE, Taken, agree, residual

pytestmark = pytest.mark.filterwarnings("ignore")
trl = theirs.trl

ROWS = [
    {"question": "What is two and two?", "chosen": "4", "rejected": "Two and two is five."},
    {"question": "Name an animal.", "chosen": "An ant, and another ant.", "rejected": "No."},
    {"question": "Hi", "chosen": "Hello, how can I help?", "rejected": "Hello, and goodbye then."},
    {"question": "Spell banana.", "chosen": "banana", "rejected": "b a n a"},
    {"question": "3 + 4", "chosen": "3 + 4 = 7", "rejected": "3 + 4 = 8"},
]


def conversation(row: Mapping[str, str]) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": row["question"]}]} | {
        side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")
    }


def plain(row: Mapping[str, str]) -> dict[str, Any]:
    return {"prompt": row["question"], "chosen": row["chosen"], "rejected": row["rejected"]}


def our_step(folder: Path, *, style: Any = "chat", **loss: Any) -> Taken:
    config = PreferenceConfig.model_validate({"pairs_per_step": len(ROWS), "loss": loss})
    path = ours.rows_file(folder / "rows.jsonl", ROWS)
    data = DataConfig(path=str(path), template="{question}", style=style)
    return ours.step(config, ours.engines(folder / "policy", data, config, reference=folder / "reference"))


def their_step(folder: Path, *, style: Any = "chat", **settings: Any) -> Taken:
    arguments = theirs.arguments(
        trl.DPOConfig, folder, per_device_train_batch_size=len(ROWS), max_length=None, **settings
    )
    rows = [(conversation if style == "chat" else plain)(row) for row in ROWS]
    return theirs.step(
        trl.DPOTrainer(
            theirs.model(folder / "policy"),
            theirs.model(folder / "reference"),
            arguments,
            train_dataset=theirs.dataset(rows),
            processing_class=theirs.tokenizer(folder / "policy"),
        )
    )


def start(folder: Path) -> dict[str, Tensor]:
    return ours.weights(folder / "policy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy and a reference that differ."""
    model.folder(tmp_path / "policy", seed=1)
    model.folder(tmp_path / "reference")
    return tmp_path


Settings = dict[str, Any]
CASES: dict[str, tuple[Settings, Settings]] = {
    "sigmoid": ({}, {"type": "dpo"}),
    "sigmoid, beta": ({"beta": 0.5}, {"type": "dpo", "beta": 0.5}),
    "hinge": ({}, {"type": "hinge"}),
    "ipo": ({}, {"type": "ipo_mean"}),
    "exo_pair": ({"label_smoothing": 1e-3}, {"type": "exo", "smoothing": 1e-3}),
    "nca_pair": ({}, {"type": "nca"}),
    "robust": ({"label_smoothing": 0.1}, {"type": "robust_dpo", "flip_rate": 0.1}),
    "bco_pair": ({}, {"type": "bco_pair"}),
    "sppo_hard": ({"beta": 0.5}, {"type": "sppo_hard", "beta": 0.5}),
    "aot": ({}, {"type": "aot"}),
    "apo_zero": ({}, {"type": "apo_zero"}),
    "apo_down": ({}, {"type": "apo_down"}),
    "discopop": ({}, {"type": "discopop"}),
    "sigmoid_norm": ({"beta": 5.0}, {"type": "ln_dpo"}),
    "sigmoid, forward_kl": ({"f_divergence_type": "forward_kl"}, {"type": "f_dpo", "divergence": "forward_kl"}),
    "sigmoid, js": ({"f_divergence_type": "js_divergence"}, {"type": "f_dpo", "divergence": "js"}),
    "sigmoid + sft": (
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
        {"type": "dpo_nll", "nll": "token_mean", "nll_weight": 0.3},
    ),
}
"""TRL's loss type → its settings, and our `algorithm.loss`"""


@pytest.mark.parametrize("name", CASES)
def test_the_step_is_the_same(name: str, folder: Path) -> None:
    settings, loss = CASES[name]
    close = 3e-5 if "forward_kl" in name else CLOSE  # in e^-Δ the rounding of Δ, a difference of long sums, is relative
    other = their_step(folder, **{"loss_type": name.partition(",")[0]} | settings)
    agree(f"preference, {name}", our_step(folder, **loss), other, start(folder), close=close)


def test_the_step_is_the_same_on_plain_text(folder: Path) -> None:
    mine, other = our_step(folder, style="text", type="dpo"), their_step(folder, style="text")
    agree("preference, sigmoid, text", mine, other, start(folder))


def test_on_sums_ipo_is_another_step(folder: Path) -> None:
    """By the paper Δ is the sum over an answer, `ipo` here; TRL's is its authors' code, on means."""
    apart = residual(our_step(folder, type="ipo"), their_step(folder, loss_type="ipo"), start(folder))
    assert min(apart.loss, apart.gradient) > 0.1
