"""Clauses on what two answers of a pair, or answers of two labels, have to do with each other: whose length, whose weight, whose β."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, evaluate, gap, loss_of, worst
from corollary.theory.contract.preference import neutral
from corollary.theory.contract.samples import SHAPES, Sample, fields_of, sample
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only


def repeated(at: Sample, rows: list[int]) -> Sample:
    """Every token of some answers said twice; the others are padded to the new width."""
    width = at.batch.targets.shape[1]

    def twice(value: Tensor) -> Tensor:
        if value.dim() < 2 or value.shape[1] != width:
            return value
        wide = torch.cat([value, torch.zeros_like(value)], dim=1)
        wide[rows] = value[rows].repeat_interleave(2, dim=1)
        return wide

    parts = {n: twice(v) for n, v in fields_of(at.batch).items()}
    parts["lengths"] = at.batch.lengths.clone()
    parts["lengths"][rows] *= 2
    return at.change(twice(at.output), **parts)


def own_length(subject: Subject, at: Sample) -> Measured:
    """Where both answers twice as long change nothing, either one alone twice as long changes nothing: each is a mean per token."""
    n = len(at.batch.lengths)
    whole = loss_of(subject, at)[0::2, 0]
    both, chosen, rejected = (
        gap(loss_of(subject, repeated(at, [*range(*rows)]))[0::2, 0], whole) for rows in ((n,), (0, n, 2), (1, n, 2))
    )
    if both > 1e-9:
        return Measured(0.0)
    side = "chosen" if chosen > rejected else "rejected"
    return Measured(max(chosen, rejected), f"the {side} answer is divided by another length than its own", at)


def _lengthy(subject: Subject) -> bool:
    return any(f"{side}_{what}" in subject.needs for side in ("chosen", "rejected") for what in ("lengths", "trained"))


def balanced(subject: Subject, pair: tuple[Sample, Sample]) -> Measured:
    """Where the pulls on the two answers stand in one fixed proportion, they are equal: both have the same β."""
    slopes = []
    for at in pair:
        gradient, seen = evaluate(subject, at).main, at.batch.trained
        first = seen.long().argmax(1, keepdim=True)
        slopes.append(gradient.gather(1, first)[:, 0].view(-1, 2))
    chosen, rejected = torch.cat(slopes).unbind(1)
    kept = (chosen != 0) & (rejected != 0)
    chosen, rejected = chosen[kept], rejected[kept]
    if len(chosen) < 4 or chosen.max() - chosen.min() < 1e-6 * chosen.abs().max():
        return Measured(0.0)
    ratio = -rejected / chosen
    if ratio.max() - ratio.min() > 1e-9 * ratio.abs().max():
        return Measured(0.0)  # each answer is judged on its own, or by its length
    return Measured(
        abs(ratio.mean().item() - 1),
        f"the rejected answer is always pulled {ratio.mean().item():.4g} times as hard as the chosen one: β (or another factor) on one "
        "of the two only; name it chosen_… or rejected_… if meant",
        pair[0],
    )


def _two(subject: Subject) -> Iterator[tuple[Sample, Sample]]:
    yield sample(subject, SHAPES[5], 5), sample(subject, SHAPES[7], 7)


def margins(subject: Subject, at: Sample) -> Measured:
    """At π = ref a larger margin asks for more: it does not lower the loss."""
    same = neutral(subject, at)
    more = same.change(margins=same.batch.margins + 0.5)  # type: ignore[attr-defined]
    drop = loss_of(subject, same) - loss_of(subject, more)
    return Measured(max(0.0, drop.max().item()), "a larger margin lowers the loss: its sign is turned", same)


def weights(subject: Subject, at: Sample) -> Measured:
    """A parameter named after one label leaves the answers of the other alone."""
    found, whole = [Measured(0.0)], loss_of(subject, at)[:, 0]
    good = at.batch.desirable  # type: ignore[attr-defined]
    for name, value in subject.formula.parameters.items():
        if "desirable" not in name or not isinstance(value, float):
            continue
        others = good if "undesirable" in name else ~good
        for changed in (value * 1.5, value * 0.5):
            try:
                got = loss_of(subject.with_parameters(**{name: changed}), at)[:, 0]
            except ValueError:
                continue
            cause = f"{name} changes the loss of the other answers: the weights are swapped"
            found.append(Measured(gap(got[others], whole[others]), cause, at))
    return worst(*found)


CLAUSES = (
    Clause(name="length", row="26", bound=1e-9, check=own_length, families=("preference",), samples=few(6),
           skip=only(lambda s: _lengthy(s) and s.declaration.cross_sample is None, "takes no lengths, or declared cross_sample"),
           means="an answer is divided by its own length", cause="the lengths are swapped", catches="trl #1265, torchtune #1291, ms-swift #9925"),
    Clause(name="balanced", row="25", bound=1e-6, check=balanced, families=("preference",), samples=_two,
           skip=only(lambda s: s.declaration.cross_sample is None and not any("chosen" in n or "rejected" in n for n in s.formula.parameters),
                     "has a parameter of one side, or declared cross_sample"),
           means="a loss of the difference pulls both answers alike", cause="a factor on one of the two", catches="tinker-cookbook #172"),
    Clause(name="margins", row="25", bound=1e-12, check=margins, families=("preference",), samples=few(5),
           skip=only(lambda s: "margins" in s.needs, "takes no margins"), means="a larger margin asks for more", cause="the margin's sign"),
    Clause(name="weights", row="25", bound=1e-12, check=weights, families=("unpaired",), samples=few(5),
           means="a weight named after a label acts on that label", cause="the weights are swapped", catches="trl #1911"),
)  # fmt: skip
