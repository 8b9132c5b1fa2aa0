from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from corollary.algorithms.grpo import GRPOConfig
from corollary.config import load
from corollary.ops.reduce import (
    Constant,
    PairMean,
    SequenceMean,
    SequenceSum,
    TokenMean,
    constant,
    pair_mean,
    segment_mean,
    sequence_mean,
    sequence_sum,
    token_mean,
    token_weights,
    weighted_sum,
)

LENGTHS = [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
TRAINED = torch.tensor(LENGTHS, dtype=torch.bool)
AVERAGES = [TokenMean(), SequenceMean(), SequenceSum(), Constant(length=8), PairMean()]


@pytest.mark.parametrize("average", AVERAGES, ids=lambda a: a.type)
@pytest.mark.parametrize("splits", [[4], [1, 3], [1, 1, 1, 1]], ids=str)
def test_microbatches_add_up_to_the_whole_batch(average: Any, splits: list[int]) -> None:
    terms = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = token_weights(TRAINED, average)
    (whole,) = torch.autograd.grad(weighted_sum(terms, weights), terms)
    for part, w in zip(terms.split(splits), weights.split(splits), strict=True):
        weighted_sum(part, w).backward()
    torch.testing.assert_close(terms.grad, whole, rtol=0, atol=0)


def test_a_token_weighs_what_its_paper_says() -> None:
    first = [token_weights(TRAINED, average)[0, 0].item() for average in AVERAGES]
    assert first == pytest.approx([1 / 6, 1 / 9, 1 / 3, 1 / 24, 1 / 4], rel=1e-15)


def test_a_mean_of_means_is_not_the_token_mean() -> None:
    """The classic fault: each microbatch divides by its own number of tokens."""
    terms = torch.arange(16.0, dtype=torch.float64).view(4, 4)
    right = weighted_sum(terms, token_weights(TRAINED, TokenMean())).item()
    rows = [0, 1, 3]
    wrong = sum(terms[b][TRAINED[b]].mean().item() for b in rows) / 3
    assert right == pytest.approx((0 + 1 + 2 + 4 + 12 + 13) / 6)
    assert abs(wrong - right) > 0.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_stands_behind_the_mask_is_invisible(bad: float) -> None:
    terms = torch.tensor([[1.0, 3.0, bad]], requires_grad=True)
    loss = weighted_sum(terms, token_weights(torch.tensor([[True, True, False]]), TokenMean()))
    loss.backward()
    assert loss.item() == 2.0
    assert terms.grad is not None
    assert terms.grad.tolist() == [[0.5, 0.5, 0.0]]


def test_an_empty_mask_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no token to train on"):
        token_weights(torch.zeros(2, 3, dtype=torch.bool), TokenMean())


def test_averages_of_the_catalogue() -> None:
    tokens = torch.tensor([[-1.2, -0.5, -1.1], [0.9, 1.4, 1.0]], dtype=torch.float64)
    trained = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool)
    values = [weighted_sum(tokens, token_weights(trained, a)).item() for a in (*AVERAGES[:3], Constant(length=4))]
    assert values == pytest.approx([-0.1, 0.10833333333333334, -0.25, -0.0625], rel=1e-12)


@pytest.mark.parametrize(
    "function", [token_mean, sequence_mean, sequence_sum, pair_mean, lambda m: constant(m, length=5)]
)
def test_each_average_refuses_an_empty_mask_itself(function: Any) -> None:
    with pytest.raises(ValueError, match=r"no (token|pair) to train on"):
        function(torch.zeros(2, 3, dtype=torch.bool))


def test_a_pair_counts_once_however_long_its_answers_are() -> None:
    trained = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    weights = pair_mean(trained)
    assert weights[:, 0].tolist() == [1 / 8, 1 / 8, 1 / 4, 1 / 4, 0, 0]  # the third pair has but one answer
    assert weights.view(3, 6).sum(1).tolist() == [0.5, 0.5, 0.0]
    with pytest.raises(ValueError, match="got 3 rows"):
        pair_mean(trained[:3])


@pytest.mark.parametrize("average", AVERAGES, ids=lambda a: a.type)
def test_padding_and_the_order_of_sequences_change_no_weight(average: Any) -> None:
    weights = token_weights(TRAINED, average)
    wide = torch.nn.functional.pad(TRAINED, (2, 3))
    assert torch.equal(token_weights(wide, average)[:, 2:-3], weights)
    order = [2, 3, 0, 1]  # pairs stay together
    assert torch.equal(token_weights(TRAINED[order], average), weights[order])


@pytest.mark.parametrize("average", AVERAGES[:3] + AVERAGES[4:], ids=lambda a: a.type)
def test_doubling_the_batch_halves_every_weight(average: Any) -> None:
    twice = token_weights(torch.cat([TRAINED, TRAINED]), average)
    torch.testing.assert_close(2 * twice, token_weights(TRAINED, average).repeat(2, 1), rtol=1e-14, atol=0)


def test_a_length_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="constant: length must be >= 1"):
        constant(TRAINED, length=0)


def test_an_average_of_the_user_s_own_is_used_and_held_to_its_shape(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def first(trained):\n    return trained.cumsum(1).eq(1) / len(trained)\n\n"
        "def whole(trained):\n    return trained.sum()\n"
    )
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"average: {tmp_path}/mine.py:first\n")
    weights = token_weights(TRAINED, load(GRPOConfig, settings).config.average)
    assert weights.dtype == torch.float64
    assert weights[:, 0].tolist() == [0.25, 0.25, 0.0, 0.25]
    settings.write_text(f"average: {tmp_path}/mine.py:whole\n")
    with pytest.raises(ValueError, match=r"whole must give finite weights of shape \(4, 4\), got shape \(\)"):
        token_weights(TRAINED, load(GRPOConfig, settings).config.average)


def test_a_segment_without_entries_has_mean_zero() -> None:
    values = torch.tensor([[1.0, 3.0], [float("nan"), 5.0]])
    assert segment_mean(values, torch.tensor([[True, True], [False, False]])).tolist() == [2.0, 0.0]
