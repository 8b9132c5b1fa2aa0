"""Clauses on what comes back at all: terms, numbers, a gradient, metrics; purity; loudness; edges."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from corollary.errors import CorollaryError
from corollary.losses.bind import inputs_of
from corollary.theory.contract.evaluate import (
    Measured,
    evaluate,
    gap,
    leaves,
    on_policy,
    raw,
    terms_of,
    with_leaves,
    worst,
)
from corollary.theory.contract.samples import Sample, fields_of, samples
from corollary.theory.contract.subject import LOSSES, Subject
from corollary.theory.contract.table import Clause, few
from corollary.types import Terms


def terms(subject: Subject, sample: Sample) -> Measured:
    """Finite terms, of the right shape."""
    got = evaluate(subject, sample)
    bad = int((~got.terms.loss.isfinite() & sample.batch.trained).sum())
    return Measured(float(bad), f"{bad} trained terms are not finite at ordinary inputs" if bad else "")


def alive(subject: Subject, sample: Sample) -> Measured:
    """A finite gradient that is not 0."""
    got = evaluate(subject, sample)
    gradient = torch.cat([g.flatten() for g in got.gradient.values()])
    if not gradient.isfinite().all():
        return Measured(float("inf"), "the gradient is not finite at ordinary inputs")
    if got.norm == 0 and subject.family == "policy":  # all of it may be clipped
        got = evaluate(subject, on_policy(subject, sample))
    if got.norm == 0 and any(evaluate(subject, other).norm for other in samples(subject)):
        return Measured(0.0)  # this one may be clipped, or lost, and another clause says so
    return Measured(
        float(got.norm == 0), "no gradient reaches the model: the ratio or the loss is detached or under no_grad"
    )


def metrics(subject: Subject, sample: Sample) -> Measured:
    """Metrics have the terms' shape, carry no gradient, are finite, and see nothing behind the mask."""
    free = {name: value.detach().clone().requires_grad_() for name, value in leaves(subject, sample).items()}
    moved = with_leaves(sample, free)
    got = raw(subject, inputs_of(moved.output, moved.batch))
    found = got.metrics if isinstance(got, Terms) else {}
    loss = got.loss if isinstance(got, Terms) else got
    for name, value in found.items():
        if value.shape != loss.shape:
            return Measured(1.0, f"metric {name!r} has shape {list(value.shape)}, the terms have {list(loss.shape)}")
        if value.requires_grad:
            return Measured(
                1.0, f"metric {name!r} carries a gradient: it keeps the graph of every step in memory; detach it"
            )
    with torch.no_grad():
        spread, seen = terms_of(subject, sample).metrics, sample.batch.trained
        shifted = terms_of(subject, behind(sample, 1e4)).metrics
    for name, value in spread.items():
        if not value[seen].isfinite().all():
            return Measured(1.0, f"metric {name!r} is not finite")
        if not torch.equal(value[seen], shifted[name][seen]):
            return Measured(1.0, f"metric {name!r} changes with what stands behind the mask")
    return Measured(0.0)


def behind(sample: Sample, value: float) -> Sample:
    """The sample with `value` in every float tensor where nothing is trained."""
    trained = sample.batch.trained

    def fill(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape[:2]) != tuple(trained.shape):
            return tensor
        return tensor.where(trained.view(*trained.shape, *[1] * (tensor.dim() - 2)), value)

    return sample.every(fill)


def pure(subject: Subject, sample: Sample) -> Measured:
    """No input is edited, twice gives the same bits, and no random number is drawn."""
    before = {n: v.clone() for n, v in fields_of(sample.batch).items()} | {"output": sample.output.clone()}
    state = torch.get_rng_state()
    first, second = evaluate(subject, sample), evaluate(subject, sample)
    for name, value in (fields_of(sample.batch) | {"output": sample.output}).items():
        if not torch.equal(value.nan_to_num(7e77), before[name].nan_to_num(7e77)):
            return Measured(1.0, f"it edits {name!r} in place")
    if not torch.equal(first.terms.loss.nan_to_num(7e77), second.terms.loss.nan_to_num(7e77)):
        return Measured(1.0, "two calls on the same input differ: hidden state or random numbers")
    drawn = not torch.equal(state, torch.get_rng_state())
    return Measured(
        float(drawn), "it draws from the global random stream: no run of it can be repeated" if drawn else ""
    )


