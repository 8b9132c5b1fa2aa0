"""Bad environments are told in one line, before anything is trained."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from corollary.envs.base import Environment, Turn
from corollary.envs.opening import begun as beginning
from corollary.envs.opening import check
from corollary.envs.seat import Seat, seed_of
from corollary.errors import UserCodeError
from corollary.types import Prompt
from envs.table import Counting, begun, prompts

AROUND = itertools.count()


class Good:
    """An episode; those below break one clause each."""

    def reset(self, seed: int) -> Any:
        return f"Begin {seed}."

    def step(self, action: str) -> Any:
        return Turn("go on")


class OpensWithout(Good):
    def reset(self, seed: int) -> Any:
        return None


class OpensOtherwise(Good):
    def reset(self, seed: int) -> Any:
        return f"Game {next(AROUND)}."


class Tuple(Good):
    def step(self, action: str) -> Any:
        return "go on", 0.0, False, False, {}


class Silent(Good):
    def step(self, action: str) -> Any:
        return Turn("")


class Bytes(Good):
    def step(self, action: str) -> Any:
        return Turn(b"go on")  # type: ignore[arg-type]


class NotANumber(Good):
    def step(self, action: str) -> Any:
        return Turn("go on", reward=float("nan"))


class WordyInfo(Good):
    def step(self, action: str) -> Any:
        return Turn("go on", info={"mood": "good"})  # type: ignore[dict-item]


class Drifts(Good):
    def step(self, action: str) -> Any:
        return Turn(f"{next(AROUND)}")


class Picky(Good):
    def step(self, action: str) -> Any:
        return Turn(f"{int(action) + 1}")


class Slow(Good):
    def step(self, action: str) -> Any:
        while True:
            time.sleep(0.01)


class Leaves(Good):
    def step(self, action: str) -> Any:
        raise SystemExit(3)


class Broken(Environment):
    type: Literal["broken"] = "broken"
    made: Any = Good

    def episode(self, columns: Mapping[str, Any]) -> Any:
        return self.made()


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            OpensWithout,
            r"E0703.*environment broken: reset returned a NoneType, not text \(p0\); contract clause: opens",
        ),
        (OpensOtherwise, r"E0703.*gives another episode with the same seed \(row p0\); contract clause: repeatable"),
        (Tuple, r"E0703.*step returned a tuple, not a corollary.envs.base.Turn \(p0\); contract clause: turn"),
        (Silent, r"E0703.*observation is nothing, and the episode goes on"),
        (Bytes, r"E0703.*observation is a bytes, and the episode goes on"),
        (NotANumber, r"E0703.*reward is nan, not a finite number"),
        (WordyInfo, r"E0703.*mood is 'good', not a finite number"),
        (Drifts, r"E0703.*gives another episode with the same seed"),
        (
            Picky,
            r"E0701.*test_contract.py:\d+: environment broken raised ValueError: invalid literal .* as p0 takes turn 2",
        ),
        (Slow, r"E0702.*test_contract.py:\d+: environment broken took more than 0.2 s as p0 takes turn 1"),
        (Leaves, r"E0701.*environment broken raised SystemExit: 3 as p0 takes turn 1"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_environment_is_one_line(made: type[Good], told: str) -> None:
    with pytest.raises(UserCodeError, match=told) as refused:
        check(Broken(made=made, timeout=0.2), prompts(), seed=0)
    assert "\n" not in str(refused.value)


def test_a_whole_one_passes() -> None:
    check(Broken(), prompts(), seed=0)


class Unfinished(Environment):
    type: Literal["unfinished"] = "unfinished"


def test_one_without_episodes_says_what_it_lacks() -> None:
    with pytest.raises(UserCodeError, match=r"environment unfinished defines no episode\(self, columns\)"):
        check(Unfinished(), prompts(), seed=0)


def test_an_episode_is_not_stepped_after_its_end() -> None:
    seat = Seat(Counting(rounds=1), {}, 0, "p0")
    assert seat.step("x") is None
    with pytest.raises(AssertionError, match="after its end"):
        seat.step("y")


def test_a_row_s_seed_is_its_own_or_named_by_its_id() -> None:
    a, b = (Prompt(id=name, token_ids=(1,)) for name in "ab")
    assert seed_of(a, 0) == seed_of(a, 0) != seed_of(b, 0)
    assert seed_of(a, 0) != seed_of(a, 1)
    assert seed_of(Prompt(id="a", token_ids=(1,), columns={"seed": 12}), 0) == 12


def test_the_opening_stands_in_the_prompt_that_the_model_reads() -> None:
    for style in ("chat", "text"):
        for prompt in begun(Counting(draws=True), style=style):
            assert f"Seed {seed_of(prompt, 0)}." in prompt.text
    assert begun(Counting()) == prompts()


def test_an_opening_without_a_question_is_the_user_s_message() -> None:
    messages = beginning([{"role": "user", "content": ""}], opening="Move.")
    assert messages == [{"role": "user", "content": "Move."}]
