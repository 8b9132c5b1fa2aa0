"""Rewards: plain functions `f(prompts, completions, **columns) -> list[float | None]`, called under deadlines, each kept
apart and added up by weight.

The convention is TRL's, so that a function written for it runs unchanged. A conversation's prompt is a list of messages and
its completion a list with the assistant's one; plain text is plain text. Every column of the data comes by keyword as a list,
as do `prompt_ids`, `completion_ids`, `trainer_state`, `log_extra` and `log_metric` (the last two are accepted and do nothing here). A
function without `**kwargs` gets what it names. It may be async. `None` means that the reward does not apply to a sample.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from corollary.errors import ConfigError, DataError
from corollary.rewards.calling import OFFERED, Call, Fault, Values, described, perform
from corollary.rewards.faults import Blame, Verdict, error, settle
from corollary.rewards.parts import Part, RewardSpec
from corollary.rewards.workers import Pool
from corollary.types import Completion, Prompt, Sampling

_EMPTY = Completion(token_ids=(), logprobs=(), text="", truncated=False, version=0, sampling=Sampling())


class Score(NamedTuple):
    """What one answer earned."""

    reward: float | None  # Σ weight·part over the parts that apply; None: it could not be judged
    parts: dict[str, float | None]  # by name, unweighted; None: does not apply, or failed
    faults: tuple[str, ...] = ()  # the lines of what failed and was masked


@dataclass(frozen=True, slots=True)
class _Batch:
    """The samples of a step, side by side."""

    groups: tuple[range, ...]  # rows of each prompt's answers
    names: tuple[str, ...]  # p17#2
    prompts: tuple[Prompt, ...]  # of each sample
    completions: tuple[Completion, ...]
    columns: tuple[str, ...]  # that any of the prompts has
    step: int = 0

    @classmethod
    def of(cls, groups: Sequence[tuple[Prompt, Sequence[Completion]]], step: int = 0) -> Self:
        samples = [(prompt, g, answer) for prompt, answers in groups for g, answer in enumerate(answers)]
        rows, end = [], 0
        for _, answers in groups:
            rows.append(range(end, end := end + len(answers)))
        columns = tuple(dict.fromkeys(name for prompt, _ in groups for name in prompt.columns))
        if taken := sorted(set(columns) & set(OFFERED)):
            raise DataError(f"a column is named {taken[0]!r}, which is what rewards are given", hint="rename it")
        return cls(
            groups=tuple(rows),
            names=tuple(f"{prompt.id}#{g}" for prompt, g, _ in samples),
            prompts=tuple(prompt for prompt, _, _ in samples),
            completions=tuple(answer for _, _, answer in samples),
            columns=tuple(name for name in columns if name not in ("prompt", "completion")),
            step=step,
        )

    def without_answers(self) -> Self:
        return replace(self, completions=(_EMPTY,) * len(self.completions))

    def slices(self, part: Part) -> list[Sequence[int]]:
        """The rows of each call of a part."""
        everything = range(len(self.names))
        return {"batch": [everything], "group": [*filter(len, self.groups)], "sample": [[row] for row in everything]}[
            part.per
        ]

    def call(self, part: Part, rows: Sequence[int]) -> Call:
        """What the part is called with for these rows."""
        if taken := sorted(set(part.params) & {*self.columns, *OFFERED}):
            raise ConfigError(f"reward {part.name!r}: its parameter {taken[0]!r} is a column of the data, too")
        prompts = [self.prompts[row] for row in rows]
        answers = [self.completions[row] for row in rows]
        keywords = {
            "prompts": [[dict(m) for m in p.messages] if p.messages else p.text for p in prompts],
            "completions": [
                [{"role": "assistant", "content": answer.text}] if prompt.messages else answer.text
                for prompt, answer in zip(prompts, answers, strict=True)
            ],
            "prompt_ids": [list(prompt.token_ids) for prompt in prompts],
            "completion_ids": [list(answer.token_ids) for answer in answers],
            **{name: [prompt.columns.get(name) for prompt in prompts] for name in self.columns},
            **part.params,
        }
        return Call(part.reference, keywords, len(rows), part.seconds, self.step)


class Reward:
    """Several reward functions and their weighted sum.

    Args:
        parts: in the order in which they are logged.
        workers: processes at most; the result does not depend on it.

    Raises:
        ConfigError: no part, or two of the same name.

    >>> from corollary.types import Sampling
    >>> prompt = Prompt(id="p7", token_ids=(1,), text="3 + 4?", columns={"answer": 7})
    >>> answers = [Completion(token_ids=(), logprobs=(), text=t, truncated=False, version=0, sampling=Sampling())
    ...            for t in ("3 + 4 = 7", "8")]
    >>> with Reward([RewardSpec(type="number", isolated=False)]) as reward:
    ...     [[score.reward for score in group] for group in reward.score([(prompt, answers)])]
    [[1.0, 0.0]]
    """

    def __init__(self, parts: Sequence[RewardSpec | Part], *, workers: int = 2) -> None:
        self.parts = tuple(Part.of(part) if isinstance(part, RewardSpec) else part for part in parts)
        twice = [name for name in self.names if self.names.count(name) > 1]
        if not self.parts or twice:
            what = f"two rewards are named {twice[0]!r}" if twice else "there is no reward function"
            raise ConfigError(what, hint="give each a name of its own" if twice else "name at least one under rewards")
        self._pool = Pool(workers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def full_mark(self) -> float:
        """The sum of the positive weights: what the best answer earns where each reward's best value is 1."""
        return sum(max(part.weight, 0.0) for part in self.parts)

    @property
    def printed(self) -> str:
        """The end of what the functions printed in their processes; it goes nowhere else."""
        return "\n".join(worker.printed.decode(errors="replace") for worker in self._pool.workers)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Load every function and hold the data against it, before anything is trained.

        Rewards of the library judge an empty answer to every prompt, which shows each gold answer that cannot be read.
        Your own are loaded and not called, since an empty answer may be none that they expect.

        Raises:
            UserCodeError: a function cannot be loaded, or takes what is no column.
            DataError: a gold answer is missing or cannot be read.
        """
        batch = _Batch.of([(prompt, [_EMPTY]) for prompt in prompts])
        self._verdicts([part for part in self.parts if part.of_ours], batch)
        theirs = [part for part in self.parts if not part.of_ours]
        for part, outcome in zip(theirs, self._outcomes([(part, ()) for part in theirs], batch), strict=True):
            if isinstance(outcome, Fault):
                raise error(Blame(outcome, ()), part.name, batch.names)

    def score(self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0) -> list[list[Score]]:
        """What each answer earned, in the order that they came.

        Args:
            groups: prompts, each with its answers.
            step: optimizer steps done, for functions that read `trainer_state.global_step`.

        Raises:
            UserCodeError: a function failed, hung or returned what it may not, and its `on_error` is `stop`.
            DataError: a gold answer cannot be read, and likewise.
        """
        batch = _Batch.of(groups, step)
        verdicts = self._verdicts(self.parts, batch) if batch.names else []
        return [[self._score(row, verdicts, batch) for row in rows] for rows in batch.groups]

    def _score(self, row: int, verdicts: Sequence[dict[int, Verdict]], batch: _Batch) -> Score:
        parts: dict[str, float | None] = {}
        faults: list[str] = []
        for part, of in zip(self.parts, verdicts, strict=True):
            verdict = of[row]
            parts[part.name] = None if isinstance(verdict, Blame) else verdict
            if isinstance(verdict, Blame):
                faults.append(error(verdict, part.name, batch.names).line())
        earned = [part.weight * value for part in self.parts if (value := parts[part.name]) is not None]
        return Score(None if faults or not earned else sum(earned), parts, tuple(faults))

    def _verdicts(self, parts: Sequence[Part], batch: _Batch) -> list[dict[int, Verdict]]:
        """Each part's verdict on each row. All first calls share the pool."""
        jobs = [(part, rows) for part in parts for rows in batch.slices(part)]
        verdicts: dict[str, dict[int, Verdict]] = {part.name: {} for part in parts}
        for (part, rows), outcome in zip(jobs, self._outcomes(jobs, batch), strict=True):
            stop = part.on_error == "stop"
            found = settle(
                rows, outcome, lambda rows, part=part: self._outcomes([(part, rows)], batch)[0], first_only=stop
            )
            for row, verdict in found.items():
                verdicts[part.name][row] = settled = self._excused(part, row, verdict, batch)
                if isinstance(settled, Blame) and (stop or settled.fault.kind in ("unloadable", "parameters")):
                    raise error(settled, part.name, batch.names)
        return [verdicts[part.name] for part in parts]

    def _excused(self, part: Part, row: int, verdict: Verdict, batch: _Batch) -> Verdict:
        """An answer that makes a reward of ours hang is a wrong answer, unless an empty one in its place does so, too."""
        if part.late is None or not isinstance(verdict, Blame) or verdict.fault.kind not in ("hung", "died"):
            return verdict
        if isinstance(self._outcomes([(part, [row])], batch.without_answers())[0], Fault):
            return Blame(Fault("sample", f"its gold answer cannot be compared with: {verdict.fault.what}"), (row,))
        return part.late

    def _outcomes(self, jobs: Sequence[tuple[Part, Sequence[int]]], batch: _Batch) -> list[Values | Fault]:
        calls = [batch.call(part, rows) for part, rows in jobs]
        away = [i for i, (part, _) in enumerate(jobs) if part.function is None]
        outcomes = dict(zip(away, self._pool.run([calls[i] for i in away]), strict=True))
        return [outcomes[i] if i in outcomes else _here(part, calls[i]) for i, (part, _) in enumerate(jobs)]

    def close(self) -> None:
        """End the processes. The reward cannot be used again."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _here(part: Part, call: Call) -> Values | Fault:
    """Call a function in this process, on copies."""
    assert part.function is not None
    try:
        return perform(part.function, replace(call, keywords=copy.deepcopy(dict(call.keywords))))
    except (Exception, SystemExit) as cause:  # noqa: BLE001 - whatever a user's function raises is a fault; Ctrl-C is ours
        return described(cause, call.reference)
