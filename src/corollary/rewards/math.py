"""Rewards for answers that are numbers. Each is 1 for a right answer and 0 for a wrong one, however absurd it is; a gold
answer that cannot be read is the data's fault, and an error that names the row.

The reward `math`, for LaTeX answers, stands in `latex.py`: only workers import it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from corollary.rewards.arithmetic import Form, judge
from corollary.rewards.calling import SampleError

Completions = Sequence[str] | Sequence[Sequence[Mapping[str, str]]]
"""Plain texts, or for each sample the assistant's messages."""

T = TypeVar("T")


def text_of(completion: str | Sequence[Mapping[str, str]]) -> str:
    """What the model wrote.

    >>> text_of([{"role": "assistant", "content": "3 + 4 = 7"}])
    '3 + 4 = 7'
    """
    return completion if isinstance(completion, str) else completion[-1]["content"]


def golds(column: str, columns: Mapping[str, Sequence[T]]) -> Iterator[tuple[int, T]]:
    """Each sample's index and gold answer.

    Raises:
        SampleError: there is no such column, or nothing in it.
    """
    if column not in columns:
        raise SampleError(f"the data has no column {column!r} that holds the right answer", 0)
    for index, gold in enumerate(columns[column]):
        if gold is None:
            raise SampleError(f"column {column!r} holds no right answer", index)
        yield index, gold


def number(completions: Completions, *, column: str = "answer", **columns: Sequence[object]) -> list[float]:
    """1 where the last number in the answer is the gold one, exactly; see `arithmetic.last_number`.

    Args:
        completions: the model's answers.
        column: of the data, with the gold answers, as `arithmetic.gold_number` takes them.
        columns: the data.

    Raises:
        SampleError: a gold answer is no number.

    >>> number(["That makes $1,250.", "5"], answer=[1250, "#### 6"])
    [1.0, 0.0]
    """
    return [float(lenient) for _, lenient in _judged(completions, column, columns, "number")]


def equation(
    completions: Completions,
    *,
    column: str = "answer",
    lenient: float = 0.0,
    form: Form = "equation",
    **columns: Sequence[object],
) -> list[float]:
    """1 where the answer is one line `A op B = R`, true, and R the gold answer; see `arithmetic.equation`.

    Args:
        completions: the model's answers.
        column: of the data, with the gold answers, as `arithmetic.gold_number` takes them.
        lenient: reward for an answer in another form whose last number is the gold one.
        form: another strict form to ask for.
        columns: the data.

    Raises:
        SampleError: a gold answer is no number.

    >>> equation(["3 + 4 = 7", "The answer is 7", "3 + 4 = 8"], lenient=0.25, answer=[7, 7, 7])
    [1.0, 0.25, 0.0]
    """
    return [1.0 if strict else lenient * right for strict, right in _judged(completions, column, columns, form)]


def _judged(
    completions: Completions, column: str, columns: Mapping[str, Sequence[object]], form: Form
) -> Iterator[tuple[bool, bool]]:
    for index, gold in golds(column, columns):
        try:
            yield judge(text_of(completions[index]), gold, form)
        except ValueError as error:
            raise SampleError(f"column {column!r}: {error}", index) from None
