"""A step of TRL: its own trainer, data preparation, collation and optimizer, run by its own `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

trl = pytest.importorskip("trl", reason="TRL is not installed; `make parity` makes an environment that has it")

import datasets  # noqa: E402
import torch  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from parity.ours import OPTIMIZER  # noqa: E402
from parity.taken import Row, Taken, in_order  # noqa: E402

constants.HF_HUB_DISABLE_TELEMETRY = True  # TRL's trainers would report each of these runs
datasets.disable_progress_bars()

SAME = {
    "max_steps": 1, "learning_rate": OPTIMIZER.lr, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    "adam_beta1": OPTIMIZER.beta1, "adam_beta2": OPTIMIZER.beta2, "adam_epsilon": OPTIMIZER.eps, "max_grad_norm": 0.0,
    "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
    "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no",
}  # fmt: skip
"""ours as TRL calls it: float32, AdamW, a constant learning rate, no clipping; and no logging"""


class Watch(TrainerCallback):
    """Remembers each optimizer step: the inputs and losses of its parts, the gradient that the optimizer is given, the weights."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.steps, self.inputs = trainer, list[Taken](), list[Mapping[str, Tensor]]()
        self._losses, self._rows, self._gradients = list[float](), list[Row](), dict[str, Tensor]()
        inner = trainer.compute_loss

        def watched(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            self.inputs.append({**inputs})
            loss = inner(model, inputs, *rest, **named)
            self._losses.append(loss.item())
            self._rows += rows(self.inputs[-1])
            return loss

        trainer.compute_loss = watched
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        named = self.trainer.model.named_parameters()
        self._gradients = {n: p.grad.detach().clone() for n, p in named if p.grad is not None}

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        weights = {n: p.detach().clone() for n, p in self.trainer.model.named_parameters()}
        self.steps.append(
            Taken(
                loss=sum(self._losses), gradients=self._gradients, weights=weights, rows=in_order(self._rows)
            )
        )  # fmt: skip
        self._losses, self._rows = [], []


def arguments(kind: type[TrainingArguments], folder: Path, **settings: Any) -> Any:
    return kind(output_dir=str(folder), **SAME | settings)


def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trained(trainer: Trainer) -> Watch:
    """The trainer's run, watched."""
    watch = Watch(trainer)
    trainer.train()
    return watch


def step(trainer: Trainer) -> Taken:
    """One optimizer step, of one batch or of several that are accumulated."""
    (taken,) = trained(trainer).steps
    return taken


def rows(inputs: Mapping[str, Tensor]) -> list[Row]:
    """The sequences of a batch without its padding, and which tokens the loss sees."""
    match inputs:
        case {"labels": labels, "input_ids": ids, "attention_mask": real}:
            return _rows(ids, real, labels != -100)
        case {"prompt_ids": prompts, "prompt_mask": asked, "completion_ids": answers, "completion_mask": said}:
            return _rows(torch.cat([prompts, answers], 1), torch.cat([asked, said], 1), torch.cat([asked * 0, said], 1))
        case {"completion_mask": trained, "input_ids": ids, "attention_mask": real}:
            return _rows(ids, real, trained)
        case {"input_ids": ids, "attention_mask": real}:  # a reward is read at the last token
            return _rows(ids, real, (real.cumsum(1) == real.sum(1, keepdim=True)) & real.bool())
        case _:
            raise AssertionError(f"a batch of {', '.join(inputs)}")


def _rows(ids: Tensor, real: Tensor, trained: Tensor) -> list[Row]:
    return [
        (tuple(i[r].tolist()), tuple(t[r].tolist()))
        for i, r, t in zip(ids, real.bool(), trained.bool(), strict=True)
    ]  # fmt: skip


def dataset(rows: Sequence[Mapping[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list([dict(row) for row in rows])


def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)
