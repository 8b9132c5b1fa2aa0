"""docs/theory/bounds.md: what a KL budget can buy, what a wrong reward model costs, best-of-n, and what an evaluation can say."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor

from corollary.ops import estimate
from corollary.ops.bounds import (
    best_of_n_kl,
    best_of_n_win_rate,
    gain_at_kl,
    reward_gap,
    selection_bias,
    true_reward_floor,
    update_floor,
)
from corollary.ops.estimate import (
    clopper_pearson,
    empirical_bernstein,
    hoeffding,
    mcnemar_exact,
    paired_means,
    pass_at_k,
    pass_at_k_interval,
    pass_at_k_plug_in,
)
from corollary.ops.kl import kl_exact
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import tree
from corollary.theory.verdict import Curve, Verdict, at_least, at_most, equal, every, within

MROUEH = "Mroueh 2024, https://arxiv.org/abs/2406.05883"
BEIRAMI = "Beirami et al. 2024, https://arxiv.org/abs/2401.01879"
SIZES = (2, 4, 16, 64)
SAMPLES, CONFIDENCE = 40, 0.95
RATES = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)  # success probabilities that coverage is looked at
Interval = Callable[[int], tuple[float, float]]  # successes of SAMPLES → low, high


# ---------------------------------------------------------------------------------------------------------------------
# Best of n


@theorem(
    "B18.a", section="bounds.md#best-of-n", source=f"Stiennon et al. 2020, https://arxiv.org/abs/2009.01325; as a bound {BEIRAMI}",
    broken={"log n - 1": {"limit": True}, "half of it": {"share": 0.5}},
)  # fmt: skip
def best_of_n_moves_little(lab: Lab, *, limit: bool = False, share: float = 1.0) -> Verdict:
    """KL(BoN‖ref) ≤ log n - (n-1)/n.

    Proof: The best of n has law F(r)ⁿ - F(r⁻)ⁿ. Without ties, with U = F(R) uniform, it has density n·uⁿ⁻¹, and
        ∫ n·uⁿ⁻¹·log(n·uⁿ⁻¹) du = log n - (n-1)/n. Ties merge outcomes, and merging never raises KL.
    Experiment: 100 references over 30 answers of which some earn the same, and one over 2000 answers that all earn differently.
    """
    measured, bounds = [], []
    for n in SIZES:
        laws = [lab.simplex("references", 100, 30), torch.full((1, 2000), 1 / 2000, dtype=torch.float64)]
        for ref, levels in zip(laws, (12, 2000), strict=True):
            rewards = (
                (lab.uniform(f"rewards {levels}", ref.shape[1]) * levels).floor()
                if levels < 2000
                else torch.arange(2000.0)
            )
            measured.append(_best_kl(ref, rewards, n))
            bound = math.log(n) - 1 if limit else share * best_of_n_kl(n)
            bounds.append(torch.full_like(measured[-1], bound))
    curve = Curve(
        x=SIZES, measured=tuple(float(_best_kl(torch.full((1, 2000), 1 / 2000, dtype=torch.float64), torch.arange(2000.0), n)) for n in SIZES),
        bound=tuple(best_of_n_kl(n) for n in SIZES), across="n", up="KL, 2000 answers", log_x=True,
    )  # fmt: skip
    return at_most(torch.cat(measured), torch.cat(bounds)).drawn(curve)


@theorem(
    "B18.b", section="bounds.md#best-of-n", source=BEIRAMI,
    broken={"the likeliest of the best counts alone": {"ties": False}, "one answer more": {"extra": 1}},
)  # fmt: skip
def the_law_of_the_best_of_n(lab: Lab, *, ties: bool = True, extra: int = 0) -> Verdict:
    """P(the best earns r) = F(r)ⁿ - F(r⁻)ⁿ, where F(r) = P(R ≤ r) and F(r⁻) = P(R < r).

    Proof: The best earns at most r if all n do. Subtract that it earns less.
    Experiment: 6 answers, two of which earn the same, n = 4: all 6⁴ draws, beside the formula.
    """
    ref, n = lab.simplex("reference", 6), 4
    rewards = torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    draws = torch.cartesian_prod(*[torch.arange(6)] * n)
    best, chance = rewards[draws].max(-1).values, ref[draws].prod(-1)
    levels = rewards.unique()
    counted = torch.stack([chance[best == r].sum() for r in levels])
    power = n + extra
    below = [
        ref[rewards <= r].sum() ** power - ref[(rewards < r) if ties else (rewards <= r - 2)].sum() ** power
        for r in levels
    ]
    return equal(counted, torch.stack(below))


@theorem(
    "B18.c", section="bounds.md#best-of-n", source=BEIRAMI,
    broken={"as if each of the n were compared alone": {"alone": True}},
)  # fmt: skip
def best_of_n_wins(lab: Lab, *, alone: bool = False) -> Verdict:
    """The best of n answers beats one more answer with probability n/(n+1), where no two earn the same.

    Proof: Of n+1 answers every order is equally likely, and the last is the best of all in one of n+1.
    Experiment: all orders of n+1 answers, n = 1 to 5.
    """
    counted, stated = [], []
    for n in range(1, 6):
        wins = [max(order[:n]) > order[n] for order in permutations(range(n + 1))]
        counted.append(sum(wins) / len(wins))
        stated.append(1 - 0.5**n if alone else best_of_n_win_rate(n))
    return equal(counted, stated)


@theorem(
    section="bounds.md#best-of-n", source=BEIRAMI,
    broken={"a tilt by the reward has that KL too": {"tilted": True}},
)  # fmt: skip
def the_bound_on_best_of_n_is_attained_without_ties(lab: Lab, *, tilted: bool = False) -> Verdict:
    """KL(BoN‖ref) → log n - (n-1)/n as the answers become many and all earn differently.

    Proof: The sum over m answers of equal probability is a Riemann sum of ∫ n·uⁿ⁻¹·log(n·uⁿ⁻¹) du.
    Experiment: 20 000 answers of equal probability, n = 2 to 64. The twin takes π ∝ ref·e^{n·u} in place of the best of n.
    """
    m = 20_000
    ref = torch.full((1, m), 1 / m, dtype=torch.float64)
    found = []
    for n in SIZES:
        u = torch.arange(1, m + 1, dtype=torch.float64) / m
        law = (n * u).softmax(-1)[None]
        found.append(kl_exact(law.log(), ref.log())[0] if tilted else _best_kl(ref, torch.arange(float(m)), n)[0])
    return within(torch.stack(found), torch.tensor([best_of_n_kl(n) for n in SIZES], dtype=torch.float64), 1e-3)


@theorem(
    section="bounds.md#best-of-n", source="derived here; that it comes near the most, Gui et al. 2024, https://arxiv.org/abs/2406.00832",
    broken={"more than the best of n + 1": {"extra": 1}, "at half the KL": {"share": 0.5}},
)  # fmt: skip
def a_tilt_wins_more_than_the_best_of_n(lab: Lab, *, extra: int = 0, share: float = 1.0) -> Verdict:
    """With the KL of the best of n, log n - (n-1)/n, the policy ∝ ref·e^{λu} wins more than n/(n+1), u = F(r) the rank.

    So the best of n is not the best policy of its KL; at n = 2 it wins 0.667 of 0.676, and the gap closes as n grows.
    Proof: Of all policies of a KL the tilt by u has the largest E u, and is alone in it; E u is the win rate, and n·uⁿ⁻¹ is no tilt.
    Experiment: n = 2 to 16, E u = 1/(1-e^{-λ}) - 1/λ and KL = λ·E u - log((e^λ-1)/λ), λ by bisection.
    """
    sizes = (2, 3, 4, 8, 16)
    lam = torch.full((len(sizes),), 1e-3, dtype=torch.float64), torch.full((len(sizes),), 100.0, dtype=torch.float64)
    budgets = share * torch.tensor([best_of_n_kl(n) for n in sizes], dtype=torch.float64)
    for _ in range(60):
        middle = (lam[0] + lam[1]) / 2
        low = _rank_tilt(middle)[1] < budgets
        lam = torch.where(low, middle, lam[0]), torch.where(low, lam[1], middle)
    wins = _rank_tilt(lam[0])[0]
    rates = torch.tensor([best_of_n_win_rate(n + extra) for n in sizes], dtype=torch.float64)
    curve = Curve(
        x=sizes, measured=tuple((wins - rates).tolist()), across="n", up="win rate, tilt less best of n", log_x=True, log_y=not (extra or share < 1),
    )  # fmt: skip
    return at_least(wins, rates, slack=0.0).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# What a KL budget can buy


@theorem(
    "B19.a", section="bounds.md#what-a-kl-budget-can-buy", source=f"Donsker and Varadhan 1975 with Hoeffding's lemma; {MROUEH}",
    broken={"a quarter of the range for σ": {"factor": 0.25}, "√KL for √(2·KL)": {"twice": 1.0}},
)  # fmt: skip
def a_kl_budget_bounds_the_gain(lab: Lab, *, factor: float = 0.5, twice: float = 2.0) -> Verdict:
    """|E_π r - E_ref r| ≤ σ·√(2·KL(π‖ref)), with σ half the range of r.

    Proof: Donsker and Varadhan: E_π[λr] ≤ KL + log E_ref[e^{λr}] for every λ; by Hoeffding's lemma the last is at most
        λ·E_ref r + λ²σ²/2. Divide by λ, take λ = √(2·KL)/σ, and do the same for -r.
    Experiment: 500 pairs of laws over 8 answers with rewards in [0, 1], and tilts of a fair coin, where it is tight.
    """
    ref, pi, rewards = _pairs(lab)
    gain = ((pi - ref) * rewards).sum(-1).abs()
    scale = math.sqrt(twice / 2) * factor
    bounds = [gain_at_kl(max(float(kl), 0.0), sigma=scale) if kl > 0 else 0.0 for kl in kl_exact(pi.log(), ref.log())]
    return at_most(gain, bounds)


@theorem(
    "B19.b", section="bounds.md#what-a-kl-budget-can-buy", source="Cauchy and Schwarz, as used by Mroueh 2024, https://arxiv.org/abs/2406.05883",
    broken={"KL in the place of χ²": {"chi_square": False}},
)  # fmt: skip
def chi_square_bounds_the_gain(lab: Lab, *, chi_square: bool = True) -> Verdict:
    """|E_π r - E_ref r| ≤ √(χ²(π‖ref)·Var_ref(r)), with χ² = E_ref[(π/ref - 1)²].

    Proof: E_π r - E_ref r = E_ref[(π/ref - 1)·(r - E_ref r)], and Cauchy and Schwarz.
    Experiment: 500 pairs of laws, and π = ref·(1 + t·(r - E_ref r)), where both sides are equal.
    """
    ref, pi, rewards = _pairs(lab)
    centred = rewards - (ref * rewards).sum(-1, keepdim=True)
    pi = torch.cat([pi, ref * (1 + 0.5 * centred)])
    ref, rewards, centred = (torch.cat([x, x]) for x in (ref, rewards, centred))
    gain = ((pi - ref) * rewards).sum(-1).abs()
    chi = ((pi / ref - 1) ** 2 * ref).sum(-1) if chi_square else kl_exact(pi.log(), ref.log())
    return at_most(gain, (chi.clamp(min=0) * (ref * centred**2).sum(-1)).sqrt())


@theorem(
    "B19.c", section="bounds.md#what-a-kl-budget-can-buy",
    source="Bretagnolle and Huber 1979, as compared by Canonne 2022, https://arxiv.org/abs/2202.07198",
    broken={"without the square root": {"power": 1.0}},
)  # fmt: skip
def rewards_of_two_policies_differ_by_their_distance(lab: Lab, *, power: float = 0.5) -> Verdict:
    """|E_π r - E_ref r| ≤ (r_max - r_min)·min(√(KL/2), √(1 - e^{-KL})).

    Proof: The difference is at most the range times TV, and TV is bounded by Pinsker, and by Bretagnolle and Huber.
    Experiment: 500 pairs of laws over 8 answers with rewards in [0, 1], and tilts of a fair coin.
    """
    ref, pi, rewards = _pairs(lab)
    gain = ((pi - ref) * rewards).sum(-1).abs()
    bounds = [reward_gap(max(float(kl), 0.0)) ** (2 * power) for kl in kl_exact(pi.log(), ref.log())]
    return at_most(gain, bounds)


@theorem(
    section="bounds.md#what-one-update-can-buy", source="derived here from B5.d",
    broken={"half of the surrogate's bound": {"factor": 1.0}, "no penalty": {"penalty": 0.0}},
)  # fmt: skip
def an_update_of_a_token_an_answer_has_no_promise(lab: Lab, *, factor: float = 2.0, penalty: float = 1.0) -> Verdict:
    """L - 2T(T-1)·α²·A ≤ 2Tα·A·(1 - (T-1)·α), which is at most 0 where α ≥ 1/(T-1): B5.d promises such an update nothing.

    Conditions: L is the surrogate's gain, A = max|advantage|, α = max_s TV(π', π) of a next token, T tokens.
    Proof: L = Σ_t Σ_s d_t(s)·Σ_a (π' - π)·A(s,a), and each of T tokens has at most 2α·A.
    Experiment: 200 pairs of policies on a tree, steps of 0.01 to 3, `update_floor`; and answers that earn by their number of right
        tokens out of two, where both sides are equal. The figure: the bound for that world, in units of A.
    """
    chance, floors, bounds = lab.eos_tree(), [], []
    theta = lab.normal("policy", 200, *lab.policy(chance).shape)
    sizes = torch.logspace(-2, 0.5, 200, dtype=torch.float64)[:, None, None]
    additive = tree(vocabulary=2, depth=lab.depth)
    additive = additive.earning(additive.tokens.sum(-1).double())
    alphas = torch.linspace(0.01, 0.49, 25, dtype=torch.float64)[:, None]
    even = torch.zeros(25, *additive.policy(0).shape, dtype=torch.float64)
    moved = torch.stack([0.5 - alphas, 0.5 + alphas], -1).log().expand_as(even)
    for world, old, new in (
        (chance, theta, theta + sizes * lab.normal("step", *theta.shape)),
        (additive, even, moved),
    ):
        credit, visits = torch.vmap(world.advantages)(old), torch.vmap(world.visits)(old)
        change = new.softmax(-1) - old.softmax(-1)
        surrogate = (visits[..., None] * change * credit).sum((-1, -2))
        tv, largest = change.abs().sum(-1).amax(-1) / 2, credit.abs().amax((-1, -2))
        horizon = int(world.lengths.max())
        rows = zip(surrogate.tolist(), (penalty**0.5 * tv).tolist(), largest.tolist(), strict=True)
        floors += [update_floor(low, horizon=horizon, tv=a, max_advantage=most) for low, a, most in rows]
        bounds.append(factor * horizon * tv * largest * (1 - 2 / factor * (horizon - 1) * tv))
    curve = Curve(
        x=tuple(tv.tolist()), measured=tuple((bounds[-1] / largest).tolist()), bound=(0.0,) * 25, across="α", up="promise at most, in A",
    )  # fmt: skip
    return at_most(floors, torch.cat(bounds)).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# A reward model that errs


@theorem(
    section="bounds.md#a-reward-model-that-errs", source=MROUEH,
    broken={"the error is forgotten": {"counted": 0.0}, "the bias with the wrong sign": {"sign": -1.0}},
)  # fmt: skip
def the_true_reward_has_a_floor(lab: Lab, *, counted: float = 1.0, sign: float = 1.0) -> Verdict:
    """J_r(π) ≥ J_r̂(π) - E_ref[r̂ - r] - σ·√(2·KL(π‖ref)), with σ half the range of the error r̂ - r.

    Conditions: the error is bounded, or sub-Gaussian under the reference.
    Proof: J_r̂(π) - J_r(π) = E_π[r̂ - r] ≤ E_ref[r̂ - r] + σ·√(2·KL), by the bound on the gain for the error in the place of r.
    Experiment: 500 pairs of laws, the error uniform on [0, 1], the policy pulled towards it.
    """
    ref, pi, error = _pairs(lab)
    true = lab.uniform("true reward", *error.shape)
    proxy = true + error
    pi = (pi.log() + 2 * error).softmax(-1)
    floors = [
        true_reward_floor(float(j), sign * float(b), counted * max(float(kl), 0.0), sigma=0.5)
        for j, b, kl in zip((pi * proxy).sum(-1), (ref * error).sum(-1), kl_exact(pi.log(), ref.log()), strict=True)
    ]
    return at_least((pi * true).sum(-1), floors)


@theorem(
    "B19.d", section="bounds.md#a-reward-model-that-errs", source="Kwa et al. 2024, https://arxiv.org/abs/2407.14503",
    broken={"an error with lighter tails": {"tail": 0.4}},
)  # fmt: skip
def heavy_tails_escape_every_kl_budget(lab: Lab, *, tail: float = 0.9) -> Verdict:
    """KL(π‖ref) → 0 while E_π[error] → ∞: no KL budget bounds a proxy's error that has heavy tails.

    Proof: Let one answer have probability ε under the reference and error ε^{-0.9}, all others none, so E_ref[error] = ε^{0.1}. The policy
        that gives it √ε has KL ≤ √ε·log(1/√ε) → 0, and E_π[error] = ε^{-0.4} → ∞.
    Experiment: ε = 10⁻² to 10⁻¹⁶; the error must grow tenfold from each to the next but one, while KL falls.
    """
    eps = torch.tensor([10.0 ** (-2 * k) for k in range(1, 9)], dtype=torch.float64)
    q = eps.sqrt()
    kl = q * (q / eps).log() + (1 - q) * ((1 - q) / (1 - eps)).log()
    error = q * eps ** (-tail)
    falls, grows = at_most(kl[1:], kl[:-1]), at_least(error[2:] / error[:-2], 10.0, where="growth of the error")
    curve = Curve(
        x=tuple(kl.tolist()),
        measured=tuple(error.tolist()),
        across="KL (nats)",
        up="E_π[error]",
        log_x=True,
        log_y=True,
    )
    return every(falls, grows).drawn(curve)


@theorem(
    "B19.e", section="bounds.md#a-reward-model-that-errs", source="Gao et al. 2023, https://arxiv.org/abs/2210.10760 (measured there); the world is ours",
    broken={"a reward model without the error": {"error": 0.0}},
)  # fmt: skip
def true_reward_rises_and_then_falls(lab: Lab, *, error: float = 12.0) -> Verdict:
    """Along the optima of a wrong reward the true reward can rise first and fall below its start afterwards, as KL grows.

    Proof: For a small budget the tilt moves along the covariance of true and proxy reward, which is positive; in the end all mass is on
        the answer with the largest proxy, whatever it truly earns.
    Experiment: 200 answers with normal true rewards and one, in truth below their mean, that the reward model overrates; π ∝ ref·e^{r̂/β}.
    """
    true = lab.normal("true", 200)
    true = torch.cat([true - true.mean(), torch.tensor([-0.5], dtype=torch.float64)])
    proxy = torch.cat([true[:-1], true[-1:] + error])
    ref = torch.tensor([1.0] * 200 + [1e-6], dtype=torch.float64)
    ref = ref / ref.sum()
    betas = torch.logspace(1.5, -1.5, 60, dtype=torch.float64)
    pi = (ref.log() + proxy / betas[:, None]).softmax(-1)
    kl, gold = kl_exact(pi.log(), ref.log().expand_as(pi)), pi @ true
    start = float(ref @ true)
    curve = Curve(x=tuple(kl.sqrt().tolist()), measured=tuple(gold.tolist()), across="√KL", up="true reward")
    rises = at_least(gold.max() - start, 0.2, where="the peak above the start")
    return every(rises, at_most(gold[-1] - start, -0.1, where="the end below the start")).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# What an evaluation can say


@theorem(
    "B20.a", section="bounds.md#evaluation-intervals", source="Hoeffding 1963, https://doi.org/10.1080/01621459.1963.10500830",
    broken={"half the range": {"range_of": 0.5}},
)  # fmt: skip
def hoeffding_covers(lab: Lab, *, range_of: float = 1.0) -> Verdict:
    """mean ± √(log(2/α)/(2n)) covers the mean of values in [0, 1] with probability at least 1 - α.

    Proof: P(|mean - p| ≥ t) ≤ 2·e^{-2nt²}; solve for t.
    Experiment: 40 values of 0 and 1, 199 success rates, coverage as a sum over the binomial law; α = 0.05.
    """
    half = range_of * math.sqrt(math.log(2 / (1 - CONFIDENCE)) / (2 * SAMPLES))

    def interval(c: int) -> tuple[float, float]:
        if range_of == 1:
            return _ends(hoeffding(_outcomes(c), confidence=CONFIDENCE))
        return c / SAMPLES - half, c / SAMPLES + half

    return _covers(interval)


@theorem(
    "B20.b", section="bounds.md#evaluation-intervals", source="Maurer and Pontil 2009, https://arxiv.org/abs/0907.3740",
    broken={"without its second term": {"second": False}},
)  # fmt: skip
def empirical_bernstein_covers(lab: Lab, *, second: bool = True) -> Verdict:
    """mean ± (√(2s²·log(4/α)/n) + 7·log(4/α)/(3(n-1))) covers with probability at least 1 - α.

    Proof: Bernstein's inequality with the sample variance in the place of the variance, which itself is bounded with half of α.
    Experiment: as for Hoeffding's.
    """

    def interval(c: int) -> tuple[float, float]:
        p = c / SAMPLES
        half = math.sqrt(2 * p * (1 - p) * SAMPLES / (SAMPLES - 1) * math.log(4 / (1 - CONFIDENCE)) / SAMPLES)
        return _ends(empirical_bernstein(_outcomes(c), confidence=CONFIDENCE)) if second else (p - half, p + half)

    return _covers(interval)


@theorem(
    "B20.c", section="bounds.md#evaluation-intervals", source="Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404",
    broken={"α on each side": {"confidence": 0.9}},
)  # fmt: skip
def clopper_pearson_covers(lab: Lab, *, confidence: float = CONFIDENCE) -> Verdict:
    """Clopper and Pearson's interval covers a success rate with probability at least 1 - α, whatever the rate.

    Proof: Each end is the rate at which an outcome as extreme would have probability α/2: p is outside on a side only if an event of
        probability at most α/2 happened.
    Experiment: as for Hoeffding's.
    """
    return _covers(lambda c: _ends(clopper_pearson(c, SAMPLES, confidence=confidence)))


@theorem(
    "B20.d", section="bounds.md#evaluation-intervals", source="Brown et al. 2001, https://doi.org/10.1214/ss/1009213286",
    broken={"Clopper and Pearson's in its place": {"exact": True}},
)  # fmt: skip
def wald_does_not_cover(lab: Lab, *, exact: bool = False) -> Verdict:
    """p̂ ± 1.96·√(p̂(1-p̂)/n) covers some success rates with less than half of the probability that it claims.

    Proof: Near 0 the likeliest outcome is no success at all, and the interval there has no width.
    Experiment: as for Hoeffding's; the least coverage over the rates.
    """

    def wald(c: int) -> tuple[float, float]:
        p = c / SAMPLES
        half = 1.959964 * math.sqrt(p * (1 - p) / SAMPLES)
        return p - half, p + half

    return at_most(_coverage((lambda c: _ends(clopper_pearson(c, SAMPLES))) if exact else wald).min(), CONFIDENCE / 2)


@theorem(
    "B20.e", section="bounds.md#evaluation-intervals", source="Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; Brown et al. 2001",
    broken={"Clopper and Pearson's in its place": {"exact": True}},
)  # fmt: skip
def wilson_covers_on_average_only(lab: Lab, *, exact: bool = False) -> Verdict:
    """Wilson's interval covers some success rates with less probability than it claims, by more than 2 %.

    Proof: It inverts a normal approximation, which is wrong near 0 and 1.
    Experiment: as for Hoeffding's; the least coverage over the rates.
    """

    def wilson(c: int) -> tuple[float, float]:
        z2, p = 1.959964**2, c / SAMPLES
        centre = (p + z2 / (2 * SAMPLES)) / (1 + z2 / SAMPLES)
        half = math.sqrt(z2 * (p * (1 - p) / SAMPLES + z2 / (4 * SAMPLES**2))) / (1 + z2 / SAMPLES)
        return centre - half, centre + half

    coverage = _coverage((lambda c: _ends(clopper_pearson(c, SAMPLES))) if exact else wilson)
    curve = Curve(
        x=tuple(RATES.tolist()),
        measured=tuple(coverage.tolist()),
        bound=(CONFIDENCE,) * len(RATES),
        across="p",
        up="coverage",
    )
    return at_most(coverage.min(), CONFIDENCE - 0.02).drawn(curve)


@theorem(
    "B20.f", section="bounds.md#evaluation-intervals", source="Chen et al. 2021, https://arxiv.org/abs/2107.03374",
    broken={"the plug-in 1 - (1 - c/n)^k": {"plug_in": True}},
)  # fmt: skip
def pass_at_k_is_unbiased(lab: Lab, *, plug_in: bool = False) -> Verdict:
    """E[1 - C(n-c, k)/C(n, k)] = 1 - (1-p)^k for c of n answers right.

    Proof: C(n-c, k)/C(n, k) is the share of k-subsets of the n answers without a right one, and each subset has none with (1-p)^k.
    Experiment: n = 12, k = 1 to 8, 199 success rates, the mean as a sum over the binomial law.
    """
    estimated = pass_at_k_plug_in if plug_in else pass_at_k
    n = 12
    law = _binomial(n)
    means = [law @ torch.tensor([estimated(n, c, k) for c in range(n + 1)], dtype=torch.float64) for k in range(1, 9)]
    return equal(torch.stack(means), torch.stack([1 - (1 - RATES) ** k for k in range(1, 9)]))


@theorem(
    "B20.g", section="bounds.md#evaluation-intervals", source="derived here: a monotone map carries an interval over",
    broken={"the interval of pass@k for pass@2k": {"times": 2}},
)  # fmt: skip
def an_interval_of_pass_at_k_covers(lab: Lab, *, times: int = 1) -> Verdict:
    """1 - (1 - low)^k and 1 - (1 - high)^k cover pass@k with probability at least 1 - α, if low and high cover p.

    Proof: p ↦ 1 - (1-p)^k rises, so p lies between low and high exactly if pass@k lies between their images.
    Experiment: n = 40, k = 8, 199 success rates, coverage as a sum over the binomial law.
    """
    k = 8
    ends = [_ends(pass_at_k_interval(SAMPLES, c, k)) for c in range(SAMPLES + 1)]
    target = 1 - (1 - RATES) ** (k * times)
    inside = torch.stack([(low - 1e-12 <= target) & (target <= high + 1e-12) for low, high in ends], -1)
    return at_least((_binomial(SAMPLES) * inside).sum(-1), CONFIDENCE)


@theorem(
    section="bounds.md#comparing-two-models", source="McNemar 1947, https://doi.org/10.1007/BF02295996",
    broken={"one tail for two": {"tails": 0.5}},
)  # fmt: skip
def mcnemars_test_keeps_its_level(lab: Lab, *, tails: float = 1.0) -> Verdict:
    """P(p-value ≤ α) ≤ α for every α where gained and lost prompts are equally likely.

    Proof: Given b + c, b is binomial with ½; the p-value is the probability of an outcome as far out on either side.
    Experiment: 1 to 30 prompts that changed, every split of them, every level that a p-value takes.
    """
    rejected, levels = [], []
    for m in range(1, 31):
        values = torch.tensor([tails * mcnemar_exact(b, m - b) for b in range(m + 1)], dtype=torch.float64)
        law = torch.tensor([math.comb(m, b) / 2**m for b in range(m + 1)], dtype=torch.float64)
        for level in values.unique():
            if level < 1 and (tails == 1 or level < 0.5):
                rejected.append(law[values <= level].sum())
                levels.append(level)
    return at_most(torch.stack(rejected), torch.stack(levels))


@theorem(
    section="bounds.md#comparing-two-models", source="the variance of a difference",
    broken={"the two as if they were independent": {"paired": False}},
)  # fmt: skip
def pairing_takes_the_covariance_out(lab: Lab, *, paired: bool = True) -> Verdict:
    """Var(after - before) = P(they differ) - (E after - E before)², for outcomes of 0 and 1 on the same prompts.

    Proof: (after - before)² is 1 exactly where they differ. It equals Var(after) + Var(before) - 2·Cov: prompts that are hard for both drop out.
    Experiment: 200 joint laws of two outcomes.
    """
    joint = lab.simplex("joint", 200, 4)  # (before, after) = 00, 01, 10, 11
    before, after = joint[:, 2] + joint[:, 3], joint[:, 1] + joint[:, 3]
    differ = joint[:, 1] + joint[:, 2]
    cov = joint[:, 3] - before * after
    variance = after * (1 - after) + before * (1 - before) - (2 * cov if paired else 0.0)
    return equal(variance, differ - (after - before) ** 2)


@theorem(
    section="bounds.md#comparing-two-models", source="Student 1908",
    broken={"without the covariance": {"paired": False}},
)  # fmt: skip
def a_paired_interval_is_narrower_by_the_covariance(lab: Lab, *, paired: bool = True) -> Verdict:
    """width of `paired_means` = 2t·√((s_b² + s_a² - 2·s_ba)/n): below that of two separate sets wherever hard prompts are hard for both.

    Proof: The variance of a difference, which Student's interval takes from the sample.
    Experiment: 100 comparisons on 20 prompts, half of a score is how hard the prompt is; the library's interval.
    """
    n = 20
    hard = lab.uniform("prompts", 100, n)
    before, after = ((hard + lab.uniform(name, 100, n)) / 2 for name in ("before", "after"))
    found = [paired_means(b, a, confidence=CONFIDENCE) for b, a in zip(before.tolist(), after.tolist(), strict=True)]
    centred = [x - x.mean(-1, keepdim=True) for x in (before, after)]
    s_b, s_a, s_ba = ((x * y).sum(-1) / (n - 1) for x, y in (centred[:1] * 2, centred[1:] * 2, centred))
    stated = 2 * estimate.t_quantile(n - 1, CONFIDENCE) * ((s_b + s_a - 2 * paired * s_ba) / n).sqrt()
    return equal([i.high - i.low for i in found], stated, 1e-10)


@theorem(
    section="bounds.md#comparing-two-models", source="the law of total variance; Miller 2024, https://arxiv.org/abs/2411.00640",
    broken={"every answer as if it had a prompt of its own": {"clustered": False}},
)  # fmt: skip
def answers_to_one_prompt_are_one_draw(lab: Lab, *, clustered: bool = True) -> Verdict:
    """Var(mean over M prompts of n answers each) = (Var_q(p_q) + E_q[p_q(1-p_q)]/n)/M.

    Proof: Given the prompts, a prompt's mean has variance p_q(1-p_q)/n; between prompts it varies as p_q does.
    Experiment: M = 2 prompts drawn from 4, n = 3 answers each; the mean's law by enumeration.
    """
    q, p, n, drawn = lab.simplex("prompts", 4), lab.uniform("difficulties", 4), 3, 2
    counts = torch.arange(n + 1, dtype=torch.float64)
    choose = torch.tensor([math.comb(n, c) for c in range(n + 1)], dtype=torch.float64)
    law = q @ (
        choose * p[:, None] ** counts * (1 - p[:, None]) ** (n - counts)
    )  # of one prompt's number of right answers
    means = (counts[:, None] + counts[None]) / (drawn * n)
    joint = law[:, None] * law[None]
    centre = (joint * means).sum()
    average = q @ p
    stated = (
        (q @ (p - average) ** 2 + (q @ (p * (1 - p))) / n) / drawn
        if clustered
        else average * (1 - average) / (drawn * n)
    )
    return equal((joint * (means - centre) ** 2).sum(), stated)


@theorem(
    "B30", section="bounds.md#the-winners-curse", source="the maximal inequality of sub-Gaussian variables, as in Massart 2000",
    broken={"√(log N) for √(2·log N)": {"twice": 1.0}},
)  # fmt: skip
def the_best_of_many_scores_is_inflated(lab: Lab, *, twice: float = 2.0) -> Verdict:
    """E[max of N scores' noise] ≤ σ·√(2·log N).

    Proof: e^{λ·E max} ≤ E e^{λ·max} ≤ N·e^{λ²σ²/2}; take logarithms and λ = √(2·log N)/σ.
    Experiment: normal noise, N = 2 to 256, E max by integrating 1 - Φᴺ numerically.
    """
    x = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    phi = torch.special.ndtr(x)
    sizes = (2, 4, 16, 64, 256)
    measured = [float(torch.trapezoid((x > 0).double() - phi**n, x)) for n in sizes]
    bounds = [selection_bias(n) * math.sqrt(twice / 2) for n in sizes]
    curve = Curve(
        x=sizes, measured=tuple(measured), bound=tuple(bounds), across="candidates", up="E max, in σ", log_x=True
    )
    return at_most(measured, bounds).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------


def _best_kl(ref: Tensor, rewards: Tensor, n: int) -> Tensor:
    """`[M]` KL of the best of n from each law `[M, K]`; answers that earn the same share what falls to them as the reference does."""
    levels, place = rewards.unique(return_inverse=True)
    mass = torch.zeros(len(ref), len(levels), dtype=torch.float64).index_add(1, place, ref)
    upto = mass.cumsum(-1).clamp(max=1)
    best = upto**n - (upto - mass).clamp(min=0) ** n
    return torch.special.xlogy(best, best / mass).nan_to_num(0.0).sum(-1)


def _rank_tilt(lam: Tensor) -> tuple[Tensor, Tensor]:
    """(win rate against the reference, KL) of a policy ∝ ref·e^{λu}, where the rank u is uniform under the reference."""
    win = 1 / (1 - (-lam).exp()) - 1 / lam
    return win, lam * win - (lam.expm1() / lam).log()


def _pairs(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    """References, policies and rewards in [0, 1], `[M, 8]` each: random ones, near and far, and tilts of a fair coin."""
    m, k = 500, 8
    ref, other, rewards = lab.simplex("reference", m, k), lab.simplex("policy", m, k), lab.uniform("rewards", m, k)
    near = 0.02 + 0.98 * lab.uniform("near", m, 1) ** 2
    pi = (1 - near) * ref + near * other
    t = torch.logspace(-3, 0.5, 50, dtype=torch.float64)
    coin = torch.tensor([0.5, 0.5, *[1e-300] * (k - 2)], dtype=torch.float64).expand(50, k)
    earned = torch.tensor([1.0, *[0.0] * (k - 1)], dtype=torch.float64).expand(50, k)
    tilted = (coin.log() + t[:, None] * earned).softmax(-1)
    return torch.cat([ref, coin]), torch.cat([pi, tilted]), torch.cat([rewards, earned])


def _outcomes(successes: int) -> list[float]:
    return [1.0] * successes + [0.0] * (SAMPLES - successes)


def _ends(found: estimate.Interval) -> tuple[float, float]:
    return found.low, found.high


def _binomial(n: int) -> Tensor:
    """`[rates, n + 1]` probability of each number of successes."""
    c = torch.arange(n + 1, dtype=torch.float64)
    choose = torch.tensor([math.comb(n, i) for i in range(n + 1)], dtype=torch.float64)
    return choose * RATES[:, None] ** c * (1 - RATES[:, None]) ** (n - c)


def _coverage(interval: Interval) -> Tensor:
    """Of each rate."""
    ends = [interval(c) for c in range(SAMPLES + 1)]
    inside = torch.stack([(low - 1e-12 <= RATES) & (high + 1e-12 >= RATES) for low, high in ends], -1)
    return (_binomial(SAMPLES) * inside).sum(-1)


def _covers(interval: Interval) -> Verdict:
    coverage = _coverage(interval)
    curve = Curve(
        x=tuple(RATES.tolist()),
        measured=tuple(coverage.tolist()),
        bound=(CONFIDENCE,) * len(RATES),
        across="p",
        up="coverage",
    )
    return at_least(coverage, CONFIDENCE, where="success rates").drawn(curve)
