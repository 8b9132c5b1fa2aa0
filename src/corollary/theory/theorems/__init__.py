"""Every theorem of the book, by page: one module each."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from corollary.config.problems import nearest
from corollary.errors import ConfigError
from corollary.theory.theorem import Theorem


@cache
def theorems() -> tuple[Theorem, ...]:
    """All of them, module by module in the order of the catalogue's labels."""
    modules = sorted(m.name for m in pkgutil.iter_modules(__path__))
    found = [t for name in modules for t in _of(name)]
    return tuple(sorted(found, key=_order))


def select(names: list[str]) -> list[Theorem]:
    """Those of these names, labels, or beginnings of labels (`B5`); all where there is none.

    Raises:
        ConfigError: nothing is named so.

    >>> [t.label for t in select(["B2.a"])]
    ['B2.a']
    """
    everything = theorems()
    if not names:
        return list(everything)
    chosen: dict[str, Theorem] = {}
    for name in names:
        found = [t for t in everything if name in (t.name, t.label, t.label.partition(".")[0], _page(t))]
        if not found:
            near = nearest(name, [*(t.label for t in everything), *(t.name for t in everything)])
            raise ConfigError(
                f"there is no theorem {name!r}",
                hint=f"did you mean {near}?" if near else "see `corollary prove --list`",
            )
        chosen |= {t.name: t for t in found}
    return list(chosen.values())


def _of(module: str) -> list[Theorem]:
    return [t for t in vars(importlib.import_module(f"{__name__}.{module}")).values() if isinstance(t, Theorem)]


def _page(found: Theorem) -> str:
    return found.section.partition(".md")[0]


def _order(found: Theorem) -> tuple[int, int, str, str]:
    head, _, tail = found.label.partition(".")
    catalogued = head.startswith("B") and head[1:].isdigit()
    return (0 if catalogued else 1, int(head[1:]) if catalogued else 0, tail, found.label)
