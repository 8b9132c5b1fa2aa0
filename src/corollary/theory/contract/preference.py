"""Clauses on losses of answers compared: pairs, labelled answers, reward models."""

from __future__ import annotations

from inspect import signature

import torch
from torch import Tensor

from corollary.theory.contract.evaluate import Measured, evaluate, gap, loss_of, worst
from corollary.theory.contract.samples import Sample, fields_of
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause, few, only


def _referenced(subject: Subject) -> bool:
    return subject.takes(
        "ref_chosen",
        "ref_rejected",
        "ref_logprobs",
        "ref_chosen_logprobs",
        "ref_rejected_logprobs",
        "sequence_ref_logprobs",
    )


def neutral(subject: Subject, at: Sample) -> Sample:
    """π = ref; without a reference, both answers equally likely per token."""
    if _referenced(subject):
        return at.change(ref_logprobs=at.output.clone())
    return at.change(torch.full_like(at.output, -0.7))


def rows(at: Sample) -> tuple[Tensor, Tensor]:
    """(1 on the chosen answers' trained tokens, likewise on the rejected ones')."""
    chosen = torch.zeros_like(at.batch.weights)
    chosen[0::2] = 1
    return chosen * at.batch.trained, (1 - chosen) * at.batch.trained


def prefers(subject: Subject, at: Sample) -> Measured:
    """From π = ref, a step against the gradient widens the margin of every pair; without a reference, wherever both are as likely."""
    levels = [neutral(subject, at)]
    if not _referenced(subject):
        levels += [at.change(torch.full_like(at.output, level)) for level in (-0.02, -3.0)]
    found = []
    for same in levels:
        gradient = evaluate(subject, same).main
        chosen, rejected = rows(same)
        slope = (gradient * chosen).sum(-1)[0::2] - (gradient * rejected).sum(-1)[1::2]
        cause = "a step does not raise the chosen answer over the rejected one: they are swapped, or the sign is"
        found.append(Measured(float((slope >= 0).sum()), cause, same))
    return worst(*found)


def unimodal(subject: Subject, at: Sample) -> Measured:
    """Along the margin the loss falls everywhere, or up to one finite margin ≥ 0 and rises from there."""
    same = neutral(subject, at)
    chosen, rejected = rows(same)
    count = at.batch.trained.sum(-1, keepdim=True).clamp(min=1)
    margins = torch.tensor([-60, -20, -8, -3, -1, 0, 1, 3, 8, 20, 60], dtype=torch.double)
    values = torch.stack(
        [loss_of(subject, same.change(same.output + m / 2 * (chosen - rejected) / count))[0::2, 0] for m in margins]
    )
    steps = values.diff(dim=0)  # [10, N]
    tolerance = 1e-9 * values.abs().amax(0).clamp(min=1)
    rising = steps > tolerance
    below_zero = rising[:5].any().item()
    turns = ((~rising[1:] & (steps[1:] < -tolerance)) & rising[:-1].cummax(0).values).any().item()
    if below_zero or turns:
        return Measured(
            1.0,
            "the loss rises with the margin where the rejected answer is still ahead, or falls again behind its optimum",
            same,
        )
    if subject.declaration.monotone and rising.any():
        return Measured(1.0, "declared monotone, and rises with the margin", same)
    return Measured(0.0)


def shift(subject: Subject, at: Sample) -> Measured:
    """π and ref of one answer moved together change nothing; a plain NLL of the chosen answer may stand beside it."""
    base, ref = loss_of(subject, at)[0::2, 0], fields_of(at.batch)["ref_logprobs"]
    found = [Measured(0.0)]
    for side, mask in zip(("chosen", "rejected"), rows(at), strict=True):
        moved = [
            loss_of(subject, at.change(at.output - d * mask, ref_logprobs=ref - d * mask))[0::2, 0] - base
            for d in (0.3, 0.6)
        ]
        linear = gap(moved[1], 2 * moved[0]) < 1e-9 and bool((moved[0] >= -1e-12).all())
        if side == "chosen" and linear:
            continue  # -α·logπ of the chosen answer
        found.append(Measured(max(gap(base + m, base) for m in moved),
                              f"moving policy and reference of the {side} answer together changes the loss: the reference is "
                              "ignored, scaled, or another answer's; declare shift_invariant=False if meant", at))  # fmt: skip
    return worst(*found)


