"""Pairs of a model's own answers, told apart by a recipe's rewards: preference data that nobody else's licence covers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from corollary.config import diff, to_yaml
from corollary.data.datasets import load_prompts
from corollary.data.pairs import apart, from_rollouts
from corollary.errors import ConfigError, DataError, StorageError
from corollary.models.load import load_model
from corollary.rewards.base import Reward
from corollary.rollout import SingleTurn, describe
from corollary.run.assembly import Console, embedded_sampler
from corollary.run.files import write_json, write_text
from corollary.run.memory import keep_large_blocks
from corollary.run.own_code import blamed
from corollary.run.recipe import Recipe
from corollary.run.record import environment
from corollary.types import Group, Rollout, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """How answers are drawn and paired."""

    answers: int = 8  # to each prompt
    temperature: float = 1.0  # of the sampling
    per_prompt: int = 1  # pairs of each prompt at most


def write_pairs(recipe: Recipe, path: Path, drawn: Drawn, console: Console) -> dict[str, Any]:
    """Answer each prompt of a recipe several times, let its rewards judge, and write the best with the worst as rows.

    A row has `id`, `prompt` (the conversation, or the text where there is none), `chosen`, `rejected` and `margin`, the difference of
    their rewards. An answer that was cut has no end to learn, so it is in no pair. Beside PATH lies PATH.provenance.json. Equal
    recipe, seed and machine give equal files; both appear when they are whole.

    Returns:
        What the provenance says.

    Raises:
        ConfigError: the recipe names no rewards, samples nothing, or plays an environment.
        DataError: there is not a single pair.
        StorageError: the file exists, or cannot be written.
        CorollaryError: the model, the data or a reward is at fault.
    """
    if recipe.environment:
        raise ConfigError(
            "an environment is played for several turns, and a row holds one answer", where="environment",
            hint="name a recipe without one, or train with algorithm.type=online_preference",
        )  # fmt: skip
    longest = recipe.algorithm.longest_answer
    if not recipe.rewards or not longest:
        raise ConfigError(
            f"algorithm {recipe.algorithm.type} samples and judges no answers, so nothing tells them apart",
            where="rewards",
            hint="name a recipe with rewards, such as word-problems",
        )
    if path.exists():
        raise StorageError("the file is there already", where=str(path), hint="name another, or remove it")
    keep_large_blocks()
    torch.set_num_threads(recipe.run.threads or torch.get_num_threads())
    model = load_model(recipe.model.path, dtype=recipe.model.resolved_dtype(), chat_template=recipe.model.chat_template)
    prompts, report = load_prompts(recipe.data, model.tokenizer)
    console.data("prompts", report)
    sampling = Sampling(temperature=drawn.temperature, max_tokens=longest)
    batches = [
        prompts[i : i + recipe.algorithm.batch_size] for i in range(0, len(prompts), recipe.algorithm.batch_size)
    ]
    rows: list[dict[str, Any]] = []
    with Reward(recipe.rewards) as reward, blamed(recipe, "judging an answer"):
        reward.check(prompts)
        player = SingleTurn(embedded_sampler(recipe, model), reward)
        for number, batch in enumerate(batches):
            start = monotonic()
            groups = player.play(batch, drawn.answers, sampling, number=number)
            rows += [row for group in groups for row in paired(group, drawn.per_prompt)]
            told = describe(groups, reward.full_mark)
            seconds = monotonic() - start
            timing = {"seconds": seconds, "tokens_per_second": told["tokens"] / seconds}
            console.step(number + 1, len(batches), told, timing)
    if not rows:
        raise DataError(
            f"{len(prompts):,} prompts gave no pair: of each, all whole answers earned the same",
            where=str(path), hint="raise --answers, --temperature or algorithm.max_tokens, or start from a better model",
        )  # fmt: skip
    return _kept(recipe, path, drawn, rows, asdict(report))


def paired(group: Group, per_prompt: int) -> list[dict[str, Any]]:
    """The rows of one prompt: none where its answers earned the same."""
    whole = [rollout for rollout in group if not rollout.completion.truncated and rollout.completion.text.strip()]
    return [_row(better, worse, i) for i, (better, worse) in enumerate(apart(whole, per_prompt))]


def _row(better: Rollout, worse: Rollout, number: int) -> dict[str, Any]:
    prompt = better.prompt
    return {
        "id": f"{prompt.id}/{number}",
        "prompt": [dict(message) for message in prompt.messages] or prompt.text,
        "chosen": better.completion.text,
        "rejected": worse.completion.text,
        "margin": from_rollouts(better, worse).margin,
    }


def _kept(
    recipe: Recipe, path: Path, drawn: Drawn, rows: Sequence[dict[str, Any]], prompts: dict[str, Any]
) -> dict[str, Any]:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    provenance = {
        "model": recipe.model.path,
        "prompts": prompts,
        "drawn": asdict(drawn),
        "pairs": len(rows),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "recipe": to_yaml(diff(recipe)),
        "environment": environment(recipe.run.seed),
    }
    write_text(path, text)
    write_json(path.with_name(f"{path.name}.provenance.json"), provenance)
    return provenance
