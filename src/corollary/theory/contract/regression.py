"""Clauses on losses that pull towards a target: likelihood, value, distillation."""

from __future__ import annotations

import torch

from corollary.theory.contract.evaluate import Measured, evaluate, gap, loss_of, worst
from corollary.theory.contract.samples import Sample, fields_of
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only


def raises_target(subject: Subject, at: Sample) -> Measured:
    """A step makes every trained token likelier."""
    got, seen = evaluate(subject, at).main, at.batch.trained
    if got.dim() == 3:
        target = at.batch.targets[..., None]
        got = got.gather(-1, target)[..., 0]
        seen = seen & (at.output.softmax(-1).gather(-1, target)[..., 0] < 0.5)  # a smoothed target has an optimum
    return Measured(
        float((got[seen] >= 0).sum()),
        "a target token is not made likelier: a sign, a shifted target, or a missing stop-gradient",
        at,
    )


def own_token(subject: Subject, at: Sample) -> Measured:
    """A token's gradient depends on its own log-probability, and on the weights as they are: -w·g(logπ)."""
    got, weights = evaluate(subject, at).main, at.batch.weights
    moved = at.output.clone()
    row, column = (int(i) for i in at.batch.trained.nonzero()[0])
    moved[row, column] -= 0.4
    other = evaluate(subject, at.change(moved)).main
    elsewhere = at.batch.trained.clone()
    elsewhere[row, column] = False
    return worst(
        Measured(
            gap(got[elsewhere], other[elsewhere]),
            "one token's gradient changes with another token's log-probability",
            at,
        ),
        Measured(float((got[weights != 0] == 0).sum()), "a weighed token has no gradient", at),
    )


def level(subject: Subject, at: Sample) -> Measured:
    """Where every token of the vocabulary is equally likely, the loss is log V: the target's distribution sums to 1."""
    flat = torch.full_like(at.output, -1.3)
    got = loss_of(subject, at.change(flat, mean_logprobs=flat.clone()))[at.batch.trained]
    return Measured(
        gap(got, torch.full_like(got, 1.3)), "the shares of the target and of the other tokens do not sum to 1", at
    )


def mirrored(subject: Subject, at: Sample) -> Measured:
    """Values and returns reflected in the old values give the same loss: the clip acts on both sides alike."""
    batch = at.batch
    old, returns = batch.old_values, batch.returns  # type: ignore[attr-defined]
    turned = at.change(2 * old - at.output, returns=2 * old - returns)
    return Measured(
        gap(loss_of(subject, turned)[batch.trained], loss_of(subject, at)[batch.trained]),
        "values too high are treated otherwise than values too low: one side of the clip",
        at,
    )


def vocabulary(subject: Subject, at: Sample) -> Measured:
    """The same number added to all logits of a token changes nothing; the gradient sums to 0 over the vocabulary."""
    a, b = evaluate(subject, at), evaluate(subject, at.change(at.output + 3.0))
    total = a.main.sum(-1)
    return worst(
        Measured(
            gap(b.value, a.value), "adding a constant to the logits changes the loss: they are not normalised", at
        ),
        Measured(gap(total, torch.zeros_like(total)), "the gradient does not sum to 0 over the vocabulary", at),
    )


def uniform(subject: Subject, at: Sample) -> Measured:
    """At uniform logits the target's logit has the one negative gradient."""
    got = evaluate(subject, at.change(torch.zeros_like(at.output))).main
    target = torch.zeros_like(got, dtype=torch.bool).scatter(-1, at.batch.targets[..., None], True)
    seen = at.batch.trained[..., None]
    wrong = ((got >= 0) & target & seen).sum() + ((got < 0) & ~target & seen).sum()
    return Measured(float(wrong), "another token than the target is made likelier: the targets are shifted", at)


def at_target(subject: Subject, at: Sample) -> Measured:
    """At V = R there is no loss and no gradient; near it the gradient is V - R."""
    returns = at.batch.returns  # type: ignore[attr-defined]
    home = evaluate(subject, at.change(returns.clone(), old_values=returns.clone()))
    near = returns + 1e-3
    got = evaluate(subject, at.change(near, old_values=near.clone())).main
    expected = 1e-3 * subject.declaration.scale * at.batch.weights
    ratio = (got / expected)[at.batch.trained].median().item()
    hint = "; the ½ is missing" if abs(ratio - 2) < 1e-3 else ""
    return worst(
        Measured(gap(home.value, torch.zeros_like(home.value)), "at V = R there is a loss", at),
        Measured(gap(home.main, torch.zeros_like(home.main)), "at V = R there is a gradient", at),
        Measured(
            gap(got / expected.abs().max(), expected / expected.abs().max()) / 1e6,
            f"near the target the gradient is {ratio:.4g}·(V - R){hint}; declare scale={ratio:.4g} if meant",
            at,
        ),
    )


