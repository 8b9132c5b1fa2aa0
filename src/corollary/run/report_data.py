"""What the report's page holds, read out of a run directory: typed, bounded, tolerant of a run that is under way.

Everything here was written by a model, a data set or a user, so nothing is trusted: a row that does not fit is counted
and left out, a text that is too long is cut, and the page says so.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from corollary.run.jsonl import Index, Line, Row, evenly, fetch, index, lines, parsed

TEXT = 20_000  # characters of one text
TOKENS = 2_000  # tokens of one answer
ANSWERS = 64  # answers of one group
POINTS = 10_000  # steps of one curve
PROMPTS = (400, 200, 100, 50, 20)  # held-out prompts; the first of these that HELDOUT_BYTES allows
ROLLOUT_BYTES = 10_000_000  # of rollouts.jsonl, before cutting
HELDOUT_BYTES = 6_000_000  # of the two evaluations, before cutting
SAMPLES = 16  # sampled answers of a held-out prompt
COLUMNS = 200  # curves
RUNGS = (  # (steps, groups of each step)
    (60, 24),
    (60, 12),
    (40, 8),
    (24, 8),
    (24, 4),
    (12, 4),
    (12, 2),
    (12, 1),
    (4, 1),
    (2, 1),
)

_EVALUATION = re.compile(r"step-(\d{1,15})\.jsonl")


def _text(value: object) -> str:
    """A string that can be written as UTF-8 and is not longer than TEXT; nothing for None, any other value as JSON."""
    text = (
        value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False, default=str)
        if value is not None
        else ""
    )
    cut = text if len(text) <= TEXT else f"{text[:TEXT]} … [{len(text) - TEXT:,} more characters]"
    return cut.encode("utf-8", "replace").decode("utf-8")


def _significant(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.6g}")


Text = Annotated[str, BeforeValidator(_text)]
Whole = Annotated[str, BeforeValidator(lambda text: text.encode("utf-8", "replace").decode("utf-8"))]  # never cut
Number = Annotated[float | None, PlainSerializer(_significant)]
Nats = Annotated[float | None, PlainSerializer(lambda value: None if value is None else round(value, 3))]


class Seen(BaseModel):
    """Something read from a run directory. Other keys than these are ignored; NaN and infinity go on as words."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="strings")


class Answer(Seen):
    """One sampled answer."""

    text: Whole | None = ""  # None: the tokens spell it
    tokens: list[Whole] = []
    logprobs: list[Nats] = []
    reward: Number = None
    rewards: dict[Text, Number] = {}
    advantage: Number = None
    truncated: bool = False
    sampled: list[int] = []  # 0 where a token is an observation; empty: the model said all of them
    passed: bool | None = None
    more_tokens: int = 0  # left out here
    more_characters: int = 0  # left out here

    def fitted(self) -> Answer:
        """Cut to what a page can carry, and without a text that its tokens repeat."""
        text = self.text or ""
        tokens = self.tokens if len(self.tokens) == len(self.logprobs) else []
        return self.model_copy(
            update={
                "text": None if tokens and "".join(tokens) == text else text[:TEXT],
                "tokens": tokens[:TOKENS],
                "logprobs": self.logprobs[: len(tokens[:TOKENS])],
                "sampled": self.sampled[: len(tokens[:TOKENS])],
                "more_tokens": max(0, len(tokens) - TOKENS),
                "more_characters": max(0, len(text) - TEXT),
            }
        )


class Message(Seen):
    """One turn of a prompt's conversation."""

    role: Text = ""
    content: Text = ""


class Group(Seen):
    """The answers to one prompt at one step."""

    step: int
    prompt_id: Text = ""
    prompt: Text = ""
    messages: list[Message] = []
    columns: dict[Text, Text] = {}
    answers: list[Answer] = []

    def fitted(self) -> Group:
        """With as many answers as a page can carry, each cut to size."""
        return self.model_copy(update={"answers": [answer.fitted() for answer in self.answers[:ANSWERS]]})


