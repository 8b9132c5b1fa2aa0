"""GRPO learns in an environment of several turns, and learns nothing where its tokens are taken for each other's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice, repeat
from typing import Any, Literal

import pytest

from corollary.algorithms.grpo import GRPOConfig, steps
from corollary.engines.trainer import EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.envs.base import Environment, Turn
from corollary.ops.advantage import GroupMean
from corollary.rollout import Player
from corollary.types import Group, Prompt, Sampling
from envs.table import begun, player


class Shorter(Environment):
    """Each turn earns more, the shorter it is; three turns. What the environment says is long."""

    type: Literal["shorter"] = "shorter"

    def episode(self, columns: Mapping[str, Any]) -> Any:
        return _Shorter()


class _Shorter:
    def __init__(self) -> None:
        self.turns = 0

    def reset(self, seed: int) -> str:
        return ""

    def step(self, action: str) -> Turn:
        self.turns += 1
        return Turn("Shorter!", reward=1 / (3 + 3 * len(action)), terminated=self.turns == 3)


class Mixed:
    """Gives each answer's tokens to its neighbour: the classic mistake."""

    def __init__(self, inner: Player) -> None:
        self.inner, self.full_mark = inner, inner.full_mark

    def play(self, prompts: list[Prompt], group_size: int, sampling: Sampling, *, number: int) -> list[Group]:
        groups = self.inner.play(prompts, group_size, sampling, number=number)
        return [
            [replace(own, completion=other.completion) for own, other in zip(group, group[1:] + group[:1], strict=True)]
            for group in groups
        ]


def learnt(made: Any, wrap: Any = lambda inner: inner) -> tuple[float, float]:
    """Mean reward of the first and of the last five of 30 steps."""
    asked = begun(Shorter(), count=2)
    config = GRPOConfig(prompts_per_step=2, group_size=12, max_tokens=120, advantage=GroupMean())
    trainer = EmbeddedTrainer(made.sampler.model, TrainerConfig(), OptimizerConfig(lr=2e-2), total_steps=30)
    run = steps(config, trainer=trainer, sampler=made.sampler, player=wrap(made), prompts=repeat(asked))
    rewards = [step.metrics["reward"] for step in islice(run, 30)]
    return sum(rewards[:5]) / 5, sum(rewards[-5:]) / 5


def test_grpo_learns_over_several_turns() -> None:
    first, last = learnt(player(Shorter()))
    assert last > 1.5 * first


def test_it_does_not_where_answers_are_mixed_up() -> None:
    first, last = learnt(player(Shorter()), Mixed)
    assert last == pytest.approx(first, rel=0.35)
