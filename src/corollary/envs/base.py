"""An environment: text in, text out, over one turn or several.

    class Countdown(Environment):
        start: int = 10

        def episode(self, columns):
            return _Countdown(self.start)      # has reset(seed) -> str and step(action) -> Turn

Its fields are the settings of a run, and frozen; what changes lives in an episode, one for each answer. Ours and a user's go the
same way. Page: docs/guides/environments.md
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field

from corollary.config import Config


@dataclass(frozen=True, slots=True)
class Turn:
    """What an environment answers to one turn of the model's."""

    observation: str = ""  # what the model reads next; may be empty where the episode is over
    reward: float = 0.0  # of this turn; an episode earns the sum
    terminated: bool = False  # the episode is over by its own rules: solved, lost, answered
    truncated: bool = False  # the episode is cut by a limit of the environment's, such as its clock
    info: Mapping[str, float] = field(default_factory=dict)  # numbers for the log, added up over an episode

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated


class Episode(Protocol):
    """One run through an environment. It draws its random numbers from the seed alone, so equal seeds give equal episodes."""

    def reset(self, seed: int) -> str:
        """Begin; what the model reads first, put behind the prompt's own text, or nothing."""
        ...

    def step(self, action: str) -> Turn:
        """Take a turn of the model's, whatever it says; it is not called again once the episode is over."""
        ...


class Environment(Config):
    """Settings of an environment."""

    type: str
    max_turns: int = Field(default=8, ge=1)
    """of the model's; an episode that is not over by then is cut"""
    turn_tokens: int = Field(default=0, ge=0)
    """tokens of one turn at most, and a longer one cuts the episode; 0: as many as the answer has left"""
    role: Literal["user", "tool"] = "user"
    """who speaks the observations, in the chat template"""
    timeout: float = Field(default=10.0, gt=0)
    """seconds that one reset or step may take, up to the next Python instruction; nothing stops what hangs outside Python"""
    on_error: Literal["stop", "mask"] = "stop"
    """when it fails: end the run, or leave the answer out of its group (never: score it 0)"""

    @property
    def full_mark(self) -> float:
        """The reward of an episode in which everything is right."""
        return 1.0

    @property
    def instructions(self) -> str:
        """What the system message says besides its own text, such as which tools there are."""
        return ""

    @property
    def file(self) -> str:
        """Where an exception is looked for: the file that defines its episodes."""
        return inspect.getsourcefile(type(self).episode) or ""

    def episode(self, columns: Mapping[str, Any]) -> Episode:
        """A fresh episode of a row of the data."""
        raise NotImplementedError

    def lack(self) -> str:
        """What a subclass has left out; empty where it is whole."""
        return "defines no episode(self, columns)" if type(self).episode is Environment.episode else ""