class Rollouts(Seen):
    """Some of the groups of some of the steps."""

    groups: list[Group] = []
    steps_shown: int = 0
    steps_total: int = 0
    groups_total: int = 0  # of all steps
    unreadable: int = 0  # lines of the file


class Curves(Seen):
    """Columns of numbers over the steps."""

    steps: list[int] = []
    columns: dict[Text, list[Number]] = {}
    steps_total: int = 0
    unreadable: int = 0


class Verdict(Seen):
    """One held-out answer, and whether it is right by the strict and by the lenient extraction."""

    text: Text = ""
    strict: bool | None = None
    lenient: bool | None = None
    truncated: bool = False


class Judged(Seen):
    """One held-out prompt as one evaluation saw it."""

    prompt_id: Text
    prompt: Text = ""
    columns: dict[Text, Text] = {}
    greedy: Verdict | None = None
    sampled: list[Verdict] = []
    measures: dict[Text, Number] = {}  # what is said of it without sampling

    @property
    def verdict(self) -> tuple[bool | None, bool | None]:
        """Of the greedy answer: (strict, lenient)."""
        return (self.greedy.strict, self.greedy.lenient) if self.greedy else (None, None)


class Heldout(Seen):
    """The first and the last evaluation's answers to the same prompts."""

    before_step: int | None = None
    after_step: int | None = None
    before: list[Judged] = []
    after: list[Judged | None] = []  # in `before`'s order
    total: int = 0
    changed_total: int = 0  # prompts whose verdict changed
    unreadable: int = 0


class Measure(Seen):
    """A metric with its confidence interval."""

    value: Number
    low: Number = None
    high: Number = None
    correct: Number = None
    prompts: int | None = None
    unit: Text = ""  # "number" where it is no share


class Measures(Seen):
    """One evaluation's metrics."""

    step: int | None = None
    metrics: dict[Text, Measure] = {}


class Difference(Seen):
    """A paired difference, after - before, with its confidence interval."""

    estimate: Number
    low: Number = None
    high: Number = None
    prompts: int | None = None
    gained: int | None = None
    lost: int | None = None
    method: Text = ""
    confidence: float = 0.95


class Evaluation(Seen):
    """evaluation.json."""

    dataset: Text = ""
    prompts: int | None = None
    before: Measures | None = None
    after: Measures | None = None
    difference: dict[Text, Difference] = {}


def curves(path: Path) -> Curves:
    """metrics.jsonl or timing.jsonl as columns; of a step that was run twice the later line counts.

    Columns appear in the order in which the file first names them; a value that is no number is left out.
    """
    where = index(path)
    steps = [list(where.steps)[i] for i in evenly(len(where.steps), POINTS)]
    rows = [parsed(line) or {} for line in fetch(path, (where.steps[step][-1] for step in steps))]
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "step"][:COLUMNS]
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    columns = {name: column for name, column in columns.items() if any(value is not None for value in column)}
    return Curves(steps=steps, columns=columns, steps_total=len(where.steps), unreadable=where.unreadable)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if isinstance(value, float) else float(min(max(value, -sys.float_info.max), sys.float_info.max))


def rollouts(path: Path) -> Rollouts:
    """rollouts.jsonl, thinned until it fits a page: first, last and evenly spaced steps, and groups of each."""
    where = index(path)
    chosen = sample(where, ROLLOUT_BYTES)
    groups = [group for line in fetch(path, chosen) if (group := _model(Group, parsed(line))) is not None]
    return Rollouts(
        groups=[group.fitted() for group in groups],
        steps_shown=len({group.step for group in groups}),
        steps_total=len(where.steps),
        groups_total=where.lines,
        unreadable=where.unreadable + len(chosen) - len(groups),
    )


def sample(where: Index, budget: int) -> list[Line]:
    """The most of an index that a number of bytes allows, going down RUNGS; its last rung whatever that weighs."""
    steps, chosen = list(where.steps.values()), []
    for step_limit, group_limit in RUNGS:
        kept = [steps[i] for i in evenly(len(steps), step_limit)]
        chosen = [groups[i] for groups in kept for i in evenly(len(groups), group_limit)]
        if sum(line.size for line in chosen) <= budget:
            break
    return chosen


