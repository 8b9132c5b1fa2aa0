"""Held-out evaluation: the same prompts, the same extractor, the same random streams, before and after.

Greedy accuracy and sampled pass@k, each by a strict and a lenient extraction; every answer is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Literal

from corollary.engines.base import Sampler
from corollary.ops.estimate import (
    PairedDifference,
    clopper_pearson,
    fraction_interval,
    paired_means,
    paired_proportions,
    pass_at_k,
)
from corollary.ops.means import mean_difference, mean_interval
from corollary.rewards.verdicts import Judge
from corollary.rollout import Player
from corollary.types import Metrics, Prompt, Rollout, Sampling, transcript

Row = dict[str, Any]  # one prompt: prompt_id, prompt, columns; greedy and sampled answers; measures


def evaluate(
    sampler: Sampler,
    prompts: Sequence[Prompt],
    judge: Judge,
    *,
    samples: int,
    temperature: float,
    max_tokens: int,
    stop: tuple[str, ...] = (),
) -> list[Row]:
    """One row per prompt, with its greedy answer and `samples` sampled ones, each judged.

    Args:
        sampler: with the weights to be measured.
        prompts: held out from training.
        judge: says of each answer whether it is right, strictly and leniently.
        samples: answers drawn per prompt at `temperature`; 0 draws none.
        max_tokens, stop: of one answer.

    Raises:
        DataError: a prompt cannot be judged; before anything is sampled.
    """
    judge.check(prompts)
    greedy = Sampling(temperature=0, max_tokens=max_tokens, stop=stop)
    drawn = Sampling(temperature=temperature, max_tokens=max_tokens, stop=stop)
    answers = sampler.generate(prompts, 1, greedy, names=("evaluate", "greedy"))
    if samples:
        more = sampler.generate(prompts, samples, drawn, names=("evaluate", "sampled"))
        answers = [[*first, *others] for first, others in zip(answers, more, strict=True)]
    rows = []
    for prompt, given, judged in zip(prompts, answers, judge(prompts, answers), strict=True):
        first, *others = [
            {"text": answer.text, "strict": right.strict, "lenient": right.lenient, "truncated": answer.truncated}
            for answer, right in zip(given, judged, strict=True)
        ]
        about = {"prompt_id": prompt.id, "prompt": prompt.text, "columns": dict(prompt.columns)}
        rows.append(about | {"greedy": first, "sampled": others})
    return rows


def played(
    player: Player,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    max_tokens: int,
    stop: tuple[str, ...] = (),
) -> list[Row]:
    """One row per episode, as `evaluate` gives them. An episode is right strictly where it earns full mark, leniently where anything.

    Args:
        player: with the weights to be measured; its random streams are not those of training.
        prompts: held-out episodes.
        samples: episodes played per prompt at `temperature`; 0: only the greedy one.
        max_tokens, stop: of one answer, all turns and observations of it.
    """
    greedy = Sampling(temperature=0, max_tokens=max_tokens, stop=stop)
    drawn = Sampling(temperature=temperature, max_tokens=max_tokens, stop=stop)
    best = player.play(prompts, 1, greedy, number=0)
    more = player.play(prompts, samples, drawn, number=1) if samples else [[] for _ in prompts]

    def judged(rollout: Rollout) -> Row:
        reward, said = rollout.reward, rollout.completion
        strict, lenient = (reward is not None and reward >= player.full_mark), (reward is not None and reward > 0)
        return {"text": transcript(said), "strict": strict, "lenient": lenient, "truncated": said.truncated}

    return [
        {
            "prompt_id": prompt.id,
            "prompt": prompt.text,
            "columns": dict(prompt.columns),
            "greedy": judged(first[0]),
            "sampled": [judged(rollout) for rollout in others],
            "measures": {"reward": first[0].reward or 0.0, "turns": first[0].counts.get("turns", 1.0)},
        }
        for prompt, first, others in zip(prompts, best, more, strict=True)
    ]


def described(prompts: Sequence[Prompt], measures: Sequence[Metrics]) -> list[Row]:
    """One row per example of what can be said of it without sampling."""
    return [
        {"prompt_id": prompt.id, "prompt": prompt.text, "columns": dict(prompt.columns), "measures": dict(said)}
        for prompt, said in zip(prompts, measures, strict=True)
    ]


def _values(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Metric → its value on every prompt.

    Of examples that are measured without sampling several may be about one prompt, such as its pairs. They are no independent
    draws, so the prompt's value is their mean.
    """
    measures = [row.get("measures", {}) for row in rows]
    values = {name: [float(said[name]) for said in measures] for name in measures[0]}
    if "greedy" not in rows[0]:
        units: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            units.setdefault(drawn(row["prompt_id"], row.get("prompt", "")), []).append(i)
        return {name: [fmean(of[i] for i in unit) for unit in units.values()] for name, of in values.items()}
    for how in ("strict", "lenient"):
        values[f"greedy/{how}"] = [float(row["greedy"][how]) for row in rows]
        n = min(len(row["sampled"]) for row in rows)
        for k in (k for k in (1, 2, 4, 8, 16, 32, 64) if k <= n):
            values[f"sampled/{how}/pass@{k}"] = [
                pass_at_k(len(row["sampled"]), sum(answer[how] for answer in row["sampled"]), k) for row in rows
            ]
    return values


