"""Whether a model that is sure is right as often as it says: its probabilities against what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from corollary.ops.estimate import Interval, clopper_pearson


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of similar confidence."""

    pairs: int
    predicted: float  # mean confidence, ½ to 1
    observed: Interval  # share on which the model was right


@dataclass(frozen=True, slots=True)
class Calibration:
    """Bins by rising confidence, and the mean distance of what was observed in them from what was predicted."""

    bins: tuple[Bin, ...]
    error: float  # expected calibration error, 0 to ½


def calibration(margins: Sequence[float], *, bins: int = 5, least: int = 10) -> Calibration:
    """How sure a reward model is of which answer is the better, against how often it is right.

        c_i = σ(|m_i|)      right_i = 1[m_i > 0]      ECE = Σ_b n_b/N·|mean right - mean c|

    Bradley and Terry's model says σ(m) of "the chosen answer is the better", so σ(|m|) of the answer that it ranks first. Which of
    the two is named first has no part in it; σ(m) itself against "chosen", which is always true, could not be wrong.

    Args:
        margins: m, reward of the preferred answer less that of the other, one per pair; at 0 every second pair counts as right.
        bins: at most, of equally many pairs. The error is above 0 for a perfect model, too: by about 0.4/√(pairs of a bin).
        least: pairs of a bin; with fewer in all there is one.

    Raises:
        ValueError: no pair, or less than one bin or pair of a bin.

    Source: Naeini et al. 2015, https://doi.org/10.1609/aaai.v29i1.9602 (bins of equal mass: Nixon et al. 2019,
        https://arxiv.org/abs/1904.01685).
    Theory: docs/theory/estimators.md#calibration

    >>> told = calibration([2.0, 2.0, -2.0, 0.0, 0.0], bins=2, least=2)
    >>> [(b.pairs, round(b.predicted, 2), round(b.observed.estimate, 2)) for b in told.bins]
    [(2, 0.5, 0.5), (3, 0.88, 0.67)]
    >>> round(told.error, 2)
    0.13
    """
    if not margins or bins < 1 or least < 1:
        raise ValueError(f"calibration needs a pair and a bin at least, got {len(margins)}, bins={bins}, least={least}")
    ranked = sorted(margins, key=abs)
    bins = max(1, min(bins, len(ranked) // least))
    edges = [len(ranked) * b // bins for b in range(bins + 1)]
    found = tuple(_bin(ranked[low:high]) for low, high in pairwise(edges))
    error = sum(b.pairs * abs(b.observed.estimate - b.predicted) for b in found) / len(ranked)
    return Calibration(found, error)


def _bin(margins: Sequence[float]) -> Bin:
    right = sum(m > 0 for m in margins) + sum(m == 0 for m in margins) // 2
    sure = fmean(1 / (1 + math.exp(-abs(m))) for m in margins)
    return Bin(len(margins), sure, clopper_pearson(right, len(margins)))
