"""Supervised fine-tuning: make what the assistant says likelier, token by token.

    L = -Σ w·logπ(token)      over what the assistant says, the end of each turn included; the rest is read and not learnt

An example is a whole conversation, with one trained span for each of the assistant's turns, or a prompt and its worked answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import Variant, choice, variant
from corollary.data.collate import filled, token_batch
from corollary.engines.base import Trainer
from corollary.losses.bind import TOKEN
from corollary.losses.likelihood import dft, label_smoothing, nll
from corollary.losses.probe import probe, probe_average
from corollary.ops.reduce import Average, TokenMean
from corollary.types import Metrics, Prompt, Step, TokenBatch

if TYPE_CHECKING:
    Likelihood = Variant
else:
    Likelihood = choice([variant(f) for f in (nll, label_smoothing, dft)], TOKEN)


class SFTConfig(Algorithm):
    """All that an SFT run may vary."""

    type: Literal["sft"] = "sft"
    examples_per_step: int = Field(default=16, ge=1)
    """worked examples of one optimizer step"""
    answer: str = "{answer}"
    """the answer to learn, made of columns of the data set; for prompts that are no conversation with answers of its own"""
    held_out_answer: str = ""
    """the answer whose likelihood is measured on held-out prompts, likewise; empty: that of conversations alone"""
    loss: Likelihood = variant(nll)()  # type: ignore[call-arg]
    """the likelihood loss"""
    average: Average = TokenMean()
    """of the step's loss over tokens and sequences"""

    @property
    def batch_size(self) -> int:
        return self.examples_per_step

    def probe(self) -> None:
        probe(self.loss, TokenBatch)
        probe_average(self.average)

    def measured(self, engines: Engines, held_out: Sequence[Prompt]) -> Sequence[Metrics]:
        """`nll` of each held-out example: nats per trained token, its own mean."""
        if not (self.held_out_answer or all(prompt.target_ids for prompt in held_out)):
            return ()
        batch = worked(held_out, self.held_out_answer, engines.encode)
        logprobs = engines.trainer.logprobs(batch) * batch.trained
        return [{"nll": nats} for nats in (-logprobs.sum(1) / batch.trained.sum(1)).tolist()]

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(self, trainer=engines.trainer, encode=engines.encode, examples=engines.prompts)


def steps(
    config: SFTConfig,
    *,
    trainer: Trainer,
    encode: Callable[[str], Sequence[int]],
    examples: Iterator[list[Prompt]],
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    for prompts in examples:
        yield Step(trainer.step(worked(prompts, config.answer, encode, config.average), config.loss))


def worked(
    prompts: Sequence[Prompt], answer: str, encode: Callable[[str], Sequence[int]], average: Average = TokenMean()
) -> TokenBatch:
    """Prompts with what is to be learnt after each: the rest of its conversation, or its filled answer.

    Raises:
        DataError: a column that `answer` names is missing, or the answer comes out empty.
    """
    targets = [p.target_ids or encode(filled(answer, p, "algorithm.answer")) for p in prompts]
    trained = [p.target_trained or (True,) * len(ids) for p, ids in zip(prompts, targets, strict=True)]
    return token_batch(prompts, targets, average, trained=trained)
