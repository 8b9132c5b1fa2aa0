"""Clauses on what must not matter: what stands behind the mask, padding, order, splits, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, Outcome, apart, doubled, evaluate, gap, loss_of, worst
from corollary.theory.contract.samples import Draw, Sample, fields_of
from corollary.theory.contract.shape import behind
from corollary.theory.contract.subject import LOSSES, Subject
from corollary.theory.contract.table import Clause, additive
from corollary.types import Terms

_TOKENS = tuple(family for family in LOSSES if family != "reward_model")  # a reward model's pairs have no padding


def masked(subject: Subject, sample: Sample) -> Measured:
    """Whatever stands where nothing is trained: the value has the same bits, and the gradient there is exactly 0."""
    whole, trained = evaluate(subject, sample), sample.batch.trained
    found = []
    for fill in (0.0, 1.0, -3.0, 1e4, -1e4, float("inf"), float("-inf"), float("nan")):
        hidden = behind(sample, fill)
        got = evaluate(subject, hidden)
        same = torch.equal(got.value, whole.value) and all(
            torch.equal(got.gradient[n][trained], g[trained]) for n, g in whole.gradient.items()
        )
        found.append(Measured(float(not same), f"{fill:g} behind the mask changes the loss or the gradient in front of it: "
                              "a mean or sum over padding, or a mask that multiplies (0·NaN is NaN)", hidden))  # fmt: skip
        if abs(fill) < 10:  # beyond, exp overflows where nothing is trained, and the binding hides that from a formula
            leak = max(g[~trained].abs().max().item() if (~trained).any() else 0.0 for g in got.gradient.values())
            found.append(Measured(float(leak != 0), "the gradient reaches tokens that are not trained", hidden))
    return worst(*found)


def padding(subject: Subject, sample: Sample) -> Measured:
    """Columns of padding on the right, and untrained tokens on the left, change nothing."""
    whole, width = evaluate(subject, sample), sample.batch.targets.shape[1]
    found = []
    for left, right in ((0, 1), (0, 5), (2, 0), (4, 3)):
        if left and subject.takes("lengths"):
            continue  # an answer with more tokens is another answer
        got = evaluate(subject, widened(sample, left, right))
        cut = {n: g[:, left : left + width] for n, g in got.gradient.items()}
        side = "left" if left and not right else "right"
        found.append(Measured(apart(Outcome(got.terms, got.value, cut), whole),
                              f"changes with padding on the {side}: it averages over the padded width", widened(sample, left, right)))  # fmt: skip
    return worst(*found)


def widened(sample: Sample, left: int, right: int) -> Sample:
    """Untrained columns before and behind, full of numbers."""
    draw = Draw(7)
    width = sample.batch.targets.shape[1]

    def wide(name: str, value: Tensor) -> Tensor:
        if value.dim() < 2 or value.shape[1] != width:
            return value
        fill = (
            draw.normal(value.shape[0], left + width + right, *value.shape[2:]) if value.is_floating_point() else None
        )
        out = (
            value.new_zeros(value.shape[0], left + width + right, *value.shape[2:])
            if fill is None
            else fill.to(value.dtype)
        )
        out = torch.zeros_like(out) if name == "weights" else out
        out[:, left : left + width] = value
        return out

    parts = {name: wide(name, value) for name, value in fields_of(sample.batch).items()}
    parts["lengths"] = sample.batch.lengths + left
    return Sample(
        wide("output", sample.output),
        replace(sample.batch, **parts),
        f"{sample.note}, {left} columns before and {right} behind",
    )


def order(subject: Subject, sample: Sample) -> Measured:
    """The answers in another order give the same loss, and each keeps its gradient."""
    units = sample.units
    rows = [row for unit in units[::-1] for row in unit]
    whole = evaluate(subject, sample)
    got = evaluate(subject, sample.take(rows))
    back = {n: torch.empty_like(g).index_copy(0, torch.tensor(rows), g) for n, g in got.gradient.items()}
    return Measured(apart(Outcome(got.terms, got.value, back), whole), "", sample.take(rows))


def split(subject: Subject, sample: Sample) -> Measured:
    """Any split into microbatches adds up to the whole, in value and gradient."""
    whole = evaluate(subject, sample)
    n = len(sample.units)
    halves = [list(range(n // 2)), list(range(n // 2, n))]
    uneven = [[0], list(range(1, max(1, n - 2))), list(range(max(1, n - 2), n))]
    found = []
    for parts in ([[i] for i in range(n)], halves, uneven):
        parts = [part for part in parts if part]
        got = summed(subject, sample, parts)
        found.append(Measured(apart(got, whole), _split_cause(got, whole, len(parts)), sample))
    return worst(*found)


def _split_cause(got: Outcome, whole: Outcome, parts: int) -> str:
    ratio = (got.value / whole.value).item() if whole.value else 1.0
    return (
        f"changes when the batch is split in {parts} (the loss becomes {ratio:.4g} times itself): "
        "it divides by its own microbatch's count of tokens or sequences, or uses a statistic of the batch"
    )


def summed(subject: Subject, sample: Sample, parts: Sequence[Sequence[int]]) -> Outcome:
    """The parts' values added up, and each row's gradient where it belongs."""
    value = torch.zeros((), dtype=torch.double)
    whole = {n: torch.zeros_like(v) for n, v in evaluate(subject, sample).gradient.items()}
    for part in parts:
        rows = [row for unit in part for row in sample.units[unit]]
        got = evaluate(subject, sample.take(rows))
        value = value + got.value
        for name, gradient in got.gradient.items():
            if gradient.dim() > 1:
                whole[name][rows, : gradient.shape[1]] += gradient
            else:
                whole[name][rows] += gradient
    return Outcome(Terms(loss_of(subject, sample), {}), value, whole)


def ranks(subject: Subject, sample: Sample) -> Measured:
    """Data-parallel ranks with unequal numbers of tokens, one of them empty, add up to the whole."""
    whole = evaluate(subject, sample)
    n = len(sample.units)
    got = summed(subject, sample, [list(range(0, n, 2)), [], list(range(1, n, 2))])
    return Measured(
        apart(got, whole), "ranks with unequal tokens do not add up: it divides by the rank's own count", sample
    )


def repeat(subject: Subject, sample: Sample) -> Measured:
    """The same answers twice, each of half the weight: the same loss, half the gradient for each."""
    whole, got = evaluate(subject, sample), evaluate(subject, doubled(sample))
    rows = len(sample.batch.lengths)
    halves = [gap(2 * g[:rows], whole.gradient[n]) for n, g in got.gradient.items()]
    return worst(Measured(gap(got.value, whole.value), "the batch twice changes the loss: sum and mean are mixed up, or an epsilon in a denominator"),
                 Measured(max(halves), "the batch twice does not halve an answer's gradient"))  # fmt: skip


def independent(subject: Subject, sample: Sample) -> Measured:
    """An answer's terms do not change with the other answers: each stands alone with its own numbers."""
    whole = loss_of(subject, sample)
    found = [Measured(0.0)]
    for unit in sample.units:
        alone = sample.take(unit)
        width, seen = alone.batch.targets.shape[1], alone.batch.trained
        got = loss_of(subject, alone)
        difference = gap(got[seen], whole[unit][:, :width][seen])
        found.append(Measured(difference, "an answer's term depends on the other answers of the batch: a batch statistic "
                              "or normaliser inside the loss; if it is meant, declare cross_sample=\"batch\"", alone))  # fmt: skip
    return worst(*found)


