"""A game of several turns: guess a number, told after each guess whether it is higher or lower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from corollary.envs.base import Environment, Turn
from corollary.envs.opening import begun
from corollary.seeding import stream
from corollary.types import Message

_ASKED: list[Message] = [{"role": "user", "content": "Guess my number."}]


class Guess(Environment):
    """Guess a whole number from 1 to `largest`. The turn that says it earns 1, every other turn 0.

    Halving what is left needs ⌈log₂(largest + 1)⌉ turns at most: 5 for 30.
    """

    type: Literal["guess"] = "guess"
    largest: int = Field(default=30, ge=2, le=10**6)
    """the numbers are 1 to this"""
    max_turns: int = Field(default=5, ge=1)
    """guesses; one that is no number counts"""
    turn_tokens: int = Field(default=8, ge=0)
    """tokens of one guess at most; 0: as many as the answer has left"""

    def episode(self, columns: Mapping[str, Any]) -> Game:
        return Game(self.largest)


class Game:
    """One secret number."""

    def __init__(self, largest: int) -> None:
        self.largest, self.secret = largest, 0

    def reset(self, seed: int) -> str:
        self.secret = int(stream(seed, "guess").integers(1, self.largest + 1))
        return f"It is from 1 to {self.largest}."

    def step(self, action: str) -> Turn:
        """Whether the secret is higher or lower.

        >>> game = Game(9)
        >>> game.secret = 5
        >>> game.step("3").observation, game.step("five").info, game.step(" 5").reward
        ('higher', {'invalid': 1.0}, 1.0)
        """
        text = action.strip()
        guess = int(text) if text.isascii() and text.isdigit() and len(text) <= 7 else 0
        if not 1 <= guess <= self.largest:
            return Turn(f"Say one number from 1 to {self.largest}.", info={"invalid": 1.0})
        if guess == self.secret:
            return Turn("right", reward=1.0, terminated=True)
        return Turn("higher" if guess < self.secret else "lower")


def games(*, n: int = 512, first: int = 0) -> Iterator[dict[str, Any]]:
    """Rows: one game each.

    Args:
        n: rows.
        first: seed of the first; the others follow.
    """
    for seed in range(first, first + n):
        yield {"id": f"game-{seed}", "seed": seed, "prompt": _ASKED}


def played(*, n: int = 512, first: int = 1_000_000, largest: int = 30, max_turns: int = 5) -> Iterator[dict[str, Any]]:
    """Rows: whole games of a careless player, to learn the form from. It guesses anything that is not ruled out yet.

    Args:
        n: rows.
        first: seed of the first; the others follow.
        largest, max_turns: of the game.
    """
    for seed in range(first, first + n):
        game, draw = Game(largest), stream(seed, "careless player")
        messages = begun(_ASKED, opening=game.reset(seed))
        low, high = 1, largest
        for _ in range(max_turns):
            guess = int(draw.integers(low, high + 1))
            turn = game.step(str(guess))
            messages.append({"role": "assistant", "content": str(guess)})
            if turn.terminated:
                break
            messages.append({"role": "user", "content": turn.observation})
            low, high = (guess + 1, high) if turn.observation == "higher" else (low, guess - 1)
        yield {"id": f"played-{seed}", "messages": messages}