def drawn(prompt_id: str, text: str) -> str:
    """What one draw is of examples that are measured without sampling: all of the same prompt, whatever each is called."""
    return text or prompt_id


SHARES = frozenset({"accuracy", "longer_is_chosen", "prefers_longer"})
"""what algorithms say of an example that is yes or no, or ½ for neither"""


def _kind(name: str, *values: Sequence[float]) -> Literal["binary", "share", "number"]:
    """What a metric's values are, told by its name: right or wrong, shares such as pass@k, or numbers of any scale.

    An algorithm of the user's may call something `accuracy` that is no share, per cent for instance: that is a number.
    """
    every = [value for column in values for value in column]
    is_share = name.startswith(("greedy/", "sampled/")) or (name in SHARES and all(0 <= v <= 1 for v in every))
    if not is_share:
        return "number"
    return "binary" if not name.startswith("sampled/") and set(every) <= {0.0, 1.0} else "share"


def summary(rows: Sequence[Row], step: int) -> dict[str, Any]:
    """Every metric with a 95 % interval: Clopper–Pearson where an example is right or wrong, Korn–Graubard of shares, Student's
    of numbers of another scale, which say so by `unit: number`."""
    metrics = {}
    for name, values in _values(rows).items():
        match _kind(name, values):
            case "binary":
                interval, more = clopper_pearson(round(sum(values)), len(values)), {"correct": round(sum(values))}
            case "share":
                interval, more = fraction_interval(values), {}
            case "number":
                interval, more = mean_interval(values), {"unit": "number"}
        metrics[name] = {
            "value": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "prompts": len(values),
            "method": interval.method,
        } | more
    return {"step": step, "metrics": metrics}


def compared(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Mapping[str, Any]]:
    """The paired difference of every metric, prompt by prompt, with a 95 % interval.

    Raises:
        ValueError: the rows are not about the same prompts.
    """
    if [r["prompt_id"] for r in before] != [r["prompt_id"] for r in after]:
        raise ValueError("before and after are not about the same prompts in the same order")
    first, second = _values(before), _values(after)
    return {name: asdict(_difference(name, first[name], second[name])) for name in first if name in second}


def _difference(name: str, before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    match _kind(name, before, after):
        case "binary":
            return paired_proportions([v == 1 for v in before], [v == 1 for v in after])
        case "share":
            return paired_means(before, after)
        case "number":
            return mean_difference(before, after)
