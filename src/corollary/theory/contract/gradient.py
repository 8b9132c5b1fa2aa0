"""Clauses on the gradient and on numbers: the derivative, constants, live inputs and parameters, precision, extremes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from corollary.config.variants import defined
from corollary.declare import bounds as limits
from corollary.losses.bind import inputs_of
from corollary.ops.reduce import weighted_sum
from corollary.theory.contract.evaluate import (
    Measured,
    Outcome,
    evaluate,
    gap,
    grads,
    leaves,
    loss_of,
    on_policy,
    raw,
    terms_of,
    with_leaves,
    worst,
)
from corollary.theory.contract.frozen import Recorder, Wide, differences
from corollary.theory.contract.samples import SHAPES, Sample, fields_of, sample
from corollary.theory.contract.subject import LOSSES, Subject
from corollary.theory.contract.table import Clause, few, only
from corollary.types import Terms

_MOST = 40  # entries compared with finite differences, of one sample


def derivative(subject: Subject, at: Sample) -> Measured:
    """Autograd against central differences; where a gradient is stopped on purpose, against those with it held still."""
    got = evaluate(subject, at)
    found = [_differs(subject, at, got, name) for name in got.gradient]
    closed = subject.declaration.gradient
    return worst(*found, *([_closed(subject, at)] if closed else []))


def _differs(subject: Subject, at: Sample, got: Outcome, name: str) -> Measured:
    point = leaves(subject, at)[name]
    trained = at.batch.trained
    if point.dim() > 2:
        trained = trained[..., None].expand(point.shape)
    where = (trained.flatten().nonzero()[:, 0] if point.dim() > 1 else torch.arange(len(point))).tolist()[:_MOST]

    def value(x: Tensor) -> Tensor:
        others = {n: v.detach().clone().requires_grad_() for n, v in leaves(subject, at).items()}
        moved = with_leaves(at, others | {name: x})
        return weighted_sum(terms_of(subject, moved).loss, at.batch.weights)

    expected = got.gradient[name].flatten()[where]
    plain, smooth = differences(lambda x: value(x.clone().requires_grad_()).detach(), point, where)
    off = gap(expected[smooth], plain[smooth])
    if off <= 1e-6 and smooth.any() and not subject.declaration.stop_gradient:
        return Measured(off)
    recorder = Recorder()
    with recorder:
        value(point.clone().requires_grad_())

    def held(x: Tensor) -> Tensor:
        with Recorder(recorder.tape):
            found = value(x.clone().requires_grad_())
        return found.detach()

    still, smooth = differences(held, point, where)
    apart = gap(expected[smooth], still[smooth])
    if not smooth.any():
        return Measured(0.0 if len(where) < 3 else float("inf"), "every entry stands at a kink: the value jumps")
    if subject.declaration.stop_gradient:
        return Measured(apart, "the gradient is not even the derivative with what is detached held still")
    if apart <= 1e-6 < off and name != "output" and not expected.any():
        return Measured(apart)  # an entropy that only weighs: what it weighs is checked at the output
    if apart <= 1e-6 < off:
        file, line = _stopped(subject, recorder.lines)
        return Measured(off, f"the gradient is not the derivative of the value: it is stopped at {file}:{line}; "
                             "if that is meant, declare stop_gradient=True")  # fmt: skip
    return Measured(
        off, "the gradient is not the derivative of the value: a custom backward, or a value computed on another path"
    )


def _stopped(subject: Subject, lines: list[tuple[str, int]]) -> tuple[str, int]:
    """The line that stopped the gradient, in the formula's own file where it is there."""
    own, _ = defined(type(subject.formula).target)
    return next((place for place in lines if place[0] == own), lines[0] if lines else ("", 0))


def _closed(subject: Subject, at: Sample) -> Measured:
    """Autograd of Σ terms over trained tokens against the declared closed form."""
    assert subject.declaration.gradient is not None
    inputs = inputs_of(at.output, at.batch)
    named = {n: inputs[n] for n in subject.needs if n in inputs}
    expected = subject.declaration.gradient(**named, **subject.formula.parameters)
    free = {"output": at.output.detach().clone().requires_grad_()}
    loss = terms_of(subject, with_leaves(at, free)).loss
    if expected.shape != at.output.shape:
        return Measured(
            float("inf"), f"the declared gradient has shape {list(expected.shape)}, the output {list(at.output.shape)}"
        )
    own = grads(loss.where(at.batch.trained, 0.0).sum(), free)["output"]
    seen = at.batch.trained if own.dim() == 2 else torch.ones_like(own, dtype=torch.bool)
    return Measured(gap(own[seen], expected[seen]), "autograd differs from the declared closed form")


