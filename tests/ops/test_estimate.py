import math
import random
from functools import cache

import numpy as np
import pytest
import torch

from corollary.ops.estimate import (
    beta_cdf,
    clopper_pearson,
    effective_sample_size,
    empirical_bernstein,
    fraction_interval,
    hoeffding,
    log_effective_sample_size,
    mcnemar_exact,
    paired_means,
    paired_proportions,
    pass_at_k,
    pass_at_k_interval,
    pass_at_k_plug_in,
    pass_hat_k,
    perplexity,
    tango_interval,
)
from corollary.seeding import stream


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 4, 0.8333333333333334),
        (16, 1, 8, 0.5),
        (100, 5, 10, 0.4162476330738481),
        (4, 4, 2, 1.0),
        (5, 0, 3, 0.0),
    ],
)
def test_pass_at_k_gives_the_catalogued_values(n, c, k, expected):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)
    product = 1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1)) if n - c >= k else 1.0
    assert pass_at_k(n, c, k) == pytest.approx(product, abs=1e-12)


def test_pass_at_k_is_unbiased_where_the_plug_in_estimate_is_not():
    n, k, p = 12, 5, 0.3
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    truth = 1 - (1 - p) ** k
    assert sum(w * pass_at_k(n, c, k) for c, w in enumerate(chances)) == pytest.approx(truth, abs=1e-12)
    plug_in = sum(w * pass_at_k_plug_in(n, c, k) for c, w in enumerate(chances))
    assert plug_in < truth - 0.01


def test_pass_hat_k_is_unbiased_and_gives_the_catalogued_value():
    assert pass_hat_k(10, 3, 2) == pytest.approx(0.06666666666666667, abs=1e-15)
    n, k, p = 9, 3, 0.6
    mean = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_hat_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(p**k, abs=1e-12)


def test_pass_at_k_of_one_is_the_share_of_right_answers_to_the_last_bit():
    assert all(pass_at_k(n, c, 1) == c / n for n in range(1, 40) for c in range(n + 1))


