"""Numbers and equations read out of text, exactly and without `eval`: a closed alphabet, exact fractions, and caps on
length, digits and depth, so that no string costs more than a few milliseconds.

Two readings of an answer. Strict: it has the form that was asked for. Lenient: the last number in it is the right one,
whatever stands around it. What a model gains in the strict reading alone is format; in the lenient one it is solving.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from typing import Literal, NamedTuple

Form = Literal["equation", "number", "hash", "boxed"]
"""What a strict answer looks like: `3 + 4 = 7` alone; `7` alone; a last line `#### 7`; a last `\\boxed{7}`."""

_DIGITS = 40  # of a number; more is no answer
_LINE = 400  # characters of an equation
_TOKENS = 120  # of an equation
_DEPTH = 16  # of brackets and signs
_TAIL = 20_000  # characters at the end of a text in which its last number is looked for

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(rf"(?P<minus>[-−](?=[$€£]?[0-9.]))?[$€£]?(?P<sign>[-−])?(?P<plain>{_PLAIN})")
_ALONE = re.compile(rf"\s*(?P<minus>[-−])?[$€£]?(?P<sign>[-−])?(?P<plain>{_PLAIN})\.?\s*")
_TOKEN = re.compile(rf"[ \t\u00a0]*(?:(?P<number>{_PLAIN})|(?P<sign>[-−+*/xX×·÷()]))")
_SIGNS = {"−": "-", "x": "*", "X": "*", "×": "*", "·": "*", "÷": "/"}


class Number(NamedTuple):
    """A number as it was written."""

    value: Fraction
    decimals: int = 0  # digits after the point; 0 where they are all zeros


class Equation(NamedTuple):
    """`A op B … = R`."""

    left: Fraction  # what A op B … comes to
    right: Number  # R


class Judgement(NamedTuple):
    """Whether an answer is right, read twice."""

    strict: bool  # in the form that was asked for
    lenient: bool  # the last number anywhere; also true wherever `strict` is


def number(text: str) -> Number | None:
    """The number that the text is, with an optional sign, currency, thousands separators and full stop; else None.

    >>> number("$1,234.50").value, number("72.").value, number("7 apples")
    (Fraction(2469, 2), Fraction(72, 1), None)
    """
    match = _ALONE.fullmatch(text) if len(text) <= _LINE else None
    return _written(match["plain"], negative=bool(match["minus"] or match["sign"])) if match else None


def last_number(text: str) -> Number | None:
    """The last number in the text; None where there is none or it has too many digits.

    A minus is a sign unless it follows a digit, a letter or a closing bracket. A fraction `3/4` is two numbers.

    >>> last_number("Each gets $1,250.00 (not 7%).").value, last_number("so it is -3").value, last_number("10-3").value
    (Fraction(7, 1), Fraction(-3, 1), Fraction(3, 1))
    """
    last = deque(_NUMBER.finditer(text[-_TAIL:]), maxlen=1)
    return _found(last[0]) if last else None


def gold_number(gold: object) -> Number:
    """The right answer, from a column of the data.

    Args:
        gold: a number; or text that holds exactly one, after its last `####` where it has that mark.

    Raises:
        ValueError: it is nothing like that.

    >>> gold_number("3 + 4 = 7\\n#### 7").value, gold_number(2.5), gold_number("9 (apples)").value
    (Fraction(7, 1), Number(value=Fraction(5, 2), decimals=1), Fraction(9, 1))
    """
    text = _as_text(gold)
    found = list(_NUMBER.finditer(text[-_TAIL:].rpartition("####")[2]))
    written = _found(found[0]) if len(found) == 1 else None
    if written is None:
        raise ValueError(f"expected a number, or text with exactly one, got {text[:60]!r}")
    return written


def equation(text: str) -> Equation | None:
    """The one line `A op B [op C …] = R`, op one of + - * / x × ÷ with brackets allowed; None for anything else.

    >>> equation("(3 + 5) × 2 = 16")
    Equation(left=Fraction(16, 1), right=Number(value=Fraction(16, 1), decimals=0))
    >>> equation("7 = 7"), equation("So 3 + 4 = 7"), equation("__import__('os') = 1")
    (None, None, None)
    """
    line = text.strip()
    left, equals, right = line.partition("=")
    if len(line) > _LINE or not equals or not (result := _signed(right)):
        return None
    try:
        value, operations = _Reader(left).whole()
    except (_Unreadable, ZeroDivisionError):
        return None
    return Equation(value, result) if operations else None


def calculated(expression: str) -> Fraction:
    """The value of numbers, + - * / (or x × ÷) and brackets.

    Raises:
        ValueError: it is nothing like that, or divides by zero.

    >>> calculated("(3 + 5) × 2"), calculated("1/3")
    (Fraction(16, 1), Fraction(1, 3))
    """
    try:
        return _Reader(expression.strip() if len(expression) <= _LINE else "").whole()[0]
    except _Unreadable:
        raise ValueError(f"not an expression of numbers, + - * / and brackets: {expression[:60]!r}") from None
    except ZeroDivisionError:
        raise ValueError("division by zero") from None


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}`, its braces matched; None where there is none or it does not close.

    >>> boxed(r"so \boxed{1} or \boxed{\frac{3}{4}}.")
    '\\frac{3}{4}'
    """
    start = text.rfind("\\boxed{")
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]) if start >= 0 else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start + len("\\boxed{") : start + brace.start()]
    return None


