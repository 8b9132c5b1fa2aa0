from __future__ import annotations

import pytest
import torch

from corollary.ops.reduce import Constant, SequenceMean, SequenceSum, TokenMean, token_weights, weighted_sum

LENGTHS = [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
TRAINED = torch.tensor(LENGTHS, dtype=torch.bool)
AVERAGES = [TokenMean(), SequenceMean(), SequenceSum(), Constant(length=8)]


@pytest.mark.parametrize("average", AVERAGES, ids=lambda a: a.type)
@pytest.mark.parametrize("splits", [[4], [1, 3], [1, 1, 1, 1]], ids=str)
def test_microbatches_add_up_to_the_whole_batch(average: TokenMean, splits: list[int]) -> None:
    terms = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = token_weights(TRAINED, average)
    (whole,) = torch.autograd.grad(weighted_sum(terms, weights), terms)
    for part, w in zip(terms.split(splits), weights.split(splits), strict=True):
        weighted_sum(part, w).backward()
    torch.testing.assert_close(terms.grad, whole, rtol=0, atol=0)


def test_a_token_weighs_what_its_paper_says() -> None:
    first = [token_weights(TRAINED, average)[0, 0].item() for average in AVERAGES]
    assert first == pytest.approx([1 / 6, 1 / 9, 1 / 3, 1 / 24], rel=1e-15)


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
