"""Pairs of answers to one prompt, the better and the worse: what the rows of a data set say, and what judged answers give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from corollary.config import Config
from corollary.data.collate import filled
from corollary.data.sources import fields
from corollary.errors import DataError
from corollary.types import Group, Prompt, Rollout

Encode = Callable[[str], Sequence[int]]
"""An answer's text → its tokens, end-of-sequence last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one prompt."""

    prompt: Prompt
    number: int  # among the pairs of its prompt, from 0
    chosen: tuple[int, ...]  # token ids
    rejected: tuple[int, ...]
    chosen_trained: tuple[bool, ...] = ()  # of each of its tokens, whether the model said it; (): all
    rejected_trained: tuple[bool, ...] = ()  # likewise
    margin: float | None = None  # by how much the chosen one is the better, in the data's units
    share: float = 1.0  # what it counts beside other pairs in a step's mean
    refusal: str = ""  # why it is not trained on; empty: it is

    @property
    def name(self) -> str:
        """Unique in its data set."""
        return f"{self.prompt.id}/{self.number}"

    @property
    def trained(self) -> tuple[Sequence[bool], Sequence[bool]]:
        """Of each token of both answers, whether it is trained on."""
        return (
            self.chosen_trained or (True,) * len(self.chosen),
            self.rejected_trained or (True,) * len(self.rejected),
        )


class PairRows(Config):
    """How a row of a data set becomes pairs."""

    chosen: str = "{chosen}"
    """the better answer, made of columns of the data set"""
    rejected: str = "{rejected}"
    """the worse answer, likewise; a column that holds a list makes a pair of each of its entries with the chosen answer"""
    margin: str = ""
    """column that says by how much the chosen answer is the better, such as a difference of scores; empty: none; 0: a tie"""
    tie: str = ""
    """column that is true where neither answer is the better; ties are left out and counted; empty: there are none"""
    max_answer_tokens: int | None = Field(default=None, ge=1)
    """pairs with a longer answer are left out and counted; null: no limit"""
    alike: Literal["prompts", "pairs"] = "prompts"
    """what counts alike in a step's mean, where a prompt has several pairs"""

    def pairs(self, prompt: Prompt, encode: Encode) -> list[Pair]:
        """All pairs of one row, those too that are not trained on.

        Raises:
            DataError: a column is missing or of no use, or an answer comes out empty.
        """
        chosen = tuple(encode(_only(answers(self.chosen, prompt, "algorithm.chosen"), prompt)))
        worse = [tuple(encode(text)) for text in answers(self.rejected, prompt, "algorithm.rejected")]
        found = [
            self._judged(
                Pair(prompt=prompt, number=i, chosen=chosen, rejected=ids, margin=self._margin(prompt, i, len(worse)))
            )
            for i, ids in enumerate(worse)
        ]
        usable = sum(not pair.refusal for pair in found)
        share = 1 / max(1, usable) if self.alike == "prompts" else 1.0
        return [replace(pair, share=share) for pair in found]

    def usable(self, prompt: Prompt, encode: Encode) -> list[Pair]:
        """The pairs of one row that are trained on."""
        return [pair for pair in self.pairs(prompt, encode) if not pair.refusal]

    def refusal(self, prompt: Prompt, encode: Encode) -> str:
        """Why a row is left out; empty where it gives a pair at least."""
        reasons = [pair.refusal for pair in self.pairs(prompt, encode)]
        return reasons[0] if all(reasons) else ""

    def speak_of(self, prompt: Prompt) -> bool:
        """Whether the row has the columns of both answers."""
        return {*fields(self.chosen), *fields(self.rejected)} <= set(prompt.columns)

    def _margin(self, prompt: Prompt, i: int, pairs: int) -> float | None:
        if not self.margin:
            return None
        value = _column(self.margin, prompt, "algorithm.margin")
        value = value[i] if isinstance(value, list) and len(value) == pairs else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise DataError(
                f"example {prompt.id} has the margin {value!r}", where="algorithm.margin",
                hint="it is a number, and not negative: the chosen answer is the better one",
            )  # fmt: skip
        return float(value)

    def _judged(self, pair: Pair) -> Pair:
        """The pair with the reason, if there is one, why it is not trained on."""
        limit = self.max_answer_tokens
        tie = bool(self.tie) and bool(_column(self.tie, pair.prompt, "algorithm.tie"))
        if tie or pair.margin == 0:
            return replace(pair, refusal="ties")
        if pair.chosen == pair.rejected:
            return replace(pair, refusal="of twice the same answer")
        if limit is not None and max(len(pair.chosen), len(pair.rejected)) > limit:
            return replace(pair, refusal=f"over max_answer_tokens={limit}")
        return pair