@pytest.mark.parametrize("arguments", [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_impossible_counts_are_refused(arguments):
    for estimate in (pass_at_k, pass_hat_k):
        with pytest.raises(ValueError, match=r"counts must|k must"):
            estimate(*arguments)


def test_the_incomplete_beta_function_and_what_inverts_it_agree_with_scipy():
    special = pytest.importorskip("scipy.special")
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for _ in range(500):
        a, b = 10 ** draw.uniform(-1, 3), 10 ** draw.uniform(-1, 3)
        x = draw.choice([draw.random(), a / (a + b)])
        assert beta_cdf(x, a, b) == pytest.approx(special.betainc(a, b, x), abs=1e-10)
    for correct, total in [(0, 10), (3, 7), (10, 10), (48, 400), (31, 100_000)]:
        ours = clopper_pearson(correct, total)
        theirs = stats.binomtest(correct, total).proportion_ci(method="exact")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-11)
    values = [0.25, 0.5, 0.0, 1.0, 0.75, 0.5]
    change = paired_means([0.0] * 6, values, confidence=0.9)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (change.low, change.high) == pytest.approx((theirs.low, theirs.high), abs=1e-11)
    assert mcnemar_exact(3, 11) == pytest.approx(stats.binomtest(3, 14).pvalue, abs=1e-14)


def test_clopper_pearson_covers_at_every_probability():
    n = 20
    intervals = [clopper_pearson(c, n) for c in range(n + 1)]
    for p in np.linspace(0.01, 0.99, 50):
        chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
        assert sum(w for w, i in zip(chances, intervals, strict=True) if i.low <= p <= i.high) >= 0.95


def test_the_ends_of_clopper_pearson_are_closed():
    assert clopper_pearson(0, 8).low == 0.0
    assert clopper_pearson(8, 8).high == 1.0
    with pytest.raises(ValueError, match="9 of 8"):
        clopper_pearson(9, 8)
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(3, 8, confidence=95)


def test_tangos_interval_gives_the_published_example():
    # Fagerland, Lydersen and Laake 2014, table 1 (airway reactivity before and after transplantation): 1, 1, 7, 12 of 21.
    low, high = tango_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_tangos_interval_agrees_with_the_likelihood_maximised_by_brute_force():
    gained, lost, n = 9, 4, 30

    def statistic(change):
        best, share = -math.inf, 0.0
        for q in np.linspace(max(0.0, -change) + 1e-9, (1 - change) / 2 - 1e-9, 20_001):
            likelihood = (
                gained * math.log(q + change) + lost * math.log(q) + (n - gained - lost) * math.log(1 - 2 * q - change)
            )
            if likelihood > best:
                best, share = likelihood, q
        return (gained - lost - n * change) / math.sqrt(n * (2 * share + change * (1 - change)))

    low, high = tango_interval(gained, lost, n)
    assert statistic(low) == pytest.approx(1.95996, abs=1e-3)
    assert statistic(high) == pytest.approx(-1.95996, abs=1e-3)


def test_tangos_interval_leaves_out_zero_exactly_when_mcnemars_score_test_rejects():
    rejected = 0
    for gained in range(16):
        for lost in range(16):
            low, high = tango_interval(gained, lost, 60)
            rejects = (gained - lost) ** 2 > 1.959963984540054**2 * (gained + lost)
            assert rejects == (low > 0 or high < 0)
            rejected += rejects
    assert rejected > 50


def test_a_paired_interval_keeps_its_width_where_nothing_changed_and_mirrors():
    same = paired_proportions([True] * 50, [True] * 50)
    assert same.estimate == 0
    assert same.low < -0.05
    assert same.high > 0.05
    assert same.p_value == 1
    assert paired_means([0.5] * 50, [0.5] * 50).high == pytest.approx(same.high)
    low, high = tango_interval(7, 2, 40)
    assert tango_interval(2, 7, 40) == pytest.approx((-high, -low), abs=1e-15)
    assert tango_interval(40, 0, 40)[1] == 1.0


def test_paired_counts_speak_of_prompts_that_changed():
    change = paired_proportions([False, False, True, True, False], [True, True, False, True, False])
    assert (change.prompts, change.gained, change.lost, change.estimate) == (5, 2, 1, pytest.approx(0.2))
    with pytest.raises(ValueError, match="2 before, 3 after"):
        paired_proportions([True, True], [True, True, True])
    with pytest.raises(ValueError, match="within"):
        paired_means([0.0, 2.0], [0.0, 1.0])


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.02), (0.2, 0.05), (0.3, 0.3), (0.5, 0.1)])
def test_the_paired_interval_of_accuracies_covers_at_least_93_percent(gain, loss):
    draws = stream(0, "coverage", str(gain)).multinomial(200, [gain, loss, 1 - gain - loss], size=1500)
    interval = cache(tango_interval)
    covered = 0
    for gained, lost, _ in draws.tolist():
        low, high = interval(gained, lost, 200)
        covered += low <= gain - loss <= high
    assert 0.93 <= covered / 1500 <= 0.975


def test_the_paired_interval_of_fractions_and_the_interval_of_a_mean_cover_at_least_93_percent():
    draws, paired, alone = stream(0, "coverage", "fractions"), 0, 0
    for _ in range(400):
        before = draws.beta(0.2, 1.0, 60)
        after = before + 0.2 * (1 - before)  # the true mean change: 0.2 · (1 - 1/6)
        old, new = draws.binomial(4, before) / 4, draws.binomial(4, after) / 4
        change = paired_means(old.tolist(), new.tolist())
        paired += change.low <= 1 / 6 <= change.high
        found = fraction_interval(old.tolist())
        alone += found.low <= 1 / 6 <= found.high
    assert paired / 400 >= 0.93
    assert alone / 400 >= 0.93


