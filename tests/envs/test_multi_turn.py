"""Rollouts of several turns: whose tokens are trained, what they earn, and that nobody's game depends on another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from corollary.algorithms.grpo import GRPOConfig
from corollary.data.collate import policy_batch
from corollary.engines.trainer import EmbeddedTrainer, OptimizerConfig, TrainerConfig
from corollary.envs.base import Environment, Turn
from corollary.errors import UserCodeError
from corollary.ops.reduce import TokenMean
from corollary.rewards.base import Reward
from corollary.rewards.parts import Part
from corollary.rollout import SingleTurn, describe
from corollary.types import Group, Rollout
from envs.table import SAMPLING, Counting, begun, player
from models.small import model


def games(environment: Environment = Counting(), *, style: str = "chat", **settings: Any) -> list[Group]:
    return player(environment, style=style, **settings).play(begun(environment, style=style), 6, SAMPLING, number=0)


def flat(groups: list[Group]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


@pytest.mark.parametrize("style", ["chat", "text"])
def test_an_answer_is_turns_as_sampled_and_observations_between_them(style: str) -> None:
    words = player(Counting()).tokenizer
    several = [r for r in flat(games(style=style)) if r.counts["turns"] > 1 and not r.completion.truncated]
    assert len(several) > 3, "hardly a game had several turns"
    for rollout in several:
        said, mask = rollout.completion, rollout.completion.sampled
        turns = [m["content"] for m in said.messages]
        heard = words.decode([t for t, mine in zip(said.token_ids, mask, strict=True) if not mine])
        for observation in turns[1:-1:2]:
            assert observation in heard
        assert len(mask) == len(said.token_ids)
        assert (mask[0], mask[-1]) == (True, True), "the model speaks first and last"
        assert all(p == 0 for p, mine in zip(said.logprobs, mask, strict=True) if not mine)
        assert said.text == turns[-2]


def test_what_each_turn_earned_is_kept_and_added_up() -> None:
    for rollout in flat(games()):
        turns = [m["content"] for m in rollout.completion.messages if m["role"] == "assistant"]
        heard = turns[: len(rollout.turn_rewards)]
        assert rollout.turn_rewards == tuple(len(text) / 8 for text in heard)
        assert rollout.reward == rollout.parts["environment"] == pytest.approx(sum(rollout.turn_rewards))
        assert rollout.counts == {"turns": len(turns)} | ({"heard": len(heard)} if heard else {})


def test_the_recipe_s_rewards_judge_the_last_turn_on_top() -> None:
    def vowels(completions: Any, **columns: Any) -> list[float]:
        return [float(sum(c in "aeiou" for c in said[-1]["content"])) for said in completions]

    with Reward([Part.given(vowels, isolated=False, weight=2.0)]) as reward:
        made = player(Counting(), reward=reward)
        assert made.full_mark == 3.0
        for rollout in flat(made.play(begun(Counting()), 6, SAMPLING, number=0)):
            parts = rollout.parts
            assert parts["vowels"] == sum(c in "aeiou" for c in rollout.completion.text)
            assert rollout.reward == pytest.approx(parts["environment"] + 2 * parts["vowels"])


def test_observations_are_never_trained() -> None:
    groups = games()
    batch = policy_batch(groups, torch.ones(len(groups), 6), TokenMean())
    heard = 0
    for row, rollout in enumerate(flat(groups)):
        mask = rollout.completion.sampled or (True,) * len(rollout.completion.token_ids)
        heard += mask.count(False)
        assert batch.trained[row].tolist() == [*mask, *[False] * (batch.targets.shape[1] - len(mask))]
    assert heard > 20

    def gradient(changed: bool) -> torch.Tensor:
        """Of a step in which the observations' own log-probabilities at sampling are nonsense, or not."""
        made = model()
        trainer = EmbeddedTrainer(made, TrainerConfig(), OptimizerConfig(), total_steps=1)
        noise = torch.where(batch.trained, 0.0, 50.0 if changed else 0.0)
        trainer.step(replace(batch, sampler_logprobs=batch.sampler_logprobs + noise), GRPOConfig().objective)
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    assert torch.equal(gradient(False), gradient(True))


def test_a_game_does_not_depend_on_who_else_plays() -> None:
    together, apart = games(), games(max_sequences=6)
    assert [r.completion.token_ids for r in flat(together)] == [r.completion.token_ids for r in flat(apart)]
    environment = Counting()
    alone = player(environment).play(begun(environment, count=1), 2, SAMPLING, number=0)
    assert [r.completion.messages for r in alone[0]] == [r.completion.messages for r in together[0][:2]]


