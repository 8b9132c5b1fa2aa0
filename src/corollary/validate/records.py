"""What a run left on disk, read strictly: a line that cannot be read is told with its number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from corollary.config import load
from corollary.custom import is_reference
from corollary.errors import DataError, StorageError
from corollary.run.files import read_json
from corollary.run.own_code import files
from corollary.run.recipe import Recipe

Floats = list[float]


class Read(BaseModel):
    """Something read from a run's folder."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Update(Read):
    """One optimizer step as the trainer saw it; columns have a value for each sequence."""

    role: str
    loss: float
    temperature: float = 1.0
    answers: list[str]
    tokens: Floats
    weight: Floats
    logprob: Floats | None = None
    entropy: Floats | None = None
    value: Floats | None = None
    advantage: Floats | None = None
    advantage_first: Floats | None = None
    advantage_square: Floats | None = None
    sampler: Floats | None = None
    old: Floats | None = None
    gap: Floats | None = None
    ref: Floats | None = None
    value_first: Floats | None = None
    return_first: Floats | None = None
    margin: Floats | None = None
    desirable: list[bool] | None = None
    baseline: float | None = None
    shift: float | None = None
    mean_chosen_length: float | None = None
    predicted: float | None = None
    loss_after: float | None = None


class Audit(Read):
    """All answers of one batch, scored by the trainer as they were sampled."""

    batch: int
    temperature: float
    answers: list[str]
    tokens: Floats
    logprob: Floats = []
    sampler: Floats = []
    entropy: Floats = []
    varentropy: Floats = []
    surprise_square: Floats = []
    gap: Floats = []
    gap_square: Floats = []
    tilt: Floats = []
    excess: Floats = []
    excess_square: Floats = []
    sampler_k3: Floats = []
    ref: Floats = []
    k2: Floats = []
    k3: Floats = []
    kl: Floats = []
    ref_excess: Floats = []
    ref_excess_square: Floats = []
    ref_chi2: Floats = []


class Entry(Read):
    """One line of the ledger."""

    step: int
    metrics: dict[str, float]
    dtype: str = "float32"
    frozen: dict[str, float] = {}
    groups: list[list[str]] = []
    updates: list[Update] = []
    audits: list[Audit] = []
    seal: str = ""

    def of(self, role: str) -> list[Update]:
        """The step's updates of policy or critic."""
        return [update for update in self.updates if update.role == role]


Count = Annotated[int, BeforeValidator(lambda value: len(value) if isinstance(value, list) else value)]


class Answer(Read):
    """What a rollout's record says of an answer."""

    tokens: Count = 0  # how many
    reward: float | None = None
    rewards: dict[str, float | None] = {}
    advantage: float | None = None
    truncated: bool = False
    counts: dict[str, float] = {}


class Group(Read):
    """The answers to one prompt at one step."""

    step: int
    prompt_id: str = ""
    answers: list[Answer] = []


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a journal."""

    number: int  # from 1
    text: str
    row: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """A run's folder."""

    folder: Path
    recipe: Recipe
    own_code: str  # why the user's own files are not those of the run; empty: they are
    metrics: Sequence[Line]
    ledger: Sequence[Line]
    entries: Sequence[Entry]
    rollouts: dict[int, bytes]  # step → digest of its lines, as they stand in the file
    groups: dict[int, list[Group]]  # step → its groups
    evaluations: dict[int, list[dict[str, Any]]]  # step → a row for each held-out prompt
    evaluation: dict[str, Any] | None  # evaluation.json
    sealed: dict[int, str]  # step of a checkpoint → the digest that it keeps

    @property
    def own(self) -> str:
        """Why what the algorithm logs and puts into a batch is its own matter: it is the user's; empty: it is ours."""
        kind = self.recipe.algorithm.type
        return (
            f"{kind} is the user's own, so what its metrics and batches mean is not known" if is_reference(kind) else ""
        )

    @property
    def steps(self) -> list[tuple[int, dict[str, float]]]:
        """Each step's metrics as the run wrote them: those of the ledger, or of metrics.jsonl where it has none."""
        if self.entries:
            return [(entry.step, entry.metrics) for entry in self.entries]
        return [(line.row["step"], {k: v for k, v in line.row.items() if k != "step"}) for line in self.metrics]

    @property
    def first(self) -> Entry | None:
        """The ledger's entry of step 1, where it has one."""
        return self.entries[0] if self.entries and self.entries[0].step == 1 else None