def at_reference(subject: Subject, at: Sample) -> Measured:
    """At π = ref the loss is the declared number for every pair; it never depends on how likely the answers are."""
    same = neutral(subject, at)
    got = loss_of(subject, same)[0::2, 0]
    declared = subject.declaration.value_at_reference
    assert declared is not None
    if callable(declared):
        wanted = set(signature(declared).parameters)
        value = declared(**{n: v for n, v in subject.formula.parameters.items() if n in wanted})
    else:
        value = declared
    return Measured(gap(got, torch.full_like(got, value)), f"at π = ref it should be {value:.6g}", same)


def lengths(subject: Subject, at: Sample) -> Measured:
    """Every token said twice changes nothing."""

    def twice(value: Tensor) -> Tensor:
        return value.repeat_interleave(2, dim=1) if value.dim() > 1 else value

    parts = {n: twice(v) for n, v in fields_of(at.batch).items()}
    parts["lengths"] = 2 * at.batch.lengths
    got = loss_of(subject, at.change(twice(at.output), **parts))[:, 0]
    return Measured(
        gap(got, loss_of(subject, at)[:, 0]),
        "declared length_invariant, and longer answers of the same per-token numbers change it",
        at,
    )


def labels(subject: Subject, at: Sample) -> Measured:
    """A step makes desirable answers likelier and undesirable ones less likely."""
    same = at.change(ref_logprobs=at.output.clone())
    gradient = (evaluate(subject, same).main * same.batch.trained).sum(-1)
    wanted = torch.where(same.batch.desirable, -1.0, 1.0)  # type: ignore[attr-defined]
    return Measured(
        float((gradient * wanted <= 0).sum()),
        "a desirable answer is pushed down or an undesirable one up: the labels are swapped",
        same,
    )


def together(subject: Subject, at: Sample) -> Measured:
    """π and ref of an answer moved together change nothing."""
    moved = at.change(at.output - 0.4, ref_logprobs=at.batch.ref_logprobs - 0.4)  # type: ignore[attr-defined]
    seen = at.batch.trained
    return Measured(
        gap(loss_of(subject, moved)[seen], loss_of(subject, at)[seen]), "the reference is ignored or scaled", moved
    )


def bar(subject: Subject, at: Sample) -> Measured:
    """A higher baseline or shift asks more of desirable answers and excuses undesirable ones."""
    found = [Measured(0.0)]
    for name in ("baseline", "shift"):
        if name in subject.needs:
            more = at.change(**{name: fields_of(at.batch)[name] + 0.5})
            rise = loss_of(subject, more)[:, 0] - loss_of(subject, at)[:, 0]
            wanted = torch.where(at.batch.desirable, 1.0, -1.0)  # type: ignore[attr-defined]
            found.append(
                Measured(
                    float((rise * wanted <= 0).sum()),
                    f"a higher {name} excuses desirable answers: its sign is turned",
                    more,
                )
            )
    return worst(*found)


def ranks_pairs(subject: Subject, at: Sample) -> Measured:
    """A step raises the chosen answer's reward and lowers the rejected one's."""
    level = at.change(torch.zeros_like(at.output))
    gradient = evaluate(subject, level).main
    return Measured(
        float((gradient[0::2] >= 0).sum() + (gradient[1::2] <= 0).sum()),
        "chosen and rejected are swapped, or one of them gets no gradient",
        level,
    )


def centred(subject: Subject, at: Sample) -> Measured:
    """A centring term pulls the rewards of a pair towards a sum of 0."""
    level = at.change(at.output - at.output.view(-1, 2).mean(-1).repeat_interleave(2))
    least = loss_of(subject, level)
    rise = [(loss_of(subject, level.change(level.output + far)) - least).min().item() for far in (2.0, -2.0)]
    return Measured(
        max(0.0, 1e-12 - min(rise)), "the centring term lowers the loss of rewards that are off centre", level
    )


def only_differences(subject: Subject, at: Sample) -> Measured:
    """The same number added to all rewards changes nothing."""
    return Measured(gap(loss_of(subject, at.change(at.output + 3)), loss_of(subject, at)),
                    "depends on more than the rewards' difference; declare shift_invariant=False if meant", at)  # fmt: skip


