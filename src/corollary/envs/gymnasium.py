"""Environments with gymnasium's interface, by duck type: `reset(seed=)` and a `step` that gives five values.

Nothing is imported here: `path` names what makes one, such as `gymnasium:make` with `params: {id: FrozenLake-v1}`, a game of GEM's,
or a class of your own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from pydantic import Field, field_validator

from corollary.custom import file_of, is_reference, load
from corollary.envs.base import Environment, Turn


class Game(Protocol):
    """What is expected of it."""

    def reset(self, *, seed: int) -> tuple[Any, Mapping[str, Any]]: ...

    def step(self, action: Any, /) -> tuple[Any, Any, bool, bool, Mapping[str, Any]]: ...

    def render(self) -> Any: ...


class Gymnasium(Environment):
    """A text game with gymnasium's interface."""

    type: Literal["gymnasium"] = "gymnasium"
    path: str
    """what makes one: path/to/file.py:name, or package.module:name"""
    params: dict[str, Any] = Field(default_factory=dict)
    """what it is called with"""
    action: Literal["text", "integer"] = "text"
    """what a turn is to the game: its text as it stands, or the last whole number in it"""
    actions: tuple[str, ...] = ()
    """names of the actions 0, 1, …: a turn must be one of them; empty: see `action`"""
    shown: Literal["observation", "render"] = "observation"
    """what the model reads: the observation as text, or what `render` gives"""
    best: float = 1.0
    """reward of an episode in which everything is right"""

    @field_validator("path")
    @classmethod
    def _reference(cls, value: str) -> str:
        if not is_reference(value):
            raise ValueError(f"what makes a game is named path/to/file.py:name or package.module:name, not {value!r}")
        return value

    @property
    def full_mark(self) -> float:
        return self.best

    @property
    def file(self) -> str:
        return str(file_of(self.path) or "")

    def episode(self, columns: Mapping[str, Any]) -> Played:
        game: Game = load(self.path)(**self.params)
        show: Callable[[Any], str] = str if self.shown == "observation" else lambda _: str(game.render())
        return Played(game, show, self.action, self.actions)


class Played:
    """One game, in words."""

    def __init__(self, game: Game, show: Callable[[Any], str], action: str, actions: tuple[str, ...]) -> None:
        self.game, self.show, self.action, self.actions = game, show, action, actions

    def reset(self, seed: int) -> str:
        return self.show(self.game.reset(seed=seed)[0])

    def step(self, action: str) -> Turn:
        """One move; a turn that is no move is answered, and the game stands still."""
        read = self._read(action)
        if read is None:
            wanted = f"one of {', '.join(self.actions)}" if self.actions else "a whole number"
            return Turn(f"Say {wanted}.", info={"invalid": 1.0})
        observation, reward, terminated, truncated, _ = self.game.step(read)
        return Turn(self.show(observation) or "(nothing)", float(reward), bool(terminated), bool(truncated))

    def _read(self, action: str) -> str | int | None:
        if self.actions:
            said = action.strip().lower()
            return next((i for i, name in enumerate(self.actions) if name.lower() == said), None)
        if self.action == "text":
            return action
        numbers = re.findall(r"-?\d{1,9}", action[-400:])
        return int(numbers[-1]) if numbers else None
