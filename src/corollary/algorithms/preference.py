"""Preference optimisation: make the better of two answers likelier than the worse one, against a frozen reference.

    (prompt, chosen, rejected) → log-probabilities under policy and reference → a loss on each pair → new weights

DPO and its relatives are values of `loss`. The pairs come from data, or are the model's own answers, sampled and judged on the way.
Sources: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290; Guo et al. 2024 (online), https://arxiv.org/abs/2402.04792.
Page: docs/algorithms/preference.md
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from corollary.algorithms.base import Algorithm, Engines, OnRollouts
from corollary.config import Config, Variant, choice, variant
from corollary.data.collate import as_kind, preference_batch
from corollary.data.pairs import Encode, Pair, PairRows, apart, from_rollouts
from corollary.declare import entries
from corollary.engines.base import Sampler, Scorer, Trainer
from corollary.engines.remembered import remembered
from corollary.losses.bind import PREFERENCE, Around, Bound, blind, pair_inputs, where_trained
from corollary.losses.pairs import per_token
from corollary.losses.preference import dpo
from corollary.losses.probe import probe, probe_average
from corollary.ops.reduce import Average, SequenceMean, token_weights
from corollary.rollout import Player, describe, rollouts
from corollary.types import Metrics, PreferenceBatch, Prompt, Step, Terms

if TYPE_CHECKING:
    PairLoss = Variant
else:
    PairLoss = choice([entry.variant for entry in entries("preference")], PREFERENCE)


class SFTTerm(Config):
    """The chosen answers' negative log-likelihood, beside the loss of the pairs."""

    weight: float = Field(default=1.0, gt=0)
    """what it counts"""
    average: Average = SequenceMean()
    """of the term over the step's chosen answers; the loss of the pairs has its own"""


class OnPairs(Algorithm):
    """What algorithms on pairs have in common."""

    loss: PairLoss = variant(dpo)()  # type: ignore[call-arg]
    """what a pair costs"""
    sft: SFTTerm | None = None
    """the chosen answers' likelihood as a second term; null: none but the loss's own"""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss takes the reference's log-probabilities."""
        return any(name.startswith("ref_") for name in Bound(self.loss).needs)

    def probe(self) -> None:
        probe(self.loss, PreferenceBatch)
        if self.sft:
            probe_average(self.sft.average)

    @property
    def objective(self) -> Described:
        """The whole loss."""
        return Described(Bound(self.loss), self.sft.weight if self.sft else 0.0)


class PreferenceConfig(PairRows, OnPairs):
    """All that a run on preference pairs may vary."""

    type: Literal["preference"] = "preference"
    pairs_per_step: int = Field(default=16, ge=1)
    """rows of one optimizer step: a pair each, or several where a row has several rejected answers"""

    @property
    def batch_size(self) -> int:
        return self.pairs_per_step

    def measured(self, engines: Engines, held_out: Sequence[Prompt]) -> Sequence[Metrics]:
        """What `told` has of each held-out example, the mean over its pairs."""
        if not all(self.speak_of(prompt) for prompt in held_out):
            return ()
        pairs = [self.pairs(prompt, engines.encode) for prompt in held_out]
        batch = paired([*chain(*pairs)], None)
        if self.needs_reference:
            names = [f"held-out/{pair.name}" for pair in chain(*pairs)]
            batch = replace(batch, ref_logprobs=remembered(batch, names, engines.reference, engines.kept))
        said = told(engines.trainer.logprobs(batch), batch, each_token=Bound(self.loss).declaration.length_invariant)
        means = {n: [x.mean().item() for x in values.split([*map(len, pairs)])] for n, values in said.items()}
        return [{name: values[i] for name, values in means.items()} for i in range(len(held_out))]

    def steps(self, engines: Engines) -> Iterator[Step]:
        return steps(
            self, trainer=engines.trainer, encode=engines.encode, examples=engines.prompts,
            reference=engines.reference if self.needs_reference else None, kept=engines.kept,
        )  # fmt: skip


def steps(
    config: PreferenceConfig,
    *,
    trainer: Trainer,
    encode: Encode,
    examples: Iterator[list[Prompt]],
    reference: Scorer | None = None,
    kept: dict[str, Tensor] | None = None,
) -> Iterator[Step]:
    """One optimizer step per item. `encode` turns an answer's text into tokens that end with end-of-sequence."""
    kept = {} if kept is None else kept
    for asked in examples:
        pairs = [pair for prompt in asked for pair in config.usable(prompt, encode)]
        batch = paired(pairs, config.sft)
        if reference is not None:
            batch = replace(batch, ref_logprobs=remembered(batch, [pair.name for pair in pairs], reference, kept))
        yield Step(trainer.step(batch, config.objective))


