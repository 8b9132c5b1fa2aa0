"""Answers to instructions that a language model judged, as pairs and one by one. The judges are GPT-4 and Claude, not people.

Sources: AlpacaFarm (Dubois et al. 2023), https://arxiv.org/abs/2305.14387, and AlpacaEval, https://github.com/tatsu-lab/alpaca_eval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from corollary.data.published import Row, held_out

Judge = Literal["gpt4", "claude"]

_TEST_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """Two answers to a question, and which one the judge prefers."""

    id: str
    question: str
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedAnswer:
    """An answer that the judge preferred more often than the other one, or less often."""

    id: str
    question: str
    answer: str
    desirable: bool


def judged_pairs(gpt4: Sequence[Row], claude: Sequence[Row], judge: Judge, part: str) -> Iterator[JudgedPair]:
    """One side of a judge's pairs: `instruction`, `input`, `output_1`, `output_2`, `preference` (1, 2; 0 is a tie).

    Near-duplicates of a question lie on one side, the same for both judges, so that what one judge's pairs were held out for can be
    measured on a model that learnt from the other's. Left out: ties, and pairs with an empty answer.
    """
    pairs = {name: list(_strict(rows, name)) for name, rows in (("gpt4", gpt4), ("claude", claude))}
    questions = list(dict.fromkeys(pair.question for rows in pairs.values() for pair in rows))
    test = dict(zip(questions, held_out(questions, _TEST_SHARE), strict=True))
    return (pair for pair in pairs[judge] if test[pair.question] == (part == "test"))


def judged_answers(gpt4: Sequence[Row], claude: Sequence[Row], judge: Judge, part: str) -> Iterator[JudgedAnswer]:
    """The answers of those pairs, each once. Left out: those that were preferred as often as not."""
    pairs = list(judged_pairs(gpt4, claude, judge, part))
    balance = Counter((pair.question, pair.chosen) for pair in pairs)
    balance.subtract((pair.question, pair.rejected) for pair in pairs)
    number = 0
    for (question, answer), more in balance.items():
        if more:
            yield JudgedAnswer(id=f"{judge}/{part}/{number}", question=question, answer=answer, desirable=more > 0)
            number += 1


def _strict(rows: Sequence[Row], judge: str) -> Iterator[JudgedPair]:
    for index, row in enumerate(rows):
        answers = [(row[name] or "").strip() for name in ("output_1", "output_2")]
        if row["preference"] not in (1, 2) or not all(answers):
            continue
        better = int(row["preference"]) - 1
        yield JudgedPair(
            id=f"{judge}/{index}",
            question="\n\n".join(filter(None, (row["instruction"].strip(), (row["input"] or "").strip()))),
            chosen=answers[better],
            rejected=answers[1 - better],
        )
