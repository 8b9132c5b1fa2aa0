"""A run's weights as files that others read, with a card that says where they come from."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, Literal

from corollary.config import load
from corollary.custom import is_reference
from corollary.engines.trainer import EmbeddedTrainer
from corollary.errors import ConfigError, DataError, ResumeError
from corollary.models.card import Card, DataUse, Kind, Metric
from corollary.models.export import export, export_adapter, export_gguf
from corollary.models.gguf_writer import GGUFDtype
from corollary.models.heads import as_reward_model, padding_token, without_scalar_head
from corollary.models.load import LoadedModel
from corollary.models.lora import merged
from corollary.models.names import exported, title
from corollary.run import checkpoint
from corollary.run.assembly import outfit, starting_model
from corollary.run.files import read_json
from corollary.run.recipe import Recipe

__all__ = ["card", "export_run", "export_trained", "exported"]

Form = Literal["folder", "gguf", "adapter"]


def export_run(run: Path, target: Path, *, form: Form = "folder", dtype: GGUFDtype = "f16") -> Path:
    """Write `target` from the newest checkpoint of `run`.

    Args:
        run: its folder.
        target: what to write; must not exist.
        form: folder: for transformers, adapters merged; gguf: one file for llama.cpp; adapter: the adapters alone, for peft.
        dtype: of the matrices of a GGUF file.

    Raises:
        ConfigError: the run has nothing of this form.
        DataError: `run` is no run's folder.
        ModelError: a GGUF file cannot say this model.
        ResumeError: the run has no checkpoint.
        StorageError: `target` exists, or cannot be written.
    """
    if not (run / "config.yaml").exists():
        raise DataError("is no run's folder: it holds no config.yaml", where=str(run))
    recipe = load(Recipe, run / "config.yaml").config
    _check(recipe, run, target, form)
    saved, _ = checkpoint.newest(run / "checkpoints")
    if saved is None:
        raise ResumeError("has no checkpoint", where=str(run))
    model = starting_model(recipe)
    outfit(recipe, model)
    EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=1).load_state_dict(saved.tensors)
    about, lora = card(run, recipe, model, saved.step), recipe.model.lora
    if form == "adapter" and lora:
        return export_adapter(model.model, model.tokenizer, target, card=about, settings=lora, base=recipe.model.path)
    if form == "gguf":
        return export_gguf(merged(model.model), model.tokenizer, target, card=about, dtype=dtype)
    return export_trained(recipe, model, target, card=about)


def _check(recipe: Recipe, run: Path, target: Path, form: Form) -> None:
    """Refuse before anything is loaded what cannot come of it."""
    if form == "adapter" and not recipe.model.lora:
        raise ConfigError("has no adapters: it trained all weights", where=str(run), hint="export a folder")
    if form != "gguf":
        return
    if target.suffix != ".gguf":
        raise ConfigError("a GGUF file's name ends in .gguf", where=str(target))
    if recipe.algorithm.is_reward_model:
        what = "trained a reward model, and a GGUF file has no place for its head"
        raise ConfigError(what, where=str(run), hint="export a folder")


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
    measured = f"{evaluation['prompts']} prompts of {evaluation['dataset']}" if "prompts" in evaluation else ""
    environment = read_json(run / "environment.json")
    return Card(
        title=run.name,
        base_model=title(recipe.model.path),
        base_id=_hub_id(model),
        licence=model.licence,
        method=_method(recipe, step),
        kind=_kind(recipe, model),
        data=uses,
        config_diff=(run / "config.diff.yaml").read_text(encoding="utf-8").replace(str(Path.home()), "~"),
        metrics=_metrics(evaluation),
        measured_on=measured,
        versions={"corollary": environment["corollary"]} | environment["packages"],
    )


def _kind(recipe: Recipe, model: LoadedModel) -> Kind:
    if recipe.algorithm.is_reward_model:
        return "reward model"
    return "chat model" if model.tokenizer.chat_template else "text model"


def _hub_id(model: LoadedModel) -> str:
    """The hub id of the model that a run started from, or of that which this one came from; empty: not known.

    Known from the catalogue's address of it, from the card in its folder, or because it was named so.
    """
    record, readme = model.path / "provenance.json", model.path / "README.md"
    if record.is_file():
        source = str(json.loads(record.read_bytes())["source"])
        return source.removeprefix(_HUB) if source.startswith(_HUB) else ""
    found = re.search(r"^base_model: ([\w.-]+/[\w.-]+)$", readme.read_text("utf-8"), re.M) if readme.is_file() else None
    if found:
        return found[1]
    return "" if Path(model.name).exists() else model.name.partition("@")[0]


_HUB = "https://huggingface.co/"


def _method(recipe: Recipe, step: int) -> str:
    rewards = ", ".join(_own(reward.type) for reward in recipe.rewards)
    earned = f" by the reward{'s' if len(recipe.rewards) > 1 else ''} {rewards}" if rewards else ""
    lora = f", adapters of rank {recipe.model.lora.rank}" if recipe.model.lora else ""
    return f"{_name(recipe.algorithm.type)}{earned}, {step} steps{lora}"


def _name(algorithm: str) -> str:
    """What a card calls an algorithm.

    >>> _name("grpo"), _name("my_algorithm.py:TanhPG")
    ('GRPO', 'TanhPG')
    """
    return _own(algorithm) if is_reference(algorithm) else algorithm.upper()


def _own(reference: str) -> str:
    return reference.rpartition(":")[2]


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
