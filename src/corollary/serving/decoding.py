"""Answers for many at a time: one thread decodes, whoever waits is told each piece as it comes.

Requests that come together with the same settings are one batch. Batches take turns, a token each, so a request that comes while
others are being answered begins at once. A request draws from its own stream of random numbers, so its answer is what it would be
alone, up to rounding in the model's arithmetic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from corollary.engines.sampler import EmbeddedSampler
from corollary.seeding import stream
from corollary.types import Prompt, Sampling

ROOM = 32_768  # tokens; 1.5 GB of SmolLM2-135M's keys and values in float32
GATHER_SECONDS = 0.01  # what comes within this time of the first is decoded with it

Reason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one answer of a job gains: text, and the tokens that it comes from."""

    index: int
    text: str
    tokens: tuple[tuple[int, float], ...]  # (token, log-probability in nats); without the one that ends an answer
    finished: Reason | None
    count: int  # tokens of the answer so far, with the one that ends it


@dataclass(frozen=True, slots=True)
class Failure:
    """What kept a job from being answered."""

    error: Exception


@dataclass(slots=True, kw_only=True)
class Job:
    """A prompt that somebody waits for n answers to."""

    prompt: tuple[int, ...]
    sampling: Sampling
    n: int
    seed: int
    names: tuple[int | str, ...]  # of its random stream: answer g draws from (seed, *names, g)
    tell: Callable[[Piece | Failure], None]  # called from the decoder's thread
    cancelled: bool = False  # set by whoever no longer waits

    @property
    def size(self) -> int:
        """Tokens that its answers may keep in the cache."""
        return self.n * (len(self.prompt) + self.sampling.max_tokens)


class Answer:
    """One answer while it grows. Text is held back while it could be part of a stop string or of a character.

    Args:
        job: which it belongs to.
        index: among the job's answers.
        decode: token ids → text.
        eos: tokens that end it.
    """

    def __init__(self, job: Job, index: int, decode: Callable[[Sequence[int]], str], eos: frozenset[int]) -> None:
        self.job, self.index, self.decode, self.eos = job, index, decode, eos
        self.tokens: list[int] = []
        self.unsaid: list[tuple[int, float]] = []
        self.said = 0  # characters
        self.finished: Reason | None = None

    @property
    def alive(self) -> bool:
        """Whether somebody waits for more of it."""
        return self.finished is None and not self.job.cancelled

    def take(self, token: int, logprob: float) -> None:
        """One more token; whoever waits is told what can be said now."""
        self.tokens.append(token)
        ended = token in self.eos
        if not ended:
            self.unsaid.append((token, logprob))
        text = self.decode(self.tokens[:-1] if ended else self.tokens)
        cuts = [at for stop in self.job.sampling.stop if (at := text.find(stop)) >= 0]
        if ended or cuts:
            self.finished = "stop"
        elif len(self.tokens) == self.job.sampling.max_tokens:
            self.finished = "length"
        if cuts:
            text = text[: min(cuts)]
        sayable = len(text) if self.finished else len(text) - held_back(text, self.job.sampling.stop)
        if self.finished or sayable > self.said:
            tokens, self.unsaid = tuple(self.unsaid), []
            piece = Piece(self.index, text[self.said : sayable], tokens, self.finished, len(self.tokens))
            self.said = max(self.said, sayable)
            self.job.tell(piece)


def held_back(text: str, stops: Sequence[str]) -> int:
    r"""How many last characters may yet turn out to be the beginning of a stop string, or of a character of several bytes.

    >>> held_back("one\nQ", ["\nQ:", "\n\n"]), held_back("one\ufffd", []), held_back("one", ["\n"])
    (2, 1, 0)
    """
    whole = text.rstrip("\ufffd")
    starts = [n for stop in stops for n in range(1, len(stop)) if whole.endswith(stop[:n])]
    return len(text) - len(whole) + max(starts, default=0)


