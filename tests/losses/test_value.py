from __future__ import annotations

import pytest
import torch
from torch import Tensor

from corollary.losses.value import clipped, squared

F64 = torch.float64


def drawn(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """values, old values and returns."""
    generator = torch.Generator().manual_seed(seed)
    old, step, returns = (torch.randn(4, 5, generator=generator, dtype=F64) for _ in range(3))
    return old + 0.3 * step, old, returns


def test_squared_is_half_the_square_and_its_gradient_the_error() -> None:
    values, _, returns = drawn()
    values.requires_grad_()
    terms = squared(values, returns)
    torch.testing.assert_close(terms.loss, 0.5 * (values - returns) ** 2)
    assert torch.equal(torch.autograd.grad(terms.loss.sum(), values)[0], terms.metrics["error"])
    assert torch.autograd.gradcheck(lambda v: squared(v, returns).loss, values)


def test_clipped_has_the_gradient_of_finite_differences_and_says_where_it_is_cut() -> None:
    values, old, returns = drawn()
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: clipped(v, old, returns).loss, values)
    terms = clipped(values, old, returns)
    cut = torch.autograd.grad(terms.loss.sum(), values)[0] == 0
    assert 0 < cut.sum() < cut.numel()
    assert torch.equal(cut.double(), terms.metrics["clipped"])


@pytest.mark.parametrize(
    ("value", "returned", "loss", "gradient"),
    [
        (0.9, 1.0, 0.045, 0.0),  # it came nearer than the band of 0.2 around 0.5 allows: (0.7 - 1)²/2
        (0.9, 0.0, 0.405, 0.9),  # it went the wrong way: the full error
        (0.6, 1.0, 0.08, -0.4),  # within the band
    ],
)
def test_clipped_by_hand(value: float, returned: float, loss: float, gradient: float) -> None:
    v = torch.tensor([value], dtype=F64, requires_grad=True)
    terms = clipped(v, torch.tensor([0.5], dtype=F64), torch.tensor([returned], dtype=F64))
    assert terms.loss.item() == pytest.approx(loss)
    assert torch.autograd.grad(terms.loss, v)[0].item() == pytest.approx(gradient)


def test_a_wide_band_clips_nothing() -> None:
    values, old, returns = drawn()
    torch.testing.assert_close(clipped(values, old, returns, clip=100.0).loss, squared(values, returns).loss)


def test_an_offset_of_a_thousand_changes_nothing() -> None:
    values, old, returns = (x.float() for x in drawn())
    far, near = clipped(values + 1000, old + 1000, returns + 1000).loss, clipped(values, old, returns).loss
    torch.testing.assert_close(far, near, rtol=2e-3, atol=2e-4)


def test_a_band_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="clip must be > 0"):
        clipped(*drawn(), clip=0.0)
