"""Preference optimisation: make the better of two answers likelier than the worse one, against a frozen reference.

    (prompt, chosen, rejected) → log-probabilities under policy and reference → a loss on each pair → new weights

DPO and its relatives are values of `loss`.
Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines
from corollary.config import Variant, choice, variant
from corollary.data.collate import filled, preference_batch
from corollary.declare import entries
from corollary.engines.base import Scorer, Trainer
from corollary.losses.bind import PREFERENCE, Bound, blind, pair_inputs, where_trained
from corollary.losses.preference import dpo
from corollary.losses.probe import probe
from corollary.types import PreferenceBatch, Prompt, Step, Terms

if TYPE_CHECKING:
    PairLoss = Variant
else:
    PairLoss = choice([entry.variant for entry in entries("preference")], PREFERENCE)


class PreferenceConfig(Algorithm):
    """All that a run on preference pairs may vary."""

    type: Literal["preference"] = "preference"
    pairs_per_step: int = Field(default=16, ge=1)
    """pairs of one optimizer step"""
    chosen: str = "{chosen}"
    """the better answer, made of columns of the data set"""
    rejected: str = "{rejected}"
    """the worse answer, likewise"""
    loss: PairLoss = variant(dpo)()  # type: ignore[call-arg]
    """what a pair costs"""

    @property
    def batch_size(self) -> int:
        return self.pairs_per_step

    @property
    def needs_reference(self) -> bool:
        """Whether the loss takes the reference's log-probabilities."""
        return any(name.startswith("ref_") for name in Bound(self.loss).needs)

    def probe(self) -> None:
        probe(self.loss, PreferenceBatch)

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(
            self,
            trainer=engines.trainer,
            encode=engines.encode,
            examples=engines.prompts,
            reference=engines.reference if self.needs_reference else None,
        )


def steps(
    config: PreferenceConfig,
    *,
    trainer: Trainer,
    encode: Callable[[str], Sequence[int]],
    examples: Iterator[list[Prompt]],
    reference: Scorer | None = None,
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    objective = Described(Bound(config.loss))
    for asked in examples:
        chosen = [encode(filled(config.chosen, prompt, "algorithm.chosen")) for prompt in asked]
        rejected = [encode(filled(config.rejected, prompt, "algorithm.rejected")) for prompt in asked]
        batch = preference_batch(asked, chosen, rejected)
        if reference is not None:
            batch = replace(batch, ref_logprobs=reference.logprobs(batch))
        yield Step(trainer.step(batch, objective))


@dataclass(frozen=True, slots=True)
class Described:
    """A loss on pairs with what is told of any of them, the user's own too.

    `chosen_logprob` and `rejected_logprob` are nats of whole answers: both may fall while their distance grows.
    `accuracy` is the share of pairs whose chosen answer gained more on the reference (without one: is likelier) and `margin` by
    how many nats; a loss that says these itself, in its own units, is left to say them.
    """

    loss: Bound

    @property
    def needs(self) -> frozenset[str]:
        return self.loss.needs

    @property
    def cross_sample(self) -> bool:
        return self.loss.cross_sample

    def __call__(self, output: Tensor, batch: PreferenceBatch) -> Terms:
        terms = self.loss(output, batch)
        sums = pair_inputs(where_trained(output.detach(), batch.trained), blind(batch))
        margin = sums["chosen"] - sums["rejected"]
        if batch.ref_logprobs is not None:
            margin = margin - (sums["ref_chosen"] - sums["ref_rejected"])
        told = {
            "accuracy": (margin > 0).to(margin.dtype),
            "margin": margin,
            "chosen_logprob": sums["chosen"],
            "rejected_logprob": sums["rejected"],
        }
        spread = {name: value.repeat_interleave(2)[:, None].expand_as(output) for name, value in told.items()}
        return Terms(terms.loss, spread | terms.metrics)
