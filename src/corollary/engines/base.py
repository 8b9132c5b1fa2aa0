"""The engines of a run. One process or a thousand, an algorithm sees no more than this."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from corollary.types import Completion, Formula, Metrics, Prompt, Sampling, TokenBatch


class Scorer(Protocol):
    """Gives the log-probabilities of tokens under fixed weights: a reference policy or a teacher."""

    def logprobs(self, batch: TokenBatch) -> Tensor:
        """`[B, T]` nats, no gradient; 0 behind the end of a sequence."""
        ...


class Teacher(Scorer, Protocol):
    """A model whose whole distributions a student learns from."""

    def states(self, batch: TokenBatch) -> Tensor:
        """`[B, T, D]` the final hidden state before every response token; no gradient."""
        ...

    def head(self) -> Tensor:
        """`[V, D]` the output embedding: states·headᵀ are the logits."""
        ...


class Trainer(Scorer, Protocol):
    """Owns the weights that learn: a policy's, a reward model's or a critic's."""

    def values(self, batch: TokenBatch) -> Tensor:
        """`[B, T]` what its scalar head says of the state before every response token, no gradient; 0 behind the end."""
        ...

    @property
    def version(self) -> int:
        """Optimizer steps taken so far."""
        ...

    def step(self, batch: TokenBatch, loss: Formula) -> Metrics:
        """One optimizer step on Σ weights·terms; the metrics are averaged by the same weights."""
        ...


class Partner(Protocol):
    """Whom a model talks with: it answers the model's turns, so that one answer may be a conversation."""

    @property
    def turn_tokens(self) -> int:
        """Tokens of one of the model's turns at most; 0: as many as the answer has left."""
        ...

    def reply(self, prompt: int, answer: int, text: str, closed: int | None) -> Sequence[int]:
        """What stands between a turn of the model's and its next, as tokens; none where the conversation is over.

        Args:
            prompt, answer: which one, by their places in the call of `generate`.
            text: what the model said in this turn.
            closed: the end-of-sequence token that ended it; None where a stop string did.
        """
        ...


class Sampler(Protocol):
    """Draws answers."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        names: Iterable[str | int],
        partner: Partner | None = None,
    ) -> list[list[Completion]]:
        """`group_size` answers to each prompt; `names` name the random stream, so equal names give equal answers.

        A `partner` makes a conversation of each: what it replies is put in as tokens that were not sampled, and counts towards
        `sampling.max_tokens`.
        """
        ...

    def sync(self, trainer: Trainer) -> None:
        """Take over the trainer's weights and version."""
        ...
