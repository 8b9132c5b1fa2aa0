from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tiny
from corollary.data.collate import preference_batch, token_batch
from corollary.engines.remembered import remembered
from corollary.engines.trainer import EmbeddedScorer, TrainerConfig
from corollary.types import TokenBatch

PROMPTS = tiny.prompts(3, 5, 2)
ANSWERS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13)]
NAMES = ["a", "b", "c"]


class Counted:
    """A real scorer that counts the answers it is asked for."""

    def __init__(self) -> None:
        self.scorer, self.asked = EmbeddedScorer(tiny.model(torch.float32), TrainerConfig()), 0

    def logprobs(self, batch: TokenBatch) -> Tensor:
        self.asked += len(batch.lengths)
        return self.scorer.logprobs(batch)


def test_what_is_kept_is_what_the_reference_says_and_is_asked_once() -> None:
    reference, kept = Counted(), dict[str, Tensor]()
    batch = token_batch(PROMPTS, ANSWERS)
    first = remembered(batch, NAMES, reference, kept)
    torch.testing.assert_close(first, reference.scorer.logprobs(batch), rtol=0, atol=0)
    again = remembered(batch.take([2, 0, 1]), ["c", "a", "b"], reference, kept)
    assert reference.asked == 3
    assert torch.equal(again, first[[2, 0, 1]])


def test_only_what_is_new_in_a_step_is_computed() -> None:
    reference, kept = Counted(), dict[str, Tensor]()
    remembered(token_batch(PROMPTS[:1], ANSWERS[:1]), NAMES[:1], reference, kept)
    found = remembered(token_batch(PROMPTS, ANSWERS), NAMES, reference, kept)
    assert reference.asked == 3
    torch.testing.assert_close(found, reference.scorer.logprobs(token_batch(PROMPTS, ANSWERS)), rtol=1e-5, atol=1e-5)


def test_a_pair_is_kept_as_one() -> None:
    reference, kept = Counted(), dict[str, Tensor]()
    batch = preference_batch(PROMPTS, ANSWERS, ANSWERS[::-1])
    found = remembered(batch, NAMES, reference, kept)
    assert {name: tuple(rows.shape) for name, rows in kept.items()} == {"a": (2, 5), "b": (2, 1), "c": (2, 5)}
    assert torch.equal(remembered(batch, NAMES, reference, kept), found)
    assert reference.asked == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_rounded_by_being_kept(dtype: torch.dtype) -> None:
    scorer = EmbeddedScorer(tiny.model(dtype), TrainerConfig())
    batch = token_batch(PROMPTS, ANSWERS)
    assert torch.equal(remembered(batch, NAMES, scorer, {}), scorer.logprobs(batch).float())
