"""Held-out prompts measured before and after a run, or by themselves."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from corollary.algorithms.base import Engines, Unreferenced
from corollary.engines.sampler import EmbeddedSampler
from corollary.engines.trainer import EmbeddedTrainer
from corollary.errors import ConfigError
from corollary.evaluate import Row, compared, described, evaluate, played, summary
from corollary.rewards.verdicts import judging
from corollary.rollout import Player
from corollary.run.assembly import (
    Console,
    Run,
    embedded_sampler,
    encoder,
    engines,
    held_out_prompts,
    outfit,
    rewards,
    starting_model,
    starting_policy,
)
from corollary.run.evaluation import EvaluationConfig
from corollary.run.files import write_json
from corollary.run.memory import keep_large_blocks
from corollary.run.own_code import blamed
from corollary.run.playing import player
from corollary.run.recipe import Recipe
from corollary.types import Prompt


def measure(run: Run, console: Console, step: int) -> None:
    """Evaluate the weights as they are, unless it was done before; before training only at its start."""
    settings = run.recipe.evaluation
    if settings is None or run.record.evaluation(step) is not None or (step == 0 and run.done > 0):
        return
    console.note(f"measuring {len(run.held_out)} held-out prompts after step {step}")
    if run.recipe.measured_by_playing:
        rows = played_rows(
            settings, player(run.recipe, run.model, run.sampler, run.reward, purpose="evaluate"), run.held_out
        )
    else:
        rows = held_out_rows(settings, run.sampler, run.held_out)
    rows = with_measures(run.recipe, engines(run, console), rows, run.held_out)
    run.record.keep_evaluation(step, rows)
    before = run.record.evaluation(0)
    result: dict[str, Any] = {"dataset": settings.data.path, "prompts": len(rows)}
    if before is not None:
        result["before"] = _summed(run.recipe, before, 0)
    if step:
        result["after"] = _summed(run.recipe, rows, step)
        if before is not None:
            result["difference"] = compared(before, rows)
    write_json(run.record.folder / "evaluation.json", result)


def with_measures(recipe: Recipe, lent: Engines, rows: list[Row], prompts: list[Prompt]) -> list[Row]:
    """The rows with what the algorithm says of each example.

    Raises:
        ConfigError: there is neither a judge nor anything that the algorithm says.
    """
    with blamed(recipe, "measuring"):
        said = recipe.algorithm.measured(lent, prompts)
    if not said and recipe.evaluation and recipe.evaluation.judge == "none":
        raise ConfigError(
            f"nothing is measured: judge is none, and {recipe.algorithm.type} says nothing of held-out examples",
            where="evaluation.judge", hint="name a judge, or leave evaluation out",
        )  # fmt: skip
    if not said:
        return rows
    both = zip(rows, described(prompts, said), strict=True)
    return [row | more | {"measures": row.get("measures", {}) | more["measures"]} for row, more in both]


def _summed(recipe: Recipe, rows: list[Row], step: int) -> dict[str, Any]:
    """Every metric with its interval, and what the algorithm says of all examples together."""
    measures = [row["measures"] for row in rows if "measures" in row]
    return summary(rows, step) | (dict(recipe.algorithm.overall(measures)) if measures else {})


def held_out_rows(settings: EvaluationConfig, sampler: EmbeddedSampler, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """One judged row per held-out prompt."""
    if settings.judge == "none":
        return [{} for _ in prompts]
    with judging(settings.judge, settings.answer, settings.params) as judge:
        return evaluate(
            sampler,
            prompts,
            judge,
            samples=settings.samples,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            stop=settings.stop,
        )


def played_rows(settings: EvaluationConfig, player: Player, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """One row per held-out episode."""
    return played(
        player,
        prompts,
        samples=settings.samples,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
    )


def measure_only(recipe: Recipe, console: Console) -> dict[str, Any]:
    """Measure a recipe's model on its held-out prompts, without a run directory.

    Raises:
        ConfigError: the recipe has no evaluation.
    """
    if recipe.evaluation is None:
        raise ConfigError("the recipe has no evaluation", where="evaluation", hint="set evaluation.data.path")
    keep_large_blocks()
    model = starting_model(recipe)
    outfit(recipe, model)
    prompts, _ = held_out_prompts(recipe, model, console)
    sampler = embedded_sampler(recipe, model)
    if recipe.measured_by_playing:
        with rewards(recipe, model) if recipe.rewards else nullcontext() as reward:
            rows = played_rows(recipe.evaluation, player(recipe, model, sampler, reward, purpose="evaluate"), prompts)
    else:
        rows = held_out_rows(recipe.evaluation, sampler, prompts)
    lent = Engines(
        trainer=EmbeddedTrainer(model.model, recipe.trainer, recipe.optimizer, total_steps=1),
        sampler=sampler,
        prompts=iter(()),
        encode=encoder(model),
        reference=starting_policy(recipe, model) or Unreferenced(),
    )
    rows = with_measures(recipe, lent, rows, prompts)
    return {"dataset": recipe.evaluation.data.path, "prompts": len(rows), "before": _summed(recipe, rows, 0)}
