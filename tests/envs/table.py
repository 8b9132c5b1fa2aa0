"""A tiny real model at a table with an environment."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_letters
from typing import Any, Literal

from corollary.data.chat import encode_chat, encode_text
from corollary.engines.sampler import EmbeddedSampler
from corollary.envs.base import Environment, Turn
from corollary.envs.multi_turn import MultiTurn
from corollary.envs.opening import opened
from corollary.rollout import Reward
from corollary.types import Prompt, Sampling
from models.small import TEMPLATE, model, tokenizer

SAMPLING = Sampling(max_tokens=160)
STYLES = {"chat": TEMPLATE, "text": None}


class Counting(Environment):
    """Answers each turn with its number and length; over after `rounds`; a long answer earns more."""

    type: Literal["counting"] = "counting"
    rounds: int = 3
    draws: bool = False
    """add a number that only the seed decides"""

    def episode(self, columns: Mapping[str, Any]) -> Count:
        return Count(self)


class Count:
    def __init__(self, settings: Counting) -> None:
        self.settings, self.turn, self.seed = settings, 0, 0

    def reset(self, seed: int) -> str:
        self.seed = seed
        return f"Seed {seed}." if self.settings.draws else ""

    def step(self, action: str) -> Turn:
        self.turn += 1
        over = self.turn == self.settings.rounds
        return Turn(f"{self.turn}: {len(action)}", reward=len(action) / 8, terminated=over, info={"heard": 1.0})


def prompts(count: int = 3, style: str = "chat", **columns: Any) -> list[Prompt]:
    """Questions, as a conversation or as plain text."""
    words, made = tokenizer(STYLES[style]), []
    for i in range(count):
        messages = ({"role": "user", "content": f"Say {i}."},) if style == "chat" else ()
        encoded = encode_chat(words, messages) if messages else encode_text(words, f"Say {i}.")
        made.append(
            Prompt(id=f"p{i}", token_ids=encoded.token_ids, messages=messages, text=encoded.text, columns=columns)
        )
    return made


def player(
    environment: Environment, *, style: str = "chat", reward: Reward | None = None, **settings: Any
) -> MultiTurn:
    words = tokenizer(STYLES[style])
    sampler = EmbeddedSampler(
        model(),
        decode=lambda ids: words.decode(ids, skip_special_tokens=True),
        eos_token_ids=[words.eos_token_id, *words.convert_tokens_to_ids([*ascii_letters])],
        **settings,
    )
    return MultiTurn(sampler, words, environment, reward)


def begun(environment: Environment, *, style: str = "chat", count: int = 3, **columns: Any) -> list[Prompt]:
    return opened(environment, prompts(count, style, **columns), tokenizer(STYLES[style]), seed=0)
