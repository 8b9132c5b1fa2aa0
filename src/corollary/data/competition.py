"""Competition mathematics with worked solutions whose answer stands in `\\boxed{…}`.

Sources: MATH (Hendrycks et al. 2021), https://arxiv.org/abs/2103.03874; MATH-500, the 500 of its test problems that Lightman et al. 2023
measured on, https://arxiv.org/abs/2305.20050.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from corollary.data.published import Row
from corollary.rewards.arithmetic import boxed

_UNREADABLE = {
    "train": {1556, 1982, 3142, 3444, 3777, 3964, 4322, 4493, 4688, 5341, 5343, 6504, 6786, 6811, 6943, 7198},
    "test": {1714, 2854, 4641, 4923},
}
"""Problems by number whose answers the reward `math` does not read: powers of hundreds of digits, prose, two without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompetitionProblem:
    """A problem in words and LaTeX."""

    id: str
    question: str
    answer: str  # LaTeX
    level: int  # 1 easy … 5 hard
    subject: str
    solution: str


def math(rows: Sequence[Row], part: str) -> Iterator[CompetitionProblem]:
    """MATH: `problem`, `level` ("Level 5"), `type`, `solution`. The answer is what its solution boxes last.

    Left out: sixteen and four problems whose answer the reward `math` does not read.
    """
    for index, row in enumerate(rows):
        if index in _UNREADABLE[part]:
            continue
        level = re.search(r"\d", row["level"])
        answer = boxed(row["solution"]) or _bare(row["solution"])
        yield CompetitionProblem(
            id=f"math/{part}/{index}",
            question=row["problem"].strip(),
            answer=answer.strip(),
            level=int(level[0]) if level else 0,
            subject=row["type"],
            solution=row["solution"].strip(),
        )


def math_500(rows: Sequence[Row]) -> Iterator[CompetitionProblem]:
    """MATH-500: `problem`, `level`, `subject`, `solution`, `answer`, `unique_id`."""
    for row in rows:
        yield CompetitionProblem(
            id=f"math-500/{row['unique_id'].removesuffix('.json')}",
            question=row["problem"].strip(),
            answer=row["answer"].strip(),
            level=int(row["level"]),
            subject=row["subject"],
            solution=row["solution"].strip(),
        )


def _bare(solution: str) -> str:
    r"""What a box without braces holds.

    >>> _bare(r"so it is \boxed 2, as was to be shown")
    '2'
    """
    found = re.findall(r"\\boxed\s+([^\s.,$]+)", solution)
    return found[-1] if found else ""