def constants(subject: Subject, at: Sample) -> Measured:
    """Without old log-probabilities the policy's own stand in, as constants: the first step's gradient must not cancel."""
    given = at.change(old_logprobs=at.output.detach().clone())
    absent = at.change(old_logprobs=None)
    off = gap(evaluate(subject, absent).main, evaluate(subject, given).main)
    return Measured(
        off, "the first step's ratio carries a gradient on both sides: the old log-probabilities are not detached"
    )


def live_inputs(subject: Subject, at: Sample) -> Measured:
    """Every input that the formula takes moves the loss or its gradient on some sample."""
    ways = [subject, *options(subject)]
    unmoved = [n for n in subject.needs if n not in _STRUCTURE and not any(_moves(way, n) for way in ways)]
    return Measured(float(len(unmoved)), f"{', '.join(unmoved)}: taken, and without any effect" if unmoved else "")


_STRUCTURE = {"trained", "lengths", "weights", "targets", "batch", "teacher_ids", "logits", "desirable"}


def options(subject: Subject) -> Iterator[Subject]:
    """The formula with each other option of its parameters, one at a time."""
    for name, value in subject.formula.parameters.items():
        for other in probes(subject, name) if isinstance(value, str | bool) else ():
            yield subject.with_parameters(**{name: other})


def _moves(subject: Subject, name: str) -> bool:
    for seed in range(4):
        at = sample(subject, SHAPES[5], seed, spread=1.0 + 2 * seed)
        inputs = inputs_of(at.output, at.batch)
        if name not in inputs or not isinstance(inputs[name], Tensor):
            return name in type(subject.formula).optional
        if _differ(_raw(subject, inputs), _raw(subject, inputs | {name: _nudged(inputs[name])})):
            return True
    return False


