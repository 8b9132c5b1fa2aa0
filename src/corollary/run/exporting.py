"""A run's weights as a folder that transformers loads, with a card that says where they come from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from corollary.config import load
from corollary.custom import is_reference
from corollary.engines.trainer import EmbeddedTrainer
from corollary.errors import DataError, ResumeError
from corollary.models.export import Card, DataUse, Metric, export
from corollary.models.heads import as_reward_model, padding_token, without_scalar_head
from corollary.models.load import LoadedModel, load_model
from corollary.models.lora import merged
from corollary.run import checkpoint
from corollary.run.assembly import outfit
from corollary.run.files import read_json
from corollary.run.recipe import Recipe


def export_run(run: Path, folder: Path) -> Path:
    """Write `folder` from the newest checkpoint of `run`.

    Raises:
        DataError: `run` is no run's folder.
        ResumeError: the run has no checkpoint.
        StorageError: `folder` exists and is not empty, or cannot be written.
    """
    if not (run / "config.yaml").exists():
        raise DataError("is no run's folder: it holds no config.yaml", where=str(run))
    recipe = load(Recipe, run / "config.yaml").config
    saved, _ = checkpoint.newest(run / "checkpoints")
    if saved is None:
        raise ResumeError("has no checkpoint", where=str(run))
    model = load_model(recipe.model.path, dtype=recipe.model.resolved_dtype(), chat_template=recipe.model.chat_template)
    outfit(recipe, model)
    EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=1).load_state_dict(saved.tensors)
    return export_trained(recipe, model, folder, card=card(run, recipe, model, saved.step))


def export_trained(recipe: Recipe, model: LoadedModel, folder: Path, *, card: Card) -> Path:
    """Write what was trained as its users want it: adapters merged, a reward model as one, a policy without its critic's head."""
    plain, tokenizer = merged(model.model), model.tokenizer
    if not recipe.algorithm.is_reward_model:
        return export(without_scalar_head(plain), tokenizer, folder, card=card)
    padding = padding_token(tokenizer, model.eos_token_ids)
    if padding is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    return export(as_reward_model(plain, padding), tokenizer, folder, card=card)


def card(run: Path, recipe: Recipe, model: LoadedModel, step: int) -> Card:
    """The model card of a run: base model, method, data, configuration, numbers before and after."""
    evaluation = read_json(run / "evaluation.json") if (run / "evaluation.json").exists() else {}
    uses = [
        DataUse(name=report["source"], use=use, rows=report["kept"], licence=report["licence"])
        for use, report in read_json(run / "data.json").items()
    ]
    return Card(
        title=run.name,
        base_model=recipe.model.path,
        licence=model.licence,
        method=f"{_name(recipe.algorithm.type)}, {step} steps",
        data=uses,
        config_diff=(run / "config.diff.yaml").read_text(encoding="utf-8"),
        metrics=_metrics(evaluation),
        versions=read_json(run / "environment.json")["packages"],
    )


def _name(algorithm: str) -> str:
    """What a card calls an algorithm.

    >>> _name("grpo"), _name("my_algorithm.py:TanhPG")
    ('GRPO', 'TanhPG')
    """
    return algorithm.rpartition(":")[2] if is_reference(algorithm) else algorithm.upper()


def _metrics(evaluation: dict[str, Any]) -> list[Metric]:
    before, after, change = (
        evaluation.get("before", {}).get("metrics", {}),
        evaluation.get("after", {}).get("metrics", {}),
        evaluation.get("difference", {}),
    )
    return [
        Metric(
            name=name,
            before=before.get(name, {}).get("value"),
            after=after.get(name, {}).get("value"),
            low=change.get(name, {}).get("low"),
            high=change.get(name, {}).get("high"),
        )
        for name in after or before
    ]