def loud(subject: Subject, sample: Sample) -> Measured:
    """NaN at a trained token makes the loss NaN, or raises; it is never passed over."""
    row, column = (int(i) for i in sample.batch.trained.nonzero()[-1])
    found = inputs_of(sample.output, sample.batch)
    spoken = [name for name in leaves(subject, sample) if name == "output" or name in subject.needs]
    for name in (*spoken, *_watched(subject, sample, found)):
        poisoned = _poison(sample, name, row, column)
        try:
            with torch.no_grad():
                loss = terms_of(subject, poisoned).loss
        except (CorollaryError, ValueError, RuntimeError, ArithmeticError):
            continue
        if loss[sample.batch.trained].isfinite().all():
            return Measured(
                1.0, f"NaN in {name} at a trained token gives a finite loss: nan_to_num, or a mask of NaN", poisoned
            )
    return Measured(0.0)


def _watched(subject: Subject, sample: Sample, found: dict[str, object]) -> list[str]:
    """Fields of the batch whose NaN must be heard: the inputs that the formula names."""
    fields = {"advantages", "old_logprobs", "ref_logprobs", "returns", "teacher_logits"}
    sides = any(name.startswith("ref_") or name == "sequence_ref_logprobs" for name in subject.needs)
    named = {name for name in fields if name in subject.needs} | ({"ref_logprobs"} if sides else set())
    return sorted(name for name in named if name in fields_of(sample.batch))


def _poison(sample: Sample, name: str, row: int, column: int) -> Sample:
    value = (sample.output if name == "output" else fields_of(sample.batch)[name]).clone()
    if value.dim() == 1:
        value[row] = torch.nan
    else:
        value[row, column] = torch.nan
    return sample.change(value) if name == "output" else sample.change(**{name: value})


def edges(subject: Subject, sample: Sample) -> Measured:
    """An answer that trains nothing adds nothing; no answers at all are 0; no NaN anywhere."""
    if subject.declaration.cross_sample:
        return Measured(0.0)  # a statistic over answers may count one that trains nothing
    whole = evaluate(subject, sample)
    unit = sample.batch.unit
    padded = _with_silent_rows(sample, unit)
    more = evaluate(subject, padded)
    rows = len(sample.batch.lengths)
    added = {n: g[rows:] for n, g in more.gradient.items()}
    silent = worst(
        Measured(
            gap(more.value, whole.value), "an answer without trained tokens changes the loss: 0/0, or it is counted"
        ),
        *(
            Measured(gap(g, torch.zeros_like(g)), "an answer without trained tokens gets a gradient")
            for g in added.values()
        ),
        *(
            Measured(gap(more.gradient[n][:rows], g), "an answer without trained tokens changes the others' gradient")
            for n, g in whole.gradient.items()
        ),
    )
    none = evaluate(subject, sample.take([]))
    return worst(silent, Measured(gap(none.value, torch.zeros_like(none.value)), "the loss of no answers is not 0"))


def _with_silent_rows(sample: Sample, unit: int) -> Sample:
    """The sample with one more answer (or pair), none of whose tokens is trained."""
    more = {n: torch.cat([v, v[:unit]]) for n, v in fields_of(sample.batch).items() if v.dim()}
    rows = len(sample.batch.lengths)
    more["weights"] = more["weights"].clone()
    more["weights"][rows:] = 0
    more["prompt_of"] = torch.arange(rows + unit)
    batch = replace(sample.batch, prompts=sample.batch.prompts + sample.batch.prompts[:unit], **more)
    return Sample(
        torch.cat([sample.output, sample.output[:unit]]), batch, f"{sample.note}, and one that trains nothing"
    )


CLAUSES = (
    Clause(name="terms", row="1", bound=0, check=terms, means="unreduced terms, finite, one per token, sequence or pair",
           cause="returns something else than terms", catches="trl #6668"),
    Clause(name="gradient", row="1", bound=0, check=alive, means="the gradient is finite and not 0",
           cause="the loss is detached", catches="open-instruct #530, SkyRL #1353, open-instruct #1269"),
    Clause(name="metrics", row="32", bound=0, check=metrics, samples=few(4), means="metrics have the terms' shape, no gradient, and no padding in them",
           cause="a metric is averaged or masked on its own", catches="verl #4711, trl #6380, LlamaFactory #10830"),
    Clause(name="pure", row="21", bound=0, check=pure, samples=few(5), means="inputs stay as they are; the same input gives the same bits",
           cause="an in-place operation", catches="slime #2114"),
    Clause(name="loud", row="20", bound=0, check=loud, samples=few(5), means="NaN at a trained token is never passed over in silence",
           cause="nan_to_num or a NaN-aware mean", catches="trl #6668"),
    Clause(name="edges", row="19", bound=1e-12, check=edges, families=tuple(f for f in LOSSES if f != "reward_model"),
           means="empty answers add nothing, no answers give 0, one token works",
           cause="divides by a count that can be 0", catches="Automodel #3796, trl #1033, #5339, Megatron #1764, open-instruct #1685"),
)  # fmt: skip
