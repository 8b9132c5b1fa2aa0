"""A step of ours: from a file of rows through the data pipeline, the algorithm and the embedded trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines
from corollary.data.datasets import load_prompts
from corollary.data.loader import PromptLoader
from corollary.data.sources import DataConfig
from corollary.engines.layout import scalar_head
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.models.heads import with_scalar_head
from corollary.models.load import load_model
from corollary.run.assembly import encoder
from corollary.types import Formula, Metrics, TokenBatch
from parity.taken import Row, Taken, in_order

OPTIMIZER = OptimizerConfig(lr=100.0, beta1=0.0, beta2=0.5, eps=1.0, max_grad_norm=1e9)
"""AdamW whose running mean after a step is the gradient itself. Its ε of 1 lets no rounding flip a sign, and its learning rate is
so large that what is added to a weight is not lost in the weight's own rounding."""


class Watched(EmbeddedTrainer):
    """The trainer, which also remembers the batch of its last step."""

    seen: TokenBatch

    def step(self, batch: TokenBatch, loss: Formula) -> Metrics:
        self.seen = batch
        return super().step(batch, loss)


def rows_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def engines(
    model: Path,
    data: DataConfig,
    algorithm: Algorithm,
    *,
    reference: Path | None = None,
    trainer: TrainerConfig = TrainerConfig(),
    optimizer: OptimizerConfig = OPTIMIZER,
    sampler: Any = None,
    head: Tensor | None = None,
    **lent: Any,
) -> Engines:
    """What a run would lend the algorithm, with a reference that may be another model than the one trained, and a given head."""
    loaded = load_model(str(model))
    prompts, _ = load_prompts(data, loaded.tokenizer)
    if head is not None:
        scalar_head(with_scalar_head(loaded.model)).data.copy_(head)
    if reference is not None:
        lent["reference"] = EmbeddedScorer(load_model(str(reference)).model.requires_grad_(False), TrainerConfig())
    return Engines(
        trainer=Watched(loaded.model, trainer, optimizer, total_steps=1),
        prompts=PromptLoader(prompts, batch_size=algorithm.batch_size, seed=0),
        encode=encoder(loaded),
        sampler=sampler,
        **lent,
    )


def step(algorithm: Algorithm, lent: Engines) -> Taken:
    """One step of the algorithm."""
    return taken(lent.trainer, next(algorithm.steps(lent)).metrics)


def taken(trainer: Any, metrics: Metrics) -> Taken:
    """The step that the trainer has just taken."""
    state = trainer.state_dict()
    return Taken(
        loss=metrics["loss"],
        gradients=_called("exp_avg/", state),
        weights=_called("weight/", state),
        rows=rows(trainer.seen),
        metrics=metrics,
    )


def rows(batch: TokenBatch) -> tuple[Row, ...]:
    """Every sequence with its prompt, and which tokens weigh something."""
    found = []
    for prompt, answer, length, trained in zip(
        batch.prompt_of.tolist(), batch.targets.tolist(), batch.lengths.tolist(), batch.trained.tolist(), strict=True
    ):
        asked = batch.prompts[prompt]
        found.append(((*asked, *answer[:length]), (*[False] * len(asked), *trained[:length])))
    return in_order(found)


def weights(model: Path) -> dict[str, Tensor]:
    """The weights in the folder."""
    return {name: p.detach().clone() for name, p in load_model(str(model)).model.named_parameters()}


def _called(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): torch.clone(t) for name, t in state.items() if name.startswith(prefix)}
