"""Conversations: what an assistant says, what it is the better or the worse for saying, and prompts with instructions to check.

Sources: InstructLab's sample conversations, https://github.com/instructlab/training; LLaMA-Factory's demonstration sets,
https://github.com/hiyouga/LLaMA-Factory; IFBench (Pyatkin et al. 2025), https://arxiv.org/abs/2507.02833.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corollary.data.published import Row, held_out

_TEST_SHARE = 0.05

_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What was said; the last message is the assistant's."""

    id: str
    messages: list[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferred:
    """Two answers to a conversation whose last message is the user's."""

    id: str
    messages: list[dict[str, str]]
    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rated:
    """One answer to such a conversation, wanted or not."""

    id: str
    messages: list[dict[str, str]]
    answer: str
    desirable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructed:
    """A prompt whose answer is held to instructions."""

    id: str
    question: str
    instructions: list[dict[str, Any]]  # each a `type`, and the parameters that it has here


def instructlab(rows: Sequence[Row], part: str) -> Iterator[Conversation]:
    """One side of single exchanges; near-duplicates of a user's message lie on the same side.

    Left out: the system message, which is the same in all of them, and exchanges without an answer.
    """
    exchanges = [[dict(m) for m in row["messages"] if m["role"] != "system"] for row in rows]
    test = held_out([messages[0]["content"] for messages in exchanges], _TEST_SHARE)
    for index, (messages, is_test) in enumerate(zip(exchanges, test, strict=True)):
        if is_test == (part == "test") and messages[-1]["content"].strip():
            yield Conversation(id=f"conversations/{index}", messages=[_message(**m) for m in messages])


def llamafactory_dpo(rows: Sequence[Row]) -> Iterator[Preferred]:
    """`conversations` (`from`, `value`), `chosen`, `rejected`."""
    for index, row in enumerate(rows):
        yield Preferred(
            id=f"dpo-tiny/{index}",
            messages=[_message(_ROLES[turn["from"]], turn["value"]) for turn in row["conversations"]],
            chosen=row["chosen"]["value"].strip(),
            rejected=row["rejected"]["value"].strip(),
        )


def llamafactory_kto(rows: Sequence[Row]) -> Iterator[Rated]:
    """`messages`, the last one judged, and `label`."""
    for index, row in enumerate(rows):
        yield Rated(
            id=f"kto-tiny/{index}",
            messages=[_message(**turn) for turn in row["messages"][:-1]],
            answer=row["messages"][-1]["content"].strip(),
            desirable=row["label"],
        )


def ifbench(rows: Sequence[Row], only: Collection[str] = ()) -> Iterator[Instructed]:
    """`key`, `prompt`, `instruction_id_list` and beside it `kwargs`, where null says that a parameter is not used.

    Args:
        rows: as published.
        only: prompts all of whose instructions are of these kinds; empty: all prompts.
    """
    for row in rows:
        if only and not set(row["instruction_id_list"]) <= set(only):
            continue
        yield Instructed(
            id=f"ifbench/{row['key']}",
            question=row["prompt"].strip(),
            instructions=[
                {"type": kind} | {name: _plain(value) for name, value in given.items() if value is not None}
                for kind, given in zip(row["instruction_id_list"], row["kwargs"], strict=True)
            ],
        )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content.strip()}


def _plain(value: Any) -> Any:
    """A parameter without `Decimal`; a whole number as one."""
    if isinstance(value, str | bool | Mapping | list):
        return value
    return int(value) if value == int(value) else float(value)
