"""Rollouts of several turns: the model and an environment in turn, all conversations of a step at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

from corollary.data.continuation import continuation, plain_continuation
from corollary.engines.base import Sampler
from corollary.envs.base import Environment
from corollary.envs.seat import Seat, seed_of
from corollary.errors import UserCodeError
from corollary.rollout import Reward, Score
from corollary.types import Completion, Group, Message, Prompt, Rollout, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class MultiTurn:
    """Plays an environment.

    An answer's tokens are the model's turns as it sampled them, and between them what the chat template makes of each observation;
    those are never trained. Answer g of prompt i draws from the stream (seed, purpose, number, i, g), one number per token, so that
    nobody's turns depend on anybody else's.

    An answer earns what its environment gave over its turns, and what the recipe's rewards give its last turn.
    """

    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    environment: Environment
    reward: Reward | None = None  # judges the last turn's text as well
    seed: int = 0  # the run's
    purpose: str = "rollout"  # names the random streams

    @property
    def full_mark(self) -> float:
        return self.environment.full_mark + (self.reward.full_mark if self.reward else 0.0)

    def play(self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, number: int) -> list[Group]:
        seats = [[self._seat(prompt, g) for g in range(group_size)] for prompt in prompts]
        table = Table(seats, prompts, self.tokenizer, self.environment)
        names = (self.purpose, number)
        answers = self.sampler.generate(prompts, group_size, sampling, names=names, partner=table)
        told = [[_told(c, seat) for c, seat in zip(*pair, strict=True)] for pair in zip(answers, seats, strict=True)]
        groups = [*zip(prompts, told, strict=True)]
        scores = self.reward.score(groups, step=number) if self.reward else [[None] * group_size for _ in prompts]
        return [
            [_rollout(prompt, *answer) for answer in zip(completions, beside, judged, strict=True)]
            for (prompt, completions), beside, judged in zip(groups, seats, scores, strict=True)
        ]

    def _seat(self, prompt: Prompt, g: int) -> Seat:
        """A fresh episode.

        Raises:
            UserCodeError: it begins otherwise than it did when the prompt was made.
        """
        seat = Seat(self.environment, prompt.columns, seed_of(prompt, self.seed), f"{prompt.id}#{g}")
        last = prompt.messages[-1]["content"] if prompt.messages else prompt.text
        if not last.endswith(seat.opening):
            raise UserCodeError(
                f"environment {self.environment.type} begins {prompt.id} otherwise than before, with the same seed",
                where=self.environment.file,
                hint="contract clause: repeatable",
                code="E0703",
            )
        return seat


@dataclass(frozen=True, slots=True)
class Table:
    """The sampler's partner: passes each turn to its episode, and the observation on as tokens."""

    seats: Sequence[Sequence[Seat]]
    prompts: Sequence[Prompt]
    tokenizer: PreTrainedTokenizerBase
    environment: Environment

    @property
    def turn_tokens(self) -> int:
        return self.environment.turn_tokens

    def reply(self, prompt: int, answer: int, text: str, closed: int | None) -> Sequence[int]:
        observation = self.seats[prompt][answer].step(text)
        if observation is None:
            return ()
        if not self.prompts[prompt].messages:
            return plain_continuation(self.tokenizer, observation)
        return continuation(self.tokenizer, {"role": self.environment.role, "content": observation}, closed=closed)


def _told(completion: Completion, seat: Seat) -> Completion:
    """The completion with its turns, and whether any limit cut it."""
    replies = sum(mine and not following for mine, following in pairwise(completion.sampled or (True,)))
    unheard = [completion.text] if len(seat.said) == replies else []  # cut before it ended, so no episode heard it
    messages: list[Message] = []
    for said, turn in zip_longest([*seat.said, *unheard], seat.turns):
        messages.append({"role": "assistant", "content": said})
        if turn and turn.observation:
            messages.append({"role": seat.environment.role, "content": turn.observation})
    return replace(completion, truncated=completion.truncated or seat.cut, messages=tuple(messages))


def _rollout(prompt: Prompt, completion: Completion, seat: Seat, score: Score | None) -> Rollout:
    own, extra = seat.reward, score.reward if score else 0.0
    counts = Counter[str]({"turns": sum(m["role"] == "assistant" for m in completion.messages)})
    for turn in seat.turns:
        counts.update(turn.info)
    return Rollout(
        prompt=prompt,
        completion=completion,
        reward=None if own is None or extra is None else own + extra,
        parts={"environment": own, **(score.parts if score else {})},
        faults=((seat.fault.line(),) if seat.fault else ()) + (score.faults if score else ()),
        turn_rewards=tuple(turn.reward for turn in seat.turns),
        counts=dict(counts),
    )
