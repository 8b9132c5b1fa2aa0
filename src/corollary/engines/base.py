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


class Sampler(Protocol):
    """Draws answers."""

    def generate(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, *, names: Iterable[str | int]
    ) -> list[list[Completion]]:
        """`group_size` answers to each prompt; `names` name the random stream, so equal names give equal answers."""
        ...

    def sync(self, trainer: Trainer) -> None:
        """Take over the trainer's weights and version."""
        ...