def test_other_numbers_give_other_games_and_the_same_ones_the_same() -> None:
    environment = Counting()
    asked = begun(environment)
    first, again, other = (player(environment).play(asked, 6, SAMPLING, number=n) for n in (0, 0, 1))
    assert first == again
    assert [r.completion.token_ids for r in flat(first)] != [r.completion.token_ids for r in flat(other)]


class Once(Environment):
    """Over after one turn."""

    type: Literal["once"] = "once"

    def episode(self, columns: Mapping[str, Any]) -> Any:
        return _Once()


class _Once:
    def reset(self, seed: int) -> str:
        return ""

    def step(self, action: str) -> Turn:
        return Turn(reward=len(action) / 8, terminated=True)


def test_one_turn_is_what_a_reward_would_have_judged() -> None:
    def length(completions: Any, **columns: Any) -> list[float]:
        return [len(said[-1]["content"]) / 8 for said in completions]

    made, asked = player(Once()), begun(Once())
    with Reward([Part.given(length, isolated=False)]) as reward:
        single = SingleTurn(made.sampler, reward).play(asked, 6, SAMPLING, number=0)
    several = made.play(asked, 6, SAMPLING, number=0)
    for a, b in zip(flat(single), flat(several), strict=True):
        assert a.completion == replace(b.completion, messages=())
        assert (0.0 if a.completion.truncated else a.reward) == b.reward


@pytest.mark.parametrize(
    ("limits", "rounds"),
    [({"max_turns": 2}, 9), ({"turn_tokens": 2}, 9), ({"max_turns": 2, "turn_tokens": 2}, 9)],
    ids=["turns", "tokens of a turn", "both"],
)
def test_what_a_limit_cuts_is_truncated_and_not_terminated(limits: dict[str, int], rounds: int) -> None:
    cut = flat(games(Counting(rounds=rounds, **limits)))
    assert all(r.completion.truncated for r in cut), "no game can be over by its own rules"
    assert max(r.counts["turns"] for r in cut) <= limits.get("max_turns", 99)


def test_a_game_that_is_over_is_not_truncated_though_it_used_its_last_turn() -> None:
    ended = [r for r in flat(games(Counting(rounds=2, max_turns=2))) if len(r.turn_rewards) == 2]
    assert ended
    assert not any(r.completion.truncated for r in ended)


class Clock(Environment):
    """Cuts every episode by its own clock."""

    type: Literal["clock"] = "clock"

    def episode(self, columns: Mapping[str, Any]) -> Any:
        return _Clock()


class _Clock(_Once):
    def step(self, action: str) -> Turn:
        return Turn("time is up", truncated=True)


def test_what_the_environment_s_own_limit_cuts_is_truncated() -> None:
    assert all(r.completion.truncated for r in flat(games(Clock())))


def test_metrics_say_how_many_turns_there_were() -> None:
    groups = games()
    metrics = describe(groups, 1.0)
    turns = [r.counts["turns"] for r in flat(groups)]
    assert metrics["environment/turns"] == pytest.approx(sum(turns) / len(turns))
    assert metrics["reward/environment"] == pytest.approx(metrics["reward"])


class Fragile(Environment):
    """Fails at answers of a certain length."""

    type: Literal["fragile"] = "fragile"

    def episode(self, columns: Mapping[str, Any]) -> Any:
        return _Fragile()


class _Fragile(_Once):
    def step(self, action: str) -> Turn:
        if len(action) > 3 and "no idea" not in action:
            raise KeyError("too long for me")
        return super().step(action)


def test_a_failing_environment_stops_the_run_in_one_line() -> None:
    with pytest.raises(UserCodeError) as failed:
        games(Fragile())
    line = str(failed.value)
    assert "E0701" in line
    assert "test_multi_turn.py:" in line
    assert "environment fragile raised KeyError: 'too long for me' as p" in line
    assert "takes turn 1; mend it, or set environment.on_error=mask" in line


def test_or_its_answers_are_masked_and_never_scored_0() -> None:
    rollouts = flat(games(Fragile(on_error="mask")))
    failed = [r for r in rollouts if r.faults]
    assert 0 < len(failed) < len(rollouts)
    for rollout in rollouts:
        assert (rollout.reward is None) == bool(rollout.faults)
    assert describe([rollouts], 1.0)["masked"] == len(failed)