def judge(text: str, gold: object, form: Form = "equation") -> Judgement:
    """Whether an answer is right, strictly in its form and leniently by its last number. Comparison is exact.

    A strict equation is right if R is the gold answer and its left side comes to R; to R rounded, where the gold
    answer has decimals.

    Args:
        text: the model's answer.
        gold: the right one, as `gold_number` takes it.
        form: what was asked for.

    Raises:
        ValueError: the gold answer is no number.

    >>> judge("3 + 4 = 7", 7), judge("It is 3 + 4 = 7", "7"), judge("3 + 5 = 7", 7)
    (Judgement(strict=True, lenient=True), Judgement(strict=False, lenient=True), Judgement(strict=False, lenient=True))
    >>> judge("10 / 3 = 3.33", 3.33).strict
    True
    """
    right = gold_number(gold)
    strict = _STRICT[form](text, right)
    last = last_number(text)
    return Judgement(strict, strict or (last is not None and last.value == right.value))


def _right_equation(text: str, gold: Number) -> bool:
    found = equation(text)
    if found is None or found.right.value != gold.value:
        return False
    slack = Fraction(1, 2 * 10**gold.decimals) if gold.decimals else 0
    return abs(found.left - gold.value) <= slack


def _right_number(text: str | None, gold: Number) -> bool:
    found = number(text) if text is not None else None
    return found is not None and found.value == gold.value


def _right_hash(text: str, gold: Number) -> bool:
    line = text.rstrip().rpartition("\n")[2]
    return line.startswith("####") and _right_number(line.removeprefix("####"), gold)


_STRICT: dict[Form, Callable[[str, Number], bool]] = {
    "equation": _right_equation,
    "number": _right_number,
    "hash": _right_hash,
    "boxed": lambda text, gold: _right_number(boxed(text), gold),
}


def _as_text(gold: object) -> str:
    if isinstance(gold, str):
        return gold
    if isinstance(gold, bool) or not isinstance(gold, int | float | Integral):
        return f"({type(gold).__name__})"
    return format(Decimal(repr(float(gold))), "f") if isinstance(gold, float) else str(int(gold))


def _found(match: re.Match[str]) -> Number | None:
    before = match.string[: match.start()]
    operator = before[-1:].isalnum() or before.rstrip()[-1:] in tuple("0123456789)")
    return _written(match["plain"], negative=bool(match["sign"] or (match["minus"] and not operator)))


def _written(plain: str, *, negative: bool) -> Number | None:
    digits = plain.replace(",", "")
    if len(digits) > _DIGITS:
        return None
    decimals = digits.partition(".")[2]
    return Number(Fraction("-" + digits if negative else digits), len(decimals) if decimals.strip("0") else 0)


def _signed(text: str) -> Number | None:
    match = re.fullmatch(rf"[ \t\u00a0]*([-−])?({_PLAIN})[ \t\u00a0]*", text)
    return _written(match[2], negative=bool(match[1])) if match else None


class _Unreadable(Exception):
    """Not an expression."""


def _tokens(text: str) -> Iterator[Fraction | str]:
    place, text = 0, text.rstrip()
    for _ in range(_TOKENS):
        if place == len(text):
            yield ""
            return
        match = _TOKEN.match(text, place)
        written = _written(match["number"], negative=False) if match and match["number"] else None
        if match is None or (match["number"] and written is None):
            raise _Unreadable
        yield written.value if written else _SIGNS.get(match["sign"], match["sign"])
        place = match.end()
    raise _Unreadable


class _Reader:
    """Recursive descent over sum ← product ← factor, each value an exact fraction."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._operations = 0

    def whole(self) -> tuple[Fraction, int]:
        value = self._sum(0)
        if self._next != "":
            raise _Unreadable
        return value, self._operations

    def _take(self) -> Fraction | str:
        taken, self._next = self._next, next(self._tokens, "")
        return taken

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self._next in ("+", "-"):
            self._operations += 1
            value = value + self._product(depth) if self._take() == "+" else value - self._product(depth)
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self._next in ("*", "/"):
            self._operations += 1
            value = value * self._factor(depth) if self._take() == "*" else value / self._factor(depth)
        return value

    def _factor(self, depth: int) -> Fraction:
        token = self._take()
        if isinstance(token, Fraction):
            return token
        if depth == _DEPTH or token not in ("-", "("):
            raise _Unreadable
        if token == "-":
            return -self._factor(depth + 1)
        value = self._sum(depth + 1)
        if self._take() != ")":
            raise _Unreadable
        return value