Model = TypeVar("Model", bound=Seen)


def _model(kind: type[Model], row: Row | None) -> Model | None:
    """The row as a model, or None where it does not fit."""
    try:
        return None if row is None else kind.model_validate(row)
    except ValidationError:
        return None


def evaluation(path: Path) -> Evaluation | None:
    """evaluation.json, or None where it is missing, half written or of another form."""
    return _model(Evaluation, parsed(path.read_bytes())) if path.is_file() else None


_Place = tuple[tuple[bool | None, bool | None], Line]  # a prompt's verdict, and where its line lies


def heldout(folder: Path) -> Heldout:
    """The first and last evaluation of a run, prompt by prompt; where not all fit, changed verdicts come first."""
    found = sorted((int(match[1]), path) for path in _files(folder) if (match := _EVALUATION.fullmatch(path.name)))
    if not found:
        return Heldout()
    (before_step, first), (after_step, last) = found[0], found[-1]
    before, unreadable = _verdicts(first)
    after, unreadable_after = _verdicts(last) if last != first else ({}, 0)
    changed = [name for name in before if name in after and before[name][0] != after[name][0]]
    chosen = _within(list(before), changed, (before, after))
    answers = {row.prompt_id: row for row in _judged(last, (after[name][1] for name in chosen if name in after))}
    shown = list(_judged(first, (before[name][1] for name in chosen)))
    return Heldout(
        before_step=before_step,
        after_step=after_step if after else None,
        before=shown,
        after=[answers.get(row.prompt_id) for row in shown] if after else [],
        total=len(before),
        changed_total=len(changed),
        unreadable=unreadable + unreadable_after,
    )


def _files(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()


def _verdicts(path: Path) -> tuple[dict[str, _Place], int]:
    """Each prompt's verdict and place, and the number of lines that could not be read."""
    found: dict[str, _Place] = {}
    unreadable = 0
    for place, text in lines(path):
        row = _model(Judged, parsed(text))
        if row is None:
            unreadable += 1
        else:
            found[row.prompt_id] = (row.verdict, place)
    return found, unreadable


def _judged(path: Path, places: Iterable[Line]) -> Iterator[Judged]:
    for text in fetch(path, places):
        row = _model(Judged, parsed(text))
        if row is not None:
            yield row.model_copy(update={"sampled": row.sampled[:SAMPLES]})


def _within(names: Sequence[str], changed: Sequence[str], sides: Sequence[Mapping[str, _Place]]) -> list[str]:
    """The most of the names that HELDOUT_BYTES allows, going down PROMPTS; its last rung whatever that weighs."""
    chosen: list[str] = []
    for limit in PROMPTS:
        chosen = some(names, changed, limit)
        if sum(side[name][1].size for side in sides for name in chosen if name in side) <= HELDOUT_BYTES:
            break
    return chosen


def some(names: Sequence[str], first: Sequence[str], limit: int) -> list[str]:
    """At most `limit` of the names, in their order: up to three quarters from `first`, the others evenly spaced.

    >>> some(["a", "b", "c", "d", "e", "f"], ["c", "d"], 4)
    ['a', 'c', 'd', 'f']
    """
    if len(names) <= limit:
        return list(names)
    kept = {first[i] for i in evenly(len(first), limit * 3 // 4)}
    rest = [name for name in names if name not in kept]
    kept |= {rest[i] for i in evenly(len(rest), limit - len(kept))}
    return [name for name in names if name in kept]


def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested mappings and of lists that hold mappings, by dotted name.

    >>> dict(flat({"loss": {"clip": 0.2}, "betas": [0.9, 0.95], "rewards": [{"weight": 1.0}]}))
    {'loss.clip': 0.2, 'betas': [0.9, 0.95], 'rewards.0.weight': 1.0}
    """
    branches: Iterable[tuple[object, object]] = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        branches = list(enumerate(value))
    if not branches:
        yield name, value
    for key, inner in branches:
        yield from flat(inner, f"{name}.{key}" if name else str(key))
