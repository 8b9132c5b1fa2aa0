"""What a kind of instruction is: a name, and a rule that says of a text whether it is followed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Rule = Callable[..., bool]
"""(the answer, the instruction's parameters by name) → whether it is followed"""

Relation = Literal["at least", "less than"]

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+")


def registry() -> tuple[dict[str, Rule], Callable[[str], Callable[[Rule], Rule]]]:
    """An empty table of kinds, and the decorator that puts a rule into it under a name."""
    table: dict[str, Rule] = {}

    def kind(name: str) -> Callable[[Rule], Rule]:
        def put(rule: Rule) -> Rule:
            table[name] = rule
            return rule

        return put

    return table, kind


def holds(count: int, relation: str, bound: int) -> bool:
    """Whether a count is `at least` or `less than` a bound.

    Raises:
        ValueError: there is no such relation.
    """
    match relation:
        case "at least":
            return count >= bound
        case "less than":
            return count < bound
        case _:
            raise ValueError(f"a relation is 'at least' or 'less than', not {relation!r}")


def words(text: str) -> list[str]:
    """The runs of letters, digits and underscores.

    >>> words("It's 3 o'clock.")
    ['It', 's', '3', 'o', 'clock']
    """
    return re.findall(r"\w+", text)


def spaced(text: str) -> list[str]:
    """What stands between spaces, without the punctuation around it; what is nothing else is left out.

    >>> spaced("Well - it's *done*.")
    ['Well', "it's", 'done']
    """
    return [word for raw in text.split() if (word := raw.strip("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"))]


def sentences(text: str) -> list[str]:
    """The sentences, each ending in a full stop, a question or an exclamation mark, the last perhaps without one.

    >>> sentences('He said "Go!" Then he went. Where to?')
    ['He said "Go!', 'Then he went.', 'Where to?']
    """
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]