def answers(template: str, prompt: Prompt, key: str) -> list[str]:
    """The answers that a row gives: one for each entry of the lists that the template names, else one.

    Args:
        template: with columns in braces.
        prompt: whose row it is.
        key: the setting that holds the template.

    Raises:
        DataError: a column is missing, lists differ in length or are empty, or an answer comes out empty.

    >>> answers("= {wrong}", Prompt(id="p", token_ids=(1,), columns={"wrong": ["7", "8"]}), "algorithm.rejected")
    ['= 7', '= 8']
    """
    lists = {
        name: _entries(value, prompt, key)
        for name in fields(template)
        if isinstance(value := prompt.columns.get(name), list)
    }
    if not lists:
        return [filled(template, prompt, key)]
    lengths = {len(value) for value in lists.values()}
    if len(lengths) > 1 or lengths == {0}:
        raise DataError(
            f"example {prompt.id} has lists of {sorted(lengths)} entries in {', '.join(lists)}",
            where=key, hint="they have the same number of entries, at least 1",
        )  # fmt: skip
    rows = [{name: value[i] for name, value in lists.items()} for i in range(lengths.pop())]
    return [filled(template, replace(prompt, columns={**prompt.columns, **row}), key) for row in rows]


def _entries(value: list[Any], prompt: Prompt, key: str) -> list[str | int | float]:
    """Texts; of a conversation, as hubs keep answers, what its last turn says."""
    if value and all(isinstance(turn, Mapping) for turn in value):
        value = [value[-1].get("content") if value[-1].get("role") == "assistant" else None]
    if any(not isinstance(entry, str | int | float) for entry in value):
        raise DataError(
            f"example {prompt.id} has a list that is no answer", where=key,
            hint="its entries are texts, or the turns of a conversation that the assistant ends",
        )  # fmt: skip
    return value


def _only(texts: list[str], prompt: Prompt) -> str:
    if len(texts) > 1:
        raise DataError(
            f"example {prompt.id} has {len(texts)} chosen answers", where="algorithm.chosen", hint="give one"
        )
    return texts[0]


def _column(name: str, prompt: Prompt, key: str) -> Any:
    if name not in prompt.columns:
        raise DataError(
            f"example {prompt.id} has no column {name!r}",
            where=key,
            hint=f"its columns are {', '.join(prompt.columns)}",
        )
    return prompt.columns[name]


def apart(group: Group, pairs: int) -> list[tuple[Rollout, Rollout]]:
    """The answers of a group that their rewards tell apart best: the first with the last, the second with the last but one, ….

    An answer is in one pair at most, and of answers with the same tokens the first stands for all. What could not be judged
    is left out; equal rewards stand in the order in which they were sampled.

    Args:
        group: judged answers to one prompt.
        pairs: how many at most.

    Returns:
        (better, worse) with different rewards, the widest apart first.
    """
    distinct: dict[tuple[int, ...], Rollout] = {}
    for rollout in group:
        if rollout.reward is not None:
            distinct.setdefault(rollout.completion.token_ids, rollout)
    ranked = sorted(distinct.values(), key=lambda r: -_reward(r))
    couples = list(zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False))[:pairs]
    return [(better, worse) for better, worse in couples if _reward(better) > _reward(worse)]


def from_rollouts(better: Rollout, worse: Rollout) -> Pair:
    """Two judged answers to one prompt, token by token as they were sampled."""
    return Pair(
        prompt=better.prompt,
        number=0,
        chosen=better.completion.token_ids,
        rejected=worse.completion.token_ids,
        chosen_trained=better.completion.sampled,
        rejected_trained=worse.completion.sampled,
        margin=_reward(better) - _reward(worse),
    )


def _reward(rollout: Rollout) -> float:
    assert rollout.reward is not None, "only judged answers are compared"
    return rollout.reward
