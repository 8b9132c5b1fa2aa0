"""The puzzles of reasoning-gym, one turn each: rows for `data.path`, and the environment that scores them.

Its scorers give part marks, even to nonsense, so only a full mark counts unless `strict` is off. A scorer that fails at what the
model wrote gives 0, and `scorer_failed` counts it. Sets whose own answers do not score 1 cannot be learnt, and are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

from corollary.envs.base import Environment, Turn
from corollary.errors import ConfigError, DataError

DENIED = {
    "boxnet": "its own answers do not score 1",
    "composite": "it is made of other sets; name those",
    "game_of_life_halting": "it has scored an answer that says nothing as right",
    "graph_color": "its own answers do not score 1",
    "propositional_logic": "its own answers do not score 1",
    "rubiks_cube": "its own answers do not score 1",
    "rush_hour": "its own answers do not score 1",
}
"""name → why it is refused (seen in reasoning-gym 0.1.25)"""


class ReasoningGym(Environment):
    """Scores an answer to a row of `corollary.envs.reasoning_gym:puzzles`."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    max_turns: Literal[1] = 1  # type: ignore[assignment]
    """an answer is one turn"""
    tag: str = "answer"
    """the answer stands in <tag>…</tag>, the last one, and without it earns 0; empty: the whole turn is the answer"""
    strict: bool = True
    """a full mark or nothing; false: part marks as the scorer gives them"""

    @property
    def instructions(self) -> str:
        return f"Write the final answer as <{self.tag}>…</{self.tag}>." if self.tag else ""

    def episode(self, columns: Mapping[str, Any]) -> Puzzle:
        if not {"puzzle", "index"} <= set(columns):
            hint = "let data.path be corollary.envs.reasoning_gym:puzzles"
            raise ConfigError("its rows come from reasoning-gym", where="environment", hint=hint)
        return Puzzle(self, str(columns["puzzle"]), int(columns["index"]))


class Puzzle:
    """One puzzle."""

    def __init__(self, settings: ReasoningGym, puzzle: str, index: int) -> None:
        self.settings, self.puzzles = settings, _puzzles(puzzle)
        self.entry = self.puzzles[index]

    def reset(self, seed: int) -> str:
        return ""

    def step(self, action: str) -> Turn:
        answer = self._answer(action)
        if answer is None:
            return Turn(terminated=True, info={"no_answer": 1.0})
        try:
            score = float(self.puzzles.score_answer(answer, self.entry))
        except Exception:  # noqa: BLE001 - at what a model may write scorers raise whatever they like; the rows' own answers pass
            return Turn(terminated=True, info={"scorer_failed": 1.0})
        return Turn(reward=float(score >= 1) if self.settings.strict else score, terminated=True)

    def _answer(self, action: str) -> str | None:
        if not self.settings.tag:
            return action.strip()
        _, opened, rest = action.rpartition(f"<{self.settings.tag}>")
        answer, closed, _ = rest.partition(f"</{self.settings.tag}>")
        return answer.strip() if opened and closed else None


def puzzles(
    *, name: str, n: int = 256, seed: int = 0, config: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Rows with columns `question` and `answer`.

    Args:
        name: of the set, such as "spell_backward".
        n: rows.
        seed: of the set; other seeds give other puzzles.
        config: the set's own settings.

    Raises:
        ConfigError: the package is missing, or there is no such set.
        DataError: the set is one of DENIED, or a row's own answer does not score 1.
    """
    if name in DENIED:
        raise DataError(f"is refused: {DENIED[name]}", where=f"reasoning-gym {name}")
    puzzle = json.dumps({"name": name, "size": n, "seed": seed, **(config or {})}, sort_keys=True)
    made = _puzzles(puzzle)
    for index in range(n):
        entry = made[index]
        if (score := made.score_answer(str(entry["answer"]), entry)) != 1:
            what = f"the right answer of puzzle {index} scores {score}, so it cannot be learnt"
            raise DataError(what, where=f"reasoning-gym {name}", hint="take another set or seed")
        question, answer = str(entry["question"]), str(entry["answer"])
        yield {"id": f"{name}-{seed}-{index}", "question": question, "answer": answer, "puzzle": puzzle, "index": index}


@lru_cache(maxsize=8)
def _puzzles(puzzle: str) -> Any:
    """The set that a row names.

    Raises:
        ConfigError: the package is missing, or there is no such set or setting.
    """
    try:
        package = import_module("reasoning_gym")
    except ImportError as error:
        hint = "pip install 'corollary[reasoning-gym]'"
        raise ConfigError("these puzzles need the package reasoning-gym", where="environment", hint=hint) from error
    asked = json.loads(puzzle)
    try:
        return package.create_dataset(asked.pop("name"), **asked)
    except (ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"{type(error).__name__}: {error}", where="reasoning-gym", hint="see name and config"
        ) from error
