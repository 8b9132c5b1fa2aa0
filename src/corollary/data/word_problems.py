"""Arithmetic problems from six public sets, brought to one shape, and a split that no near-duplicate crosses.

Each row: `id`, `question`, `answer` (a decimal number as text: "7", "2.5"), `type` (the source's own name for the kind), `operations`
(how many arithmetic operations it takes; null where unknown), `equation` (the source's; "" where it gives none), `solution` (worked,
in words; "" where there is none), `source`.

`operations` is counted in the equation where the source gives one (SVAMP, ASDiv), and is 1 and 2 for MAWPS' single-operation and
two-step problems by their definition. For MAWPS addsub and singleeq it is the fewest operations on the numbers written in the
question that give the answer, 1 or 2, else null: found by search, so a lower bound and not an annotation. GSM8K has none.

Sources: Patel et al. 2021 (SVAMP), https://arxiv.org/abs/2103.07191; Koncel-Kedziorski et al. 2016 (MAWPS),
https://aclanthology.org/N16-1136; Miao et al. 2020 (ASDiv), https://aclanthology.org/2020.acl-main.92; Cobbe et al. 2021 (GSM8K),
https://arxiv.org/abs/2110.14168; Gao et al. 2022 (GSM-Hard), https://arxiv.org/abs/2211.10435.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from fractions import Fraction
from itertools import permutations

from corollary.data.near_duplicates import clusters, side
from corollary.data.published import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One row; the fields are those of the module's first paragraph."""

    id: str
    question: str
    answer: str
    type: str
    operations: int | None
    equation: str = ""
    solution: str = ""
    source: str


