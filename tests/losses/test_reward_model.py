from __future__ import annotations

import math

import pytest
import torch

from corollary.losses.reward_model import bradley_terry

F64 = torch.float64
CHOSEN = torch.tensor([1.5, -0.2, 3.0], dtype=F64)
REJECTED = torch.tensor([0.5, 0.3, 3.0], dtype=F64)
MARGINS = torch.tensor([0.3, 0.0, 1.0], dtype=F64)


def test_three_pairs_done_by_hand() -> None:
    loss = bradley_terry(CHOSEN, REJECTED, MARGINS, centring=0.5).loss
    gaps, sums = (0.7, -0.5, -1.0), (2.0, 0.1, 6.0)
    expected = [math.log1p(math.exp(-g)) + 0.5 * s**2 for g, s in zip(gaps, sums, strict=True)]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=F64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("margins", [None, MARGINS])
@pytest.mark.parametrize("centring", [0.0, 0.3])
def test_the_gradient_is_the_derivative(margins: torch.Tensor | None, centring: float) -> None:
    leaves = [x.clone().requires_grad_() for x in (CHOSEN, REJECTED)]
    assert torch.autograd.gradcheck(
        lambda won, lost: bradley_terry(won, lost, margins, centring=centring).loss, leaves, rtol=1e-6
    )


def test_equal_rewards_cost_log_two_and_only_differences_count() -> None:
    assert bradley_terry(CHOSEN, CHOSEN).loss.tolist() == pytest.approx([math.log(2)] * 3, rel=1e-15)
    here, there = bradley_terry(CHOSEN, REJECTED).loss, bradley_terry(CHOSEN + 1000, REJECTED + 1000).loss
    torch.testing.assert_close(here, there, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_extreme_rewards_stay_finite_with_a_live_gradient_on_the_wrong_side(dtype: torch.dtype, offset: float) -> None:
    chosen = torch.tensor([5000.0, -5000.0, 0.0], dtype=dtype, requires_grad=True)
    loss = bradley_terry(chosen + offset, -chosen.detach() + offset, centring=0.01).loss
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    plain = bradley_terry(chosen, -chosen.detach()).loss
    (slope,) = torch.autograd.grad(plain.sum(), chosen)
    assert slope.tolist() == [0.0, -1.0, -0.5]


def test_metrics_leave_out_the_margin() -> None:
    rewards = CHOSEN.clone().requires_grad_()
    metrics = bradley_terry(rewards, REJECTED, MARGINS).metrics
    assert metrics["margin"].tolist() == pytest.approx([1.0, -0.5, 0.0])
    assert metrics["accuracy"].tolist() == [1, 0, 0]
    assert not any(value.requires_grad for value in metrics.values())


def test_a_parameter_out_of_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="centring must be >= 0, got -1"):
        bradley_terry(CHOSEN, REJECTED, centring=-1.0)