def margins(subject: Subject, at: Sample) -> Measured:
    """A larger margin asks for more: it raises the loss; no margins are margins of 0."""
    if "margins" in type(subject.formula).optional:
        none, zero = at.change(margins=None), at.change(margins=torch.zeros_like(at.batch.margins))  # type: ignore[attr-defined]
        apart = gap(loss_of(subject, none), loss_of(subject, zero))
        if apart > 1e-12:
            return Measured(apart, "without margins the loss is not that of margins of 0", none)
    more = at.change(margins=at.batch.margins + 0.5)  # type: ignore[attr-defined]
    drop = loss_of(subject, at) - loss_of(subject, more)
    eased = (
        evaluate(subject, more).main[0::2] - evaluate(subject, at).main[0::2]
    )  # the pull on a chosen reward is negative
    return worst(
        Measured(max(0.0, drop.max().item()), "a larger margin lowers the loss: its sign is turned", at),
        Measured(
            max(0.0, eased.max().item() - 1e-12),
            "a larger margin weakens the pull: its sign is turned, and another term hides it",
            at,
        ),
    )


CLAUSES = (
    Clause(name="prefers", row="25", bound=0, check=prefers, families=("preference",), means="a step from π = ref widens the margin",
           skip=only(lambda s: s.declaration.prefers, "declared prefers=False"),
           cause="chosen and rejected are swapped", catches="tinker-cookbook #677"),
    Clause(name="margin", row="25", bound=0, check=unimodal, families=("preference",), samples=few(4),
           means="the loss falls with the margin, up to a finite optimum at most", cause="a sign inside",
           skip=only(lambda s: s.declaration.cross_sample is None and s.declaration.unimodal, "declared cross_sample or unimodal=False")),
    Clause(name="reference", row="25", bound=1e-9, check=shift, families=("preference",),
           skip=only(lambda s: _referenced(s) and s.declaration.shift_invariant, "takes no reference, or declared shift_invariant=False"),
           means="only log-ratios to the reference count", cause="the reference is ignored, scaled or swapped",
           catches="OpenRLHF #237, tinker-cookbook #172"),
    Clause(name="at reference", row="25", bound=1e-12, check=at_reference, families=("preference",),
           skip=only(lambda s: s.declaration.value_at_reference is not None and _referenced(s), "value_at_reference not declared"),
           means="the first step's loss is known beforehand", cause="a factor, or another reference"),
    Clause(name="length", row="26", bound=1e-12, check=lengths, families=("preference", "unpaired"),
           skip=only(lambda s: s.declaration.length_invariant, "length_invariant not declared"), means="per-token means: length does not count",
           cause="a sum where a mean is meant", catches="trl #1265, torchtune #1291, ms-swift #9925"),
    Clause(name="labels", row="25", bound=0, check=labels, families=("unpaired",), means="desirable answers become likelier",
           cause="labels swapped", catches="trl #1911"),
    Clause(name="reference", row="25", bound=1e-9, check=together, families=("unpaired",),
           skip=only(lambda s: _referenced(s), "takes no reference"), means="only log-ratios to the reference count", cause="the reference is ignored"),
    Clause(name="prefers", row="25", bound=0, check=ranks_pairs, families=("reward_model",), means="a step widens the margin", cause="chosen and rejected are swapped"),
    Clause(name="differences", row="25", bound=1e-9, check=only_differences, families=("reward_model",),
           skip=only(lambda s: s.declaration.shift_invariant and not any(s.formula.parameters.get(n) for n in ("centring", "centering")), "centred, or declared shift_invariant=False"),
           means="only differences of rewards count", cause="a reward used alone"),
    Clause(name="centred", row="25", bound=0, check=centred, families=("reward_model",),
           skip=only(lambda s: any(s.formula.parameters.get(n) for n in ("centring", "centering")), "no centring"),
           means="rewards off centre cost more", cause="the centring term's sign, or its sum"),
    Clause(name="baseline", row="31", bound=0, check=bar, families=("unpaired",),
           skip=only(lambda s: bool({"baseline", "shift"} & set(s.needs)), "takes no baseline"),
           means="a higher baseline asks more of desirable answers", cause="the baseline's sign", catches="trl #1911"),
    Clause(name="margins", row="25", bound=0, check=margins, families=("reward_model",),
           skip=only(lambda s: s.takes("margins"), "takes no margins"), means="a larger margin asks for more", cause="the margin's sign"),
)  # fmt: skip
