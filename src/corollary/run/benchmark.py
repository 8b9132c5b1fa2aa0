"""Models measured on several sets and compared, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from corollary.config import Config
from corollary.data.datasets import load_prompts
from corollary.engines.sampler import EmbeddedSampler
from corollary.errors import ConfigError, DataError
from corollary.evaluate import Row, compared, summary
from corollary.models.load import LoadedModel, load_model
from corollary.run.assembly import Console
from corollary.run.evaluation import EvaluationConfig
from corollary.run.exporting import exported
from corollary.run.files import write_json, write_text
from corollary.run.measuring import held_out_rows
from corollary.run.memory import keep_large_blocks
from corollary.run.recipe import ModelConfig, SamplerConfig

SUITES = Path(__file__).parents[1] / "suites"


class Suite(Config):
    """The sets that models are measured on."""

    sets: dict[str, EvaluationConfig]
    """by the names that the table shows"""
    model: ModelConfig = ModelConfig()
    """how each model is loaded; its path is the command line's"""
    sampler: SamplerConfig = SamplerConfig()
    limit: int | None = Field(default=None, ge=1)
    """prompts of each set at most, the same ones for every model; null: as each set has it"""
    seed: int = Field(default=0, ge=0)
    """of the sampled answers, and of which prompts `limit` leaves"""
    threads: int = Field(default=0, ge=0)
    """of the CPU; 0: all cores"""
    folder: str = ""
    """where every answer, results.json and results.md are written; empty: nowhere"""

    @model_validator(mode="after")
    def _of_answers(self) -> Suite:
        for name, settings in self.sets.items():
            if settings.judge in ("none", "environment"):
                raise ValueError(f"sets.{name}.judge: {settings.judge} reads no answers; name one that does")
        return self

    def limited(self) -> dict[str, EvaluationConfig]:
        """The sets, no longer than `limit`."""
        if self.limit is None:
            return dict(self.sets)
        return {name: self._cut(settings) for name, settings in self.sets.items()}

    def _cut(self, settings: EvaluationConfig) -> EvaluationConfig:
        data = settings.data
        limit = min(filter(None, (self.limit, data.limit)))
        shuffle = self.seed if data.shuffle is None else data.shuffle
        return settings.model_copy(update={"data": data.model_copy(update={"limit": limit, "shuffle": shuffle})})


def benchmark(suite: Suite, models: Sequence[str], console: Console) -> dict[str, Any]:
    """Every model's metrics on every set, and how each model differs from the first.

    Args:
        suite: the sets.
        models: names, folders, hub ids or runs' folders; the first is what the others are compared with.
        console: is told what happens.

    Returns:
        `{"models": […], "sets": {set: {"data", "judge", "models": {model: metrics}, "differences": {model: {metric: …}}}}}`

    Raises:
        CorollaryError: anything a user can mend.
    """
    if twice := [name for name in models if models.count(name) > 1]:
        raise ConfigError(f"{twice[0]} is named twice", hint="name each model once")
    keep_large_blocks()
    torch.set_num_threads(suite.threads or torch.get_num_threads())
    rows = {name: dict(_measured(suite, name, console)) for name in models}
    sets = {
        name: {"data": settings.data.path, "judge": settings.judge} | _set(name, {m: rows[m][name] for m in models})
        for name, settings in suite.sets.items()
    }
    result = {"models": list(models), "sets": sets}
    if suite.folder:
        write_json(Path(suite.folder) / "results.json", result)
        write_text(Path(suite.folder) / "results.md", markdown(result))
    return result


def _measured(suite: Suite, name: str, console: Console) -> Iterator[tuple[str, list[Row]]]:
    """Each set's rows of one model."""
    settings = suite.model
    model = load_model(exported(name), dtype=settings.resolved_dtype(), chat_template=settings.chat_template)
    model.place(settings.torch_device())
    for at, (title, chosen) in enumerate(suite.limited().items()):
        prompts, report = load_prompts(chosen.data, model.tokenizer)
        console.data(f"{name} on {title}", report)
        rows = held_out_rows(chosen, _sampler(suite, model), prompts)
        if suite.folder:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            place = Path(suite.folder) / f"{_file_name(name)}--{at:02d}-{_file_name(title)}.jsonl"
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, text)
        yield title, rows


def _sampler(suite: Suite, model: LoadedModel) -> EmbeddedSampler:
    return EmbeddedSampler(
        model.model,
        decode=model.decode,
        eos_token_ids=model.eos_token_ids,
        seed=suite.seed,
        max_sequences=suite.sampler.max_sequences,
    )


def _set(name: str, rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """What one set says of all models."""
    first, *others = rows
    try:
        differences = {model: compared(rows[first], rows[model]) for model in others}
    except ValueError:
        raise DataError(
            "the models were not given the same prompts", where=name, hint="raise or leave out data.max_prompt_tokens"
        ) from None
    measured = {model: summary(of_model, 0)["metrics"] for model, of_model in rows.items()}
    return {"prompts": len(rows[first]), "models": measured, "differences": differences}


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text).strip("-") or "-"


def markdown(result: Mapping[str, Any]) -> str:
    """The table of a benchmark: shares in per cent with 95 % intervals, differences to the first model in points, prompt by prompt."""
    first, *others = result["models"]
    head = ["set", "prompts", "metric", first, *(cell for model in others for cell in (model, f"{model} − {first}"))]
    lines = [head, ["---"] * len(head)]
    for title, of_set in result["sets"].items():
        for metric, value in of_set["models"][first].items():
            row = [title, f"{of_set['prompts']:,}", metric, _share(value)]
            for model in others:
                row += [_share(of_set["models"][model][metric]), _points(of_set["differences"][model][metric])]
            lines.append(row)
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _share(value: Mapping[str, Any]) -> str:
    return f"{value['value']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


def _points(difference: Mapping[str, Any]) -> str:
    """A difference; bold where its interval does not hold 0."""
    text = f"{difference['estimate']:+.1%} [{difference['low']:+.1%}, {difference['high']:+.1%}]"
    return f"**{text}**" if difference["low"] > 0 or difference["high"] < 0 else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
