"""What a sample says about the truth: pass@k, confidence intervals, paired differences, effective sample size.

The sampling unit is the prompt. Plain numbers in, frozen results out; only the effective sample size speaks of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, stdev
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from corollary.declare import declares

Confidence = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, slots=True)
class Interval:
    """A quantity with the range that the sample leaves open."""

    estimate: float
    low: float
    high: float
    confidence: float  # (0, 1), how often such ranges hold the truth
    method: str


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """After minus before, on the same prompts."""

    estimate: float
    low: float
    high: float
    confidence: float  # (0, 1)
    method: str
    prompts: int
    gained: int  # prompts that did better after
    lost: int  # prompts that did worse after
    p_value: float  # exact, two-sided, of "a prompt that changed is as likely to gain as to lose"


@declares(family="metric", estimates="pass@k")
def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that at least one of k answers is right, estimated without bias from n ≥ k answers.

        pass@k = 1 - C(n-c, k) / C(n, k) = 1 - Π_{i=n-c+1}^{n} (1 - k/i)

    Args:
        samples: n, answers drawn for one prompt.
        correct: c, how many of them are right.
        k: answers that one may try, 1 ≤ k ≤ n.

    Raises:
        ValueError: k > n, where no unbiased estimate exists, or counts that cannot be.

    Source: Chen et al. 2021, eq. 1, https://arxiv.org/abs/2107.03374.
    Theory: docs/theory/estimators.md#pass_at_k

    >>> pass_at_k(10, 3, 1)
    0.3
    >>> round(pass_at_k(10, 3, 4), 12)
    0.833333333333
    """
    _check_counts(samples, correct, k)
    # One division of integers: rounded once, so that k = 1 gives c/n to the last bit. The product is the same number.
    return (math.comb(samples, k) - math.comb(samples - correct, k)) / math.comb(samples, k)


@declares(family="metric", estimates="pass^k")
def pass_hat_k(samples: int, correct: int, k: int) -> float:
    """Probability that all of k answers are right (pass^k), estimated without bias from n ≥ k answers.

        pass^k = C(c, k) / C(n, k)

    Args:
        samples: n, answers drawn for one prompt.
        correct: c, how many of them are right.
        k: answers that must all be right, 1 ≤ k ≤ n.

    Raises:
        ValueError: k > n, or counts that cannot be.

    Source: Yao et al. 2024 (τ-bench), section 3, https://arxiv.org/abs/2406.12045.
    Theory: docs/theory/estimators.md#pass_hat_k

    >>> round(pass_hat_k(10, 3, 2), 12)
    0.066666666667
    """
    _check_counts(samples, correct, k)
    return math.comb(correct, k) / math.comb(samples, k)


@declares(family="metric")
def pass_at_k_plug_in(samples: int, correct: int, k: int) -> float:
    """pass@k of the measured share of right answers. Biased: too low in expectation, by up to 0.07 at n = 12, k = 5.

        1 - (1 - c/n)^k

    Here to be compared with; `pass_at_k` has no bias.

    Args:
        samples: n, answers drawn for one prompt.
        correct: c, how many of them are right.
        k: answers that one may try.

    Raises:
        ValueError: counts that cannot be.

    Source: Chen et al. 2021, appendix A, https://arxiv.org/abs/2107.03374.
    Theory: docs/theory/estimators.md#pass_at_k_plug_in

    >>> round(pass_at_k_plug_in(10, 3, 4), 12)
    0.7599
    """
    _check_counts(samples, correct)
    return 1 - (1 - correct / samples) ** k


@declares(family="metric")
def pass_at_k_interval(samples: int, correct: int, k: int, *, confidence: Confidence = 0.95) -> Interval:
    """Interval of one prompt's pass@k: covers at least `confidence`, since 1 - (1-p)^k only rises with p.

        [1 - (1 - low)^k, 1 - (1 - high)^k]      low, high by Clopper-Pearson

    The estimate is `pass_at_k`; where it lies beyond an end, which happens for k near n, the interval is widened to it.

    Args:
        samples: n, answers drawn for one prompt.
        correct: c, how many of them are right.
        k: answers that one may try, 1 ≤ k ≤ n.
        confidence: (0, 1).

    Raises:
        ValueError: k > n, or counts that cannot be.

    Source: Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404, under a monotone map.
    Theory: docs/theory/estimators.md#pass_at_k_interval

    >>> found = pass_at_k_interval(10, 3, 4)
    >>> round(found.estimate, 4), round(found.low, 4), round(found.high, 4)
    (0.8333, 0.2414, 0.9854)
    """
    estimate, p = pass_at_k(samples, correct, k), clopper_pearson(correct, samples, confidence=confidence)
    low, high = (-math.expm1(k * math.log1p(-end)) if end < 1 else 1.0 for end in (p.low, p.high))
    return Interval(estimate, min(low, estimate), max(high, estimate), confidence, "Clopper-Pearson, mapped")


