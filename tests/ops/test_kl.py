from __future__ import annotations

import pytest
import torch

from corollary.ops.kl import k1, k2, k3, k3_reverse

PI, REF = (torch.tensor(p, dtype=torch.float64) for p in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
REVERSE = [0.346243037344, -0.220389084285, -0.125853953059]  # exact gradient of KL(π‖ref) in the logits
FORWARD = [0.3, -0.2, -0.1]  # of KL(ref‖π)


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [
        (k1, 0.223804657186, [0, 0, 0]),
        (k2, 0.265478794403, REVERSE),
        (k3, 0.223804657186, FORWARD),
        (lambda lp, ref: k3_reverse(lp, ref, lp.detach()), 0.223804657186, REVERSE),
    ],
    ids=["k1", "k2", "k3", "k3_reverse"],
)
def test_expected_value_and_gradient_by_enumeration(estimator: object, value: float, gradient: list[float]) -> None:
    logits = PI.log().requires_grad_()
    estimates = estimator(logits.log_softmax(-1), REF.log())  # type: ignore[operator]
    expected = (PI * estimates).sum()  # the samples come from π, which as a loss is not differentiated
    expected.backward()
    assert expected.item() == pytest.approx(value, rel=1e-10)
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx(gradient, rel=1e-10, abs=1e-12)
