"""Clauses on reward functions, of TRL's convention: one number per answer, the answer's own, whatever stands beside it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from corollary.theory.contract.evaluate import Measured, worst
from corollary.theory.contract.given import Given
from corollary.theory.contract.subject import Subject
from corollary.theory.contract.table import Clause

_ANSWERS = (
    "3 + 4 = 7",
    "7",
    "The answer is 8.",
    "",
    "#### 7",
    r"\boxed{7}",
    "seven",
    "7 " * 300,
    "1e999",
    "\x00\u202e7",
)
_GOLD = ("7", "7", "8", "7", "7", "7", "7", "7", "7", "7")


def texts(subject: Subject) -> Iterator[Given]:
    """Answers good, bad, empty, long and hostile, to plain prompts and to conversations; columns are made for what it names."""
    for conversation in (False, True):
        prompts = [
            [{"role": "user", "content": f"question {i}"}] if conversation else f"question {i}"
            for i in range(len(_ANSWERS))
        ]
        completions = [[{"role": "assistant", "content": a}] if conversation else a for a in _ANSWERS]
        inputs: dict[str, Any] = {
            "prompts": prompts,
            "completions": completions,
            "completion_ids": [[1, 2]] * len(_ANSWERS),
        }
        for name in subject.needs:
            inputs.setdefault(name, list(subject.declaration.probes.get(name, _GOLD))[: len(_ANSWERS)])
        yield Given(inputs, "a conversation" if conversation else "plain text")


def _call(subject: Subject, given: Given, rows: list[int] | None = None) -> list[Any]:
    rows = list(range(len(_ANSWERS))) if rows is None else rows
    return subject.formula(**{n: [v[r] for r in rows] for n, v in given.inputs.items()})


def values(subject: Subject, given: Given) -> Measured:
    """A list of finite numbers or None, one for each answer."""
    got = _call(subject, given)
    if not isinstance(got, list | tuple) or len(got) != len(_ANSWERS):
        return Measured(
            1.0,
            f"returned {f'{len(got)} values' if isinstance(got, list | tuple) else f'a {type(got).__name__}'} for {len(_ANSWERS)} answers; return a list with one number each",
        )
    bad = [v for v in got if v is not None and not (isinstance(v, int | float) and math.isfinite(v))]
    return Measured(float(len(bad)), f"{bad[0]!r} is no finite number" if bad else "")


def alone(subject: Subject, given: Given) -> Measured:
    """An answer's reward does not depend on the others, nor on their order."""
    got = _call(subject, given)
    back = list(range(len(_ANSWERS)))[::-1]
    one_by_one = [_call(subject, given, [r])[0] for r in range(len(_ANSWERS))]
    return worst(
        Measured(
            float(_call(subject, given, back)[::-1] != got),
            "rewards change with the order of the answers: paired by position with something else",
        ),
        Measured(float(one_by_one != got), "an answer's reward changes with the answers beside it"),
    )


def unspoilt(subject: Subject, given: Given) -> Measured:
    """Inputs stay, and twice gives the same."""
    handed = copy.deepcopy(dict(given.inputs))
    subject.formula(**handed)
    edited = handed != dict(given.inputs)
    first, second = _call(subject, given), _call(subject, given)
    return worst(
        Measured(float(edited), "it edits its inputs"),
        Measured(float(first != second), "two calls differ"),
    )


def told_apart(subject: Subject, given: Given) -> Measured:
    """Not every answer earns the same."""
    got = _call(subject, given)
    return Measured(
        float(len({v for v in got if v is not None}) < 2),
        "a right, a wrong and an empty answer all earn the same: an exception is swallowed, or a column is not read",
    )


def _clause(name: str, row: str, check: Any, means: str, **more: Any) -> Clause:
    return Clause(
        name=name, row=row, bound=0, check=check, means=means, cause=means, families=("reward",), samples=texts, **more
    )


CLAUSES = (
    _clause("values", "F", values, "one finite number or None per answer", catches="OpenRLHF #1219"),
    _clause("answers", "5", alone, "an answer's reward is its own", catches="NeMo-Gym #1354"),
    _clause("pure", "21", unspoilt, "inputs stay, twice the same"),
    _clause("told apart", "F", told_apart, "not all answers earn the same", catches="verl #5635, trl #5281"),
)  # fmt: skip
