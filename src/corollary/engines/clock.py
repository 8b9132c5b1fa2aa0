"""Where a step's time goes: engines that note how long each call took, and are otherwise the engine that they hold."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from corollary.engines.base import Partner, Sampler, Scorer, Teacher, Trainer
from corollary.types import Completion, Formula, Metrics, Prompt, Sampling, TokenBatch


class Clock:
    """Seconds by phase since the last reading."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside towards `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Seconds by phase, and `seconds` in all, since the last reading."""
        now = time.perf_counter()
        lap = {"seconds": now - self._start, **self._seconds}
        self._seconds, self._start = {}, now
        return lap


class TimedSampler:
    """A sampler whose time counts as `generate` and `sync`."""

    def __init__(self, inner: Sampler, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        names: Iterable[str | int],
        partner: Partner | None = None,
    ) -> list[list[Completion]]:
        with self.clock.phase("generate"):
            return self.inner.generate(prompts, group_size, sampling, names=names, partner=partner)

    def sync(self, trainer: Trainer) -> None:
        with self.clock.phase("sync"):
            self.inner.sync(trainer)


class TimedTrainer:
    """A trainer whose time counts as `train` and `score`."""

    def __init__(self, inner: Trainer, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    @property
    def version(self) -> int:
        return self.inner.version

    def logprobs(self, batch: TokenBatch) -> Tensor:
        with self.clock.phase("score"):
            return self.inner.logprobs(batch)

    def values(self, batch: TokenBatch) -> Tensor:
        with self.clock.phase("score"):
            return self.inner.values(batch)

    def step(self, batch: TokenBatch, loss: Formula) -> Metrics:
        with self.clock.phase("train"):
            return self.inner.step(batch, loss)


class TimedScorer:
    """A scorer whose time counts as `score`."""

    def __init__(self, inner: Scorer, clock: Clock) -> None:
        self.inner, self.clock = inner, clock

    def logprobs(self, batch: TokenBatch) -> Tensor:
        with self.clock.phase("score"):
            return self.inner.logprobs(batch)


class TimedTeacher(TimedScorer):
    """A teacher whose time counts as `score`."""

    def __init__(self, inner: Teacher, clock: Clock) -> None:
        super().__init__(inner, clock)
        self.teacher = inner

    def states(self, batch: TokenBatch) -> Tensor:
        with self.clock.phase("score"):
            return self.teacher.states(batch)

    def head(self) -> Tensor:
        return self.teacher.head()
