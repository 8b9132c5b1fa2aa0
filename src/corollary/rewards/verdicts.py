"""Whether answers are right, each read twice: strictly, in the form that was asked for, and leniently.

    judge                            strict                                      lenient
    equation, number, hash, boxed    the right number in that form               the last number is the right one
    math                             equal to the gold formula, in \\boxed{…}     equal, wherever it stands
    code                             the tests hold, and it is one fenced block  the tests hold
    instructions                     all are followed                            all are followed by a loosened text
    path/to/file.py:function         its value is 1 or more                      the same

The number forms are read here; everything else in processes with deadlines, as rewards are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, get_args

from corollary.errors import DataError
from corollary.rewards.arithmetic import Form, Judgement, boxed, gold_number, judge
from corollary.rewards.base import Reward, Score
from corollary.rewards.parts import RewardSpec
from corollary.types import Completion, Prompt

NUMBER_FORMS: tuple[Form, ...] = get_args(Form)
JUDGES = (*NUMBER_FORMS, "math", "code", "instructions")
"""The judges that come with the library."""

Answers = Sequence[Sequence[Completion]]
"""Of each prompt, its answers."""


class Judge(Protocol):
    """Says of each answer whether it is right."""

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Nothing, if every prompt can be judged.

        Raises:
            DataError: a prompt has no gold answer, or one that cannot be read.
        """
        ...

    def __call__(self, prompts: Sequence[Prompt], answers: Answers) -> list[list[Judgement]]:
        """A judgement of each answer to each prompt."""
        ...


@contextmanager
def judging(name: str, column: str = "answer", params: Mapping[str, Any] | None = None) -> Iterator[Judge]:
    """The judge called `name`, for as long as the block.

    Args:
        name: one of `JUDGES`, or a function of your own.
        column: of the gold answers, where the judge reads such.
        params: more keywords for the reward that judges.

    Raises:
        ConfigError: it cannot work with these parameters here.
    """
    if name in NUMBER_FORMS:
        yield _Numbers(cast(Form, name), column)
        return
    given = dict(params or {}) | ({"column": column} if name == "math" else {})
    parts = [RewardSpec(type=name, name="lenient", params=given)]
    if name == "instructions":
        parts = [
            RewardSpec(type=name, name=reading, params={**given, "loose": reading == "lenient"})
            for reading in ("strict", "lenient")
        ]
    with Reward(parts) as reward:
        yield _Rewarded(reward, _AS_ASKED.get(name, bool))


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Reads numbers in this process."""

    form: Form
    column: str

    def check(self, prompts: Sequence[Prompt]) -> None:
        for prompt in prompts:
            try:
                gold_number(prompt.columns[self.column])
            except (KeyError, ValueError) as error:
                reason = f"no column {self.column!r}" if isinstance(error, KeyError) else f"{self.column}: {error}"
                raise DataError(
                    f"cannot be judged: {reason}", where=prompt.id, hint="set evaluation.answer to the gold column"
                ) from None

    def __call__(self, prompts: Sequence[Prompt], answers: Answers) -> list[list[Judgement]]:
        return [
            [judge(answer.text, prompt.columns[self.column], self.form) for answer in given]
            for prompt, given in zip(prompts, answers, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Rewarded:
    """Asks reward functions, in their processes."""

    reward: Reward
    as_asked: Callable[[str], bool]  # whether an answer has the form that was asked for, where no reward says so

    def check(self, prompts: Sequence[Prompt]) -> None:
        self.reward.check(prompts)

    def __call__(self, prompts: Sequence[Prompt], answers: Answers) -> list[list[Judgement]]:
        scores = self.reward.score(list(zip(prompts, answers, strict=True)))
        return [
            [self._judgement(score, answer.text) for score, answer in zip(of_prompt, given, strict=True)]
            for of_prompt, given in zip(scores, answers, strict=True)
        ]

    def _judgement(self, score: Score, text: str) -> Judgement:
        right = {name: value is not None and value >= 1 for name, value in score.parts.items()}
        strict = right["strict"] if "strict" in right else right["lenient"] and self.as_asked(text)
        return Judgement(strict, strict or right["lenient"])


def _is_fenced(text: str) -> bool:
    """Whether the whole is one fenced block.

    >>> _is_fenced("```python\\nx = 1\\n```"), _is_fenced("Here:\\n```\\nx = 1\\n```"), _is_fenced("x = 1")
    (True, False, False)
    """
    return bool(re.fullmatch(r"```\w*\n(?:(?!```).)*\n?```", text.strip(), re.DOTALL))


_AS_ASKED: dict[str, Callable[[str], bool]] = {
    "math": lambda text: boxed(text) is not None,
    "code": _is_fenced,
}