def read(folder: Path) -> Records:
    """A run's records.

    Raises:
        DataError: it is no run's folder, it has no records yet, or a line cannot be read.
        ConfigError: its configuration cannot be read any more.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError("is no run's folder: it holds no config.yaml", where=str(folder), hint="name one below runs/")
    ledger = list(_lines(folder / "ledger.jsonl"))  # first: a run under way writes it last
    metrics = list(_lines(folder / "metrics.jsonl"))
    if not metrics:
        raise DataError("the run has no records yet: metrics.jsonl holds no step", where=str(folder))
    for line in metrics:
        if not isinstance(line.row.get("step"), int):
            raise DataError("the line names no step", where=f"{folder / 'metrics.jsonl'}:{line.number}")
    rollouts, groups = _rollouts(folder / "rollouts.jsonl")
    recipe = load(Recipe, folder / "config.yaml").config
    evaluation = folder / "evaluation.json"
    return Records(
        folder=folder,
        recipe=recipe,
        own_code=_own_code(folder, recipe),
        metrics=metrics,
        ledger=ledger,
        entries=[_as(Entry, line, folder / "ledger.jsonl") for line in ledger],
        rollouts=rollouts,
        groups=groups,
        evaluations=_evaluations(folder / "evaluations"),
        evaluation=read_json(evaluation) if evaluation.is_file() else None,
        sealed=_sealed(folder / "checkpoints"),
    )


R = TypeVar("R", bound=Read)


def _as(kind: type[R], line: Line, path: Path) -> R:
    try:
        return kind.model_validate(line.row)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {first['msg']}", where=f"{path}:{line.number}") from error


def _lines(path: Path) -> Iterator[Line]:
    """Each line; the last one where its newline is missing is one that a writer has not finished, and is left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                if text.endswith("\n"):
                    what = f"cannot be read as JSON: {error}"
                    hint = "the run writes whole lines: restore it, or take the run's backup"
                    raise DataError(what, where=f"{path}:{number}", hint=hint) from error
                return
            if not isinstance(row, dict):
                raise DataError("is no JSON object", where=f"{path}:{number}")
            yield Line(number, text, row)


def _rollouts(path: Path) -> tuple[dict[int, bytes], dict[int, list[Group]]]:
    found: dict[int, Any] = {}
    groups: dict[int, list[Group]] = {}
    for line in _lines(path):
        group = _as(Group, line, path)
        found.setdefault(group.step, hashlib.sha256()).update(line.text.encode())
        groups.setdefault(group.step, []).append(group)
    return {step: text.digest() for step, text in found.items()}, groups


def _evaluations(folder: Path) -> dict[int, list[dict[str, Any]]]:
    found = sorted(folder.glob("step-*.jsonl")) if folder.is_dir() else []
    return {int(path.stem.removeprefix("step-")): [line.row for line in _lines(path)] for path in found}


def _sealed(folder: Path) -> dict[int, str]:
    """What the checkpoints that are left say of the ledger."""
    found = {}
    for path in sorted(folder.glob("step-*/state.json")):
        try:
            state = read_json(path)
        except StorageError:
            if path.exists():  # a run under way removes its old checkpoints
                raise
        else:
            found |= {state["step"]: state["sealed"]} if "sealed" in state else {}
    return found


def _own_code(folder: Path, recipe: Recipe) -> str:
    """Which of the user's own files is not what the run was started with; empty: none."""
    path = folder / "environment.json"
    recorded = read_json(path).get("own_files", {}) if path.is_file() else {}
    changed = [name for name, digest in files(recipe).items() if recorded.get(name, digest) != digest]
    return f"{changed[0]} is not what the run was started with" if changed else ""
