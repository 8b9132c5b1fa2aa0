"""The clauses of the contract: what each measures, where it applies, what it means, and the public bugs it would have caught."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from corollary.theory.contract.evaluate import Check
from corollary.theory.contract.samples import samples
from corollary.theory.contract.subject import LOSSES, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One promise, and how it is measured."""

    name: str
    row: str  # of the catalogue's table of checks
    means: str  # what holding it means, one line
    cause: str  # the likely cause of failing it
    bound: float  # of the residual
    check: Check
    families: tuple[str, ...] = LOSSES
    skip: Callable[[Subject], str] = lambda subject: ""  # why it does not apply; "" where it does
    samples: Callable[[Subject], Iterable[Any]] = samples  # what it is measured on, small first
    catches: str = ""  # public bugs


def few(most: int) -> Callable[[Subject], Iterator[Any]]:
    """The smallest samples only."""
    return lambda subject: samples(subject, most=most)


def only(condition: Callable[[Subject], bool], reason: str) -> Callable[[Subject], str]:
    """A reason to skip where the condition does not hold."""
    return lambda subject: "" if condition(subject) else reason


def additive(subject: Subject) -> str:
    return f"declared cross_sample={subject.declaration.cross_sample}: trained in two passes" if (
        subject.declaration.cross_sample
    ) else ""  # fmt: skip
