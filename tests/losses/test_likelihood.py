from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corollary.declare import declaration_of
from corollary.losses.likelihood import dft, label_smoothing, nll
from corollary.types import Terms

F64 = torch.float64
LOGITS = torch.tensor([[1.0, 2.0, 3.0, -1.0], [0.0, 0.5, 0.0, 2.0]], dtype=F64)
TARGETS = torch.tensor([[2], [1]])


def of_logits(loss: Callable[..., Terms], logits: Tensor, **parameters: float) -> Tensor:
    rows = logits.log_softmax(-1)
    means = [rows.mean(-1)] if loss is label_smoothing else []
    return loss(rows.gather(-1, TARGETS)[:, 0], *means, **parameters).loss


def test_each_loss_done_by_hand() -> None:
    logprobs, means = torch.tensor([0.5, 0.25], dtype=F64).log(), torch.tensor([-2.0, -3.0], dtype=F64)
    two = math.log(2)
    assert nll(logprobs).loss.tolist() == pytest.approx([two, 2 * two], rel=1e-15)
    assert dft(logprobs).loss.tolist() == pytest.approx([two / 2, two / 2], rel=1e-15)
    smoothed = label_smoothing(logprobs, means, smoothing=0.2)
    assert smoothed.loss.tolist() == pytest.approx([0.8 * two + 0.4, 1.6 * two + 0.6], rel=1e-15)
    assert smoothed.metrics["nll"].tolist() == pytest.approx([two, 2 * two], rel=1e-15)


def test_label_smoothing_is_the_cross_entropy_to_the_mixed_distribution() -> None:
    mixed = torch.full((2, 4), 0.3 / 4, dtype=F64).scatter_add(-1, TARGETS, torch.full((2, 1), 0.7, dtype=F64))
    expected = -(mixed * LOGITS.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(of_logits(label_smoothing, LOGITS, smoothing=0.3), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("loss", "parameters"), [(nll, {}), (label_smoothing, {"smoothing": 0.3})])
def test_the_gradient_is_the_derivative(loss: Callable[..., Terms], parameters: dict[str, float]) -> None:
    at = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: of_logits(loss, logits, **parameters), [at], rtol=1e-6)


def test_dfts_gradient_is_the_declared_one_and_on_logits_that_of_the_probability() -> None:
    logprobs = torch.tensor([-0.1, -1.0, -3.0], dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(dft(logprobs).loss.sum(), logprobs)
    declared = declaration_of(dft).gradient
    assert declared is not None
    torch.testing.assert_close(slope, declared(logprobs), rtol=1e-15, atol=0)
    at = LOGITS.clone().requires_grad_()
    (of_loss,) = torch.autograd.grad(of_logits(dft, at).sum(), at)
    (of_probability,) = torch.autograd.grad(-at.softmax(-1).gather(-1, TARGETS).sum(), at)
    torch.testing.assert_close(of_loss, of_probability, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("loss", [nll, label_smoothing, dft])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_ten_thousand_stay_finite_and_within_bounds(loss: Callable[..., Terms], dtype: torch.dtype) -> None:
    for scale in (1e4, -1e4):
        logits = (LOGITS * scale).to(dtype).requires_grad_()
        terms = of_logits(loss, logits)
        low, high = declaration_of(loss).bounds or (0.0, 0.0)
        assert terms.isfinite().all()
        assert ((terms >= low) & (terms <= high)).all()
        (slope,) = torch.autograd.grad(terms.sum(), logits)
        assert slope.isfinite().all()


@pytest.mark.parametrize("loss", [label_smoothing, dft])
def test_bfloat16_is_computed_in_float32(loss: Callable[..., Terms]) -> None:
    low = torch.tensor([-0.3, -2.7], dtype=torch.bfloat16)
    inputs = [low, 3 * low] if loss is label_smoothing else [low]
    got, exact = loss(*inputs).loss, loss(*(x.double() for x in inputs)).loss
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_out_of_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match="smoothing must be"):
        label_smoothing(torch.zeros(1), torch.zeros(1), smoothing=smoothing)