@dataclass(slots=True)
class Batch:
    """Jobs with the same settings, decoded together; it takes the tokens and hands them on."""

    jobs: list[Job]
    answers: list[Answer]
    steps: Iterator[None] = field(default_factory=lambda: iter(()))

    def extend(self, rows: list[int], tokens: list[int], logprobs: list[float]) -> tuple[list[int], list[bool]]:
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            if self.answers[row].alive:
                self.answers[row].take(token, logprob)
        return tokens, [self.answers[row].alive for row in rows]

    @property
    def alive(self) -> int:
        """Answers that somebody waits for."""
        return sum(answer.alive for answer in self.answers)

    def advance(self) -> bool:
        """One token more of each answer; whether there is more to do. What fails is told to those who wait."""
        try:
            next(self.steps)
        except StopIteration:
            return False
        except Exception as error:  # noqa: BLE001  the others are still being served; these learn of it
            for job in self.jobs:
                job.tell(Failure(error))
            return False
        return self.alive > 0


class Decoder:
    """The thread that decodes.

        consumes    jobs, through `submit`
        waits for   a job, while nobody is being answered
        unblocked by `submit` and `close`
        produces    pieces, through each job's `tell`

    Args:
        sampler: used by this thread alone.
        room: tokens in the cache, prompts and answers together; what does not fit waits.
        max_waiting: jobs that may wait before `submit` refuses more.
    """

    def __init__(self, sampler: EmbeddedSampler, *, room: int = ROOM, max_waiting: int = 256) -> None:
        self.sampler, self.room, self.max_waiting = sampler, room, max_waiting
        self.batches: list[Batch] = []
        self.waiting: list[Job] = []
        self.closed = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self.thread.start()

    def submit(self, jobs: Sequence[Job]) -> bool:
        """Have jobs answered; False where too many wait already, and then none of them is."""
        with self.changed:
            if len(self.waiting) + len(jobs) > self.max_waiting or self.closed:
                return False
            self.waiting += jobs
            self.changed.notify()
            return True

    def busy(self) -> dict[str, int]:
        """How many answers are being decoded, and how many wait."""
        with self.changed:
            return {
                "decoding": sum(batch.alive for batch in self.batches),
                "waiting": sum(job.n for job in self.waiting if not job.cancelled),
            }

    def close(self) -> None:
        """Stop after the tokens in hand; return when the thread has ended."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    def _run(self) -> None:
        while self._admit():
            self.batches = [batch for batch in self.batches if batch.advance()]

    def _admit(self) -> bool:
        """Take in what waits and has room, after a wait for it where there is nothing to do; False once closed."""
        with self.changed:
            idle = not self.batches and not self.waiting
            self.changed.wait_for(lambda: self.waiting or self.batches or self.closed)
        if idle:
            time.sleep(GATHER_SECONDS)
        with self.changed:
            if self.closed:
                return False
            self.waiting = [job for job in self.waiting if not job.cancelled]
            room = self.room - sum(job.size for batch in self.batches for job in batch.jobs)
            taken: list[Job] = []
            while self.waiting and self.waiting[0].size <= room:
                taken.append(self.waiting.pop(0))
                room -= taken[-1].size
            self.batches += self._batches(taken)
            return True

    def _batches(self, jobs: Sequence[Job]) -> Iterator[Batch]:
        """The jobs, those together that one batch can decode."""
        alike: dict[tuple[Sampling, int], list[Job]] = {}
        for job in jobs:
            alike.setdefault((replace(job.sampling, max_tokens=0, stop=()), job.n), []).append(job)
        for (sampling, n), group in alike.items():
            answers = [Answer(job, g, self.sampler.decode, self.sampler.eos) for job in group for g in range(n)]
            longest = replace(sampling, max_tokens=max(job.sampling.max_tokens for job in group))
            prompts = [Prompt(id=str(i), token_ids=job.prompt) for i, job in enumerate(group)]
            draws = np.stack([stream(a.job.seed, *a.job.names, a.index).random(longest.max_tokens) for a in answers])
            batch = Batch(group, answers)
            batch.steps = self.sampler.decoding(prompts, n, longest, draws, batch)
            yield batch