def _nudged(value: Tensor) -> Tensor:
    if value.dtype == torch.bool:
        return ~value
    if not value.is_floating_point():
        return value + 1
    ramp = torch.linspace(0.1, 0.5, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach() * 0.9 - ramp


def _raw(subject: Subject, inputs: dict[str, Any]) -> list[Tensor]:
    """Terms, and their gradient to every float input."""
    floats = {n: v for n, v in inputs.items() if isinstance(v, Tensor) and v.is_floating_point() and n in subject.needs}
    free = {n: v.detach().clone().requires_grad_() for n, v in floats.items()}
    result = raw(subject, inputs | free)
    loss = result.loss if isinstance(result, Terms) else result
    found = torch.autograd.grad(loss.sum(), list(free.values()), allow_unused=True) if loss.requires_grad else ()
    return [loss.detach(), *(g.detach() for g in found if g is not None)]


def _differ(a: list[Tensor], b: list[Tensor]) -> bool:
    if len(a) != len(b):
        return True
    return any(x.shape != y.shape or gap(x.nan_to_num(), y.nan_to_num()) > 1e-9 for x, y in zip(a, b, strict=True))


def live_parameters(subject: Subject, at: Sample) -> Measured:
    """Every parameter moves the loss or its gradient at some value in its range, on some sample."""
    dead = [name for name in subject.formula.parameters if not _counts(subject, name)]
    return Measured(
        float(len(dead)),
        f"{', '.join(dead)}: an option that changes nothing; where it acts only at some values, declare probes={{...}}"
        if dead
        else "",
    )


def _counts(subject: Subject, name: str) -> bool:
    """Whether a parameter moves anything; where it acts only beside another's value, that one is declared as a probe."""
    others = [(n, p) for n, ps in subject.declaration.probes.items() if n != name for p in ps]
    bases = [subject, *_with_each(subject, others)]
    return any(
        _shifts(base, changed)
        for base in bases
        for changed in _with_each(base, [(name, p) for p in probes(base, name)])
    )


def _with_each(subject: Subject, values: list[tuple[str, Any]]) -> Iterator[Subject]:
    """The formula with one parameter changed, for each value that it accepts."""
    for name, value in values:
        try:
            yield subject.with_parameters(**{name: value})
        except ValueError:
            continue


def _shifts(a: Subject, b: Subject) -> bool:
    """Whether two settings of a formula differ on some sample, near or far from the old policy."""
    for seed in range(4):
        at = sample(a, SHAPES[5], seed, spread=1.0 + 2 * seed)
        one, two = evaluate(a, at), evaluate(b, at)
        if gap(one.terms.loss, two.terms.loss) > 1e-9 or any(
            gap(one.gradient[n], g) > 1e-9 for n, g in two.gradient.items()
        ):
            return True
    return False


def probes(subject: Subject, name: str) -> Iterator[Any]:
    """Other values of a parameter: the declared ones, the other options, or numbers inside its range."""
    field = type(subject.formula).model_fields[name]
    value = subject.formula.parameters[name]
    yield from subject.declaration.probes.get(name, ())
    options = [o for o in get_args(field.annotation) if isinstance(o, str | int) and o != value]
    yield from options
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (
            type(value)(v)
            for v in (value * 2, value / 2, value + 1, value + 0.3, value * 0.9, value - 0.3, value / 10, value / 100)
        )
    elif value is None:
        low = max([limit for sign, limit in limits(field) if sign in (">", ">=")], default=0.0)
        yield from (low + 0.5, low + 0.05, low + 1.0, 2.0)


def switches(subject: Subject) -> Iterator[tuple[str, Any]]:
    """(parameter, value) of each other option, and of each term whose weight is 0 by default."""
    for name, value in subject.formula.parameters.items():
        others = probes(subject, name)
        if isinstance(value, str | bool):
            found = list(dict.fromkeys(others))
        elif value == 0 and isinstance(value, float):
            found = [p for p in others if p is not None and p != value][:3]
        else:
            continue
        valid = [p for p in found if [*_with_each(subject, [(name, p)])]]
        yield from ((name, p) for p in (valid if isinstance(value, str | bool) else valid[:1]))


def precise(subject: Subject, at: Sample) -> Measured:
    """float32 and bfloat16 inputs give what float64 gives on the same rounded numbers."""
    found = []
    for dtype, bound in ((torch.float32, 5e-5), (torch.bfloat16, 2e-2)):
        low = at.to(dtype)
        rounded = low.to(torch.double)
        a, b = evaluate(subject, low), evaluate(subject, rounded)
        seen = at.batch.trained
        scale = max(1e-3, b.terms.loss[seen].abs().max().item())
        terms = gap(a.terms.loss[seen], b.terms.loss[seen], scale=scale) / max(1.0, 1 / scale)
        cause = f"{dtype} inputs lose precision: the arithmetic runs in it; compute in float32 inside".replace(
            "torch.", ""
        )
        gradient = max(gap(a.gradient[n], g, scale=max(1.0, g.abs().max().item())) for n, g in b.gradient.items())
        found.append(Measured(max(terms, gradient) / bound, cause, low))
    with Wide() as watched:
        loss_of(subject, at)
    found.append(Measured(2.0 * watched.narrowed, "it casts to half precision inside: compute in float32", at))
    return worst(*found)


def extremes(subject: Subject, at: Sample) -> Measured:
    """Log-ratios of ±60, margins of ±500/β, logits of ±1e4: finite in value and gradient, and within the declared bounds."""
    found = []
    for far, note in strained(subject, at):
        for dtype in (torch.double, torch.float32, torch.bfloat16):
            got = evaluate(subject, far.to(dtype))
            seen = far.batch.trained
            finite = bool(got.terms.loss[seen].isfinite().all()) and all(
                g.isfinite().all() for g in got.gradient.values()
            )
            name = str(dtype).removeprefix("torch.")
            found.append(
                Measured(float(not finite), f"not finite at {note} in {name}: exp overflows, or log(sigmoid)", far)
            )
            if dtype is torch.double:
                found.append(_within(subject, got.terms.loss[seen], far, note))
    return worst(*found)


def _within(subject: Subject, terms: Tensor, far: Sample, note: str) -> Measured:
    if subject.declaration.bounds is None or not terms.numel():
        return Measured(0.0)
    low, high = subject.declaration.bounds
    over = max((low - terms).max().item(), (terms - high).max().item(), 0.0)
    return Measured(over, f"leaves its declared bounds [{low:g}, {high:g}] at {note}", far)


def strained(subject: Subject, at: Sample) -> Iterator[tuple[Sample, str]]:
    """The sample at extreme inputs."""
    ones = torch.ones_like(at.output)
    match subject.family:
        case "policy" | "penalty":
            reach = 60.0 if subject.declaration.tail else 20.0
            for far in (reach, -reach):
                high, low = -0.1 * ones, (-0.1 - reach) * ones
                here, there = (high, low) if far > 0 else (low, high)
                others = {"old_logprobs": there, "sampler_logprobs": there, "ref_logprobs": there}
                yield at.change(here, **others), f"a log-ratio of {far:g}"
                yield (
                    at.change(here, **others | {"old_logprobs": here, "sampler_logprobs": here}),
                    f"a reference {far:g} nats away",
                )
        case "preference" | "unpaired":
            beta = float(subject.formula.parameters.get("beta", 0.1) or 0.1)
            n = at.batch.trained.sum(-1, keepdim=True).clamp(min=1)
            for sign in (1.0, -1.0):
                side = torch.tensor([1.0, -1.0], dtype=torch.double).repeat(len(n))[: len(n), None]
                away = sign * 250 / beta * side / n  # per token, so that sums differ by 500/β
                ref = -500 / beta / n * ones
                yield (
                    at.change((ref + away).clamp(max=-1e-3), ref_logprobs=ref.expand_as(ones).clone()),
                    f"a margin of {sign * 500:g}/β",
                )
            sure = torch.full_like(at.output, -1e-8)
            yield at.change(sure, ref_logprobs=sure.clone()), "probabilities of almost 1"
        case "reward_model":
            for offset in (0.0, 1000.0):
                yield at.change(at.output * 500 + offset), f"rewards of ±500 + {offset:g}"
        case "value":
            yield at.change(at.output * 1e3 + 1e3), "values in the thousands"
        case "distillation" if at.output.dim() == 3:
            yield at.change(at.output * 1e4), "logits of ±1e4"
            yield (
                at.change(at.output * 1e4, teacher_logits=fields_of(at.batch)["teacher_logits"] * 1e4),
                "both logits ±1e4",
            )
        case "likelihood":
            yield at.change(at.output * 1e4 if at.output.dim() == 3 else at.output * 60), "logits of ±1e4"
            yield at.change(-1e-8 * ones if at.output.dim() == 2 else 0 * ones), "a probability of almost 1"


def reaches(subject: Subject, at: Sample) -> Measured:
    """Every trained token of every answer is trained, the first and the last too."""
    if subject.family in ("policy", "penalty"):
        at = replace_ref(on_policy(subject, at)) if subject.family == "penalty" else on_policy(subject, at)
    if subject.family == "value":
        at = at.change(old_values=at.output)
    total = torch.zeros_like(at.batch.weights)
    for shift in (0.0, -0.37, 0.21):  # a gradient may vanish at one point
        moved = at.change(at.output + shift) if at.output.dim() == 2 and shift else at
        for gradient in evaluate(subject, moved).gradient.values():
            total += gradient.abs().flatten(2).sum(-1) if gradient.dim() > 2 else gradient.abs()
    if (
        subject.family == "preference"
    ):  # a hinge may be satisfied here, and is not where the rejected answer is far ahead
        behind = at.output.clone()
        behind[0::2] -= 40.0
        total += evaluate(subject, at.change(behind)).main.abs()
    dead = at.batch.trained & (total == 0)
    if subject.family == "preference" and not dead[0::2].any():
        return Measured(0.0)  # a loss may leave the rejected answers alone; the chosen ones it may not
    rows = dead.nonzero().tolist()
    where = (
        f"token {rows[0][1]} of answer {rows[0][0]} gets no gradient: a shift by one, or a first or last token lost"
        if rows
        else ""
    )
    return Measured(float(len(rows)), where)


def replace_ref(at: Sample) -> Sample:
    """With a reference that differs from the policy."""
    return at.change(ref_logprobs=at.output - 0.5)


def _second(subject: Subject) -> Iterator[Sample]:
    yield sample(subject, SHAPES[5], 5)


CLAUSES = (
    Clause(name="derivative", row="2", bound=1e-6, check=derivative, samples=few(7), means="the gradient is the derivative of the value (or as declared)",
           cause="a detach too many or too few", catches="open-instruct #1269, tinker-cookbook #677"),
    Clause(name="constants", row="15", bound=1e-12, check=constants, samples=few(5), families=("policy",),
           skip=only(lambda s: s.takes("old_logprobs"), "takes no old log-probabilities"),
           means="on the first step the policy's own log-probabilities stand in as constants",
           cause="something is not detached", catches="trlx #107"),
    Clause(name="trained", row="27", bound=0, check=reaches, families=tuple(f for f in LOSSES if f != "reward_model"),
           skip=only(lambda s: s.declaration.on_policy is not None, "declared on_policy=None"), means="every trained token gets a gradient, first and last included", cause="a shift by one",
           catches="verl #3287, trl #976, #1623, transformers #47394, gpt-neox #1285"),
    Clause(name="inputs", row="23", bound=0, check=live_inputs, samples=_second, means="every input counts",
           cause="an input is taken and not used", catches="Liger #1082, SkyRL #1353"),
    Clause(name="parameters", row="23", bound=0, check=live_parameters, samples=_second, means="every parameter counts",
           cause="an option is ignored", catches="ms-swift #10167, trl #7062, slime #2247, verl #945"),
    Clause(name="precision", row="22", bound=1.0, check=precise, samples=few(6), means="float32 within 5e-5, bfloat16 within 2e-2 (residual in units of these)",
           cause="arithmetic in bfloat16", catches="OpenRLHF #634, prime-rl #568, transformers #31267, speculators #788"),
    Clause(name="extremes", row="18", bound=1e-9, check=extremes, samples=few(5), means="finite, and within its bounds, at extreme inputs",
           cause="exp overflows", catches="trl #2274, #1473, #2564, #3237"),
)  # fmt: skip
