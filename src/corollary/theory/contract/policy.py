"""Clauses on policy-gradient losses and KL penalties: what must hold at ratio 1, and on either side of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corollary.ops.reduce import weighted_sum
from corollary.theory.contract.evaluate import Measured, evaluate, gap, loss_of, on_policy, terms_of, worst
from corollary.theory.contract.samples import Sample, samples
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only
from corollary.types import PolicyBatch


def first_step(subject: Subject, at: Sample) -> Measured:
    """At ratio 1 and at the reference the gradient is -A·w: the policy gradient, once and only once normalised."""
    same = on_policy(subject, at)
    got, expected = evaluate(subject, same).main, -same.batch.advantages * same.batch.weights  # type: ignore[attr-defined]
    seen = same.batch.trained
    if subject.declaration.on_policy == "direction":
        wrong = int(((got.sign() != expected.sign()) & seen).sum())
        return Measured(
            float(wrong), "at ratio 1 a token's gradient points the wrong way: a sign, or a missing stop-gradient", same
        )
    ratio = (got[seen] / expected[seen]).median().item()
    if not math.isfinite(ratio):
        cause = "at ratio 1 the gradient is not finite"
    elif abs(ratio + 1) < 1e-6:
        cause = "the sign is turned: the loss lowers what it should raise"
    elif abs(ratio - 1) > 1e-6 and gap(got, ratio * expected) < 1e-9:
        cause = f'at ratio 1 the gradient is {ratio:.4g} times -A·w: normalised twice, or a factor (temperature?) on one side; declare on_policy="direction" if tokens are weighed on purpose'
    else:
        cause = 'at ratio 1 the gradient is not -A·w: the ratio is not 1 there (temperature on one side, another reference), tokens are weighed unequally, or a term does not vanish; declare on_policy="direction" if meant'
    return Measured(gap(got[seen], expected[seen], scale=max(1e-3, expected.abs().max().item())), cause, same)


def first_value(subject: Subject, at: Sample) -> Measured:
    """At ratio 1 the value is -A."""
    same = on_policy(subject, at)
    seen = same.batch.trained
    return Measured(gap(loss_of(subject, same)[seen], -same.batch.advantages[seen]), "", same)  # type: ignore[attr-defined]


def no_advantage(subject: Subject, at: Sample) -> Measured:
    """Advantage 0 gives exactly no gradient, off-policy too."""
    none = at.change(advantages=torch.zeros_like(at.output), ref_logprobs=at.output)
    if none.batch.entropy is not None:
        none = none.change(entropy=torch.zeros_like(none.batch.entropy))
    return Measured(evaluate(subject, none).main.abs().max().item(), "", none)


def scales(subject: Subject, at: Sample) -> Measured:
    """c times the advantages give c times the loss."""
    base = at.change(ref_logprobs=at.output)
    if base.batch.entropy is not None:
        base = base.change(entropy=torch.zeros_like(base.batch.entropy))
    whole, seen = loss_of(subject, base), base.batch.trained
    found = [
        gap(loss_of(subject, base.change(advantages=c * base.batch.advantages))[seen], c * whole[seen])  # type: ignore[attr-defined]
        for c in (2.0, 0.5)
    ]
    return Measured(max(found), "", base)


def corrective(subject: Subject, at: Sample) -> Measured:
    """Where the policy has moved the wrong way, the gradient pulls it back: no clip may cut that."""
    found = []
    at = at.change(at.output - 3.5)  # so that the old policy's log-probabilities stay below 0
    for sign, ratio in ((1.0, 0.4), (-1.0, 1.9), (1.0, 0.05)):
        old = at.output - math.log(ratio)
        off = at.change(
            advantages=torch.full_like(at.output, sign), old_logprobs=old, sampler_logprobs=old, ref_logprobs=at.output
        )
        got = evaluate(subject, off).main[off.batch.trained]
        wrong = int((got * sign >= 0).sum())
        what = "a good answer that became less likely" if sign > 0 else "a bad answer that became likelier"
        found.append(
            Measured(
                float(wrong),
                f"no gradient pulls back {what} (ratio {ratio:g}): min and max are swapped, or the clip has no min",
                off,
            )
        )
    return worst(*found)


def sided(subject: Subject, at: Sample) -> Measured:
    """A bound named low acts below ratio 1 and one named high above it; a parameter named positive or negative on that advantage."""
    found = [Measured(0.0)]
    at = at.change(at.output - 3.5)  # so that the old policy's log-probabilities stay below 0
    for name, value in subject.formula.parameters.items():
        side = next((words for words in _SIDES if words[0] in name.split("_")), None)
        if side is None or not isinstance(value, int | float) or not (side[2] or name.startswith(_BOUNDS)):
            continue
        _, ratio, sign = side
        old = at.output - math.log(ratio)
        off = at.change(
            advantages=torch.full_like(at.output, sign) if sign else at.batch.advantages,  # type: ignore[attr-defined]
            old_logprobs=old,
            sampler_logprobs=old,
            ref_logprobs=at.output,
        )
        for other in (value * 1.5, value * 0.5):
            try:
                changed = subject.with_parameters(**{name: other})
            except ValueError:
                continue
            a, b = evaluate(subject, off), evaluate(changed, off)
            found.append(
                Measured(
                    gap(a.main, b.main),
                    f"{name} changes the gradient on the other side, where it must not act (ratio {ratio:g}): the bounds are swapped",
                    off,
                )
            )
    return worst(*found)


_BOUNDS = ("clip", "log_clip", "eps", "ratio", "delta")
_SIDES = (
    ("low", 1.3, 0.0),
    ("high", 0.7, 0.0),
    ("pos", 1.3, -1.0),
    ("positive", 1.3, -1.0),
    ("neg", 1.3, 1.0),
    ("negative", 1.3, 1.0),
)
"""(word in a parameter's name, ratio at which it must not act, sign of the advantage there; 0: any)"""


def off_policy(subject: Subject, at: Sample) -> Measured:
    """Another old policy gives another gradient, near the policy or far from it."""
    for seed_at in samples(subject):
        here = evaluate(subject, seed_at.change(old_logprobs=seed_at.output)).main
        for away in (-0.15, 0.8, -0.8):
            if gap(evaluate(subject, seed_at.change(old_logprobs=seed_at.output + away)).main, here) > 1e-9:
                return Measured(0.0)
    return Measured(1.0, "the gradient does not depend on the old policy: the ratio is always 1")


def pessimistic(subject: Subject, at: Sample) -> Measured:
    """-L ≤ r·A."""
    seen = at.batch.trained
    ratio = (at.output - at.batch.old_logprobs).exp()  # type: ignore[attr-defined]
    excess = -loss_of(subject, at) - ratio * at.batch.advantages  # type: ignore[attr-defined]
    return Measured(max(0.0, excess[seen].max().item()), "", at)


def at_reference(subject: Subject, at: Sample) -> Measured:
    """At π = ref an estimate of KL is 0; its gradient is 0 too, or of mean 0 under the policy (k1)."""
    same = on_policy(subject, at)
    return Measured(
        gap(loss_of(subject, same)[same.batch.trained], torch.zeros(int(same.batch.trained.sum()))), "", same
    )


PI = torch.tensor([0.4, 0.25, 0.15, 0.12, 0.08], dtype=torch.double)
REF = torch.tensor([0.2, 0.3, 0.1, 0.15, 0.25], dtype=torch.double)
OLD = torch.tensor([0.3, 0.2, 0.25, 0.15, 0.1], dtype=torch.double)


def estimator(subject: Subject, at: Sample) -> Measured:
    """By enumeration of one state: E of the estimate, and of its gradient, against KL(π‖ref) and KL(ref‖π).

    A formula that takes the old policy corrects for tokens drawn from it, so it is held to the same off-policy.
    """
    x = PI.log() - REF.log()
    kl = (PI * x).sum()
    reverse, forward = PI * (x - kl), PI - REF
    found = [Measured(0.0)]
    for old in (PI, OLD) if "old_logprobs" in subject.needs else (PI,):
        value, gradient = expected(subject, PI, REF, old)
        estimates = abs(value - kl.item()) < 1e-9
        descends = min(gap(gradient, g) for g in (reverse, forward, reverse + forward)) < 1e-9  # the sum is Jeffreys'
        found.append(
            Measured(
                float(not (estimates or descends)),
                f"over tokens drawn from {'the policy' if old is PI else 'the old policy'} its mean is {value:.6g} and not KL(π‖ref) = "
                f"{kl.item():.6g}, and its gradient is neither that of KL(π‖ref) nor of KL(ref‖π): a sign, an exponent, or "
                "the arguments swapped",
            )
        )
    return worst(*found)


def expected(subject: Subject, policy: Tensor, reference: Tensor, old: Tensor) -> tuple[float, Tensor]:
    """(E of the value, E of the gradient to the logits) of a penalty over one token drawn from the old policy."""
    logits = policy.log().requires_grad_()
    logprobs = logits.log_softmax(-1)[:, None]  # every token once: [V, 1]
    n = len(policy)
    made = PolicyBatch(
        prompts=((1,),) * n, prompt_of=torch.arange(n), targets=torch.arange(n)[:, None], lengths=torch.ones(n).long(),
        weights=old[:, None].clone(), advantages=torch.zeros(n, 1, dtype=torch.double), old_logprobs=old.log()[:, None],
        ref_logprobs=reference.log()[:, None], sampler_logprobs=old.log()[:, None],
    )  # fmt: skip
    value = weighted_sum(terms_of(subject, Sample(logprobs, made)).loss, made.weights)
    return value.item(), torch.autograd.grad(value, logits)[0]


def bonus(subject: Subject, at: Sample) -> Measured:
    """A step raises the entropy."""
    return Measured(
        float((evaluate(subject, at).main[at.batch.trained] >= 0).sum()),
        "a step lowers the entropy; declare prefers=False if meant",
        at,
    )


def _ratio(subject: Subject) -> str:
    return "" if subject.takes("old_logprobs") else "takes no old log-probabilities"


CLAUSES = (
    Clause(name="on-policy", row="12, 24", bound=1e-9, check=first_step, families=("policy",),
           skip=only(lambda s: s.declaration.on_policy is not None, "declared on_policy=None"),
           means="at ratio 1 the gradient is the policy gradient, -A·w", cause="the ratio is not 1, or it is normalised twice",
           catches="trl #3029, #4159, miles #68, trlx #508, unsloth-zoo #832, AReaL #581"),
    Clause(name="on-policy value", row="24", bound=1e-12, check=first_value, families=("policy",),
           skip=only(lambda s: s.declaration.on_policy_value, "not declared"), means="at ratio 1 the value is -A",
           cause="a constant factor, or a term that does not vanish"),
    Clause(name="zero advantage", row="11", bound=0, check=no_advantage, families=("policy",), samples=few(6),
           skip=only(lambda s: s.declaration.homogeneous, "declared homogeneous=False"),
           means="no advantage, no gradient", cause="a term that does not multiply the advantage; declare homogeneous=False if meant", catches="NeMo RL #4158, verl #6348"),
    Clause(name="homogeneous", row="13", bound=1e-12, check=scales, families=("policy",), samples=few(6),
           skip=only(lambda s: s.declaration.homogeneous, "declared homogeneous=False"),
           means="twice the advantages, twice the loss", cause="advantages are normalised or clipped inside the loss; declare homogeneous=False if meant"),
    Clause(name="corrective", row="14, 17", bound=0, check=corrective, families=("policy",), samples=few(6),
           skip=only(lambda s: s.declaration.tail and s.declaration.on_policy is not None and s.takes("old_logprobs"), "declared tail=False, or takes no old log-probabilities"),
           means="where the policy went the wrong way, a gradient pulls it back", cause="min and max are swapped",
           catches="open-instruct #1269"),
    Clause(name="sides", row="23", bound=1e-12, check=sided, families=("policy",), samples=few(6), skip=_ratio,
           means="clip_low acts below ratio 1, clip_high above", cause="the bounds are swapped"),
    Clause(name="off-policy", row="16", bound=0, check=off_policy, families=("policy",), samples=few(1),
           skip=only(lambda s: s.declaration.off_policy and "old_logprobs" in s.needs, "does not take old log-probabilities, or declared off_policy=False"),
           means="the old policy counts", cause="the ratio is always 1", catches="tensorforce #312, trl #3084"),
    Clause(name="pessimistic", row="17", bound=1e-12, check=pessimistic, families=("policy",),
           skip=only(lambda s: s.declaration.pessimistic, "not declared"), means="never more optimistic than r·A", cause="min and max are swapped"),
    Clause(name="at reference", row="25", bound=1e-12, check=at_reference, families=("penalty",),
           skip=only(lambda s: s.takes("ref_logprobs"), "takes no reference"), means="no distance, no penalty", cause="an offset, or another reference",
           catches="trl #3169"),
    Clause(name="estimator", row="32", bound=0, check=estimator, families=("penalty",), samples=few(1),
           skip=only(lambda s: s.takes("ref_logprobs"), "takes no reference"), means="its mean is KL(π‖ref), or its gradient is that of a KL",
           cause="a sign or an exponent", catches="verl #2953, trl #2575, open-instruct #534, NeMo RL js_divergence_error"),
    Clause(name="entropy", row="14", bound=0, check=bonus, families=("penalty",),
           skip=only(lambda s: s.needs == ("entropy",) and s.declaration.prefers, "takes more than the entropy"),
           means="a step raises the entropy", cause="a sign"),
)  # fmt: skip
