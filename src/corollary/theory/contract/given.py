"""Inputs by name, for what is no loss: advantages, averages, corrections, metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corollary.errors import UserCodeError
from corollary.theory.contract.evaluate import Measured, raw
from corollary.theory.contract.subject import Subject


@dataclass(frozen=True, slots=True)
class Given:
    """Named inputs."""

    inputs: Mapping[str, Any]
    note: str = ""

    def change(self, **inputs: Any) -> Given:
        return Given(dict(self.inputs) | inputs, self.note)

    def every(self, change: Callable[[str, Tensor], Tensor]) -> Given:
        return self.change(**{n: change(n, v) for n, v in self.inputs.items() if isinstance(v, Tensor)})

    def __getitem__(self, name: str) -> Tensor:
        return self.inputs[name]

    def __str__(self) -> str:
        shown = [f"{n}={v.tolist() if isinstance(v, Tensor) else v}" for n, v in self.inputs.items()]
        return ("; ".join(shown) + f"  ({self.note})")[:600]


def result(subject: Subject, given: Given) -> Tensor:
    """What the formula gives, a tensor without a gradient.

    Raises:
        UserCodeError: it gives something else.
    """
    got = raw(subject, given.inputs)
    if not isinstance(got, Tensor):
        raise UserCodeError(f"returned a {type(got).__name__}, not a tensor")
    return got.detach()


def pure(subject: Subject, given: Given) -> Measured:
    """Inputs stay as they are, and twice gives the same bits."""
    before = {n: v.clone() for n, v in given.inputs.items() if isinstance(v, Tensor)}
    first, second = result(subject, given), result(subject, given)
    for name, value in before.items():
        if not torch.equal(given[name].nan_to_num(7e77), value.nan_to_num(7e77)):
            return Measured(1.0, f"it edits {name!r} in place")
    return Measured(float(not torch.equal(first.nan_to_num(7e77), second.nan_to_num(7e77))), "two calls differ")


def same(a: Tensor, b: Tensor) -> bool:
    """The same bits, NaN included."""
    return a.shape == b.shape and torch.equal(a.nan_to_num(7e77), b.nan_to_num(7e77))


def rows(given: Given, order: Sequence[int]) -> Given:
    """The rows in another order."""
    return given.every(lambda _, v: v[list(order)] if v.dim() else v)


def live(subject: Subject, givens: Sequence[Given], probes: Callable[[Subject, str], Any]) -> Measured:
    """Every input and every parameter moves the result somewhere."""
    dead = []
    for name in subject.formula.parameters:
        others = [subject.with_parameters(**{name: p}) for p in _valid(subject, name, probes)]
        if not any(not same(_or_nan(o, g), _or_nan(subject, g)) for o in others for g in givens):
            dead.append(name)
    for name in type(subject.formula).inputs:
        held = [g for g in givens if isinstance(g.inputs.get(name), Tensor)]
        nudged = [(g, g.change(**{name: moved})) for g in held for moved in (_nudge(g[name]), g[name].flip(-1))]
        if nudged and not any(not same(_or_nan(subject, a), _or_nan(subject, b)) for a, b in nudged):
            dead.append(name)
    return Measured(float(len(dead)), f"{', '.join(dead)}: without any effect" if dead else "")


def _valid(subject: Subject, name: str, probes: Callable[[Subject, str], Any]) -> list[Any]:
    found = []
    for probe in probes(subject, name):
        try:
            subject.with_parameters(**{name: probe})
        except ValueError:
            continue
        found.append(probe)
    return found


def _or_nan(subject: Subject, given: Given) -> Tensor:
    """The result; NaN where these inputs are refused."""
    try:
        return result(subject, given)
    except ValueError:
        return torch.tensor(torch.nan)


def _nudge(value: Tensor) -> Tensor:
    if value.dtype == torch.bool:
        changed = value.clone()
        changed.view(-1)[0] = ~changed.view(-1)[0]
        return changed
    ramp = torch.arange(value.numel()).view(value.shape)
    return value + (ramp % 3 + 1 if not value.is_floating_point() else 0.13 * (ramp % 3 + 1).to(value.dtype))
