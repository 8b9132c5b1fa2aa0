"""Clauses on terms that are not yet averaged: what a token's term may depend on, and what its gradient may not lose."""

from __future__ import annotations

import torch
from torch import Tensor

from corollary.losses.bind import inputs_of
from corollary.theory.contract.evaluate import Measured, evaluate, gap, loss_of, raw, worst
from corollary.theory.contract.samples import Sample
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only
from corollary.types import Terms


def unreduced(subject: Subject, at: Sample) -> Measured:
    """One trained token less in an answer leaves the terms of those before it as they are."""
    got = raw(subject, inputs_of(at.output, at.batch))
    loss = got.loss if isinstance(got, Terms) else got
    if loss.dim() < 2:
        return Measured(0.0)  # a value per answer is a mean or a sum of its own
    trained = at.batch.trained
    last = trained & (trained.flip(1).long().cumsum(1).flip(1) == 1) & (trained.sum(1, keepdim=True) > 1)
    fewer = at.change(weights=at.batch.weights.where(~last, 0.0))
    seen = fewer.batch.trained
    return Measured(
        gap(loss_of(subject, fewer)[seen], loss_of(subject, at)[seen]),
        "a token's term changes with the number of its answer's tokens: it is divided by the length here and averaged again by "
        'the weights; take `lengths` if longer answers are to weigh less, or declare cross_sample="batch"',
        fewer,
    )


def pulls(subject: Subject, at: Sample) -> Measured:
    """However far the policy is from the reference, a gradient is left."""
    none = {"advantages": torch.zeros_like(at.output), "old_logprobs": at.output, "sampler_logprobs": at.output}
    near = at.change(ref_logprobs=at.output - 0.5, **none)
    if not evaluate(subject, near).norm:
        return Measured(0.0)  # the reference acts through the advantages
    found = []
    for far in (6.0, -6.0):
        off = near.change(ref_logprobs=at.output - far)
        dead = int((evaluate(subject, off).main[off.batch.trained] == 0).sum())
        cause = f"no gradient at a log-ratio of {far:g}: the penalty is clamped, and dies where it is needed; declare tail=False if meant"
        found.append(Measured(float(dead), cause, off))
    return worst(*found)


def bonus(subject: Subject, at: Sample) -> Measured:
    """With no advantage left, a step does not lower the entropy."""
    off = at.change(advantages=torch.zeros_like(at.output)) if subject.family == "policy" else at
    gradient: Tensor = evaluate(subject, off).gradient["entropy"]
    return Measured(
        max(0.0, gradient.max().item()),
        "a step lowers the entropy: the bonus has the sign of a penalty; declare prefers=False if meant",
        off,
    )


CLAUSES = (
    Clause(name="unreduced", row="24", bound=1e-12, check=unreduced, families=("likelihood", "distillation", "penalty"), samples=few(7),
           skip=only(lambda s: s.declaration.cross_sample is None and "lengths" not in s.needs, "takes lengths, or declared cross_sample"),
           means="a token's term is its own, however long its answer", cause="divided twice", catches="verl #4711, #7200, mlx-lm #1413"),
    Clause(name="tail", row="18", bound=0, check=pulls, families=("penalty", "policy"), samples=few(5),
           skip=only(lambda s: "ref_logprobs" in s.needs and s.declaration.tail and s.declaration.cross_sample is None, "takes no reference, or declared tail=False or cross_sample"),
           means="far from the reference a gradient is left", cause="a clamp", catches="NeMo RL kl_output_clamp_value, verl"),
    Clause(name="entropy", row="14", bound=0, check=bonus, families=("policy", "likelihood"), samples=few(5),
           skip=only(lambda s: "entropy" in s.needs and s.declaration.prefers, "takes no entropy, or declared prefers=False"),
           means="the entropy is raised, or left alone", cause="a sign"),
)  # fmt: skip
