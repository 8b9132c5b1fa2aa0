"""A run's newest checkpoint as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

from corollary.config import load
from corollary.engines.trainer import EmbeddedTrainer
from corollary.errors import DataError, ResumeError
from corollary.models.export import export
from corollary.models.load import load_model
from corollary.run import checkpoint
from corollary.run.recipe import Recipe


def export_run(run: Path, folder: Path) -> Path:
    """Write `folder` from the newest checkpoint of `run`.

    Raises:
        DataError: `run` is no run's folder, or `folder` exists.
        ResumeError: the run has no checkpoint.
    """
    if not (run / "config.yaml").exists():
        raise DataError("is no run's folder: it holds no config.yaml", where=str(run))
    if folder.exists():
        raise DataError("exists already", where=str(folder), hint="choose another folder")
    recipe = load(Recipe, run / "config.yaml").config
    saved, _ = checkpoint.newest(run / "checkpoints")
    if saved is None:
        raise ResumeError("has no checkpoint", where=str(run))
    model = load_model(recipe.model.path, dtype="float32")
    EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=1).load_state_dict(saved.tensors)
    export(model, folder, run_folder=run)
    return folder
