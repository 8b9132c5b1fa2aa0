"""From prompts to scored groups of answers: a stream that is pulled, never pushed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from corollary.engines.base import Sampler
from corollary.ops.advantage import has_signal
from corollary.types import Completion, Group, Metrics, Prompt, Rollout, Sampling


class Score(Protocol):
    """What one answer earned."""

    @property
    def reward(self) -> float | None: ...
    @property
    def parts(self) -> dict[str, float | None]: ...
    @property
    def faults(self) -> tuple[str, ...]: ...


class Reward(Protocol):
    """Judges answers; `rewards.base` makes one of plain callables."""

    @property
    def full_mark(self) -> float:
        """The reward of an answer that satisfies every part."""
        ...

    def score(
        self, groups: Sequence[tuple[Prompt, Sequence[Completion]]], *, step: int = 0
    ) -> Sequence[Sequence[Score]]:
        """What each answer of each prompt earned, in order."""
        ...


class Player(Protocol):
    """Gives answers and what they earned: a single turn that a reward judges, or an environment of several."""

    @property
    def full_mark(self) -> float:
        """The reward of an answer that does everything right."""
        ...

    def play(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, number: int) -> list[Group]:
        """`group_size` rollouts of each prompt; `number` of the batch names the random streams."""
        ...


@dataclass(frozen=True, slots=True)
class SingleTurn:
    """One answer to each prompt, judged when it is whole."""

    sampler: Sampler
    reward: Reward

    @property
    def full_mark(self) -> float:
        return self.reward.full_mark

    def play(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, number: int) -> list[Group]:
        answers = self.sampler.generate(prompts, group_size, sampling, names=("rollout", number))
        return scored(self.reward, prompts, answers, number)


def group_rewards(groups: Sequence[Group]) -> torch.Tensor:
    """`[P, G]` rewards, NaN where an answer could not be judged."""
    return torch.tensor([[float("nan") if r.reward is None else r.reward for r in group] for group in groups])


def rollouts(
    player: Player,
    prompts: Iterable[list[Prompt]],
    *,
    group_size: int,
    sampling: Sampling,
    ask: Callable[[Prompt], bool] = lambda _: True,
    keep: Callable[[Group], bool] = lambda _: True,
    max_batches: int = 1,
    first: int = 0,
) -> Iterator[list[Group]]:
    """One step's groups at a time.

    Args:
        player: gives a batch of prompts its groups.
        prompts: a list of P prompts per item.
        group_size: G, answers to each prompt.
        sampling: the distribution that answers are drawn from.
        ask: which prompts are answered at all; others are replaced by the next ones.
        keep: which groups count; others are replaced by groups of the next prompts.
        max_batches: items of `prompts` that one step may use; then it goes with what it has, all of the last answered batch if
            none. A step in which no prompt was answered goes on until one is.
        first: number of the first item; names the random streams, so a resumed run goes on with the same ones.
    """
    kept: list[Group] = []
    groups: list[Group] = []
    size = tried = 0
    for number, batch in enumerate(prompts, start=first):
        size, tried = size or len(batch), tried + 1
        if asked := [prompt for prompt in batch if ask(prompt)]:
            groups = player.play(asked, group_size, sampling, number=number)
            kept += [group for group in groups if keep(group)]
        if groups and (len(kept) >= size or tried >= max_batches):
            yield kept[:size] or groups
            kept, groups, size, tried = [], [], 0, 0


def scored(
    reward: Reward, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], step: int
) -> list[Group]:
    """Every answer with what it earned, a group per prompt."""
    groups = list(zip(prompts, answers, strict=True))
    return [
        [
            Rollout(prompt=prompt, completion=completion, reward=score.reward, parts=score.parts, faults=score.faults)
            for completion, score in zip(completions, scores, strict=True)
        ]
        for (prompt, completions), scores in zip(groups, reward.score(groups, step=step), strict=True)
    ]


def describe(groups: list[Group], full_mark: float) -> Metrics:
    """What the rollouts say, before any training."""
    rollouts_ = [rollout for group in groups for rollout in group]
    judged = [r.reward for r in rollouts_ if r.reward is not None]
    lengths = [len(r.completion.token_ids) for r in rollouts_]
    metrics: Metrics = {
        "reward": sum(judged) / max(1, len(judged)),
        "pass_rate": sum(r >= full_mark for r in judged) / max(1, len(judged)),
        "signal": has_signal(group_rewards(groups)).double().mean().item(),
        "masked": float(len(rollouts_) - len(judged)),
        "length": sum(lengths) / len(lengths),
        "truncated": sum(r.completion.truncated for r in rollouts_) / len(rollouts_),
        "tokens": float(sum(lengths)),
    }
    for name in rollouts_[0].parts:
        values = [value for r in rollouts_ if (value := r.parts[name]) is not None]
        metrics[f"reward/{name}"] = sum(values) / max(1, len(values))
    for name in sorted({name for r in rollouts_ for name in r.counts}):
        metrics[f"environment/{name}"] = sum(r.counts.get(name, 0.0) for r in rollouts_) / len(rollouts_)
    return metrics
