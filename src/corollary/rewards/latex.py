"""The reward `math`: answers as LaTeX, compared as mathematics by math-verify.

Only workers import this module: math-verify takes a second to load, and sympy may think for ever, so that its caller needs
a deadline and a process to kill. What it is shown is first held to a closed alphabet and to caps on length, depth, digits
and powers; numbers, which most answers are, never reach it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, MatrixBase

from corollary.rewards.arithmetic import boxed, last_number, number
from corollary.rewards.calling import SampleError
from corollary.rewards.math import Completions, golds, text_of

logging.getLogger("math_verify").setLevel(logging.ERROR)  # we set the deadlines that it warns about

_READ = 50_000  # characters at the end of an answer that are looked at
_LONGEST = 300  # characters of a formula
_DEPTH = 10  # of braces and brackets
_COMMANDS = """
    frac sqrt pi theta alpha beta gamma lambda mu phi omega infty cdot times div pm mp left right text textbf mathrm
    circ deg angle degree percent ln log exp sin cos tan cot sec csc arcsin arccos arctan in cup cap setminus emptyset
    mathbb le leq ge geq ne neq lt gt begin end pmatrix bmatrix matrix vmatrix quad ldots cdots dots max min mid
    overline bar to rightarrow
"""
_ALPHABET = re.compile(r"[A-Za-z0-9\\{}()\[\]|.,:;+\-*/^_=<>!%& ']*")
_TOWER = re.compile(r"\^[^A-Za-z]*\^|\^\W*[0-9]{4}|\)\^\W*(?:[0-9]{3}|[2-9][0-9])|[0-9]{3}\W*!|!\W*!|[0-9]{21}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox|textit)\s*\{([^{}]*)\}")
_BETWEEN_DOLLARS = re.compile(rf"\$(?=\S)([^$]{{1,{_LONGEST}}}?)(?<=\S)\$(?![0-9])")  # "$5 and $7" holds no formula
_SPACE = re.compile(r"(?<!\\)\\[,!:; ]|\\(?:left|right|displaystyle|quad)(?![A-Za-z])|~|\s+")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:,\\!|\{,\})(?=[0-9]{3}(?![0-9]))")
_SAME = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("−", "-"),
    ("\\$", ""),
    ("$", ""),
    ("\\%", "%"),
    ("^\\circ", ""),
)


def math(completions: Completions, *, column: str = "answer", **columns: Sequence[object]) -> list[float]:
    r"""1 where the final answer equals the gold one as mathematics: 1/2 = 0.5 = \frac{2}{4}, x^2+1 = 1+x^2.

    The final answer is the last `\boxed{…}`, else what follows the last `####`, else the last formula between dollar
    signs, else the last number. One that is too long, not a formula or takes too long is wrong.

    Args:
        completions: the model's answers.
        column: of the data, with the gold answers: a formula, a number, a word, or a solution that ends in one.
        columns: the data.

    Raises:
        SampleError: a gold answer is no formula.

    >>> math([r"So $x$ is \boxed{\frac{2}{4}}.", "It is 0.51"], answer=["1/2", "1/2"])
    [1.0, 0.0]
    """
    return [
        float(_equal(_final(text_of(completions[i])), _gold(gold, i, column))) for i, gold in golds(column, columns)
    ]


def _gold(gold: object, index: int, column: str) -> str:
    formula = _marked(gold) if isinstance(gold, str) else str(gold)
    formula = _tidied(str(gold) if formula is None else formula)
    if not (_value(formula) is not None or formula.replace(" ", "").isalpha() or _parsed(formula)):
        raise SampleError(f"column {column!r}: expected a formula or a number, got {str(gold)[:60]!r}", index)
    return formula


def _final(text: str) -> str:
    marked = _marked(text)
    formula = _tidied(text if marked is None else marked)
    if marked is not None or _value(formula) is not None or "\\" in formula:
        return formula
    last = last_number(text)
    return str(last.value) if last else formula


def _marked(text: str) -> str | None:
    """The final answer, where the text says which it is."""
    text = text[-_READ:]
    if (inside := boxed(text)) is not None:
        return inside
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0]
    formulas = _BETWEEN_DOLLARS.findall(text)
    return formulas[-1] if formulas else None


def _tidied(formula: str) -> str:
    if len(formula) > _LONGEST:
        return ""
    formula = _THOUSANDS.sub("", formula)
    for written, meant in _SAME:
        formula = formula.replace(written, meant)
    return _SPACE.sub(" ", formula).strip().rstrip(".").strip()


@lru_cache(maxsize=4096)
def _equal(answer: str, gold: str) -> bool:
    if not answer or answer.replace(" ", "") == gold.replace(" ", ""):
        return bool(answer)
    words = _TEXT.sub(r"\1", answer).strip("() ").casefold(), _TEXT.sub(r"\1", gold).strip("() ").casefold()
    if words[0] == words[1] and words[0].replace(" ", "").isalpha():
        return True
    ours, right = _value(answer), _value(gold)
    if ours is not None and right is not None:
        return ours == right
    parsed, golden = _parsed(answer), _parsed(gold)
    return bool(parsed and golden) and bool(verify(list(golden), list(parsed), timeout_seconds=None))


def _value(formula: str) -> Fraction | None:
    r"""The number that a formula is: `-1,234.5`, `3/4`, `\frac{3}{4}`, `50%`, `72 clips`, `72\text{ clips}`."""
    plain = re.sub(r"\\frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}", r"\1/\2", _TEXT.sub("", formula))
    plain = re.sub(r"(?<=[0-9]) +(?:[A-Za-z]{3,} ?)+$", "", plain).strip()
    percent = plain.endswith("%")
    over, slash, under = plain.rstrip("% ").partition("/")
    value, below = number(over), number(under) if slash else None
    if value is None or (slash and (below is None or below.value == 0)):
        return None
    return value.value / (below.value if below else 1) / (100 if percent else 1)


@lru_cache(maxsize=4096)
def _parsed(formula: str) -> tuple[Basic | MatrixBase | str, ...]:
    """math-verify's reading of a formula; empty where it has none, or where the formula is not one that we show it."""
    if not _harmless(formula):
        return ()
    found = parse(f"${formula}$", [LatexExtractionConfig()], parsing_timeout=0)
    return tuple(found) if len(found) > 1 else ()  # the text alone is no reading


def _harmless(formula: str) -> bool:
    depth = deepest = 0
    for sign in formula:
        depth += (sign in "{([") - (sign in "})]")
        deepest = max(deepest, depth)
    bare = _TEXT.sub("", formula).replace("\\\\", " ")  # a matrix's rows
    bare = re.sub(r"\\(?:begin|end)\{([a-z]+)\}", r"\\\1 ", bare)
    return (
        deepest <= _DEPTH
        and _ALPHABET.fullmatch(bare) is not None
        and set(re.findall(r"\\([A-Za-z]+)", bare)) <= set(_COMMANDS.split())
        and not _TOWER.search(bare)
        and not _WORD.search(bare)
    )
