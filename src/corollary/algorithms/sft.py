"""Supervised fine-tuning: make worked answers likelier, token by token.

L = -Σ w·logπ(answer token)      trained on the answer's tokens only, end-of-sequence included
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
from corollary.types import Prompt, Step, TokenBatch

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
    """the answer to learn, made of columns of the data set"""
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
    for asked in examples:
        batch = token_batch(
            asked, [encode(filled(config.answer, prompt, "algorithm.answer")) for prompt in asked], config.average
        )
        yield Step(trainer.step(batch, config.loss))
