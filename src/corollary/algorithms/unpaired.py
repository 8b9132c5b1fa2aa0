"""Preferences without pairs: answers that are each called desirable or not, against a frozen reference.

    (prompt, answer, desirable) → log-probabilities under policy and reference → a loss on each answer → new weights

KTO and BCO are values of `loss`. What each compares an answer's reward with is a number of the whole step, made before it is split.
Sources: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306; Jung et al. 2024, https://arxiv.org/abs/2404.04656.
Page: docs/algorithms/unpaired.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import Variant, choice, variant
from corollary.data.collate import filled, unpaired_batch
from corollary.data.pairs import Encode
from corollary.data.sources import fields
from corollary.declare import entries
from corollary.engines.base import Scorer, Trainer
from corollary.engines.remembered import remembered
from corollary.errors import DataError
from corollary.losses.bind import UNPAIRED, Around, Bound, summed
from corollary.losses.probe import probe
from corollary.losses.unpaired import kto, kto_baseline, mismatched
from corollary.types import Metrics, Prompt, Step, Terms, TokenBatch, UnpairedBatch

if TYPE_CHECKING:
    AnswerLoss = Variant
else:
    AnswerLoss = choice([entry.variant for entry in entries("unpaired")], UNPAIRED)

KINDS = ("desirable", "undesirable")
Memory = dict[str, Any]


DECAY = 0.9
"""of a running mean of rewards, where a recipe names no other"""


class UnpairedConfig(Algorithm):
    """All that a run on answers that are called desirable or not may vary."""

    type: Literal["unpaired"] = "unpaired"
    examples_per_step: int = Field(default=16, ge=2)
    """answers of one optimizer step"""
    answer: str = "{answer}"
    """the answer, made of columns of the data set"""
    desirable: str = "desirable"
    """column that says whether it is: true or false"""
    max_answer_tokens: int | None = Field(default=None, ge=1)
    """longer answers are left out and counted; null: no limit"""
    loss: AnswerLoss = variant(kto)()  # type: ignore[call-arg]
    """what an answer costs"""
    shift_decay: float | None = Field(default=None, ge=0, lt=1)
    """how much of BCO's running mean of rewards a step leaves as it was; null: 0.9"""

    @model_validator(mode="after")
    def _read(self) -> UnpairedConfig:
        if self.shift_decay is not None and "shift" not in type(self.loss).inputs:
            raise ValueError(f"shift_decay: {self.loss.type} takes no running mean; leave shift_decay out, or take bco")
        return self

    @property
    def batch_size(self) -> int:
        return self.examples_per_step

    @property
    def needs_reference(self) -> bool:
        return not {"ref_logprobs", "sequence_ref_logprobs", "baseline"}.isdisjoint(Bound(self.loss).needs)

    def probe(self) -> None:
        probe(self.loss, UnpairedBatch)

    def refusal(self, prompt: Prompt, encode: Encode) -> str:
        limit, length = self.max_answer_tokens, len(encode(filled(self.answer, prompt, "algorithm.answer")))
        self.is_desirable(prompt)
        return f"over max_answer_tokens={limit}" if limit is not None and length > limit else ""

    def is_desirable(self, prompt: Prompt) -> bool:
        """What the row says.

        Raises:
            DataError: it says nothing, or neither true nor false.
        """
        said = prompt.columns.get(self.desirable)
        if said not in (True, False):
            raise DataError(
                f"example {prompt.id} has {said!r} in column {self.desirable!r}",
                where="algorithm.desirable",
                hint="it says true or false",
            )
        return bool(said)

    def batch(self, prompts: Sequence[Prompt], encode: Encode) -> UnpairedBatch:
        """Rows as one batch."""
        answers = [encode(filled(self.answer, prompt, "algorithm.answer")) for prompt in prompts]
        return unpaired_batch(prompts, answers, [self.is_desirable(prompt) for prompt in prompts])

    def measured(self, engines: Engines, held_out: Sequence[Prompt]) -> Sequence[Metrics]:
        """Of each held-out answer: `margin`, by how much its reward is on the right side of the loss's threshold, and `accuracy`.

        Nats against z0 for KTO, reward units against δ for BCO, nats against the reference otherwise. `accuracy` is 1 where the margin
        is positive and 1/2 where it is 0, as it is before the first step.
        """
        if not all({self.desirable, *fields(self.answer)} <= set(prompt.columns) for prompt in held_out):
            return ()
        batch = self.batch(held_out, engines.encode)
        if self.needs_reference:
            names = [f"held-out/{prompt.id}" for prompt in held_out]
            batch = replace(batch, ref_logprobs=remembered(batch, names, engines.reference, engines.kept))
        batch = placed(self, batch, engines.trainer, engines.reference, engines.memory)
        with torch.no_grad():
            margins = margin(Bound(self.loss), engines.trainer.logprobs(batch), batch)
        return [{"accuracy": (m > 0) + (m == 0) / 2, "margin": m} for m in margins.tolist()]

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(
            self, trainer=engines.trainer, encode=engines.encode, examples=engines.prompts,
            reference=engines.reference if self.needs_reference else None, kept=engines.kept, memory=engines.memory,
        )  # fmt: skip