@declares(family="metric", estimates="interval")
def clopper_pearson(correct: int, total: int, *, confidence: Confidence = 0.95) -> Interval:
    """Exact interval of a proportion: covers at least `confidence` whatever the truth is.

        low  = B⁻¹(α/2; c, n-c+1)      high = B⁻¹(1-α/2; c+1, n-c)      α = 1 - confidence

    B⁻¹ is the quantile of the beta distribution; low is 0 at c = 0, high is 1 at c = n.

    Args:
        correct: c, successes.
        total: n ≥ 1, independent trials.
        confidence: (0, 1).

    Raises:
        ValueError: n < 1, or c outside 0 … n.

    Source: Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.
    Theory: docs/theory/estimators.md#clopper_pearson

    >>> found = clopper_pearson(0, 10)
    >>> found.low, round(found.high, 4)
    (0.0, 0.3085)
    """
    _check_counts(total, correct)
    _z(confidence)
    low, high = _beta_interval(correct, total, confidence)
    return Interval(correct / total, low, high, confidence, "Clopper-Pearson")


@declares(family="metric")
def fraction_interval(fractions: Sequence[float], *, confidence: Confidence = 0.95) -> Interval:
    """Interval of a mean over prompts, where each prompt gives a fraction in [0, 1], such as its own pass@k.

        n* = p(1-p) / se² · (z / t_{n-1})²      then Clopper-Pearson of p·n* successes in n* trials

    p is the mean and se² = s²/n its squared standard error: n* is how many yes/no trials would have told as much, less
    what is lost by estimating se. Never leaves [0, 1] and keeps its width where every prompt agrees (there n* = n).

    Args:
        fractions: one value in [0, 1] for each prompt; at least 2.
        confidence: (0, 1).

    Raises:
        ValueError: fewer than 2 values, or one outside [0, 1].

    Source: Korn and Graubard 1998, Survey Methodology 24, 193-201.
    Theory: docs/theory/estimators.md#fraction_interval

    >>> found = fraction_interval([0.0, 0.5, 1.0, 0.5])
    >>> found.estimate, round(found.low, 3), round(found.high, 3)
    (0.5, 0.019, 0.981)
    """
    n, p, spread = _fractions(fractions, least=2), fmean(fractions), stdev(fractions)
    trials = float(n)
    if spread > 0:
        caution = _z(confidence) / t_quantile(n - 1, confidence)
        trials = p * (1 - p) * n / spread**2 * caution**2
    low, high = _beta_interval(p * trials, trials, confidence)
    return Interval(p, low, high, confidence, "Korn-Graubard")


@declares(family="metric")
def hoeffding(fractions: Sequence[float], *, confidence: Confidence = 0.95) -> Interval:
    """Interval of the mean of values in [0, 1] that holds for every distribution and every sample size.

        mean ± √(log(2/α) / 2n)      α = 1 - confidence

    A guarantee has its price in width; Wald's and Wilson's intervals are narrower and cover less than they say.

    Args:
        fractions: independent values in [0, 1], one for each prompt.
        confidence: (0, 1).

    Raises:
        ValueError: no values, or one outside [0, 1].

    Source: Hoeffding 1963, https://doi.org/10.1080/01621459.1963.10500830.
    Theory: docs/theory/estimators.md#hoeffding

    >>> found = hoeffding([1.0, 0.0] * 50)
    >>> found.estimate, round(found.low, 4), round(found.high, 4)
    (0.5, 0.3642, 0.6358)
    """
    n, mean = _fractions(fractions, least=1), fmean(fractions)
    return _around(mean, math.sqrt(math.log(2 / (1 - confidence)) / (2 * n)), confidence, "Hoeffding")


