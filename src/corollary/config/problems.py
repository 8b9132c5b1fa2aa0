"""What is wrong with a configuration: one `Problem` each, all of them in one `InvalidConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from corollary.config.tree import Place
from corollary.errors import ConfigError, printable

UNKNOWN, WRONG, MISSING = "E0101", "E0102", "E0103"  # a key; a value; a key, or an environment variable
FILE, OVERRIDE, IMPOSSIBLE = "E0104", "E0105", "E0106"  # file or YAML; `a.b=c`; values that do not go together


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.

    >>> print(Problem(UNKNOWN, Place("run.yaml", 14), "learning_rte", "unknown key", "did you mean learning_rate?"))
    run.yaml:14: learning_rte: unknown key; did you mean learning_rate?
    """

    code: str  # E0101 … E0106
    place: Place  # where to look
    key: str  # dotted; empty where it is about the whole
    what: str  # what is wrong and what came
    hint: str = ""  # what to do, the nearest right name

    def __str__(self) -> str:
        said = "; ".join(part for part in (self.what, self.hint) if part)
        line = ": ".join(part for part in (str(self.place), self.key, said) if part)
        return printable(" ".join(line.split("\n")))


class Stop(Exception):
    """A file or an override cannot be read any further; never leaves this package."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class InvalidConfig(ConfigError):
    """Every mistake of one configuration; the line says the first and counts the others.

    Args:
        problems: at least one; kept sorted: files by line, then overrides.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (not p.place.line, p.place.source, p.place.line))
        first, more = self.problems[0], len(self.problems) - 1
        where = ": ".join(part for part in (str(first.place), first.key) if part)
        what = first.what if first.hint or not more else f"{first.what} (+{more} more)"
        hint = f"{first.hint} (+{more} more)" if first.hint and more else first.hint
        super().__init__(what, where=where, hint=hint, code=first.code)


def nearest(word: str, options: Sequence[str]) -> str | None:
    """The option that `word` was probably meant to be.

    >>> nearest("learning_rte", ["seed", "learning_rate"])
    'learning_rate'
    """
    folded = {option.lower(): option for option in options}
    found = get_close_matches(word.lower()[:100], folded, n=1)
    return folded[found[0]] if found else None


def one_of(word: str, options: Sequence[str], kind: str = "it is one of") -> str:
    """A hint: the nearest option if one is near, else what there is.

    >>> one_of("grop", ["grpo", "ppo"]), one_of("x", ["grpo", "ppo"])
    ('did you mean grpo?', 'it is one of grpo, ppo')
    """
    if near := nearest(word, options):
        return f"did you mean {near}?"
    shown = ", ".join(options[:12]) + (f", … ({len(options)})" if len(options) > 12 else "")
    return f"{kind} {shown}" if options else ""


def shown(value: object) -> str:
    """What came, short, as YAML would say it.

    >>> [shown(value) for value in (None, True, 3.5, "a", [1], {})]
    ['null', 'true', '3.5', "'a'", 'a list', 'a mapping']
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
