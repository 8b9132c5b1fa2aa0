"""Calibration: a model that says what is true has no error, one that is too sure has, and the order of the answers has no part."""

from __future__ import annotations

import math

import numpy as np
import pytest

from corollary.ops.calibration import calibration
from corollary.seeding import stream


def margins(truth: float, said: float, pairs: int) -> list[float]:
    """True margins are normal; `chosen` is drawn by σ(truth·x), and the model says said·x of the chosen answer."""
    random = stream(0, "margins")
    x = random.normal(size=pairs)
    first = random.uniform(size=pairs) < 1 / (1 + np.exp(-truth * x))
    return [float(m) for m in np.where(first, said * x, -said * x)]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_model_that_says_the_truth_has_an_error_near_0(scale: float) -> None:
    told = calibration(margins(scale, scale, 20_000))
    assert told.error < 0.01
    assert all(b.observed.low - 0.01 < b.predicted < b.observed.high + 0.01 for b in told.bins)


def test_a_model_that_is_too_sure_or_not_sure_enough_is_told_apart() -> None:
    sure, unsure = calibration(margins(1.0, 4.0, 20_000)), calibration(margins(2.0, 0.5, 20_000))
    assert all(b.predicted > b.observed.estimate for b in sure.bins)
    assert all(b.predicted < b.observed.estimate for b in unsure.bins)
    assert min(sure.error, unsure.error) > 0.1


def test_a_model_that_is_always_wrong_has_the_error_of_its_confidence() -> None:
    told = calibration([-math.log(3)] * 40)  # it says 3/4
    assert told.error == pytest.approx(0.75)


def test_bins_hold_equally_many_pairs_and_at_least_ten() -> None:
    assert [b.pairs for b in calibration(margins(1, 1, 103)).bins] == [20, 21, 20, 21, 21]
    assert [b.pairs for b in calibration(margins(1, 1, 25)).bins] == [12, 13]
    assert [b.pairs for b in calibration([1.0]).bins] == [1]
    with pytest.raises(ValueError, match="a pair and a bin"):
        calibration([])
