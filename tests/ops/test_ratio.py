from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from corollary.config import variant
from corollary.ops.ratio import (
    geometric_ratio,
    icepop,
    log_product_ratio,
    mis,
    pessimistic,
    sequence_mask,
    sequence_product,
    tis,
    token_ratio,
    uncorrected,
)

F64 = torch.float64
WEIGHTS = torch.tensor([[0.4, 1, 2.5], [6, 0.9, torch.nan]], dtype=F64)
OLD = torch.tensor([[-1, -2, -0.5], [-1.5, -0.7, -3]], dtype=F64)
SAMPLER = OLD - WEIGHTS.log()
TRAINED = torch.tensor([[True, True, True], [True, True, False]])
CORRECTIONS = (uncorrected, tis, mis, icepop, sequence_product, sequence_mask)
EVERY = pytest.mark.parametrize("formula", CORRECTIONS, ids=lambda f: f.__name__)

Formula = Callable[..., Tensor]


def weights(formula: Formula, **parameters: float) -> list[list[float]]:
    given = variant(formula)(**parameters)(old_logprobs=OLD, sampler_logprobs=SAMPLER, trained=TRAINED)
    return given.where(TRAINED, -1.0).round(decimals=6).tolist()


def named(value: object) -> str:
    """A name that is the same in every process."""
    return value.__name__ if callable(value) and hasattr(value, "__name__") else str(value)


@pytest.mark.parametrize(
    ("formula", "parameters", "expected"),
    [
        (uncorrected, {}, [[1, 1, 1], [1, 1, -1]]),
        (tis, {}, [[0.4, 1, 2], [2, 0.9, -1]]),
        (tis, {"cap": 3.0}, [[0.4, 1, 2.5], [3, 0.9, -1]]),
        (mis, {}, [[0.4, 1, 0], [0, 0.9, -1]]),
        (mis, {"cap": 1.0}, [[0.4, 1, 0], [0, 0.9, -1]]),
        (icepop, {}, [[0, 1, 2.5], [0, 0.9, -1]]),
        (icepop, {"low": 0.0, "high": 2.0}, [[0.4, 1, 0], [0, 0.9, -1]]),
        (sequence_product, {}, [[1, 1, 1], [5.4, 5.4, -1]]),
        (sequence_product, {"cap": 2.0}, [[1, 1, 1], [2, 2, -1]]),
        (sequence_mask, {}, [[0.4, 1, 2.5], [0, 0, -1]]),
        (sequence_mask, {"cap": 2.0}, [[0.4, 1, 2], [0, 0, -1]]),
        (sequence_mask, {"low": 2.0, "high": 3.0}, [[0, 0, 0], [6, 0.9, -1]]),
    ],
    ids=named,
)
def test_a_correction_by_hand(formula: Formula, parameters: dict[str, float], expected: list[list[float]]) -> None:
    assert weights(formula, **parameters) == expected


@EVERY
def test_a_correction_is_constant_in_the_policy(formula: Formula) -> None:
    inputs = {"old_logprobs": OLD.clone().requires_grad_(), "sampler_logprobs": SAMPLER.clone().requires_grad_()}
    assert not variant(formula)()(**inputs, trained=TRAINED).requires_grad


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [60.0, -60.0])
def test_extreme_log_ratios_over_a_long_answer_stay_finite(formula: Formula, dtype: torch.dtype, gap: float) -> None:
    old = torch.zeros(1, 50, dtype=dtype)
    given = variant(formula)()(old_logprobs=old, sampler_logprobs=old - gap, trained=old == 0)
    assert torch.isfinite(given).all()
    assert given.shape == (1, 50)


@EVERY
def test_an_answer_that_trains_nothing_gets_finite_weights(formula: Formula) -> None:
    given = variant(formula)()(old_logprobs=OLD, sampler_logprobs=OLD, trained=torch.zeros_like(TRAINED))
    assert torch.isfinite(given).all()


@pytest.mark.parametrize(
    ("formula", "wrong"),
    [
        (tis, {"cap": 0.0}), (mis, {"cap": 0.0}), (icepop, {"low": -0.1}), (icepop, {"high": 0.0}),
        (icepop, {"low": 3.0, "high": 2.0}), (sequence_product, {"cap": 0.0}), (sequence_mask, {"low": -0.1}),
        (sequence_mask, {"cap": 0.0}), (sequence_mask, {"low": 1.1}),
    ],
    ids=named,
)  # fmt: skip
def test_a_parameter_out_of_its_range_is_refused(formula: Formula, wrong: dict[str, float]) -> None:
    inputs = {"old_logprobs": OLD, "sampler_logprobs": SAMPLER, "trained": TRAINED}
    taken = {n: inputs[n] for n in variant(formula).inputs}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        formula(**taken, **wrong)


def test_an_answers_ratios_are_blind_behind_its_end_in_value_and_gradient() -> None:
    old = OLD.clone().requires_grad_()
    geometric, product = geometric_ratio(old, SAMPLER, TRAINED), log_product_ratio(old, SAMPLER, TRAINED)
    torch.testing.assert_close(geometric, torch.tensor([1, 5.4**0.5], dtype=F64))
    torch.testing.assert_close(product.exp(), torch.tensor([1, 5.4], dtype=F64))
    gradient = torch.autograd.grad(geometric.sum() + product.sum(), old)[0]
    assert torch.isfinite(gradient).all()
    assert (gradient[~TRAINED] == 0).all()


def test_half_precision_log_probabilities_are_subtracted_in_float32() -> None:
    assert token_ratio(*torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "cut"),
    [(1.5, 1.0, 1.2, True), (1.5, -1.0, -1.5, False), (0.5, 1.0, 0.5, False), (0.5, -1.0, -0.7, True)],
)
def test_the_clip_holds_on_the_side_of_the_advantage(
    ratio: float, advantage: float, objective: float, cut: bool
) -> None:
    got, was_cut = pessimistic(torch.tensor([ratio]), torch.tensor([advantage]), clip_low=0.3, clip_high=0.2)
    assert got.item() == pytest.approx(objective)
    assert was_cut.item() == cut
