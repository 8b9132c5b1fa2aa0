"""What can be guaranteed before a run or an update, in numbers: reward from KL, one update's gain, best-of-n, weights, β.

Theorems, not fits. KL is of whole sequences, in nats, unless it says per token; numbers in, a number out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from corollary.declare import Fraction, NonNegative, Positive, declares

Count = Annotated[int, Field(ge=1)]
Discount = Annotated[float, Field(ge=0, lt=1)]


@declares(family="metric")
def total_variation_bound(kl: float) -> float:
    """The most that two distributions can differ on any event, given the KL of one from the other.

        TV ≤ min(√(KL/2), √(1 - e^{-KL}))      Pinsker; Bretagnolle and Huber

    The second is the smaller from KL = 1.6 on and never passes 1.

    Args:
        kl: nats ≥ 0, in either direction.

    Raises:
        ValueError: KL is negative.

    Source: Pinsker 1960; Bretagnolle and Huber 1979, as compared by Canonne 2022, https://arxiv.org/abs/2202.07198.
    Theory: docs/theory/estimators.md#total_variation_bound

    >>> round(total_variation_bound(0.02), 6), round(total_variation_bound(10.0), 6)
    (0.1, 0.999977)
    """
    _at_least(0, kl=kl)
    return min(math.sqrt(kl / 2), math.sqrt(-math.expm1(-kl)))


@declares(family="metric")
def reward_gap(kl: float, *, reward_range: Positive = 1.0) -> float:
    """The most that expected rewards of two policies can differ, for a bounded reward.

        |J(π) - J(μ)| ≤ (r_max - r_min) · min(√(KL/2), √(1 - e^{-KL}))

    Args:
        kl: nats ≥ 0 per sequence, in either direction.
        reward_range: r_max - r_min, reward units.

    Returns:
        Reward units.

    Raises:
        ValueError: KL is negative, or a parameter is out of its range.

    Source: Pinsker 1960; Bretagnolle and Huber 1979, as compared by Canonne 2022, https://arxiv.org/abs/2202.07198.
    Theory: docs/theory/estimators.md#reward_gap

    >>> round(reward_gap(0.02, reward_range=2.0), 6)
    0.2
    """
    return reward_range * total_variation_bound(kl)


@declares(family="metric")
def gain_at_kl(kl: float, *, sigma: Positive = 0.5) -> float:
    """The most that any policy can gain over the reference within a KL budget.

        E_π r - E_ref r ≤ σ·√(2·KL(π‖ref))

    For rewards that are sub-Gaussian under the reference; a bounded reward is, with σ half its range. The KL-regularised
    optimum attains it in the limit of small KL, with σ² the variance of the reward under the reference.

    Args:
        kl: nats ≥ 0 per sequence.
        sigma: σ, reward units; ½ for rewards in [0, 1].

    Returns:
        Reward units.

    Raises:
        ValueError: KL is negative, or a parameter is out of its range.

    Source: Donsker and Varadhan 1975 with Hoeffding's lemma; Mroueh 2024, https://arxiv.org/abs/2406.05883.
    Theory: docs/theory/estimators.md#gain_at_kl

    >>> gain_at_kl(2.0)
    1.0
    """
    _at_least(0, kl=kl)
    return sigma * math.sqrt(2 * kl)


@declares(family="metric")
def true_reward_floor(proxy_reward: float, proxy_bias: float, kl: float, *, sigma: Positive = 0.5) -> float:
    """The least true reward of a policy that was trained on a reward model.

        J_r(π) ≥ J_r̂(π) - E_ref[r̂ - r] - σ·√(2·KL(π‖ref))

    Needs an error r̂ - r with light tails under the reference: with heavy ones the true reward can stay where it was while the
    proxy grows without bound at vanishing KL.

    Args:
        proxy_reward: J_r̂(π), the reward model's mean on the policy's answers.
        proxy_bias: E_ref[r̂ - r], its mean error on the reference's answers.
        kl: nats ≥ 0 per sequence.
        sigma: σ, sub-Gaussian scale of the error under the reference; half its range where it is bounded.

    Returns:
        Reward units.

    Raises:
        ValueError: KL is negative, or a parameter is out of its range.

    Source: Mroueh 2024, https://arxiv.org/abs/2406.05883; its limits: Kwa et al. 2024, https://arxiv.org/abs/2407.14503.
    Theory: docs/theory/estimators.md#true_reward_floor

    >>> round(true_reward_floor(0.9, 0.1, 0.02, sigma=0.5), 12)
    0.7
    """
    return proxy_reward - proxy_bias - gain_at_kl(kl, sigma=sigma)


@declares(family="metric")
def update_floor(
    surrogate: float, *, horizon: Count = 1, tv: NonNegative = 0.0, max_advantage: NonNegative = 1.0
) -> float:
    """The least that one update of a policy over T tokens gains, undiscounted.

        J(π') - J(π) ≥ L - 2T(T-1)·α²·max|A|      L = E_π[Σ_t (π'/π)·A], α = max over states of TV(π', π)

    The T² is why a correction per token becomes unreliable for long answers. At T = 1 the surrogate is exact.

    Args:
        surrogate: L, reward units, of the exact advantages of π, without clipping.
        horizon: T, tokens.
        tv: α, total variation per token, within [0, 1].
        max_advantage: max|A|, reward units.

    Returns:
        Reward units.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Kakade and Langford 2002, and a coupling over T steps; the discounted form is `trpo_floor`.
    Theory: docs/theory/estimators.md#update_floor

    >>> round(update_floor(0.1, horizon=10, tv=0.01), 6)
    0.082
    """
    return surrogate - 2 * horizon * (horizon - 1) * tv**2 * max_advantage


@declares(family="metric")
def trpo_floor(surrogate: float, kl: float, *, gamma: Discount = 0.99, max_advantage: NonNegative = 1.0) -> float:
    """The least that one update gains, discounted, from the largest KL of any state.

        J(π') - J(π) ≥ L - 4·max|A|·γ/(1-γ)² · max KL      also with max TV² in the place of max KL

    Args:
        surrogate: L = Σ_s d(s)·Σ_a π'(a|s)·A(s,a), with d unnormalised, reward units.
        kl: the largest KL(π‖π') of any state, nats ≥ 0; or α², the square of the largest TV, which is the tighter.
        gamma: γ.
        max_advantage: max|A|, reward units.

    Returns:
        Reward units.

    Raises:
        ValueError: KL is negative, or a parameter is out of its range.

    Source: Schulman et al. 2015 (TRPO), theorem 1, https://arxiv.org/abs/1502.05477.
    Theory: docs/theory/estimators.md#trpo_floor

    >>> trpo_floor(0.1, 0.001, gamma=0.5)
    0.092
    """
    _at_least(0, kl=kl)
    return surrogate - 4 * max_advantage * gamma / (1 - gamma) ** 2 * kl


@declares(family="metric")
def cpo_floor(
    surrogate: float, mean_tv: float, *, gamma: Discount = 0.99, max_expected_advantage: NonNegative = 1.0
) -> float:
    """The least that one update gains, discounted, from the average distance over the states that π visits.

        J(π') - J(π) ≥ L - 2·ε'·γ/(1-γ)² · E_d[TV]      ε' = max_s |E_{π'} A(s,·)|, d normalised

    Args:
        surrogate: L = Σ_s d(s)·Σ_a π'(a|s)·A(s,a), with d unnormalised, reward units.
        mean_tv: E_d[TV(π', π)] ≥ 0.
        gamma: γ.
        max_expected_advantage: ε', reward units; much below max|A| for nearby policies.

    Returns:
        Reward units; the same distance above L is the most that it gains.

    Raises:
        ValueError: a distance is negative, or a parameter is out of its range.

    Source: Achiam et al. 2017 (CPO), corollary 1, https://arxiv.org/abs/1705.10528.
    Theory: docs/theory/estimators.md#cpo_floor

    >>> cpo_floor(0.1, 0.01, gamma=0.5, max_expected_advantage=0.5)
    0.08
    """
    _at_least(0, mean_tv=mean_tv)
    return surrogate - 2 * max_expected_advantage * gamma / (1 - gamma) ** 2 * mean_tv


@declares(family="metric")
def best_of_n_kl(n: int) -> float:
    """The most that choosing the best of n answers moves away from the reference.

        KL(BoN‖ref) ≤ log n - (n-1)/n      with equality where no two answers earn the same

    Args:
        n: answers ≥ 1 of which the best is kept.

    Returns:
        Nats per sequence.

    Raises:
        ValueError: n < 1.

    Source: Stiennon et al. 2020, https://arxiv.org/abs/2009.01325; as a bound Beirami et al. 2024,
        https://arxiv.org/abs/2401.01879.
    Theory: docs/theory/estimators.md#best_of_n_kl

    >>> round(best_of_n_kl(16), 6)
    1.835089
    """
    _at_least(1, n=n)
    return math.log(n) - (n - 1) / n


@declares(family="metric")
def best_of_n_win_rate(n: int) -> float:
    """How often the best of n answers beats one more answer, where no two earn the same.

        n / (n + 1)

    Args:
        n: answers ≥ 1 of which the best is kept.

    Raises:
        ValueError: n < 1.

    Source: Beirami et al. 2024, https://arxiv.org/abs/2401.01879.
    Theory: docs/theory/estimators.md#best_of_n_win_rate

    >>> best_of_n_win_rate(3)
    0.75
    """
    _at_least(1, n=n)
    return n / (n + 1)


@declares(family="metric")
def clip_range_kl(
    *, clip_low: Fraction = 0.2, clip_high: NonNegative = 0.2, direction: Literal["new_old", "old_new"] = "new_old"
) -> float:
    """The most that a token's distribution can have moved while all its ratios are inside the clip range.

        KL(new‖old) ≤ [ε_l(1+ε_h)log(1+ε_h) + ε_h(1-ε_l)log(1-ε_l)] / (ε_l + ε_h)
        KL(old‖new) ≤ -[ε_l·log(1+ε_h) + ε_h·log(1-ε_l)] / (ε_l + ε_h)

    A thousand tokens may drift a thousand times as far. Clipping does not keep ratios inside: it stops pushing them out.

    Args:
        clip_low: ε_l, in [0, 1).
        clip_high: ε_h ≥ 0.
        direction: `new_old` for KL(new‖old), `old_new` for KL(old‖new).

    Returns:
        Nats per token.

    Raises:
        ValueError: a parameter is out of its range.

    Source: derived here: KL is convex in the ratio, so the extreme puts all mass on the two ends with mean ratio 1.
    Theory: docs/theory/estimators.md#clip_range_kl

    >>> round(clip_range_kl(clip_low=0.2, clip_high=0.28), 6), round(clip_range_kl(), 4)
    (0.027525, 0.0201)
    """
    if clip_low == 0 or clip_high == 0:  # a mean of 1 leaves no room on the other side either
        return 0.0
    rise, fall = math.log1p(clip_high), math.log1p(-clip_low)
    if direction == "new_old":
        return (clip_low * (1 + clip_high) * rise + clip_high * (1 - clip_low) * fall) / (clip_low + clip_high)
    return -(clip_low * rise + clip_high * fall) / (clip_low + clip_high)


@declares(family="metric")
def importance_second_moment(renyi2: float, *, max_abs: Positive = 1.0) -> float:
    """The most that untruncated importance weights can do to the variance.

        E_μ[(w·f)²] ≤ ‖f‖²·e^{D₂(π‖μ)}      E_μ[w²] = e^{D₂}

    Args:
        renyi2: D₂, nats ≥ 0, Rényi divergence of order 2 of the target from the sampler; adds up over tokens.
        max_abs: ‖f‖, the largest |f|.

    Raises:
        ValueError: D₂ is negative, or a parameter is out of its range.

    Source: Cortes et al. 2010; Metelli et al. 2018, https://arxiv.org/abs/1809.06098.
    Theory: docs/theory/estimators.md#importance_second_moment

    >>> importance_second_moment(0.0, max_abs=3.0)
    9.0
    """
    _at_least(0, renyi2=renyi2)
    return max_abs**2 * math.exp(renyi2)


@declares(family="metric")
def truncation_bias(renyi2: float, *, cap: Positive = 2.0, max_abs: Positive = 1.0) -> float:
    """The most that truncating importance weights at C can bias a mean.

        |E_μ[min(w, C)·f] - E_π f| ≤ ‖f‖·E_μ[(w - C)₊] ≤ ‖f‖·e^{D₂} / (4C)

    Args:
        renyi2: D₂, nats ≥ 0, Rényi divergence of order 2 of the target from the sampler.
        cap: C, the largest weight.
        max_abs: ‖f‖, the largest |f|.

    Raises:
        ValueError: D₂ is negative, or a parameter is out of its range.

    Source: Ionides 2008, https://doi.org/10.1198/106186008X320456, for the first step; the second is (w - C)₊ ≤ w²/4C.
    Theory: docs/theory/estimators.md#truncation_bias

    >>> truncation_bias(0.0, cap=2.0)
    0.125
    """
    _at_least(0, renyi2=renyi2)
    return max_abs * math.exp(renyi2) / (4 * cap)


@declares(family="metric")
def truncated_second_moment(*, cap: Positive = 2.0, max_abs: Positive = 1.0) -> float:
    """The most that weights truncated at C can do to the variance, however far the sampler is.

        E_μ[(min(w, C)·f)²] ≤ C·‖f‖²

    Args:
        cap: C, the largest weight.
        max_abs: ‖f‖, the largest |f|.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Ionides 2008, https://doi.org/10.1198/106186008X320456; min(w, C)² ≤ C·w.
    Theory: docs/theory/estimators.md#truncated_second_moment

    >>> truncated_second_moment(cap=2.0, max_abs=3.0)
    18.0
    """
    return cap * max_abs**2


@declares(family="metric")
def best_truncation_cap(samples: int, renyi2: float = 0.0) -> float:
    """The cap of truncated importance sampling that makes the bound on its squared error smallest.

        C* = (N·e^{2·D₂} / 8)^{1/3}      of (e^{D₂}/4C)² + C/N

    Args:
        samples: N ≥ 1, that are averaged.
        renyi2: D₂, nats ≥ 0, of what the weights correct.

    Raises:
        ValueError: N < 1, or D₂ is negative.

    Source: derived here from `truncation_bias` and `truncated_second_moment`.
    Theory: docs/theory/estimators.md#best_truncation_cap

    >>> [round(best_truncation_cap(n), 9) for n in (64, 512, 4096)]
    [2.0, 4.0, 8.0]
    """
    _at_least(1, samples=samples)
    _at_least(0, renyi2=renyi2)
    return (samples * math.exp(2 * renyi2) / 8) ** (1 / 3)


@declares(family="metric")
def expected_sample_size(samples: int, renyi2: float) -> float:
    """How many samples of the target as many samples of another policy are worth, in the limit of many.

        N·e^{-D₂(π‖μ)}      D₂ = T·d₂ for T tokens of d₂ each

    Args:
        samples: N ≥ 1.
        renyi2: D₂, nats ≥ 0 per sequence.

    Raises:
        ValueError: N < 1, or D₂ is negative.

    Source: Metelli et al. 2018, https://arxiv.org/abs/1809.06098; measured by `effective_sample_size`.
    Theory: docs/theory/estimators.md#expected_sample_size

    >>> round(expected_sample_size(1000, 100 * 0.0155))    # a hundred tokens
    212
    """
    _at_least(1, samples=samples)
    _at_least(0, renyi2=renyi2)
    return samples * math.exp(-renyi2)


@declares(family="metric")
def informative_share(p: float, *, group_size: Annotated[int, Field(ge=2)] = 8) -> float:
    """How often a group holds both a right and a wrong answer; the others teach nothing.

        1 - p^G - (1-p)^G

    Args:
        p: probability in [0, 1] that an answer is right.
        group_size: G, answers to each prompt.

    Raises:
        ValueError: p outside [0, 1], or a parameter is out of its range.

    Source: Yu et al. 2025 (DAPO: dynamic sampling), https://arxiv.org/abs/2503.14476.
    Theory: docs/theory/estimators.md#informative_share

    >>> round(informative_share(0.05), 2), round(informative_share(0.1), 2), round(informative_share(0.5), 2)
    (0.34, 0.57, 0.99)
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie within [0, 1], got {p}")
    wrong = -math.expm1(group_size * math.log1p(-p)) if p < 1 else 1.0  # keeps its digits for rare successes
    return wrong - p**group_size


@declares(family="metric")
def leave_one_out_noise(p: float, *, group_size: Annotated[int, Field(ge=2)] = 8) -> float:
    """Variance of a prompt's policy gradient per answer, with the leave-one-out baseline, in units of p(1-p).

        G·Var / (p(1-p)) = (1-2p)² + 2p(1-p)/(G-1)

    In the logit of a policy that is right with probability p. Doubling G halves it at p = ½ and hardly moves it at 0.1.

    Args:
        p: probability in [0, 1] that an answer is right.
        group_size: G, answers to each prompt.

    Raises:
        ValueError: p outside [0, 1], or a parameter is out of its range.

    Source: derived here, by the variance of a U-statistic.
    Theory: docs/theory/estimators.md#leave_one_out_noise

    >>> round(leave_one_out_noise(0.1), 3), round(leave_one_out_noise(0.1, group_size=16), 3)
    (0.666, 0.652)
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie within [0, 1], got {p}")
    return (1 - 2 * p) ** 2 + 2 * p * (1 - p) / (group_size - 1)


@declares(family="metric")
def kl_coefficient(kl: float, *, sigma: Positive = 0.5) -> float:
    """A first β for the KL penalty, from the KL that the run may spend.

        β = σ / √(2·KL)      by the expansion KL ≈ σ²/2β² of the optimum for small KL

    Within 3 % at 0.004 nats, 12 % at 0.04 and 60 % at 0.25 of a measured example: a start; `kl_coefficient_of` solves.

    Args:
        kl: nats > 0 per sequence, to be spent.
        sigma: σ, standard deviation of the reward over the reference's answers.

    Returns:
        β, reward units per nat.

    Raises:
        ValueError: KL is not above 0, or a parameter is out of its range.

    Source: derived here from the optimum ref·e^{r/β}; Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.
    Theory: docs/theory/estimators.md#kl_coefficient

    >>> kl_coefficient(2.0, sigma=1.0), round(kl_coefficient(10.0, sigma=1.0), 3)
    (0.5, 0.224)
    """
    if not kl > 0:
        raise ValueError(f"kl must be > 0, got {kl}")
    return sigma / math.sqrt(2 * kl)


@declares(family="metric")
def optimum_kl(rewards: Sequence[float], beta: float) -> float:
    """How far the KL-regularised optimum lies from the reference, by the rewards of the reference's own answers.

        KL = E_w[r]/β - log mean e^{r/β}      w ∝ e^{r/β}

    Trust it only far below log n: n answers cannot show a larger KL than that.

    Args:
        rewards: reward units, of n independent answers of the reference.
        beta: β > 0, reward units per nat.

    Returns:
        Nats per sequence.

    Raises:
        ValueError: no rewards, or β is not above 0.

    Source: Ziebart 2010; Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.
    Theory: docs/theory/estimators.md#optimum_kl

    >>> round(optimum_kl([0.0, 1.0], 1.0), 6)
    0.110944
    """
    if not rewards or not beta > 0:
        raise ValueError(f"need rewards and beta > 0, got {len(rewards)} rewards and beta={beta}")
    top = max(rewards)
    exponents = [(r - top) / beta for r in rewards]  # at most 0: nothing overflows
    weights = [math.exp(e) for e in exponents]
    total = math.fsum(weights)
    return math.fsum(w * e for w, e in zip(weights, exponents, strict=True)) / total - math.log(total / len(rewards))


@declares(family="metric")
def kl_coefficient_of(rewards: Sequence[float], kl: float) -> float:
    """The β whose KL-regularised optimum spends a given KL, by the rewards of the reference's own answers.

        β with optimum_kl(rewards, β) = KL      by bisection; KL falls as β grows

    Args:
        rewards: reward units, of n independent answers of the reference, not all equal.
        kl: nats per sequence, above 0 and well below log n.

    Returns:
        β, reward units per nat.

    Raises:
        ValueError: rewards that cannot show that KL.

    Source: derived here from `optimum_kl`.
    Theory: docs/theory/estimators.md#kl_coefficient_of

    >>> round(kl_coefficient_of([0.0, 1.0], 0.110944), 4)
    1.0
    """
    spread = max(rewards) - min(rewards)
    most = math.log(len(rewards) / sum(r == max(rewards) for r in rewards))  # all weight on the best
    if not 0 < kl < most:
        raise ValueError(
            f"{len(rewards)} rewards can show a KL between 0 and {most:.3g} nats, got {kl}; draw more answers"
        )
    low, high = math.log(spread * 1e-6), math.log(spread * 1e6)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if optimum_kl(rewards, math.exp(middle)) > kl else (low, middle)
    return math.exp(low)


@declares(family="metric")
def learning_rate_for_kl(lr: float, measured_kl: float, target_kl: float) -> float:
    """The learning rate whose step moves the policy by a wanted KL, from one probe.

        lr · √(target / measured)      KL of a small step grows with lr²

    Args:
        lr: of the probe, > 0.
        measured_kl: nats > 0 per sequence, between the policies before and after one step at `lr`.
        target_kl: nats > 0 per sequence; 0.001 to 0.01 on-policy.

    Raises:
        ValueError: one of them is not above 0.

    Source: the second-order expansion of KL by the Fisher information, Amari 1998,
        https://doi.org/10.1162/089976698300017746.
    Theory: docs/theory/estimators.md#learning_rate_for_kl

    >>> learning_rate_for_kl(1e-6, 0.04, 0.01)
    5e-07
    """
    if not min(lr, measured_kl, target_kl) > 0:
        raise ValueError(f"all must be > 0, got lr={lr}, measured_kl={measured_kl}, target_kl={target_kl}")
    return lr * math.sqrt(target_kl / measured_kl)


@declares(family="metric")
def selection_bias(candidates: int, *, sigma: NonNegative = 1.0) -> float:
    """The most that the best of several noisy scores is too good, in expectation.

        E max noise ≤ σ·√(2·log N)

    Args:
        candidates: N ≥ 1, that were compared by the same score.
        sigma: σ, standard error of one score.

    Returns:
        In the units of the score.

    Raises:
        ValueError: N < 1, or a parameter is out of its range.

    Source: the maximal inequality of sub-Gaussian variables, Boucheron et al. 2013, theorem 2.5.
    Theory: docs/theory/estimators.md#selection_bias

    >>> round(selection_bias(16, sigma=0.03), 4)
    0.0706
    """
    _at_least(1, candidates=candidates)
    return sigma * math.sqrt(2 * math.log(candidates))


def _at_least(least: float, **values: float) -> None:
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be >= {least:g}, got {value}")
