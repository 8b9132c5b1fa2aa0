"""Jobs decoded together: each gets its own, whoever goes is dropped, what does not fit waits, and a fault is told."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from corollary.engines.sampler import Answers, EmbeddedSampler
from corollary.errors import NumericsError
from corollary.serving.decoding import Answer, Decoder, Failure, Job, Piece
from corollary.types import Prompt, Sampling
from models import small


class Counting(EmbeddedSampler):
    """The sampler, with an account of how many sequences each batch had."""

    batches: list[int]

    def decoding(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, draws: np.ndarray, answers: Answers
    ) -> Iterator[None]:
        self.batches.append(len(draws))
        return super().decoding(prompts, group_size, sampling, draws, answers)


@pytest.fixture
def sampler() -> Counting:
    words = small.tokenizer()
    made = Counting(small.model(), decode=lambda ids: str(words.decode(ids)), eos_token_ids=[])
    made.batches = []
    return made


@pytest.fixture
def decoder(sampler: Counting) -> Iterator[Decoder]:
    made = Decoder(sampler, room=2500, max_waiting=4)
    yield made
    made.close()


class Waiting:
    """Somebody who waits for a job."""

    def __init__(self, tokens: int = 6, temperature: float = 1.0, n: int = 1, seed: int = 0) -> None:
        self.told: queue.Queue[Piece | Failure] = queue.Queue()
        sampling = Sampling(temperature=temperature, max_tokens=tokens)
        self.job = Job(prompt=(1, 2, 3, 4), sampling=sampling, n=n, seed=seed, names=("x",), tell=self.told.put)

    def texts(self) -> list[str]:
        """The answers, when all are whole."""
        texts, missing = [""] * self.job.n, self.job.n
        while missing:
            said = self.told.get(timeout=30)
            assert isinstance(said, Piece)
            texts[said.index] += said.text
            missing -= said.finished is not None
        return texts


def test_jobs_that_come_together_with_the_same_settings_are_one_batch(decoder: Decoder, sampler: Counting) -> None:
    alike = [Waiting(tokens=4 + seed, seed=seed) for seed in range(3)]
    assert decoder.submit([*(who.job for who in alike), Waiting(temperature=0.5).job])
    together = [who.texts() for who in alike]
    assert sorted(sampler.batches) == [1, 3]
    alone = []
    for seed in range(3):
        who = Waiting(tokens=4 + seed, seed=seed)
        decoder.submit([who.job])
        alone.append(who.texts())
    assert together == alone
    assert len({str(texts) for texts in together}) == 3


def test_a_job_that_comes_later_does_not_wait_for_the_end_of_others(decoder: Decoder) -> None:
    long, short = Waiting(tokens=2000), Waiting(tokens=2)
    decoder.submit([long.job])
    long.told.get(timeout=30)
    decoder.submit([short.job])
    short.texts()
    assert decoder.busy()["decoding"] == 1
    long.job.cancelled = True


def test_whoever_goes_is_dropped_and_the_others_are_answered(decoder: Decoder) -> None:
    goes, stays, alone = Waiting(tokens=2000, seed=1), Waiting(tokens=40, seed=2), Waiting(tokens=40, seed=2)
    decoder.submit([goes.job, stays.job])
    goes.told.get(timeout=30)
    goes.job.cancelled = True
    texts = stays.texts()
    while decoder.batches:
        time.sleep(0.01)
    told = list(goes.told.queue)
    assert len(told) < 1000
    assert all(isinstance(said, Piece) and said.finished is None for said in told)
    decoder.submit([alone.job])
    assert alone.texts() == texts


def test_what_does_not_fit_waits_and_is_answered_after(decoder: Decoder, sampler: Counting) -> None:
    first, second = Waiting(tokens=2000), Waiting(tokens=500)
    decoder.submit([first.job, second.job])
    first.told.get(timeout=30)
    assert decoder.busy() == {"decoding": 1, "waiting": 1}
    first.job.cancelled = True
    assert len(second.texts()[0]) > 100
    assert sampler.batches == [1, 1]


def test_too_many_that_wait_are_refused_whole(decoder: Decoder) -> None:
    many = [Waiting().job for _ in range(5)]
    assert not decoder.submit(many)
    assert decoder.busy() == {"decoding": 0, "waiting": 0}
    assert decoder.submit(many[:4])


def test_a_fault_of_the_model_is_told_and_the_next_job_is_answered(decoder: Decoder, sampler: Counting) -> None:
    weight = sampler.model.get_input_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    who = Waiting()
    decoder.submit([who.job])
    said = who.told.get(timeout=30)
    assert isinstance(said, Failure)
    assert isinstance(said.error, NumericsError)
    with torch.no_grad():
        weight.copy_(kept)
    after = Waiting(n=2)
    decoder.submit([after.job])
    first, second = after.texts()
    assert first != second


def test_a_closed_decoder_takes_nothing(sampler: Counting) -> None:
    decoder = Decoder(sampler)
    decoder.close()
    assert not decoder.submit([Waiting().job])
    assert not decoder.thread.is_alive()


def test_where_one_token_brings_two_stops_the_first_in_the_text_ends_the_answer() -> None:
    told: list[Piece | Failure] = []
    sampling = Sampling(max_tokens=9, stop=("\n", "."))
    job = Job(prompt=(1,), sampling=sampling, n=1, seed=0, names=("x",), tell=told.append)
    answer = Answer(job, 0, lambda ids: "".join(["One", ". Two\n"][token] for token in ids), frozenset())
    for token in (0, 1):
        answer.take(token, -0.5)
    assert "".join(piece.text for piece in told if isinstance(piece, Piece)) == "One"
    assert (answer.finished, answer.alive) == ("stop", False)
