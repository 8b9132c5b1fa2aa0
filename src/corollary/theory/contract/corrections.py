"""Clauses on policy-gradient losses near ratio 1: how the old policy, the sampler, the reference and each advantage count."""

from __future__ import annotations

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, evaluate, gap, on_policy, worst
from corollary.theory.contract.policy import PI, REF, expected
from corollary.theory.contract.samples import Draw, Sample
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only

_NEAR = 1e-5  # a log-ratio within any clip


def grows(subject: Subject, at: Sample) -> Measured:
    """Near ratio 1 the gradient grows as the ratio does (importance sampling), or does not change (no correction)."""
    same = on_policy(subject, at)

    def pull(step: float) -> Tensor:
        """The gradient where every ratio is e^step, less what is there without an advantage."""
        moved = same.change(old_logprobs=same.output - step, sampler_logprobs=same.output - step)
        got = evaluate(subject, moved).main
        if subject.declaration.homogeneous:
            return got
        return got - evaluate(subject, moved.change(advantages=torch.zeros_like(same.output))).main

    here, up, down = pull(0.0), pull(_NEAR), pull(-_NEAR)
    seen = same.batch.trained & (here != 0) & (up != 0) & (down != 0)  # cut on one side: a clip of no width
    power = ((up - down) / (2 * _NEAR * here))[seen]
    tokens = same.batch.trained.sum(1, keepdim=True).expand_as(seen)[seen]  # a product over the answer
    off = torch.stack([power.abs(), (power - 1).abs(), (power - tokens).abs()]).amin(0)
    worst_ = power[off.argmax()].item() if off.numel() else 1.0
    return Measured(
        off.max().item() if off.numel() else 0.0,
        f"near ratio 1 the gradient grows like the ratio to the power of {worst_:.4g}, and not of 1 (or 0): a temperature or a "
        "factor in the exponent; declare tail=False for a kernel of its own shape",
        same,
    )


def trusts(subject: Subject, at: Sample) -> Measured:
    """The likelier a token was for the sampler, the less it counts: π/π_sampler, and not the other way round."""
    same = on_policy(subject, at)
    here = evaluate(subject, same).main.abs()
    found = []
    for shift in (0.05, -0.05):
        off = same.change(sampler_logprobs=same.output + shift)
        got = evaluate(subject, off).main.abs()
        wrong = (got > here * (1 + 1e-9)) if shift > 0 else (got < here * (1 - 1e-9)) & (got != 0)
        cause = "what the sampler liked counts more: the correction is turned over"
        found.append(Measured(float((wrong & same.batch.trained).sum()), cause, off))
    return worst(*found)


def own_advantage(subject: Subject, at: Sample) -> Measured:
    """Each token's advantage counts: for its own token, or as one of its answer's mean."""
    same, draw = on_policy(subject, at), Draw(11)
    trained, weights = same.batch.trained, same.batch.weights
    varied = draw.normal(*trained.shape)
    off = same.change(advantages=varied)
    got = evaluate(subject, off).main
    if subject.declaration.on_policy == "exact":
        mean = varied.where(trained, 0.0).sum(1, keepdim=True) / trained.sum(1, keepdim=True).clamp(min=1)
        own, whole = gap(got[trained], (-varied * weights)[trained]), gap(got[trained], (-mean * weights)[trained])
        cause = "where the tokens of an answer have different advantages, the gradient follows neither each token's own nor their mean"
        return Measured(min(own, whole), cause, off)
    lost = 0
    for column in range(trained.shape[1]):
        changed = varied.clone()
        changed[:, column] += 0.7
        moved = (evaluate(subject, off.change(advantages=changed)).main - got).abs().amax(1)
        lost += int((trained[:, column] & (moved == 0)).sum())
    return Measured(float(lost), "a token's advantage counts for nothing", off)


def towards_reference(subject: Subject, at: Sample) -> Measured:
    """Where there is no advantage, what is left is a penalty: its mean gradient is that of KL(π‖ref), or of KL(ref‖π)."""
    value, gradient = expected(subject, PI, REF, PI)
    x = PI.log() - REF.log()
    reverse, forward = PI * (x - (PI * x).sum()), PI - REF
    if value == 0 and gradient.abs().max() == 0:
        return Measured(0.0)  # the reference acts through the advantage
    if gradient.abs().max() < 1e-12:
        return Measured(
            1.0, "the reference's term has no gradient on average, as k1 in a loss: it costs and does not pull"
        )
    coefficients = [(gradient @ kl / (kl @ kl)).item() for kl in (reverse, forward)]
    off = min(
        gap(gradient, c * kl) / abs(c) if c else 1.0 for c, kl in zip(coefficients, (reverse, forward), strict=True)
    )
    if off < 1e-9 and min(coefficients) < 0:
        return Measured(1.0, "the policy is pushed away from the reference: the penalty's sign is turned")
    return Measured(
        off,
        "the reference's term has the mean gradient of no KL: an exponent, or the arguments turned; declare estimates=… "
        "if another distance is meant",
    )


def _exact(subject: Subject) -> bool:
    said = subject.declaration
    exact = said.on_policy == "exact" and said.off_policy and said.tail and said.cross_sample is None
    return exact and subject.takes("old_logprobs")


CLAUSES = (
    Clause(name="correction", row="16", bound=1e-3, check=grows, families=("policy",), samples=few(6),
           skip=only(_exact, "takes no old log-probabilities, or declared on_policy, off_policy, tail or cross_sample"),
           means="near ratio 1 the gradient grows as the ratio", cause="a factor in the exponent", catches="trl #4159, miles #1345"),
    Clause(name="sampler", row="16", bound=0, check=trusts, families=("policy",), samples=few(5),
           skip=only(lambda s: "sampler_logprobs" in s.needs, "takes no sampler's log-probabilities"),
           means="π/π_sampler, never turned over", cause="the correction is turned over", catches="trl #4530, #6789"),
    Clause(name="advantages", row="12", bound=1e-9, check=own_advantage, families=("policy",), samples=few(6),
           skip=only(lambda s: s.declaration.on_policy is not None and s.declaration.cross_sample is None, "declared on_policy=None or cross_sample"),
           means="each token's advantage counts", cause="one token's advantage is used for others", catches="SkyRL #1507"),
    Clause(name="penalty", row="32", bound=1e-9, check=towards_reference, families=("policy",), samples=few(1),
           skip=only(lambda s: "ref_logprobs" in s.needs and "entropy" not in s.needs and s.declaration.estimates is None and s.declaration.cross_sample is None,
                     "takes no reference, takes the entropy too, or declared estimates or cross_sample"),
           means="the reference pulls as a KL does", cause="another gradient than a KL's", catches="open-instruct #534, verl #2953, SkyRL #1340"),
)  # fmt: skip
