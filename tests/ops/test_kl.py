from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corollary.ops.kl import entropy_bonus, entropy_exact, k1, k1_reverse, k2, k3, k3_reverse, kl_exact

PI, REF = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
OLD = torch.tensor([0.25, 0.6, 0.15], dtype=torch.float64)
REVERSE = [0.346243037344, -0.220389084285, -0.125853953059]  # exact gradient of KL(π‖ref) in the logits
FORWARD = [0.3, -0.2, -0.1]  # of KL(ref‖π)

Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]
ESTIMATORS: dict[str, Estimator] = {
    "k1": lambda lp, ref, old: k1(lp, ref),
    "k2": lambda lp, ref, old: k2(lp, ref),
    "k3": lambda lp, ref, old: k3(lp, ref),
    "k1_reverse": k1_reverse,
    "k3_reverse": k3_reverse,
}
each = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


def expected(estimator: Estimator, sampler: Tensor) -> tuple[float, list[float]]:
    """Mean over samples, and its gradient as a loss: the samples come from `sampler`, which is not differentiated."""
    logits = PI.log().requires_grad_()
    mean = (sampler * estimator(logits.log_softmax(-1), REF.log(), sampler.log())).sum()
    mean.backward()
    assert logits.grad is not None
    return mean.item(), logits.grad.tolist()


@pytest.mark.parametrize(
    ("name", "value", "gradient"),
    [
        ("k1", 0.223804657186, [0, 0, 0]),
        ("k2", 0.265478794403, REVERSE),
        ("k3", 0.223804657186, FORWARD),
        ("k1_reverse", 0.223804657186, REVERSE),
        ("k3_reverse", 0.223804657186, REVERSE),
    ],
)
def test_expected_value_and_gradient_are_what_the_docstring_says(
    name: str, value: float, gradient: list[float]
) -> None:
    mean, slope = expected(ESTIMATORS[name], PI)
    assert mean == pytest.approx(value, rel=1e-10)
    assert slope == pytest.approx(gradient, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", ["k1_reverse", "k3_reverse"])
def test_the_ratio_corrects_value_and_gradient_for_old_samples(name: str) -> None:
    mean, slope = expected(ESTIMATORS[name], OLD)
    assert mean == pytest.approx(0.223804657186, rel=1e-10)
    assert slope == pytest.approx(REVERSE, rel=1e-10)
    assert expected(k2_off_policy, OLD)[1] != pytest.approx(REVERSE, rel=0.1)


def k2_off_policy(lp: Tensor, ref: Tensor, old: Tensor) -> Tensor:
    return k2(lp, ref)


@each
def test_the_gradient_is_the_derivative_of_the_value(estimator: Estimator) -> None:
    inputs = [-torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    torch.autograd.gradcheck(lambda lp: estimator(lp, inputs[1], inputs[2]), inputs[0].requires_grad_())


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("x", [60.0, -60.0])
@pytest.mark.parametrize("step", [0.0, 60.0, -60.0])
def test_extreme_log_ratios_stay_finite_and_keep_their_gradient(
    estimator: Estimator, dtype: torch.dtype, x: float, step: float
) -> None:
    if step == 60 and x == -60 and estimator is k3_reverse:
        pytest.skip("its value e^120 is no float32")
    lp = torch.tensor([-70.0], dtype=dtype, requires_grad=True)
    value = estimator(lp, lp.detach() - x, lp.detach() - step)
    value.backward()
    assert value.isfinite()
    assert lp.grad is not None
    assert lp.grad.isfinite()
    assert lp.grad != 0
    if estimator is k3_reverse:
        assert lp.grad.item() == pytest.approx(math.exp(step) * x, rel=0.01)


@each
def test_bfloat16_inputs_lose_no_more_than_their_own_rounding(estimator: Estimator) -> None:
    lp, ref, old = (-torch.rand(50, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3))
    exact = estimator(lp.double(), ref.double(), old.double())
    torch.testing.assert_close(estimator(lp, ref, old).double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["k2", "k3", "k3_reverse"])
def test_an_estimate_that_cannot_be_negative_is_zero_only_at_the_reference(name: str) -> None:
    lp = torch.arange(-50, 51, dtype=torch.float64) / 10
    values = ESTIMATORS[name](lp, torch.zeros_like(lp), torch.zeros_like(lp))
    assert (values >= 0).all()
    assert (values == 0).nonzero().tolist() == [[50]]


@pytest.mark.parametrize(
    "function", [lambda z: kl_exact(z, REF.log()), lambda z: kl_exact(REF.log(), z), entropy_exact]
)
def test_exact_values_have_the_gradient_of_finite_differences(function: Callable[[Tensor], Tensor]) -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(function, logits)


def test_exact_values_by_hand() -> None:
    assert kl_exact(PI.log(), REF.log()).item() == pytest.approx((PI * (PI / REF).log()).sum().item(), rel=1e-12)
    assert entropy_exact(torch.zeros(7)).item() == pytest.approx(math.log(7))
    assert entropy_bonus(torch.tensor(2.0), coef=0.25).item() == -0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_and_forbidden_logits_stay_finite_in_value_and_gradient(dtype: torch.dtype) -> None:
    rows = [[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [0.0, -math.inf, 1.0]]
    logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
    other = torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 0.0], [1.0, -math.inf, 0.0]], dtype=dtype)
    for value in (kl_exact(logits, other), entropy_exact(logits)):
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert (value > -1e-6).all()
    assert kl_exact(torch.zeros(2), torch.tensor([0.0, -math.inf])).item() == math.inf


def test_a_bonus_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="entropy_bonus: coef must be >= 0"):
        entropy_bonus(torch.ones(1), coef=-0.1)