@declares(family="metric")
def empirical_bernstein(fractions: Sequence[float], *, confidence: Confidence = 0.95) -> Interval:
    """Interval of the mean of values in [0, 1] that holds for every distribution, and is narrow where they vary little.

        mean ± (√(2·s²·log(4/α) / n) + 7·log(4/α) / (3·(n-1)))      α = 1 - confidence

    Args:
        fractions: independent values in [0, 1], one for each prompt; at least 2.
        confidence: (0, 1).

    Raises:
        ValueError: fewer than 2 values, or one outside [0, 1].

    Source: Maurer and Pontil 2009, theorem 4 on either side, https://arxiv.org/abs/0907.3740.
    Theory: docs/theory/estimators.md#empirical_bernstein

    >>> found = empirical_bernstein([0.5] * 1000)
    >>> found.estimate, round(found.low, 4), round(found.high, 4)
    (0.5, 0.4898, 0.5102)
    """
    n, mean = _fractions(fractions, least=2), fmean(fractions)
    risk = math.log(4 / (1 - confidence))
    width = math.sqrt(2 * stdev(fractions) ** 2 * risk / n) + 7 * risk / (3 * (n - 1))
    return _around(mean, width, confidence, "empirical Bernstein")


@declares(family="metric")
def perplexity(nll: float) -> float:
    """How many equally likely tokens would be as hard to guess.

        exp(NLL)

    Args:
        nll: nats per token, the mean over all tokens of the set; not a mean of means.

    Source: Jelinek et al. 1977, https://doi.org/10.1121/1.2016299.
    Theory: docs/theory/estimators.md#perplexity

    >>> round(perplexity(math.log(8)), 9)
    8.0
    """
    return math.exp(nll)


@declares(family="metric")
def paired_proportions(
    before: Sequence[bool], after: Sequence[bool], *, confidence: Confidence = 0.95
) -> PairedDifference:
    """Interval of the change in accuracy, measured on the same prompts before and after.

        {Δ : (b - c - nΔ)² ≤ z² · n · (2q̃ + Δ(1-Δ))}      q̃ = (√(B² - 4AC) - B) / 2A
        A = 2n      B = (2n - b + c)Δ - b - c      C = -cΔ(1-Δ)

    b prompts were gained, c lost, n in all; q̃ is the likeliest share of lost prompts if the change is Δ.

    Tango's score interval is chosen over Newcombe's (method 10) because it inverts McNemar's test: it leaves 0 out exactly
    when (b - c)² / (b + c) > z², so that interval and test cannot contradict each other, and its coverage stays close to
    nominal. Both keep their width where no prompt changes, which the textbook (Wald) interval does not.

    Args:
        before: was each prompt answered right before.
        after: the same prompts in the same order, after.
        confidence: (0, 1).

    Raises:
        ValueError: no prompts, or not the same number of them.

    Source: Tango 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B.
    Theory: docs/theory/estimators.md#paired_proportions

    >>> change = paired_proportions([True] * 8 + [False] * 13, [True] * 1 + [False] * 19 + [True])
    >>> round(change.estimate, 3), round(change.low, 3), round(change.high, 3), round(change.p_value, 4)
    (-0.286, -0.517, -0.026, 0.0703)
    """
    n = _paired(before, after, least=1)
    gained = sum(bool(new) and not old for old, new in zip(before, after, strict=True))
    lost = sum(bool(old) and not new for old, new in zip(before, after, strict=True))
    low, high = tango_interval(gained, lost, n, confidence=confidence)
    estimate = (gained - lost) / n
    return PairedDifference(estimate, low, high, confidence, "Tango", n, gained, lost, mcnemar_exact(gained, lost))