def number(value: Decimal | int | str) -> str:
    """A number as plain text, without trailing zeros.

    >>> number("145.0"), number("2,125"), number(Decimal("0.50"))
    ('145', '2125', '0.5')
    """
    text = f"{Decimal(str(value).replace(',', '')):f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def tidy(text: str) -> str:
    """One space between words, none before punctuation or after a currency sign, a capital at the start of each sentence.

    >>> tidy("Ann spent $ 5 .  she had  $ 9 . How much is left ?")
    'Ann spent $5. She had $9. How much is left?'
    """
    text = " ".join(text.split())
    text = re.sub(r"\s+([.,?!;:%])(?=\s|$)", r"\1", text)
    text = re.sub(r"\$\s+(?=\d)", "$", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def joined(body: str, question: str) -> str:
    """A body and its question as one text. A body that ends without a full stop goes on after a comma.

    >>> joined("He has 14 tickets. If he gives away 3", "How many are left?")
    'He has 14 tickets. If he gives away 3, how many are left?'
    """
    body, question = tidy(body), tidy(question)
    if not body:
        return question
    if body[-1] in ".!?":
        return tidy(f"{body} {question}")
    first, _, rest = question.partition(" ")
    if first in ("How", "What", "Which", "Who", "When", "Find"):
        question = f"{first.lower()} {rest}"
    return f"{body.rstrip(',')}, {question}"


_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def value_of(equation: str) -> Fraction:
    """The exact value of an arithmetic expression of numbers, + - * / and brackets.

    Raises:
        ValueError: anything else stands in it.

    >>> value_of("( 290.0 / 2.0 ) - 5")
    Fraction(140, 1)
    """

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return Fraction(str(node.value))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        raise ValueError(f"not plain arithmetic: {equation!r}")

    try:
        return walk(ast.parse(equation.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"not plain arithmetic: {equation!r}") from error


_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def fewest_operations(question: str, answer: str, most: int = 2) -> int | None:
    """How many of + - * / on the numbers written in the question, each used at most once, give the answer; None beyond `most`.

    >>> fewest_operations("Ann had 4 pens, 2 red. She got 3 more.", "7"), fewest_operations("2 boxes of 5, minus 1", "9")
    (1, 2)
    """
    numbers = [Fraction(n.replace(",", "")) for n in _NUMBER.findall(question)]
    target = Fraction(answer)
    states = {tuple(sorted(numbers[:4]))}
    for operations in range(1, most + 1):
        reached = set()
        for state in states:
            for i, j in permutations(range(len(state)), 2):
                rest = [n for k, n in enumerate(state) if k not in (i, j)]
                reached |= {(tuple(sorted([*rest, v])), v) for v in _combined(state[i], state[j])}
        if any(value == target for _, value in reached):
            return operations
        states = {state for state, _ in reached}
    return None


def _combined(a: Fraction, b: Fraction) -> list[Fraction]:
    return [a + b, a - b, a * b] + ([a / b] if b else [])


def _clean_equation(text: str) -> str:
    """`( 290.0 / 2.0 )` → `290 / 2`."""
    text = re.sub(r"\d+\.\d+", lambda m: number(m[0]), " ".join(text.split()))
    text = text.replace("( ", "(").replace(" )", ")")
    outer = text.startswith("(") and text.endswith(")") and "(" not in text[1:-1]
    return text[1:-1] if outer else text


def svamp(rows: Iterable[Row]) -> Iterator[Problem]:
    """SVAMP: `Body`, `Question`, `Equation`, `Answer`, `Type`, `ID`."""
    for row in rows:
        yield Problem(
            id=f"svamp/{row['ID']}",
            question=joined(row["Body"], row["Question"]),
            answer=number(row["Answer"]),
            type=row["Type"].lower().replace("common-divison", "division").replace("common-division", "division"),
            operations=len(re.findall(r" [-+*/] ", row["Equation"])),
            equation=_clean_equation(row["Equation"]),
            source="svamp",
        )


def mawps(rows: Iterable[Row], only: str = "") -> Iterator[Problem]:
    """MAWPS, all four parts or the one called `only`: `input`, `target`, `type`, `idx`."""
    for row in rows:
        if only and row["type"] != only:
            continue
        question, answer = tidy(row["input"]), number(row["target"])
        known = {"singleop": 1, "multiarith": 2}.get(row["type"])
        yield Problem(
            id=f"mawps/{row['type']}/{row['idx']}",
            question=question,
            answer=answer,
            type=row["type"],
            operations=known or fewest_operations(question, answer),
            source="mawps",
        )


def asdiv(rows: Iterable[Row]) -> Iterator[Problem]:
    """ASDiv, the problems whose answer is one number: `body`, `question`, `answer` ("9 (apples)"), `formula`, `solution_type`, `idx`."""
    for row in rows:
        answer = re.fullmatch(r"(-?\d[\d,]*(?:\.\d+)?)\s*(?:\(.*\))?", row["answer"].strip())
        if not answer:
            continue
        equation = row["formula"].rpartition("=")[0] or row["formula"]
        plain = re.fullmatch(r"[\d.()+*/\s-]+", equation)
        yield Problem(
            id=f"asdiv/{row['idx']}",
            question=joined(row["body"], row["question"]),
            answer=number(answer[1]),
            type=row["solution_type"].lower().replace("substraction", "subtraction"),
            operations=len(re.findall(r"(?<=[\d)])[-+*/]", equation.replace(" ", ""))) if plain else None,
            equation=equation,
            source="asdiv",
        )


def gsm8k(rows: Iterable[Row], part: str) -> Iterator[Problem]:
    """GSM8K, `part` train or test: `question`, `answer` (worked, the number behind `####`), `idx`.

    >>> [problem] = gsm8k([{"question": "How much is 48/2?", "answer": "It is 48/2=<<48/2=24>>24.\\n#### 24", "idx": 0}], "test")
    >>> problem.solution, problem.answer
    ('It is 48/2=24.', '24')
    """
    for row in rows:
        solution, _, answer = row["answer"].rpartition("####")
        yield Problem(
            id=f"gsm8k/{part}/{row['idx']}",
            question=tidy(row["question"]),
            answer=number(answer.strip()),
            type="grade-school",
            operations=None,
            solution=re.sub(r"<<[^<>]*>>", "", solution).strip(),  # its calculator's annotations
            source="gsm8k",
        )


def gsm_hard(rows: Iterable[Row]) -> Iterator[Problem]:
    """GSM8K's test questions with one number made large: `input`, `target`, `idx`; its answers were computed and not looked at."""
    for row in rows:
        yield Problem(
            id=f"gsm-hard/{row['idx']}",
            question=tidy(row["input"]),
            answer=number(row["target"]),
            type="large-numbers",
            operations=None,
            source="gsm-hard",
        )


def arithmetic(rows: Iterable[Row]) -> Iterator[Problem]:
    """Bare expressions, `4 * 8 =`: a row per answer to choose from, and the whole twice over; `doc` has `question`, `choices`, `gold`."""
    for doc in {row["doc"]["id"]: row["doc"] for row in rows}.values():
        expression = doc["question"].removesuffix("=").strip()
        plain = re.fullmatch(r"[\d.()+*/\s-]+", expression)
        yield Problem(
            id=f"arithmetic/{doc['id']}",
            question=f"{expression} =",
            answer=number(doc["choices"][doc["gold"]]),
            type="arithmetic",
            operations=len(re.findall(r" [-+*/] ", expression)) if plain else None,
            equation=expression if plain else "",
            source="arithmetic",
        )


def sound(problem: Problem) -> bool:
    """Whether a problem is fit to learn from and be measured by: it asks something, its answer is an integer or has at most three
    decimals, its numbers are as a person writes them, and its equation, where it has one, gives its answer."""
    decimals = [len(d) for d in re.findall(r"\.(\d+)", f"{problem.question} {problem.answer}")]
    if not problem.question.endswith("?") or any(d > 3 for d in decimals):
        return False
    return not problem.equation or value_of(problem.equation) == Fraction(problem.answer)


def word_problems(problems: Iterable[Problem], part: str) -> Iterator[Problem]:
    """The `train` or the `test` side of all sound problems.

    Problems that are near-duplicates (see `near_duplicates`) lie on the same side, and a group's side is a hash of its content: 30 %
    of the groups are test. Equal questions are kept once; in test, so are questions equal but for numbers and names, because an
    interval over near copies would be too narrow.
    """
    distinct = {p.question.casefold(): p for p in reversed([p for p in problems if sound(p)])}
    ordered = list(reversed(distinct.values()))
    for group in clusters([p.question for p in ordered]):
        if side(group, test_share=0.3) != part:
            continue
        seen = set()
        for index, skeleton in zip(group.members, group.skeletons, strict=True):
            if part == "train" or skeleton not in seen:
                yield ordered[index]
            seen.add(skeleton)


def side_of(svamp_rows: Iterable[Row], mawps_rows: Iterable[Row], part: str) -> Iterator[Problem]:
    """One side of SVAMP and MAWPS together."""
    return word_problems([*svamp(svamp_rows), *mawps(mawps_rows)], part)


SMALL = 50  # the largest number of a small problem, in its question and as its answer


def small(problems: Iterable[Problem]) -> Iterator[Problem]:
    """The problems of one operation on whole numbers up to 50, each with its equation where that is certain.

    Certain is the source's own equation, or else the only `a op b` on numbers of the question that gives the answer.
    """
    for problem in problems:
        numbers = [Fraction(n.replace(",", "")) for n in _NUMBER.findall(problem.question)] + [Fraction(problem.answer)]
        if problem.operations == 1 and all(n.denominator == 1 and 0 <= n <= SMALL for n in numbers):
            yield replace(problem, equation=problem.equation or _only_equation(numbers[:-1], numbers[-1]))


def _only_equation(numbers: Sequence[Fraction], answer: Fraction) -> str:
    """The one `a op b` that gives the answer; "" where there is none or more than one.

    >>> _only_equation([Fraction(15), Fraction(6)], Fraction(9)), _only_equation([Fraction(2), Fraction(2)], Fraction(4))
    ('15 - 6', '')
    """
    found = {
        f"{a} {sign} {b}"
        for (i, a), (j, b) in permutations(enumerate(numbers), 2)
        for sign, value in zip("+-*/", [*_combined(a, b), None], strict=False)
        if value == answer and (i < j or sign in "-/")
    }
    return found.pop() if len(found) == 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Problem):
    """A problem with a right and a wrong answer."""

    chosen: str  # "15 - 6 = 9"
    rejected: str  # "15 + 6 = 21"


def small_side_of(svamp_rows: Iterable[Row], mawps_rows: Iterable[Row], part: str) -> Iterator[Problem]:
    """The small problems of one side; those `worked`, which are certain of their equation; and these as `pairs` or `test-pairs`."""
    problems = small(side_of(svamp_rows, mawps_rows, "test" if part in ("test", "test-pairs") else "train"))
    match part:
        case "worked":
            return (problem for problem in problems if problem.equation)
        case "pairs" | "test-pairs":
            return pairs(problems)
        case _:
            return problems


def pairs(problems: Iterable[Problem]) -> Iterator[Pair]:
    """Small problems with their equation as the chosen answer, and another operation on its numbers as the rejected one.

    The rejected one is worked out rightly, to a whole number that is not the answer; which operation it is, where there are
    several, a hash of the problem's id decides.

    >>> problem = Problem(id="p", question="?", answer="9", type="subtraction", operations=1, equation="15 - 6", source="s")
    >>> [(pair.chosen, pair.rejected) for pair in pairs([problem])]
    [('15 - 6 = 9', '15 + 6 = 21')]
    """
    for problem in problems:
        operation = re.fullmatch(r"(\d+) ([-+*/]) (\d+)", problem.equation)
        if not operation:
            continue
        a, sign, b = operation.groups()
        wrong = [f"{a} {other} {b}" for other in "+-*/" if other != sign and not (other == "/" and b == "0")]
        values = {equation: value_of(equation) for equation in wrong}
        fit = [e for e, v in values.items() if v.denominator == 1 and v >= 0 and v != Fraction(problem.answer)]
        if fit:
            rejected = fit[hashlib.sha256(problem.id.encode()).digest()[0] % len(fit)]
            chosen = f"{problem.equation} = {problem.answer}"
            yield Pair(**asdict(problem), chosen=chosen, rejected=f"{rejected} = {values[rejected]}")
