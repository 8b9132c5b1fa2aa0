"""Which prompts are asked, which groups count, and which are seen again."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from corollary.rollout import rollouts
from corollary.selection import DynamicSampling, PassRate, Replay, informative, restored, spread, stored
from corollary.types import Completion, Group, Prompt, Rollout, Sampling

ON = Sampling(max_tokens=3, stop=("x",))


def group(name: str, *rewards: float | None, version: int = 0) -> Group:
    prompt = Prompt(id=name, token_ids=(1, 2), messages=({"role": "user", "content": name},), columns={"answer": 1})
    return [
        Rollout(
            prompt=prompt, reward=reward, parts={"right": reward}, faults=("a line",) if reward is None else (),
            completion=Completion(
                token_ids=(i, 2), logprobs=(-0.1 * i, -1 / 3), text=str(i), truncated=False, version=version, sampling=ON,
                sampled=(True, False),
            ),
        )
        for i, reward in enumerate(rewards)
    ]  # fmt: skip


class Played:
    """Gives each prompt the rewards that stand here, and remembers what it was asked."""

    full_mark = 1.0

    def __init__(self, rewards: dict[str, tuple[float, float]]) -> None:
        self.rewards, self.asked = rewards, list[list[str]]()

    def play(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, number: int) -> list[Group]:
        self.asked.append([prompt.id for prompt in prompts])
        return [group(prompt.id, *self.rewards[prompt.id]) for prompt in prompts]


def batches(*names: str) -> list[list[Prompt]]:
    return [[Prompt(id=name, token_ids=(1,)) for name in batch] for batch in names]


def test_a_prompt_that_is_solved_is_left_out_and_comes_again_after_a_while() -> None:
    settings, memory = PassRate(rate=1.0, again=2), {}
    settings.learns([group("easy", 1.0, 1.0), group("mixed", 1.0, 0.0), group("hard", 0.0, 0.0)], 1.0, memory)
    names = ("easy", "mixed", "hard", "new")
    rounds = [[settings.asks(Prompt(id=name, token_ids=(1,)), memory) for name in names] for _ in range(3)]
    assert rounds == [[False, True, False, True], [False, True, False, True], [True, True, True, True]]


def test_the_pass_rate_is_a_running_one_of_full_marks_among_the_judged() -> None:
    settings, memory = PassRate(rate=0.25), {}
    settings.learns([group("p", 1.0, 0.5, None)], 1.0, memory)
    settings.learns([group("p", 1.0, 1.0, None)], 1.0, memory)
    assert memory["pass_rates"]["p"] == {"rate": 0.75 * 0.5 + 0.25 * 1.0, "left_out": 0}
    settings.learns([group("q", None, None)], 1.0, memory)
    assert "q" not in memory["pass_rates"]


def test_the_ends_of_the_band_are_in_it() -> None:
    settings, memory = PassRate(low=0.5, high=1.0, rate=1.0), {}
    settings.learns([group("low", 1.0, 0.0), group("high", 1.0, 1.0), group("below", 0.0, 0.0)], 1.0, memory)
    asked = [settings.asks(Prompt(id=name, token_ids=(1,)), memory) for name in ("low", "high", "below")]
    assert asked == [True, True, False]


def test_a_band_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"low \(0.9\) must be below high \(0.2\)"):
        PassRate(low=0.9, high=0.2)


def test_left_out_prompts_are_not_answered_and_the_next_ones_fill_the_step() -> None:
    played = Played(dict.fromkeys("abcdef", (1.0, 0.0)))
    stream = rollouts(
        played, batches("ab", "cd", "ef"), group_size=2, sampling=ON, ask=lambda p: p.id not in "ac", max_batches=3
    )
    assert [g[0].prompt.id for g in next(stream)] == ["b", "d"]
    assert played.asked == [["b"], ["d"]]


def test_a_step_whose_prompts_are_all_left_out_waits_for_one_that_is_not() -> None:
    played = Played(dict.fromkeys("abcdef", (1.0, 0.0)))
    stream = rollouts(played, batches("ab", "cd", "ef"), group_size=2, sampling=ON, ask=lambda p: p.id in "ef")
    assert [g[0].prompt.id for g in next(stream)] == ["e", "f"]


def test_groups_without_signal_are_left_out_until_the_batches_are_used_up() -> None:
    played = Played(
        {"a": (1.0, 1.0), "b": (0.0, 1.0), "c": (0.0, 0.0), "d": (1.0, 0.0), "e": (1.0, 1.0), "f": (0.0, 0.0)}
    )
    stream = rollouts(
        played, batches("ab", "cd", "ef", "ef"), group_size=2, sampling=ON, keep=DynamicSampling(), max_batches=2
    )
    assert [g[0].prompt.id for g in next(stream)] == ["b", "d"]
    assert [g[0].prompt.id for g in next(stream)] == ["e", "f"]  # none had signal: the last batch as it is


def test_a_group_comes_back_from_json_as_it_was() -> None:
    before = group("p", 1.0, None, 0.5, version=3)
    assert restored(json.loads(json.dumps(stored(before)))) == before


def test_replay_puts_informative_groups_where_silent_ones_were_each_once_the_widest_first() -> None:
    settings, memory = Replay(), {}
    wide, narrow, silent = group("wide", 1.0, 0.0), group("narrow", 1.0, 0.5), group("silent", 1.0, 1.0)
    assert settings.adds([wide, narrow], memory) == [wide, narrow]
    later = group("later", 0.0, 0.0, version=1)
    assert settings.adds([later, silent], memory) == [wide, narrow]
    assert settings.adds([later, silent], memory) == [later, silent]  # nothing is left to see again
    assert spread(wide) > spread(narrow)
    assert not informative(silent)


def test_replay_forgets_what_is_too_old_and_keeps_the_newest() -> None:
    settings, memory = Replay(capacity=1, max_age=2), {}
    settings.adds([group("old", 1.0, 0.0)], memory)
    settings.adds([group("new", 1.0, 0.0, version=1)], memory)
    assert [restored(g)[0].prompt.id for g in memory["replay"]] == ["new"]
    last = settings.adds([group("silent", 1.0, 1.0, version=3)], memory.copy())
    assert [g[0].prompt.id for g in last] == ["new"]  # max_age steps old, and still seen
    silent = group("silent", 1.0, 1.0, version=4)
    assert settings.adds([silent], memory) == [silent]
    assert memory["replay"] == []