class OnlinePreferenceConfig(OnPairs, OnRollouts):
    """Pairs of the model's own answers, sampled and judged anew for each step: the best and the worst of a group.

    Whatever temperature they are drawn at, they are trained at temperature 1.
    """

    type: Literal["online_preference"] = "online_preference"
    pairs_per_prompt: int = Field(default=1, ge=1)
    """pairs of each group at most; every pair counts alike"""

    def steps(self, engines: Engines) -> Iterator[Step]:
        return online_steps(
            self, trainer=engines.trainer, sampler=engines.sampler, player=engines.player, prompts=engines.prompts,
            reference=engines.reference if self.needs_reference else None, first=engines.first,
        )  # fmt: skip


def online_steps(
    config: OnlinePreferenceConfig,
    *,
    trainer: Trainer,
    sampler: Sampler,
    player: Player,
    prompts: Iterator[list[Prompt]],
    reference: Scorer | None = None,
    first: int = 0,
) -> Iterator[Step]:
    """One batch of rollouts per item, and an optimizer step where any two answers to one prompt earned different rewards."""
    for groups in rollouts(player, prompts, group_size=config.group_size, sampling=config.sampling, first=first):
        metrics = describe(groups, player.full_mark)
        found = [couple for group in groups for couple in apart(group, config.pairs_per_prompt)]
        if found:
            batch = paired([from_rollouts(better, worse) for better, worse in found], config.sft)
            if reference is not None:
                batch = replace(batch, ref_logprobs=reference.logprobs(batch))
            metrics |= trainer.step(batch, config.objective)
            sampler.sync(trainer)
        yield Step(metrics | {"pairs": float(len(found))}, groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsBatch(PreferenceBatch):
    """Pairs, and how much the likelihood of the chosen answers' tokens counts."""

    sft_weights: Tensor | None = (
        None  # [2N, T], what each token counts in the SFT term; summing to what its average has
    )


def paired(pairs: Sequence[Pair], sft: SFTTerm | None) -> PairsBatch:
    """A step's pairs as one batch. A chosen answer that stands in several pairs counts once in the SFT term."""
    batch = preference_batch(
        [pair.prompt for pair in pairs],
        [pair.chosen for pair in pairs],
        [pair.rejected for pair in pairs],
        shares=[pair.share for pair in pairs],
        margins=None if any(pair.margin is None for pair in pairs) else [pair.margin or 0.0 for pair in pairs],
        trained=[mask for pair in pairs for mask in pair.trained],
    )
    batch = as_kind(PairsBatch, batch)
    if sft is None:
        return batch
    first = {(pair.prompt.id, pair.chosen): 2 * i for i, pair in reversed([*enumerate(pairs)])}
    learnt = torch.zeros_like(batch.trained)
    learnt[[*first.values()]] = batch.trained[[*first.values()]]
    return replace(batch, sft_weights=token_weights(learnt, sft.average))


def told(logprobs: Tensor, batch: PreferenceBatch, *, each_token: bool) -> dict[str, Tensor]:
    """What is said of any pairs, `[N]` each.

    `margin` is by how many nats the chosen answer gained more on the reference than the rejected one (without a reference: is
    likelier), of whole answers or per token; `accuracy` is 1 where it is positive and 1/2 where it is 0, as it is before the first
    step. `chosen_logprob` and `rejected_logprob` are nats of whole answers: both may fall while their distance grows.
    """
    sums = pair_inputs(where_trained(logprobs.detach(), batch.trained), blind(batch))
    gains = {side: sums[side] - sums.get(f"ref_{side}", 0.0) for side in ("chosen", "rejected")}
    if each_token:
        gains = {side: per_token(gain, sums[f"{side}_lengths"]) for side, gain in gains.items()}
    margin = gains["chosen"] - gains["rejected"]
    accuracy = (margin.sign() + 1) / 2
    logprobs_ = {f"{side}_logprob": sums[side] for side in gains}
    return {"accuracy": accuracy, "margin": margin} | logprobs_


@dataclass(frozen=True, slots=True)
class Described(Around):
    """A loss on pairs with the SFT term and with what is told of any pairs; a loss that says these itself is left to say them.

    Σ w·loss + λ·Σ u·(-logπ)        w the mean over pairs, u the average of the SFT term
    """

    sft_weight: float = 0.0  # λ

    def __call__(self, output: Tensor, batch: PairsBatch) -> Terms:
        terms = self.loss(output, batch)
        said = told(output, batch, each_token=self.loss.declaration.length_invariant)
        metrics = {name: value.repeat_interleave(2)[:, None].expand_as(output) for name, value in said.items()}
        if batch.sft_weights is None:
            return Terms(terms.loss, metrics | terms.metrics)
        # The trainer sums w·terms, so u/w makes the sum of this term Σ u·(-logπ), whatever the split.
        ratio = (batch.sft_weights / batch.weights).where(batch.trained, 0.0).to(output.dtype)
        nll = -ratio * where_trained(output, batch.trained)
        return Terms(terms.loss + self.sft_weight * nll, metrics | terms.metrics | {"sft_nll": nll.detach()})
