"""Intervals of means of any scale, such as nats per token; those of shares in [0, 1] are in `ops.estimate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from corollary.ops.estimate import Interval, PairedDifference, mcnemar_exact, t_quantile


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's interval of a mean over prompts.

        x̄ ± t_{n-1} · s/√n

    Args:
        values: one for each prompt; at least 2.
        confidence: (0, 1).

    Raises:
        ValueError: fewer than 2 values.

    Source: Student 1908.
    Theory: docs/theory/estimators.md#mean_interval

    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> found.estimate, round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    if len(values) < 2:
        raise ValueError(f"an interval of a mean needs at least 2 values, got {len(values)}")
    width = t_quantile(len(values) - 1, confidence) * stdev(values) / math.sqrt(len(values))
    return Interval(fmean(values), fmean(values) - width, fmean(values) + width, confidence, "Student t")


def mean_difference(before: Sequence[float], after: Sequence[float], *, confidence: float = 0.95) -> PairedDifference:
    """Student's interval of the mean change, prompt by prompt; `p_value` is the sign test's.

    Args:
        before: one for each prompt; at least 2.
        after: the same prompts in the same order.
        confidence: (0, 1).

    Raises:
        ValueError: not the same number of them.

    >>> round(mean_difference([2.0, 3.0, 4.0], [1.0, 2.0, 2.0]).estimate, 4)
    -1.3333
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    found = mean_interval(changes, confidence=confidence)
    gained, lost = sum(d > 0 for d in changes), sum(d < 0 for d in changes)
    return PairedDifference(
        found.estimate, found.low, found.high, confidence, "paired t", len(changes), gained, lost, mcnemar_exact(gained, lost)
    )  # fmt: skip
