from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from corollary.declare import declaration_of
from corollary.losses.unpaired import bco, kto, kto_baseline, mismatched
from corollary.types import Terms

F64 = torch.float64
DESIRABLE = torch.tensor([True, True, False, False])
RATIO = torch.tensor([1.0, -1.0, -0.5, 0.25], dtype=F64)
every = pytest.mark.parametrize("loss", [kto, bco])


def called(loss: Callable[..., Terms], ratio: Tensor, offset: float = 0.2, **parameters: Any) -> Terms:
    """With log π = logref + ratio, and a baseline or shift of `offset`."""
    ref = torch.full_like(ratio, -7.0)
    return loss(ref + ratio, ref, DESIRABLE[: len(ratio)], torch.tensor(offset, dtype=F64), **parameters)


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_done_by_hand() -> None:
    loss = called(kto, RATIO, beta=2.0, desirable_weight=3.0, undesirable_weight=0.5).loss
    expected = [3 * (1 - sigma(1.6)), 3 * (1 - sigma(-2.4)), 0.5 * (1 - sigma(1.4)), 0.5 * (1 - sigma(-0.1))]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=F64), rtol=1e-13, atol=0)


def test_bco_done_by_hand() -> None:
    loss = called(bco, RATIO, beta=2.0).loss
    expected = [-math.log(sigma(x)) for x in (1.8, -2.2, 1.2, -0.3)]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=F64), rtol=1e-13, atol=0)


@every
def test_the_gradient_is_the_derivative(loss: Callable[..., Terms]) -> None:
    at = RATIO.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda ratio: called(loss, ratio, beta=0.7).loss, [at], rtol=1e-6, atol=1e-8)


@every
def test_reference_and_step_wide_number_are_constants(loss: Callable[..., Terms]) -> None:
    policy, ref, step = (x.clone().requires_grad_() for x in (RATIO, RATIO + 1, torch.tensor(0.2)))
    terms = loss(policy, ref, DESIRABLE, step)
    terms.loss.sum().backward()
    assert (policy.grad is not None, ref.grad, step.grad) == (True, None, None)
    assert policy.grad is not None
    assert ((policy.grad < 0) == DESIRABLE).all()
    assert not terms.metrics["reward"].requires_grad
    assert terms.metrics["reward"].shape == (4,)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("far", [60.0, 5000.0])
def test_extreme_log_ratios_stay_finite_and_within_bounds(
    loss: Callable[..., Terms], dtype: torch.dtype, far: float
) -> None:
    ratio = torch.tensor([far, -far, far, -far], dtype=dtype, requires_grad=True)
    terms = called(loss, ratio).loss
    low, high = declaration_of(loss).bounds or (0.0, 0.0)
    assert terms.dtype == torch.float32
    assert terms.isfinite().all()
    assert ((terms >= low) & (terms <= high)).all()
    (slope,) = torch.autograd.grad(terms.sum(), ratio)
    assert slope.isfinite().all()
    if declaration_of(loss).tail:
        assert (slope[1:3].abs() > 0.09).all()  # the two that are on the wrong side


@every
def test_one_answer_alone_has_the_term_that_it_has_among_others(loss: Callable[..., Terms]) -> None:
    assert torch.equal(called(loss, RATIO[:1]).loss, called(loss, RATIO).loss[:1])


@pytest.mark.parametrize(
    "broken", [partial(kto, beta=0.0), partial(kto, desirable_weight=-1.0), partial(bco, beta=-0.1)]
)
def test_a_parameter_out_of_its_range_is_refused(broken: Callable[..., Terms]) -> None:
    with pytest.raises(ValueError, match="must be"):
        called(broken, RATIO)


def test_the_baseline_is_the_mean_log_ratio_and_never_below_zero() -> None:
    policy = torch.tensor([-1.0, -3.0, -2.0], requires_grad=True)
    ref = torch.tensor([-2.0, -3.0, -2.5])
    z0 = kto_baseline(policy, ref)
    assert (z0.item(), z0.requires_grad, z0.shape) == (0.5, False, ())
    assert kto_baseline(ref, policy).item() == 0


def test_a_baseline_of_one_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 prompts, got 1"):
        kto_baseline(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9])
def test_no_prompt_is_mismatched_with_its_own_answer(n: int) -> None:
    index = mismatched(n)
    assert sorted(index.tolist()) == list(range(n))
    assert (index != torch.arange(n)).all()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_prompts_cannot_be_mismatched(n: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2, got {n}"):
        mismatched(n)
