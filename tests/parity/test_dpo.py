"""Preference losses: one step of `trl.DPOTrainer` and one of ours, from a policy that has left its reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from corollary.algorithms.preference import PreferenceConfig
from corollary.data.sources import DataConfig
from parity import ours, theirs
from parity.taken import CLOSE, Taken, agree, residual

pytestmark = pytest.mark.filterwarnings("ignore")
trl = theirs.trl

ROWS = [
    {"question": "What is two and two?", "chosen": "4", "rejected": "Two and two is five."},
    {"question": "Name an animal.", "chosen": "An ant, and another ant.", "rejected": "No."},
    {"question": "Hi", "chosen": "Hello, how can I help?", "rejected": "Hello, and goodbye then."},
    {"question": "Spell ten.", "chosen": "t e n", "rejected": "n e t"},
    {"question": "3 + 4", "chosen": "3 + 4 = 7", "rejected": "3 + 4 = 8"},
    {"question": "What am I?", "chosen": "I cannot know.", "rejected": "A very good man."},
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
    settings = {"per_device_train_batch_size": len(ROWS), "max_length": None} | settings
    rows = [(conversation if style == "chat" else plain)(row) for row in ROWS]
    return theirs.step(
        trl.DPOTrainer(
            theirs.model(folder / "policy"),
            theirs.model(folder / "reference"),
            theirs.arguments(trl.DPOConfig, folder, **settings),
            train_dataset=theirs.dataset(rows),
            processing_class=theirs.tokenizer(folder / "policy"),
        )
    )


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
def test_the_step_is_the_same(name: str, folder: Path, start: dict[str, Tensor]) -> None:
    settings, loss = CASES[name]
    other = their_step(folder, **{"loss_type": name.partition(",")[0]} | settings)
    agree(f"preference, {name}", our_step(folder, **loss), other, start)


def test_the_step_is_the_same_on_plain_text(folder: Path, start: dict[str, Tensor]) -> None:
    mine, other = our_step(folder, style="text", type="dpo"), their_step(folder, style="text")
    agree("preference, sigmoid, text", mine, other, start)


def test_on_sums_ipo_is_another_step(folder: Path, start: dict[str, Tensor]) -> None:
    """By the paper Δ is the sum over an answer, `ipo` here; TRL's is its authors' code, on means."""
    apart = residual(our_step(folder, type="ipo"), their_step(folder, loss_type="ipo"), start)
    assert min(apart.loss, apart.gradient) > 0.1


def test_the_reference_ranks_the_pairs_otherwise(folder: Path) -> None:
    """What the comparison of AOT rests on: where both rank them alike, it is DPO."""
    assert our_step(folder, type="aot").loss != pytest.approx(our_step(folder, type="dpo").loss, rel=1e-4)


def test_what_couples_pairs_is_of_the_step_here_and_of_an_accumulated_batch_there(
    folder: Path, start: dict[str, Tensor]
) -> None:
    """Split into batches of two, DPO stays what it was; AOT, which ranks margins, does not, and nor does the mean over tokens."""
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    together = CASES["sigmoid + sft"]
    apart = {
        "sigmoid": residual(our_step(folder, type="dpo"), their_step(folder, **split), start).gradient,
        "aot": residual(our_step(folder, type="aot"), their_step(folder, loss_type="aot", **split), start).gradient,
        "sft": residual(our_step(folder, **together[1]), their_step(folder, **together[0] | split), start).gradient,
    }
    assert apart["sigmoid"] < CLOSE
    assert min(apart["aot"], apart["sft"]) > 1e-3
