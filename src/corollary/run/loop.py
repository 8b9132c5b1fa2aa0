"""Whoever pulls: log, evaluate, checkpoint, stop. The algorithm yields steps and knows nothing of this."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from corollary.errors import StorageError, UserCodeError
from corollary.models.lora import save_adapter
from corollary.run import checkpoint
from corollary.run.assembly import Console, Run, build, check
from corollary.run.exporting import card, export_trained
from corollary.run.measuring import measure, measure_only
from corollary.run.memory import give_back_free_blocks, keep_large_blocks
from corollary.run.own_code import blamed, source_of
from corollary.run.recipe import Recipe
from corollary.run.record import Record, peak_memory_gib
from corollary.run.report import write_report
from corollary.run.resuming import saved
from corollary.run.stopping import asked_to_stop
from corollary.types import Metrics, Step

__all__ = ["check", "measure_only", "train"]


def train(recipe: Recipe, console: Console, *, resume: bool = False) -> Path:
    """Carry out a recipe; the run directory.

    Args:
        recipe: see there.
        console: is told what happens.
        resume: continue the run of that name from its newest checkpoint.

    Raises:
        CorollaryError: anything a user can mend. What was committed before stays.
    """
    keep_large_blocks()
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    record = Record(recipe.folder)
    try:
        run = build(recipe, record, console, saved(recipe, record, console, resume))
        try:
            measure(run, console, 0)
            _pull(run, console)
            measure(run, console, run.done)
            _finish(run, console)
        finally:
            run.close()
    finally:
        record.close()
    return recipe.folder


def _pull(run: Run, console: Console) -> None:
    """Take the steps that are left; save as configured, at the end, and when asked to stop."""
    settings = run.recipe.run
    with asked_to_stop() as asked:
        give_back_free_blocks()
        run.clock.read()
        for step in islice(_steps(run, console), settings.steps - run.done):
            run.done += 1
            give_back_free_blocks()  # blocks of every step's own sizes would pile up beside each other
            timing = _timing(run, step)
            entry = run.ledger.take(step.groups, run.trainer.scorer.model.dtype)
            run.record.step(run.done, step, timing, run.model.token_text, entry)
            run.loggers.log(run.done, step.metrics)
            console.step(run.done, settings.steps, step.metrics, timing)
            last = run.done == settings.steps
            if asked or last or run.done % settings.checkpoint_every == 0:
                _save(run)
            run.clock.read()
            if asked and not last:
                raise asked[0](
                    f"stopped after step {run.done} of {settings.steps}; it is saved",
                    where=str(run.record.folder),
                    hint="run the same command with --resume to go on",
                )


def _steps(run: Run, console: Console) -> Iterator[Step]:
    """The algorithm's steps; where one fails, what was done before it is saved."""
    while True:
        state, version = _state(run), run.trainer.version
        try:
            with blamed(run.recipe, f"in step {run.done + 1}"):
                step = next(run.steps, None)
            if fault := _fault(step):
                raise UserCodeError(
                    f"{run.recipe.algorithm.type} {fault} in step {run.done + 1}",
                    where="{}:{}".format(*source_of(type(run.recipe.algorithm))),
                    hint="contract clause: steps; each is a Step, its metrics numbers by name",
                )
        except Exception:
            if run.done and run.trainer.version == version:  # the weights are still those after the step before
                _rescue(run, state, console)
            raise
        assert step is not None, "it is a fault"
        yield step


def _fault(step: object) -> str:
    """What is wrong with what an algorithm yielded; empty where nothing is."""
    if step is None:
        return "ended"
    if not isinstance(step, Step):
        return f"yielded a {type(step).__name__}"
    odd = [name for name, value in step.metrics.items() if not isinstance(value, int | float)]
    return f"yielded metric {odd[0]!r}, a {type(step.metrics[odd[0]]).__name__}" if odd else ""


def _timing(run: Run, step: Step) -> Metrics:
    lap = run.clock.read()
    rate = {}
    if lap.get("generate"):
        rate["tokens_per_second"] = step.metrics.get("tokens", 0.0) / lap["generate"]
    if lap.get("train"):
        rate["trained_tokens_per_second"] = step.metrics.get("trained_tokens", 0.0) / lap["train"]
    return {k: round(v, 4) for k, v in (lap | rate | {"peak_memory_gib": peak_memory_gib()}).items()}


def _state(run: Run) -> dict[str, Any]:
    """What a checkpoint holds besides the trainer's tensors."""
    return {
        "offsets": run.record.offsets(),
        "sealed": run.record.sealed,
        "loader": run.loader.state_dict(),
        "seed": run.recipe.run.seed,
        "memory": copy.deepcopy(run.memory),
    }


def _save(run: Run, state: dict[str, Any] | None = None) -> None:
    tensors, keep = run.tensors(), run.recipe.run.keep_checkpoints
    checkpoint.save(run.record.checkpoints, run.done, tensors, state or _state(run), keep=keep)


def _rescue(run: Run, state: dict[str, Any], console: Console) -> None:
    """Save what was done before a step that failed, if it is not saved yet."""
    if (run.record.checkpoints / f"step-{run.done:06d}").exists():
        return
    try:
        _save(run, state)
        console.note(f"step {run.done + 1} failed; step {run.done} is saved")
    except StorageError as error:
        console.note(f"step {run.done} could not be saved: {error.what}")


def _finish(run: Run, console: Console) -> None:
    if run.recipe.run.export:
        folder, model, lora = run.record.folder, run.model, run.recipe.model.lora
        for name in ("model", "adapter"):
            shutil.rmtree(folder / name, ignore_errors=True)
        if lora:
            save_adapter(model.model, lora, folder / "adapter", base=run.recipe.model.path)
        export_trained(run.recipe, model, folder / "model", card=card(folder, run.recipe, model, run.done))
    console.note(f"report: {write_report(run.record.folder)}")