def towards(subject: Subject, at: Sample) -> Measured:
    """Unclipped, a step brings every value nearer to its return; a clip never lowers the loss below that."""
    batch = at.batch
    free = at.change(old_values=at.output.clone())
    gradient = evaluate(subject, free).main
    error = at.output - batch.returns  # type: ignore[attr-defined]
    wrong = ((gradient * error <= 0) & batch.trained & (error != 0)).sum()
    away = ((evaluate(subject, at).main * error < 0) & batch.trained).sum()
    drop = loss_of(subject, free) - loss_of(subject, at)
    return worst(
        Measured(float(wrong), "a step moves a value away from its return", free),
        Measured(float(away), "with a clip, a step moves a value away from its return", at),
        Measured(max(0.0, drop[batch.trained].max().item()), "clipping lowers the loss: min and max are swapped", at),
    )


def agreement(subject: Subject, at: Sample) -> Measured:
    """Where the student is the teacher, nothing pulls, and the distance is 0; elsewhere it is positive."""
    teacher = fields_of(at.batch)["teacher_logits"]
    same = evaluate(subject, at.change(teacher.clone()))
    away = loss_of(subject, at)[at.batch.trained]
    return worst(
        Measured(
            gap(same.main, torch.zeros_like(same.main)) * 1e3,
            "the teacher's own distribution is not a stationary point: temperature on one side, or a wrong tail",
            at,
        ),
        Measured(
            gap(same.value, torch.zeros_like(same.value)) * 1e3, "the distance of equal distributions is not 0", at
        ),
        Measured(max(0.0, -away.min().item()), "a distance below 0", at),
    )


def nearer(subject: Subject, at: Sample) -> Measured:
    """A small step against the gradient brings the student nearer to the teacher in either KL."""
    teacher = fields_of(at.batch)["teacher_logits"].log_softmax(-1)
    gradient = evaluate(subject, at).main
    seen = at.batch.trained

    def distance(logits: torch.Tensor) -> torch.Tensor:
        student = logits.log_softmax(-1)
        return (((student.exp() - teacher.exp()) * (student - teacher)).sum(-1))[seen].sum()

    step = 1e-4 / max(1e-12, gradient.abs().max().item())
    return Measured(
        float(distance(at.output - step * gradient) >= distance(at.output)),
        "a step leads away from the teacher: a sign, or teacher and student swapped in the gradient",
        at,
    )


def _logits(subject: Subject) -> bool:
    return subject.takes("logits") and not subject.takes("logprobs")


CLAUSES = (
    Clause(name="raises target", row="27", bound=0, check=raises_target, families=("likelihood",),
           means="every trained token becomes likelier", cause="a sign, or a shift", catches="transformers #47394, #37830"),
    Clause(name="own token", row="27", bound=1e-12, check=own_token, families=("likelihood",), samples=few(6),
           skip=only(lambda s: not _logits(s) and s.declaration.cross_sample is None, "on logits, or declared cross_sample"),
           means="a token's gradient is its own", cause="a shift, a roll or a mean inside", catches="verl #3287, transformers #46898"),
    Clause(name="vocabulary", row="27", bound=1e-12, check=vocabulary, families=("likelihood", "distillation"),
           skip=only(_logits, "takes log-probabilities"), means="only the softmax of the logits counts", cause="logits taken for log-probabilities"),
    Clause(name="uniform", row="27", bound=0, check=uniform, families=("likelihood",), skip=only(_logits, "takes log-probabilities"),
           means="the target's logit alone is raised", cause="shifted targets", catches="transformers #46784, #46901"),
    Clause(name="uniform", row="27", bound=1e-12, check=level, families=("likelihood",), means="at a uniform distribution the loss is log V",
           skip=only(lambda s: s.takes("mean_logprobs") and "batch" not in s.needs, "takes no mean over the vocabulary"), cause="shares that do not sum to 1"),
    Clause(name="mirror", row="14", bound=1e-12, check=mirrored, families=("value",), means="too high and too low are treated alike",
           skip=only(lambda s: "old_values" in s.needs, "takes no old values"), cause="one side of the clip"),
    Clause(name="target", row="2", bound=1e-9, check=at_target, families=("value",), means="no loss at V = R, and V - R near it",
           cause="a factor", catches="verl #2016"),
    Clause(name="towards", row="14, 17", bound=1e-12, check=towards, families=("value",), means="values move to their returns; the clip is pessimistic",
           cause="min and max are swapped"),
    Clause(name="agreement", row="25", bound=1e-9, check=agreement, families=("distillation",), skip=only(lambda s: s.takes("teacher_logits") and s.takes("logits") and "targets" not in s.needs, "takes the teacher's top k, sampled tokens or targets"),
           means="the teacher's distribution is the optimum", cause="one-sided temperature", catches="trl #3043, miles #1345"),
    Clause(name="nearer", row="14", bound=0, check=nearer, families=("distillation",), samples=few(6), skip=only(lambda s: s.takes("logits") and "targets" not in s.needs, "takes sampled tokens or targets"),
           means="a step leads towards the teacher", cause="a sign"),
)  # fmt: skip