def test_the_interval_of_a_mean_stays_within_0_and_1_and_has_width():
    for values in ([0.0] * 30, [1.0] * 30, [0.5] * 30, [0.0, 1.0], [0.0] * 29 + [0.25]):
        found = fraction_interval(values)
        assert 0 <= found.low < found.high <= 1
    assert fraction_interval([0.0] * 30).high == pytest.approx(clopper_pearson(0, 30).high)
    with pytest.raises(ValueError, match="at least 2"):
        fraction_interval([0.5])


def test_effective_sample_size_gives_the_catalogued_values():
    assert effective_sample_size(torch.tensor([1.0, 2, 3], dtype=torch.float64)).item() == pytest.approx(
        2.5714285714285716
    )
    logs = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    assert log_effective_sample_size(logs).item() == pytest.approx(2.768681531087606, abs=1e-12)


def test_effective_sample_size_ignores_scale_and_survives_extremes():
    weights = torch.tensor([[1.0, 2.0, 3.0], [1e-30, 1e-30, 0.0], [1e30, 0.0, 0.0]])
    assert effective_sample_size(weights).tolist() == pytest.approx([18 / 7, 2.0, 1.0])
    assert log_effective_sample_size(torch.tensor([-1e4, -1e4, -math.inf])).item() == pytest.approx(2.0)
    assert effective_sample_size(torch.ones(4, 5), dim=0).tolist() == [4.0] * 5


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]])
def test_effective_sample_size_refuses_what_are_no_weights(weights):
    with pytest.raises(ValueError, match=r"need|all weights are 0"):
        effective_sample_size(torch.tensor(weights))


@pytest.mark.parametrize("logs", [[], [-math.inf], [math.nan, 0.0], [math.inf, 0.0]])
def test_log_effective_sample_size_refuses_what_are_no_weights(logs):
    with pytest.raises(ValueError, match=r"need|all weights are 0"):
        log_effective_sample_size(torch.tensor(logs))


COVERAGE = [  # the least over all p, exact for n = 50 yes/no trials: the catalogue's figures
    (lambda n, c: hoeffding([1.0] * c + [0.0] * (n - c)), lambda p: p, 0.9933),
    (lambda n, c: empirical_bernstein([1.0] * c + [0.0] * (n - c)), lambda p: p, 1.0),
    (lambda n, c: clopper_pearson(c, n), lambda p: p, 0.9527),
    (lambda n, c: pass_at_k_interval(n, c, 8), lambda p: 1 - (1 - p) ** 8, 0.9527),
]


@pytest.mark.parametrize(("interval", "truth", "least"), COVERAGE, ids=["hoeffding", "bernstein", "clopper", "pass@8"])
def test_an_interval_with_a_guarantee_keeps_it_at_every_probability(interval, truth, least):
    n = 50
    found = [interval(n, c) for c in range(n + 1)]
    worst = 1.0
    for p in np.arange(1, 200) / 200:
        chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
        held = sum(w for w, i in zip(chances, found, strict=True) if i.low - 1e-12 <= truth(p) <= i.high + 1e-12)
        worst = min(worst, held)
    assert worst == pytest.approx(least, abs=1e-4)


def test_an_interval_holds_its_own_estimate():
    for n, c, k in [(4, 1, 4), (10, 3, 4), (5, 0, 3), (4, 4, 2)]:
        found = pass_at_k_interval(n, c, k)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
        assert found.estimate == pass_at_k(n, c, k)


def test_many_values_that_vary_little_have_a_narrow_bernstein_interval():
    values = [0.5, 0.51] * 2000
    narrow, wide = empirical_bernstein(values), hoeffding(values)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 4


@pytest.mark.parametrize("interval", [hoeffding, empirical_bernstein])
def test_what_lies_outside_the_unit_interval_or_is_missing_is_refused(interval):
    for values in ([], [0.5, 1.5], [0.5, math.nan]):
        with pytest.raises(ValueError, match="fractions within"):
            interval(values)
    with pytest.raises(ValueError, match="confidence must be < 1"):
        interval([0.5, 0.5], confidence=1.0)


def test_perplexity_of_a_uniform_guess_is_the_number_of_tokens():
    assert perplexity(math.log(50_000)) == pytest.approx(50_000)
    assert perplexity(0.0) == 1.0