CLAUSES = (
    Clause(name="mask", row="3", bound=0, check=masked, families=_TOKENS, means="what stands behind the mask is never seen, NaN included",
           cause="a mask that multiplies, or none",
           catches="NeMo RL #4120, prime-rl #2084, ms-swift #9767, tunix #2310, AReaL #1346, SkyRL #1635, slime #1372"),
    Clause(name="padding", row="4", bound=1e-12, check=padding, families=_TOKENS, means="padding on either side changes nothing",
           cause="a mean over the padded width", catches="NeMo-Aligner #68, OpenRLHF #217, trl #6800, verl #3741"),
    Clause(name="order", row="5", bound=1e-12, check=order, means="the order of the answers does not matter",
           cause="grouping or pairing by position", catches="prime-rl #600, AReaL #1419"),
    Clause(name="split", row="6, 8", bound=1e-12, check=split, skip=additive, means="microbatches add up to the batch",
           cause="divides by its own microbatch's count",
           catches="trl #2175, transformers #34191, verl #906, #3332, #7200, NeMo RL #212, prime-rl #583, mlx-lm #1413, OpenRLHF #1249"),
    Clause(name="ranks", row="7", bound=1e-12, check=ranks, skip=additive, means="data-parallel ranks add up, an empty one included",
           cause="divides by the rank's own count", catches="transformers #34242, #37474, #39648, Megatron #673, prime-rl #2562"),
    Clause(name="repeat", row="10", bound=1e-12, check=repeat, skip=additive, means="the same batch twice is the same loss",
           cause="a sum where a mean is meant, an epsilon in a denominator", catches="NeMo RL masked_mean + 1e-8"),
    Clause(name="independent", row="6, 31", bound=1e-12, check=independent, skip=additive, means="an answer's term is its own",
           cause="a batch statistic inside the loss", catches="trl #1380, #2554, verl #906"),
)  # fmt: skip