def tango_interval(gained: int, lost: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Low and high end of `paired_proportions`, from the counts of changed prompts.

    >>> low, high = tango_interval(0, 0, 100)
    >>> round(low, 4), round(high, 4)                  # z² / (n + z²)
    (-0.037, 0.037)
    """
    _check_counts(total, gained + lost)
    z2 = _z(confidence) ** 2
    estimate = (gained - lost) / total

    def inside(change: float) -> bool:
        b = (2 * total - gained + lost) * change - gained - lost
        root = math.sqrt(max(0.0, b * b + 8 * total * lost * change * (1 - change)))
        variance = total * ((root - b) / (2 * total) + change * (1 - change))
        return (gained - lost - total * change) ** 2 <= z2 * variance

    return -_edge(lambda d: inside(-d), -estimate, 1.0), _edge(inside, estimate, 1.0)


@declares(family="metric")
def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value of the sign test on the prompts that changed.

        p = min(1, 2 · P(X ≤ min(b, c)))      X ~ Binomial(b + c, ½)

    Args:
        gained: b, prompts wrong before and right after.
        lost: c, prompts right before and wrong after.

    Source: McNemar 1947, https://doi.org/10.1007/BF02295996, in its exact form.
    Theory: docs/theory/estimators.md#mcnemar_exact

    >>> mcnemar_exact(7, 1)
    0.0703125
    >>> mcnemar_exact(0, 0)
    1.0
    """
    changed = gained + lost
    tail = sum(math.comb(changed, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


@declares(family="metric")
def paired_means(before: Sequence[float], after: Sequence[float], *, confidence: Confidence = 0.95) -> PairedDifference:
    """Interval of the mean change of a per-prompt fraction in [0, 1], such as the share of right answers.

        d̄ ± t_{n-1} · s_d / √n      d = after - before

    Where every prompt changed by the same d, s_d = 0 says nothing and the width is (1 + |d|)·z²/(n + z²): an unseen share
    of prompts up to z²/(n + z²) may do anything. `p_value` is the sign test's.

    Args:
        before: one fraction for each prompt; at least 2.
        after: the same prompts in the same order.
        confidence: (0, 1).

    Raises:
        ValueError: fewer than 2 prompts, not the same number of them, or a value outside [0, 1].

    Source: Student 1908; the edge is the score bound of an event seen 0 times in n (Wilson 1927).
    Theory: docs/theory/estimators.md#paired_means

    >>> change = paired_means([0.0, 0.25, 0.5, 0.25], [0.5, 0.5, 0.5, 0.75])
    >>> change.estimate, round(change.low, 4), round(change.high, 4)
    (0.3125, -0.0684, 0.6934)
    """
    n = _paired(before, after, least=2)
    if not all(0 <= x <= 1 for x in (*before, *after)):
        raise ValueError("paired_means takes fractions within [0, 1]; for another scale divide by its range first")
    changes = [new - old for old, new in zip(before, after, strict=True)]
    estimate, spread = fmean(changes), stdev(changes)
    if spread > 0:
        width = t_quantile(n - 1, confidence) * spread / math.sqrt(n)
    else:
        z2 = _z(confidence) ** 2
        width = (1 + abs(estimate)) * z2 / (n + z2)
    low, high = max(-1.0, estimate - width), min(1.0, estimate + width)
    gained, lost = sum(d > 0 for d in changes), sum(d < 0 for d in changes)
    return PairedDifference(estimate, low, high, confidence, "paired t", n, gained, lost, mcnemar_exact(gained, lost))


@declares(family="metric")
def effective_sample_size(weights: Tensor, *, dim: int = -1) -> Tensor:
    """How many equally weighted samples would tell as much as these.

        ESS = (Σ w)² / Σ w²      between 1 and N

    Args:
        weights: importance ratios, ≥ 0, any scale.
        dim: the samples' dimension, which disappears.

    Raises:
        ValueError: no samples, a weight that is negative or not finite, or only zeros.

    Source: Kish 1965; as a diagnostic of importance sampling Liu 1996, https://doi.org/10.1007/BF00162521.
    Theory: docs/theory/estimators.md#effective_sample_size

    >>> effective_sample_size(torch.tensor([1.0, 2.0, 3.0]))
    tensor(2.5714)
    """
    if weights.shape[dim] == 0 or not torch.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"need finite weights ≥ 0 and at least one of them, got shape {tuple(weights.shape)}")
    largest = weights.amax(dim, keepdim=True)
    if (largest == 0).any():
        raise ValueError("all weights are 0, so no sample counts")
    scaled = weights / largest  # squares neither overflow nor vanish
    return scaled.sum(dim) ** 2 / (scaled**2).sum(dim)


@declares(family="metric")
def log_effective_sample_size(log_weights: Tensor, *, dim: int = -1) -> Tensor:
    """`effective_sample_size` of exp(log_weights), without leaving the logarithm.

        ESS = exp(2·logΣ exp(ℓ) - logΣ exp(2ℓ))

    Args:
        log_weights: log importance ratios, nats; -inf is a weight of 0.
        dim: the samples' dimension, which disappears.

    Raises:
        ValueError: no samples, NaN or +inf, or every weight 0.

    Source: Kish 1965; as a diagnostic of importance sampling Liu 1996, https://doi.org/10.1007/BF00162521.
    Theory: docs/theory/estimators.md#log_effective_sample_size

    >>> log_effective_sample_size(torch.tensor([0.5, -0.2, 0.1]))
    tensor(2.7687)
    >>> log_effective_sample_size(torch.tensor([1000.0, 1000.0]))
    tensor(2.)
    """
    if log_weights.shape[dim] == 0 or log_weights.isnan().any() or log_weights.isposinf().any():
        raise ValueError(f"need log-weights below +inf and at least one, got shape {tuple(log_weights.shape)}")
    largest = log_weights.amax(dim, keepdim=True)
    if largest.isneginf().any():
        raise ValueError("all weights are 0, so no sample counts")
    return effective_sample_size((log_weights - largest).exp(), dim=dim)


def _check_counts(total: int, some: int, k: int = 1) -> None:
    if total < 1 or not 0 <= some <= total:
        raise ValueError(f"counts must satisfy 0 ≤ correct ≤ n and n ≥ 1, got {some} of {total}")
    if not 1 <= k <= total:
        raise ValueError(
            f"k must be between 1 and the {total} samples drawn, got {k}; draw more samples for a larger k"
        )


def _fractions(values: Sequence[float], *, least: int) -> int:
    if len(values) < least or not all(0 <= x <= 1 for x in values):
        raise ValueError(f"need at least {least} fractions within [0, 1], got {len(values)}: {list(values[:4])}")
    return len(values)


def _around(mean: float, width: float, confidence: float, method: str) -> Interval:
    return Interval(mean, max(0.0, mean - width), min(1.0, mean + width), confidence, method)


def _paired(before: Sequence[float], after: Sequence[float], *, least: int) -> int:
    if len(before) != len(after) or len(before) < least:
        raise ValueError(
            f"need the same prompts twice and at least {least}, got {len(before)} before, {len(after)} after"
        )
    return len(before)


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """The last point from `start` (inside) towards `end` that is inside, to a float's precision."""
    if inside(end):
        return end
    while start < (middle := (start + end) / 2) < end:
        start, end = (middle, end) if inside(middle) else (start, middle)
    return start


def _beta_interval(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    tail, failures = (1 - confidence) / 2, trials - successes
    low = 0.0 if successes <= 0 else _edge(lambda x: beta_cdf(x, successes, failures + 1) <= tail, 0.0, 1.0)
    high = 1.0 if failures <= 0 else _edge(lambda x: beta_cdf(x, successes + 1, failures) <= 1 - tail, 0.0, 1.0)
    return low, high


def _z(confidence: float) -> float:
    """The standard normal's two-sided quantile."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie within (0, 1), got {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


@lru_cache(maxsize=64)
def t_quantile(freedom: float, confidence: float) -> float:
    """t with P(|T| ≤ t) = confidence, by P(|T| ≤ t) = I_y(½, ν/2) at y = t² / (ν + t²)."""
    y = _edge(lambda y: beta_cdf(y, 0.5, freedom / 2) <= confidence, 0.0, 1.0)
    return math.sqrt(freedom * y / (1 - y))


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction.

    Args:
        x: within [0, 1].
        a: > 0.
        b: > 0.

    Source: DLMF 8.17.22, https://dlmf.nist.gov/8.17.E22, evaluated by Lentz's method.

    >>> round(beta_cdf(0.5, 2, 3), 12)                 # 11/16
    0.6875
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly; its mirror image is fast
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = 1 + term / c, 1 / (1 + term * d)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            return front * fraction / a
    raise ValueError(f"the incomplete beta function did not converge at x={x}, a={a}, b={b}")
