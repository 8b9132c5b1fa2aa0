"""Whether a run may be started or continued here, and from where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from corollary.config import diff, load
from corollary.errors import ResumeError
from corollary.run import checkpoint
from corollary.run.assembly import Console
from corollary.run.files import read_json
from corollary.run.own_code import refuse_other_files
from corollary.run.recipe import Recipe
from corollary.run.record import Record

MAY_CHANGE = ("run.steps", "run.checkpoint_every", "run.keep_checkpoints", "run.export", "run.threads", "run.loggers")
"""Settings that a resumed run may have other values of."""


def saved(recipe: Recipe, record: Record, console: Console, resume: bool) -> checkpoint.Checkpoint | None:
    """The checkpoint to continue from; None for a new run."""
    folder = record.folder
    if record.started and not resume:
        raise ResumeError(
            "there is a run here already",
            where=str(folder),
            hint="add --resume to continue it, or choose another run.name",
        )
    if not resume:
        return None
    if not record.started:
        raise ResumeError("there is no run to continue", where=str(folder), hint="leave --resume away to start one")
    refuse_other_files(recipe, read_json(folder / "environment.json").get("own_files", {}), folder)
    before = load(Recipe, folder / "config.yaml").config
    changed = [key for key in flat(diff(recipe, before)) if key not in MAY_CHANGE]
    if changed:
        raise ResumeError(
            f"the run was started with other values of {', '.join(changed)}",
            where=str(folder),
            hint="give the same configuration, or choose another run.name",
        )
    checkpoint.sweep(record.checkpoints)
    found, damaged = checkpoint.newest(record.checkpoints)
    for line in damaged:
        console.note(f"{line}; using the one before")
    record.set_back(found.state["offsets"] if found else {"metrics": 0, "timing": 0, "rollouts": 0, "ledger": 0})
    console.note(f"continuing {folder} after step {found.step if found else 0}")
    return found


def flat(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of a nested mapping's leaves.

    >>> list(flat({"a": {"b": 1, "c": 2}}))
    ['a.b', 'a.c']
    """
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"
