"""By hand; what all policy losses share is checked in test_policy."""

from __future__ import annotations

import math

import pytest
import torch

from corollary.losses.sequence import gmpo, gspo, gspo_token, luspo, vespo

F64 = torch.float64
OLD = torch.zeros(2, 3, dtype=F64)
TRAINED = torch.tensor([[True, True, False], [True, True, True]])
UP = torch.tensor([[4.0, 1.0, torch.nan], [1.0, 1.0, 1.0]], dtype=F64).log()  # geometric means 2 and 1
GOOD, BAD = torch.ones(2, 3, dtype=F64), -torch.ones(2, 3, dtype=F64)


def test_gspo_clips_a_whole_answer_that_ran_away_upwards_when_it_is_good_and_not_when_it_is_bad() -> None:
    up = UP.clone().requires_grad_()
    good = gspo(up, OLD, GOOD, TRAINED, clip_high=0.5)
    assert good.loss[0, :2].tolist() == pytest.approx([-1.5, -1.5])
    assert good.metrics["clipped"][:, 0].tolist() == [1, 0]
    torch.where(TRAINED, good.loss, 0).sum().backward()
    torch.testing.assert_close(up.grad, torch.tensor([[0.0, 0, 0], [-1, -1, -1]], dtype=F64))
    assert gspo(UP, OLD, BAD, TRAINED, clip_high=0.5).loss[0, 0].item() == pytest.approx(2)


def test_gspo_spreads_an_answers_gradient_evenly_over_its_tokens() -> None:
    up = UP.clone().requires_grad_()
    gspo(up, OLD, BAD, TRAINED).loss[:, 0].sum().backward()
    torch.testing.assert_close(up.grad, torch.tensor([[1, 1, 0], [1 / 3, 1 / 3, 1 / 3]], dtype=F64))


def test_gspo_token_has_gspos_value_and_each_tokens_own_advantage_in_its_gradient() -> None:
    up = UP.clone().requires_grad_()
    advantages = torch.tensor([[-1.0, -3.0, 5.0], [1.0, 0.0, -1.0]], dtype=F64)
    terms = gspo_token(up, OLD, advantages, TRAINED)
    torch.testing.assert_close(terms.loss[TRAINED], gspo(UP, OLD, advantages, TRAINED).loss[TRAINED])
    terms.loss.sum().backward()
    torch.testing.assert_close(up.grad, torch.tensor([[2.0, 6, 0], [-1, 0, 1]], dtype=F64))


def test_luspo_is_gspo_times_the_length() -> None:
    ours, theirs = (f(UP, OLD, BAD, TRAINED).loss for f in (luspo, gspo))
    torch.testing.assert_close(ours[TRAINED], (theirs * torch.tensor([[2.0], [3.0]]))[TRAINED])


@pytest.mark.parametrize(
    ("ratio", "advantage", "kept"),
    [(4.0, 1.0, 0.4), (4.0, -1.0, math.log(4)), (0.25, 1.0, -math.log(4)), (0.25, -1.0, -0.3)],
)
def test_gmpo_clips_a_tokens_log_ratio_on_the_side_where_it_runs_away(
    ratio: float, advantage: float, kept: float
) -> None:
    x = torch.tensor([[ratio, 1.0]], dtype=F64).log().requires_grad_()
    a = torch.full((1, 2), advantage, dtype=F64)
    terms = gmpo(x, torch.zeros(1, 2, dtype=F64), a, torch.tensor([[True, True]]), log_clip_low=0.3)
    assert terms.loss[0].tolist() == pytest.approx([-advantage * math.exp(kept / 2)] * 2)
    cut = abs(kept - math.log(ratio)) > 1e-9
    assert terms.metrics["clipped"].tolist() == [[float(cut), 0.0]]
    terms.loss.sum().backward()
    assert x.grad is not None
    assert (x.grad[0, 0] == 0) == cut
    assert x.grad[0, 1].item() == pytest.approx(-advantage * math.exp(kept / 2))


@pytest.mark.parametrize(("advantage", "kernel"), [(1.0, 4 * math.exp(-3.0)), (-1.0, 8 * math.exp(-2.0))])
def test_vespo_weighs_an_answer_by_the_product_of_its_ratios(advantage: float, kernel: float) -> None:
    x = torch.tensor([[4.0, 0.5]], dtype=F64).log()  # W = 2
    new = torch.full((1, 2), -1.0, dtype=F64)
    terms = vespo(new, new - x, torch.full((1, 2), advantage, dtype=F64), torch.tensor([[True, True]]))
    assert terms.metrics["kernel"][0].tolist() == pytest.approx([kernel, kernel])
    assert terms.loss[0].tolist() == pytest.approx([advantage * kernel] * 2)


def test_vespo_shuts_at_both_ends_and_does_not_overflow() -> None:
    x = torch.tensor([[60.0] * 20, [-60.0] * 20])
    terms = vespo(x, torch.zeros_like(x), torch.ones_like(x), torch.ones_like(x, dtype=torch.bool))
    assert (terms.metrics["kernel"] == 0).all()
    assert (terms.loss == 0).all()


def test_gmpo_is_finite_in_value_and_gradient_where_a_bad_answer_has_run_away() -> None:
    new = torch.tensor([[-1.0]], requires_grad=True)
    loss = gmpo(new, torch.tensor([[-1e4]]), -torch.ones(1, 1), torch.tensor([[True]])).loss
    loss.sum().backward()
    assert loss.isfinite().all()
    assert new.grad is not None
    assert new.grad.isfinite().all()
