"""Word problems with a calculator: the model may calculate once or more, and then answers. The recipe's `number` judges the answer."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field

from corollary.data.reading import BadRow
from corollary.data.sources import DataConfig, rows
from corollary.envs.opening import begun
from corollary.envs.tools import CLOSE, OPEN, Tools
from corollary.rewards.arithmetic import calculated

TOLD = f'Use the calculator: {OPEN}{{"name": "calculate", "arguments": {{"expression": "2 + 3"}}}}{CLOSE}'


class Calculator:
    """A calculator of exact fractions."""

    def reset(self) -> None:
        """Nothing is remembered."""

    def calculate(self, expression: str) -> str:
        """The value of an expression of + - * / and brackets.

        Args:
            expression: such as "(2 + 3) * 4".

        >>> Calculator().calculate("(2 + 3) * 4"), Calculator().calculate("10 / 4"), Calculator().calculate("2 / 3")
        ('20', '2.5', '0.666667')
        """
        return shown(calculated(expression))


def shown(value: Fraction) -> str:
    """A number as a calculator shows it: whole, or with up to 6 decimals."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


class CalculatorTools(Tools):
    """One tool, `calculate(expression)`. It earns nothing by itself: give the recipe `rewards: [{type: number}]`."""

    type: Literal["calculator"] = "calculator"  # type: ignore[assignment]
    path: Literal["corollary.envs.calculator:Calculator"] = "corollary.envs.calculator:Calculator"  # type: ignore[assignment]
    """the class"""
    told: str | None = TOLD
    """what the system message says of the calculator; null: its signature and docstring"""
    max_turns: int = Field(default=3, ge=1)
    """of the model's, the answer among them; an episode that is not over by then is cut"""
    turn_tokens: int = Field(default=40, ge=0)
    """tokens of one turn at most, and a longer one cuts the episode; 0: as many as the answer has left"""


def call(expression: str) -> str:
    """The call that asks for an expression's value."""
    return f'{OPEN}{{"name": "calculate", "arguments": {{"expression": "{expression}"}}}}{CLOSE}'


def worked(*, path: str = "small-problems/worked") -> Iterator[dict[str, Any]]:
    """Rows: problems whose equation is put into the calculator, and whose answer is what it showed. To learn the form from.

    Args:
        path: a data set with columns `question` and `equation`.
    """
    for row in rows(DataConfig(path=path, template="{question}"), None):
        if isinstance(row, BadRow) or not row.values.get("equation"):
            continue
        expression = str(row.values["equation"])
        value = Calculator().calculate(expression)
        messages = [
            *begun([{"role": "user", "content": str(row.values["question"])}], instructions=TOLD),
            {"role": "assistant", "content": call(expression)},
            {"role": "tool", "content": value},
            {"role": "assistant", "content": value},
        ]
        yield {"id": row.values["id"], "messages": messages}
