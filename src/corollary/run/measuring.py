"""Held-out prompts measured before and after a run, or by themselves."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from corollary.data.datasets import load_prompts
from corollary.engines.sampler import EmbeddedSampler
from corollary.errors import ConfigError
from corollary.evaluate import Row, compared, described, evaluate, played, summary
from corollary.models.load import load_model
from corollary.rewards.verdicts import judging
from corollary.rollout import Player
from corollary.run.assembly import Console, Run, embedded_sampler, engines, rewards
from corollary.run.evaluation import EvaluationConfig
from corollary.run.files import write_json
from corollary.run.memory import keep_large_blocks
from corollary.run.own_code import blamed
from corollary.run.playing import begun, player
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
    with blamed(run.recipe, "measuring"):
        said = run.recipe.algorithm.measured(engines(run, console), run.held_out)
    if said:
        both = zip(rows, described(run.held_out, said), strict=True)
        rows = [row | more | {"measures": row.get("measures", {}) | more["measures"]} for row, more in both]
    if not said and settings.judge == "none":
        raise ConfigError(
            f"nothing is measured: judge is none, and {run.recipe.algorithm.type} says nothing of held-out examples",
            where="evaluation.judge", hint="name a judge, or leave evaluation out",
        )  # fmt: skip
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
    model = load_model(recipe.model.path, dtype=recipe.model.resolved_dtype(), chat_template=recipe.model.chat_template)
    prompts, report = load_prompts(recipe.evaluation.data, model.tokenizer)
    console.data("evaluation", report)
    sampler = embedded_sampler(recipe, model)
    if recipe.measured_by_playing:
        with rewards(recipe, model) if recipe.rewards else nullcontext() as reward:
            one = player(recipe, model, sampler, reward, purpose="evaluate")
            rows = played_rows(recipe.evaluation, one, begun(recipe, prompts, model.tokenizer))
    else:
        rows = held_out_rows(recipe.evaluation, sampler, prompts)
    return {"dataset": recipe.evaluation.data.path, "prompts": len(rows), "before": summary(rows, 0)}
