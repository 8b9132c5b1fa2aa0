"""Losses that the contract is tried on: broken ones with the clause that must catch each, and sound ones that it must let pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Mutant:
    """A broken formula."""

    target: Callable[..., Any]
    clause: str  # that must be among those that fail
    bug: str  # the public one that it re-creates
    passes: str = ""  # the clause in which its two errors cancel
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.target.__name__


class Mutants(list[Mutant]):
    """Those of one family; called, it is the decorator that adds one."""

    def __call__(self, clause: str, bug: str, *, passes: str = "", **settings: Any) -> Callable[[F], F]:
        def add(target: F) -> F:
            self.append(Mutant(target, clause, bug, passes, settings))
            return target

        return add


class Correct(list[Callable[..., Any]]):
    """Sound formulas; called, it is the decorator that adds one."""

    def __call__(self, target: F) -> F:
        self.append(target)
        return target
