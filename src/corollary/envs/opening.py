"""How a conversation with an environment begins, and what is tried before any of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from corollary.data.chat import encode_chat, encode_text
from corollary.data.continuation import check_continuation
from corollary.envs.base import Environment, Turn
from corollary.envs.seat import Seat, seed_of
from corollary.errors import UserCodeError
from corollary.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBED = 2  # rows whose episodes are tried
PROBES = ("1", "", "no idea \u2026 \n{}")  # what is said in them, each of it first in one


def begun(messages: Sequence[Message], *, instructions: str = "", opening: str = "") -> list[Message]:
    """A conversation with the environment's instructions in its system message and its opening behind the user's last.

    >>> begun([{"role": "user", "content": "Play."}], instructions="Be brief.", opening="1 to 9.")[1]["content"]
    'Play.\\n\\n1 to 9.'
    """
    messages = [*messages]
    if instructions and messages[0]["role"] == "system":
        messages[0] = {"role": "system", "content": _joined(messages[0]["content"], instructions)}
    elif instructions:
        messages.insert(0, {"role": "system", "content": instructions})
    if opening and messages[-1]["role"] == "user":
        messages[-1] = {"role": "user", "content": _joined(messages[-1]["content"], opening)}
    elif opening:
        messages.append({"role": "user", "content": opening})
    return messages


def _joined(first: str, second: str) -> str:
    return f"{first}\n\n{second}" if first else second


def opened(
    environment: Environment, prompts: Sequence[Prompt], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> list[Prompt]:
    """The prompts with which the episodes of these rows begin.

    Args:
        environment: its instructions and each episode's opening are put into the prompts.
        prompts: rows of the data.
        tokenizer: of the model that will read them.
        seed: the run's.

    Raises:
        UserCodeError: it breaks the contract: see `check`, or an episode does not begin.
        ModelError, DataError: the chat template cannot put turns one behind the other.
    """
    check(environment, prompts, seed=seed)
    made = [_opened(environment, prompt, tokenizer, seed) for prompt in prompts]
    if environment.max_turns > 1 and made[0].messages:
        check_continuation(tokenizer, made[0].messages, environment.role)
    return made


def _opened(environment: Environment, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, seed: int) -> Prompt:
    opening = Seat(environment, prompt.columns, seed_of(prompt, seed), prompt.id).opening
    if not opening and not environment.instructions:
        return prompt
    if not prompt.messages:
        text = "\n\n".join(filter(None, (environment.instructions, prompt.text))) + opening
        return replace(prompt, token_ids=encode_text(tokenizer, text).token_ids, text=text)
    messages = begun(prompt.messages, instructions=environment.instructions, opening=opening)
    encoded = encode_chat(tokenizer, messages)
    return replace(prompt, token_ids=encoded.token_ids, text=encoded.text, messages=tuple(messages))


def check(environment: Environment, prompts: Sequence[Prompt], *, seed: int) -> None:
    """Play a few episodes with made-up answers, twice each, before anything expensive.

    Raises:
        UserCodeError: it has no episodes, fails at an answer that a model may give, breaks the contract, or does not repeat itself.
    """
    if lack := environment.lack():
        raise UserCodeError(
            f"environment {environment.type} {lack}", where=environment.file, hint="contract clause: inputs"
        )
    for prompt, start in product(prompts[:PROBED], range(len(PROBES))):
        actions = PROBES[start:] + PROBES[:start]
        first, second = (_played(environment, prompt, seed, actions) for _ in range(2))
        if first != second:
            raise UserCodeError(
                f"environment {environment.type} gives another episode with the same seed (row {prompt.id})",
                where=environment.file,
                hint="contract clause: repeatable; draw random numbers from the seed that reset is given",
                code="E0703",
            )


def _played(environment: Environment, prompt: Prompt, seed: int, actions: Sequence[str]) -> tuple[str, list[Turn]]:
    seat = Seat(environment, prompt.columns, seed_of(prompt, seed), prompt.id)
    for action in actions:
        if seat.over:
            break
        seat.step(action)
    return seat.opening, seat.turns
