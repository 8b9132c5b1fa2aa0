"""One episode and its side of the conversation, held to the contract turn by turn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from corollary.custom import line_of, said
from corollary.deadline import TooLong, deadline
from corollary.envs.base import Environment, Episode, Turn
from corollary.errors import CorollaryError, UserCodeError
from corollary.seeding import stream
from corollary.types import Prompt


def seed_of(prompt: Prompt, seed: int) -> int:
    """The seed of a prompt's episodes: its column `seed`, or one that its id and the run's seed name.

    >>> seed_of(Prompt(id="p", token_ids=(1,), columns={"seed": 7}), 0)
    7
    """
    own = prompt.columns.get("seed")
    return own if isinstance(own, int) else int(stream(seed, "environment", prompt.id).integers(2**31))


class Seat:
    """An episode that has begun.

    Args:
        environment: its settings.
        columns: the row of the data.
        seed: of the episode.
        name: of the answer, for messages.

    Raises:
        UserCodeError: it does not begin, whatever `on_error` says.
    """

    def __init__(self, environment: Environment, columns: Mapping[str, Any], seed: int, name: str) -> None:
        self.environment, self.name = environment, name
        self.said: list[str] = []  # the model's turns
        self.turns: list[Turn] = []  # what was answered to each
        self.cut = False  # by a limit of turns, the environment's or ours
        self.fault: CorollaryError | None = None  # that was masked
        with self._held("begins"):
            self._episode: Episode = environment.episode(columns)
            self.opening = self._episode.reset(seed)
        if not isinstance(self.opening, str):
            raise self._broken(f"reset returned a {type(self.opening).__name__}, not text", "opens")

    @property
    def over(self) -> bool:
        return self.cut or self.fault is not None or bool(self.turns and self.turns[-1].over)

    @property
    def reward(self) -> float | None:
        """The sum of its turns' rewards; None where it failed."""
        return None if self.fault else math.fsum(turn.reward for turn in self.turns)

    def step(self, action: str) -> str | None:
        """The observation that follows; None where the conversation ends here.

        Raises:
            UserCodeError: it fails, and `on_error` is stop.
        """
        assert not self.over, "an episode is not stepped after its end"
        self.said.append(action)
        try:
            self.turns.append(self._answered(action))
        except CorollaryError as fault:
            if self.environment.on_error == "stop":
                raise
            self.fault = fault
            return None
        turn = self.turns[-1]
        late = len(self.turns) == self.environment.max_turns
        self.cut = not turn.terminated and (turn.truncated or late)
        return None if self.over else turn.observation

    def _answered(self, action: str) -> Turn:
        with self._held(f"takes turn {len(self.said)}"):
            turn = self._episode.step(action)
        if not isinstance(turn, Turn):
            raise self._broken(f"step returned a {type(turn).__name__}, not a corollary.envs.base.Turn", "turn")
        if not isinstance(turn.observation, str) or not (turn.observation or turn.over):
            what = "nothing" if turn.observation == "" else f"a {type(turn.observation).__name__}"
            raise self._broken(f"observation is {what}, and the episode goes on", "turn")
        for name, value in {"reward": turn.reward, **turn.info}.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise self._broken(f"{name} is {value!r}, not a finite number", "turn")
        return turn

    @contextmanager
    def _held(self, doing: str) -> Iterator[None]:
        """Whatever fails inside becomes one line that names the environment's line."""
        kind, file = self.environment.type, self.environment.file
        hint = "mend it, or set environment.on_error=mask to leave such answers out"
        try:
            with deadline(self.environment.timeout):
                yield
        except CorollaryError:
            raise
        except TooLong as cause:
            what = f"environment {kind} took more than {self.environment.timeout:g} s as {self.name} {doing}"
            raise UserCodeError(what, where=line_of(cause, file), hint=hint, code="E0702") from cause
        except (Exception, SystemExit) as cause:
            what = f"environment {kind} raised {said(cause)} as {self.name} {doing}"
            raise UserCodeError(what, where=line_of(cause, file), hint=hint, code="E0701") from cause

    def _broken(self, what: str, clause: str) -> UserCodeError:
        where, hint = self.environment.file, f"contract clause: {clause}"
        return UserCodeError(
            f"environment {self.environment.type}: {what} ({self.name})", where=where, hint=hint, code="E0703"
        )