def steps(
    config: UnpairedConfig,
    *,
    trainer: Trainer,
    encode: Encode,
    examples: Iterator[list[Prompt]],
    reference: Scorer | None = None,
    kept: dict[str, Tensor] | None = None,
    memory: Memory | None = None,
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    kept, memory = ({} if kept is None else kept), ({} if memory is None else memory)
    for asked in examples:
        batch = config.batch(asked, encode)
        if reference is not None:
            batch = replace(batch, ref_logprobs=remembered(batch, [p.id for p in asked], reference, kept))
        batch = placed(config, batch, trainer, reference, memory)
        metrics = trainer.step(batch, Described(Bound(config.loss), batch.desirable.double().mean().item()))
        remember(metrics, memory, DECAY if config.shift_decay is None else config.shift_decay)
        told = {"baseline": batch.baseline, "shift": batch.shift}
        yield Step(metrics | {name: value.item() for name, value in told.items() if value is not None})


def placed(
    config: UnpairedConfig, batch: UnpairedBatch, trainer: Trainer, reference: Scorer | None, memory: Memory
) -> UnpairedBatch:
    """The batch with what the loss compares rewards with: z0 of mismatched answers for KTO, the running mean δ for BCO."""
    needs = Bound(config.loss).needs
    if "baseline" in needs:
        assert reference is not None, "a loss with a baseline needs a reference"
        batch = replace(batch, baseline=baseline(batch, trainer, reference))
    return replace(batch, shift=torch.tensor(shift(memory), dtype=torch.double)) if "shift" in needs else batch


def baseline(batch: UnpairedBatch, trainer: Scorer, reference: Scorer) -> Tensor:
    """`[]` nats, KTO's z0: each of the step's distinct prompts with the first answer to the next of them.

    Raises:
        DataError: the step has a single prompt, so no answer is another's.
    """
    prompts = len(batch.prompts)
    if prompts < 2:
        raise DataError(
            f"all {len(batch.prompt_of)} answers of this step are to one prompt, so KTO's z0 has no mismatched answer",
            where="algorithm.examples_per_step", hint="take more examples per step, or other data",
        )  # fmt: skip
    first = [batch.prompt_of.tolist().index(p) for p in range(prompts)]
    rows = torch.tensor(first)[mismatched(prompts)]
    others = TokenBatch(
        prompts=batch.prompts, prompt_of=torch.arange(prompts), targets=batch.targets[rows], lengths=batch.lengths[rows],
        weights=batch.weights[rows],
    )  # fmt: skip
    return kto_baseline(*(summed(scorer.logprobs(others), others.trained) for scorer in (trainer, reference)))


def shift(memory: Memory) -> float:
    """BCO's δ: half-way between the running mean rewards of desirable and undesirable answers; 0 before there are any.

    >>> shift({"rewards": {"desirable": 1.5, "undesirable": -0.5}})
    0.5
    """
    means = memory.get("rewards", {}).values()
    return sum(means) / max(1, len(means))


def remember(metrics: Metrics, memory: Memory, decay: float) -> None:
    """Move the running mean rewards by what a step said of each kind; they start at 0, which rewards are before the first step.

    δ lags by one step, and costs no forward pass of its own.
    """
    running = memory.setdefault("rewards", {})
    for kind in KINDS:
        if f"reward_{kind}" in metrics:
            running[kind] = decay * running.get(kind, 0.0) + (1 - decay) * metrics[f"reward_{kind}"]


def margin(loss: Bound, logprobs: Tensor, batch: UnpairedBatch) -> Tensor:
    """`[B]` by how much each answer's reward is on the right side of the threshold."""
    if batch.shift is not None:
        over = loss(logprobs, batch).metrics["reward"][:, 0] - batch.shift
    else:
        over = summed(logprobs, batch.trained)
        over = over if batch.ref_logprobs is None else over - summed(batch.ref_logprobs, batch.trained)
        over = over if batch.baseline is None else over - batch.baseline
    return over.where(batch.desirable, -over)


@dataclass(frozen=True, slots=True)
class Described(Around):
    """A loss on answers with the mean `reward` and `logprob` of each kind, where the step has any of it."""

    share: float  # of desirable answers in the whole step

    def __call__(self, output: Tensor, batch: UnpairedBatch) -> Terms:
        terms = self.loss(output, batch)
        said = {"logprob": summed(output.detach(), batch.trained)[:, None].expand_as(output)}
        said |= {name: value for name, value in terms.metrics.items() if name == "reward"}
        masks, shares = (batch.desirable, ~batch.desirable), (self.share, 1 - self.share)
        parts = {
            f"{name}_{kind}": value * mask[:, None] / share
            for kind, mask, share in zip(KINDS, masks, shares, strict=True)
            for name, value in said.items()
            if share
        }
        return Terms(terms.loss, terms.metrics | parts)
