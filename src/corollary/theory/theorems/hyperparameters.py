"""docs/theory/hyperparameters.md: starting values that follow from theory: β, learning rate, batch, group, clip range, sample sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corollary.losses.preference import cdpo, dpo
from corollary.ops.bounds import (
    clip_range_kl,
    gain_at_kl,
    kl_coefficient,
    kl_coefficient_of,
    learning_rate_for_kl,
    optimum_kl,
    selection_bias,
)
from corollary.ops.kl import kl_exact
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import gradient_of
from corollary.theory.verdict import Curve, Verdict, at_least, at_most, equal, every, within

BUDGETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3)  # nats
ALPHA, POWER = 1.959963984540054, 0.8416212335729143  # normal quantiles at 97.5 % and 80 %


# ---------------------------------------------------------------------------------------------------------------------
# The clip range


@theorem(
    "B25.a", section="hyperparameters.md#the-clip-range", source="derived here",
    broken={"half the square of the range": {"second_order": True}, "the other direction's bound": {"direction": "old_new"}},
)  # fmt: skip
def ratios_in_a_range_bound_the_kl_of_the_new(
    lab: Lab, *, second_order: bool = False, direction: str = "new_old"
) -> Verdict:
    """1-ε_l ≤ π/π_old ≤ 1+ε_h ⇒ KL(π‖π_old) ≤ [ε_l(1+ε_h)log(1+ε_h) + ε_h(1-ε_l)log(1-ε_l)]/(ε_l+ε_h), and two tokens attain it.

    Proof: KL = E_old[ρ·log ρ], ρ·log ρ is convex and E_old[ρ] = 1: the chord between the two ends is above it.
    Experiment: 300 random ranges with 20 distributions each, and the two-point one; the library's `clip_range_kl`.
    """
    return _clip_range(lab, reverse=False, second_order=second_order, bound=direction)


@theorem(
    "B25.b", section="hyperparameters.md#the-clip-range", source="derived here",
    broken={"half the square of the range": {"second_order": True}, "the other direction's bound": {"direction": "new_old"}},
)  # fmt: skip
def ratios_in_a_range_bound_the_kl_of_the_old(
    lab: Lab, *, second_order: bool = False, direction: str = "old_new"
) -> Verdict:
    """1-ε_l ≤ π/π_old ≤ 1+ε_h ⇒ KL(π_old‖π) ≤ -[ε_l·log(1+ε_h) + ε_h·log(1-ε_l)]/(ε_l+ε_h), and two tokens attain it.

    Proof: KL = -E_old[log ρ], -log ρ is convex and E_old[ρ] = 1: the chord between the two ends is above it.
    Experiment: 300 random ranges with 20 distributions each, and the two-point one; the library's `clip_range_kl`.
    """
    return _clip_range(lab, reverse=True, second_order=second_order, bound=direction)


@theorem(
    section="hyperparameters.md#the-clip-range", source="derived here",
    broken={"the budget by the length": {"root": False}, "without the two": {"two": 1.0}},
)  # fmt: skip
def a_clip_range_of_a_budget(lab: Lab, *, root: bool = True, two: float = 2.0) -> Verdict:
    """ε = √(2K/T) keeps T tokens whose ratios stay within 1 ± ε to K nats, up to a factor 1 + O(ε²).

    Proof: Both bounds of B25 are ε²/2 + O(ε⁴) at ε_l = ε_h = ε; KL of an answer is a sum over its tokens.
    Experiment: budgets of 1/10 to 2 nats over 100 to 10,000 tokens; T times the library's bound.
    """
    used, budgets = [], []
    for length in (100, 1000, 10_000):
        for budget in (0.1, 0.5, 1.0, 2.0):
            eps = math.sqrt(two * budget / length) if root else budget / length
            used.append(length * clip_range_kl(clip_low=eps, clip_high=eps) / budget)
            budgets.append(1.0)
    x = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
    curve = Curve(
        x=x, measured=tuple(clip_range_kl(clip_low=e, clip_high=e) for e in x), bound=tuple(e**2 / 2 for e in x),
        across="ε", up="KL per token, and ε²/2", log_x=True, log_y=True,
    )  # fmt: skip
    return within(torch.tensor(used), torch.tensor(budgets), 0.02, where="nats used over budget").drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# β from a budget of KL


@theorem(
    section="hyperparameters.md#beta-from-a-budget-of-kl", source="derived here",
    broken={"by the expansion for small KL": {"solved": False}, "a reward less its mean, not divided": {"scaled": False}},
)  # fmt: skip
def beta_spends_the_budget(lab: Lab, *, solved: bool = True, scaled: bool = True) -> Verdict:
    """KL(π*‖ref) = K for the β that solves E_w[r]/β - log mean e^{r/β} = K, w ∝ e^{r/β}: one β for each budget.

    Conditions: K < log(n/number of best answers).
    Proof: B6: π* = ref·e^{r/β}/Z has this KL; dKL/dβ = -Var_{π*}(r)/β³ < 0, so that it takes each value once.
    Experiment: a token tree under the uniform reference; the library's β, the optimum's KL by enumeration.
    """
    world = lab.tree()
    rewards = world.rewards.tolist()
    sigma = float(world.rewards.std(correction=0))
    uniform = torch.zeros(len(rewards), dtype=torch.float64)
    reached, predicted = [], []
    for budget in BUDGETS:
        beta = kl_coefficient_of(rewards, budget) if solved else kl_coefficient(budget, sigma=sigma)
        tilted = world.rewards / (beta if scaled else 1.0)
        reached.append(float(kl_exact(tilted, uniform)))
        predicted.append(optimum_kl(rewards, kl_coefficient(budget, sigma=sigma)))
    curve = Curve(
        x=BUDGETS, measured=tuple(predicted), bound=BUDGETS, across="budget, nats", up="KL spent by β = σ/√(2K)",
        log_x=True, log_y=True,
    )  # fmt: skip
    return equal(reached, BUDGETS, tolerance=1e-9).drawn(curve)


@theorem(
    section="hyperparameters.md#beta-from-a-budget-of-kl", source="derived here",
    broken={"β squared": {"power": 2}, "the reference's variance": {"tilted": False}},
)  # fmt: skip
def kl_falls_with_beta_by_a_variance(lab: Lab, *, power: int = 3, tilted: bool = True) -> Verdict:
    """dKL(π*_β‖ref)/dβ = -Var_{π*}(r)/β³, and dE_{π*}[r]/dβ = -Var_{π*}(r)/β².

    Proof: With θ = 1/β, log Z has the derivatives E_{π*}[r] and Var_{π*}(r); KL = θ·E[r] - log Z, so dKL/dθ = θ·Var.
    Experiment: a token tree and a normal reference, β = 1/2; by automatic differentiation.
    """
    world = lab.tree()
    ref = world.sequence_logprobs(lab.policy(world))
    beta = torch.tensor(0.5, dtype=torch.float64)
    slope = gradient_of(lambda b: kl_exact(ref + world.rewards / b, ref), beta)
    gain = gradient_of(lambda b: (ref + world.rewards / b).softmax(-1) @ world.rewards, beta)
    weights = (ref + world.rewards / beta).softmax(-1) if tilted else ref.exp()
    mean = weights @ world.rewards
    variance = weights @ (world.rewards - mean).square()
    return every(equal(slope, -variance / beta**power), equal(gain, -variance / beta ** (power - 1)))


@theorem(
    section="hyperparameters.md#beta-from-a-budget-of-kl", source="Donsker and Varadhan 1975; the limit derived here",
    broken={"at 1/10 nat": {"budget": 0.1, "close": 1e-6}, "without the two": {"two": 1.0}},
)  # fmt: skip
def a_small_budget_buys_the_most(lab: Lab, *, budget: float = 1e-8, close: float = 1e-3, two: float = 2.0) -> Verdict:
    """(E_{π*}[r] - E_ref[r])/(σ·√(2K)) → 1 as the budget K → 0, σ² = Var_ref(r): the optimum reaches what KL allows.

    Proof: To second order KL = Var/2β² and the gain is Var/β; eliminate β.
    Experiment: a token tree under the uniform reference, K = 10⁻⁸ nats; the library's β.
    """
    world = lab.tree()
    beta = kl_coefficient_of(world.rewards.tolist(), budget)
    weights = (world.rewards / beta).softmax(-1)
    sigma = float(world.rewards.std(correction=0))
    gain = float((weights - 1 / len(weights)) @ world.rewards)
    most = gain_at_kl(budget * two / 2, sigma=sigma)
    return within(gain, most, close)


@theorem(
    section="hyperparameters.md#beta-of-dpo-from-label-noise", source="derived here; Mitchell 2023",
    broken={"β left out": {"beta_counts": False}, "the odds, without the logarithm": {"logarithm": False}},
)  # fmt: skip
def flipped_labels_bound_dpos_margin(lab: Lab, *, beta_counts: bool = True, logarithm: bool = True) -> Verdict:
    """argmin_Δ of (1-ε)·DPO(Δ) + ε·DPO(-Δ) is Δ = logit(1-ε)/β nats: of labels a share ε of which is flipped.

    Proof: The derivative -(1-ε)βσ(-βΔ) + εβσ(βΔ) = β(σ(βΔ) - (1-ε)) vanishes there alone; the mixture is strictly convex.
    Experiment: ε from 1/100 to 4/10 and β from 1/100 to 1; the derivative of the library's DPO there. cDPO has the same minimum.
    """
    slopes, soft = [], []
    for noise in (0.01, 0.05, 0.1, 0.2, 0.4):
        for beta in (0.01, 0.1, 0.3, 1.0):
            odds = (1 - noise) / noise
            margin = (math.log(odds) if logarithm else odds) / (beta if beta_counts else 1.0)
            at = torch.tensor([margin], dtype=torch.float64)
            none = torch.zeros(1, dtype=torch.float64)

            def noisy(d: Tensor, noise: float = noise, beta: float = beta, none: Tensor = none) -> Tensor:
                right, wrong = dpo(d, none, none, none, beta=beta).loss, dpo(none, d, none, none, beta=beta).loss
                return ((1 - noise) * right + noise * wrong).sum()

            def smooth(d: Tensor, noise: float = noise, beta: float = beta, none: Tensor = none) -> Tensor:
                return cdpo(d, none, none, none, beta=beta, flip_rate=noise).loss.sum()

            slopes.append(float(gradient_of(noisy, at)) / beta)
            soft.append(float(gradient_of(smooth, at)) / beta)
    x = torch.linspace(0.005, 0.45, 90, dtype=torch.float64)
    curve = Curve(
        x=tuple(x.tolist()), measured=tuple((-x.logit() / 0.1).tolist()), across="share of flipped labels ε",
        up="margin at β = 0.1, nats", log_y=True,
    )  # fmt: skip
    return every(equal(slopes, 0.0), equal(soft, 0.0)).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# The learning rate


@theorem(
    section="hyperparameters.md#the-learning-rate-from-one-probe", source="derived here from Amari 1998, https://doi.org/10.1162/089976698300017746",
    broken={"in proportion to KL": {"linear": True}},
)  # fmt: skip
def one_probe_finds_the_learning_rate(lab: Lab, *, linear: bool = False) -> Verdict:
    """KL(π_θ‖π_{θ+ηd}) = K at η = η_0·√(K/K_0) where one step of η_0 has moved K_0: for the gradient and for its signs.

    Conditions: small steps; within 5 % here.
    Proof: KL is ½η²·dᵀFd + O(η³), B26: the unknown Fisher form cancels between the two steps.
    Experiment: a token tree; a probe that moves about 10⁻⁵ nats, a target ten times above; the library's rule.
    """
    world = lab.tree()
    theta = lab.policy(world)
    slope = gradient_of(world.expected_reward, theta)
    verdicts = []
    for way in (slope / slope.norm(), slope.sign() / slope.numel()):
        curvature = float(world.kl(theta, theta + 1e-3 * way)) / 1e-6
        probe = math.sqrt(1e-5 / curvature)
        measured = float(world.kl(theta, theta + probe * way))
        target = 10 * measured
        lr = probe * target / measured if linear else learning_rate_for_kl(probe, measured, target)
        verdicts.append(within(world.kl(theta, theta + lr * way), target, 0.05))
    x = torch.logspace(-3, 0.5, 30, dtype=torch.float64).tolist()
    moved = [float(world.kl(theta, theta + h * slope / slope.norm())) for h in x]
    law = [moved[0] * (h / x[0]) ** 2 for h in x]
    curve = Curve(
        x=tuple(x), measured=tuple(moved), bound=tuple(law), across="length of the step", up="KL of a step", log_x=True, log_y=True
    )  # fmt: skip
    return every(*verdicts).drawn(curve)


@theorem(
    section="hyperparameters.md#several-steps-on-one-rollout", source="derived here",
    broken={"drift in proportion to the steps": {"power": 1}},
)  # fmt: skip
def steps_one_way_drift_by_their_square(lab: Lab, *, power: int = 2) -> Verdict:
    """KL(π_0‖π_K) = K²·KL(π_0‖π_1)·(1 + o(1)) after K equal small steps: K ≤ √(KL_max/KL_step) minibatches of one rollout.

    Conditions: the steps agree in direction, as those on one rollout nearly do; within 5 % here.
    Proof: K steps of ηd are one step of Kηd; KL is quadratic in its length, B26.
    Experiment: a token tree, 8 steps along exact gradients, recomputed at each; the first moves about 10⁻⁷ nats.
    """
    world = lab.tree()
    theta = lab.policy(world)
    slope = gradient_of(world.expected_reward, theta)
    curvature = float(world.kl(theta, theta + 1e-3 * slope / slope.norm())) / 1e-6
    eta = math.sqrt(1e-7 / curvature) / float(slope.norm())
    here, drift = theta, []
    for _ in range(8):
        here = here + eta * gradient_of(world.expected_reward, here)
        drift.append(float(world.kl(theta, here)))
    law = [drift[0] * k**power for k in range(1, 9)]
    curve = Curve(
        x=tuple(float(k) for k in range(1, 9)), measured=tuple(drift), bound=tuple(law), across="steps K", up="KL from the start"
    )  # fmt: skip
    return within(torch.tensor(drift) / torch.tensor(law), torch.ones(8), 0.05).drawn(curve)


@theorem(
    section="hyperparameters.md#several-steps-on-one-rollout", source="derived here",
    broken={"drift by the square of the steps": {"power": 2}, "steps that agree": {"independent": False}},
)  # fmt: skip
def steps_of_noise_drift_in_proportion(lab: Lab, *, power: int = 1, independent: bool = True) -> Verdict:
    """E KL(π_0‖π_K) = K·E KL(π_0‖π_1)·(1 + o(1)) after K small steps of independent directions with mean 0.

    Proof: ½·E[(Σd)ᵀF(Σd)] = ½·Σ E[dᵀFd]: the products of different steps have mean 0.
    Experiment: a token tree, 6 random directions of about 3·10⁻⁴, each taken forwards or backwards: all 64 walks.
    """
    world = lab.tree()
    theta = lab.policy(world)
    ways = 3e-4 * lab.normal("directions", 6, *theta.shape)
    if not independent:
        ways = ways[:1].expand_as(ways)
    signs = (
        torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 6) if independent else torch.ones(2, 6)
    )
    each = [float(world.kl(theta, theta + way)) for way in ways]
    ends = torch.einsum("wk,knv->wnv", signs.double(), ways)
    drift = float(torch.func.vmap(lambda end: world.kl(theta, theta + end))(ends).mean())
    return within(drift, sum(each) * 6 ** (power - 1), 0.05)


# ---------------------------------------------------------------------------------------------------------------------
# The batch


@theorem(
    section="hyperparameters.md#the-batch-and-its-noise-scale", source="McCandlish et al. 2018, https://arxiv.org/abs/1812.06162",
    broken={"in proportion to the batch without end": {"saturates": False}, "the noise without the curvature": {"curved": False}},
)  # fmt: skip
def the_best_step_saturates_with_the_batch(lab: Lab, *, saturates: bool = True, curved: bool = True) -> Verdict:
    """η(B) = η_max/(1 + B*/B) minimises E L(θ - η·g_B) of a quadratic, η_max = ‖G‖²/GᵀHG and B* = tr(HΣ)/GᵀHG.

    Conditions: L has the Hessian H; g_B is a mean of B independent gradients with mean G and covariance Σ.
    Proof: E L = L - η‖G‖² + ½η²(GᵀHG + tr(HΣ)/B), a parabola in η.
    Experiment: four examples, H random, every batch of B = 1, 2, 3 and 4 enumerated; the derivative of the mean loss in η there.
    """
    h = lab.normal("curvature", 3, 3)
    h = h @ h.T + 0.1 * torch.eye(3, dtype=torch.float64)
    examples = lab.normal("examples", 4, 3)
    g = examples.mean(0)
    sigma = (examples - g).T @ (examples - g) / 4
    bend, noise = float(g @ h @ g), float((h @ sigma).trace())
    scale = (noise if curved else float(sigma.trace() * bend / (g @ g))) / bend
    top = float(g @ g) / bend
    slopes, best = [], []
    for batch in (1, 2, 3, 4):
        rows = torch.cartesian_prod(*[torch.arange(4)] * batch).reshape(-1, batch)
        means = examples[rows].mean(1)
        eta = top / (1 + scale / batch) if saturates else batch * top / (1 + scale)
        best.append(eta)
        linear, square = means @ g, torch.einsum("mi,ij,mj->m", means, h, means)
        slopes.append(float((-linear + eta * square).mean()) / float(g @ g))
    b = torch.logspace(-1, 2, 40, dtype=torch.float64)
    curve = Curve(
        x=tuple(b.tolist()), measured=tuple((1 / (1 + 1 / b)).tolist()), bound=tuple(b.clamp(max=1.0).tolist()),
        across="B / B*", up="η / η_max, and the line that it bends away from", log_x=True, log_y=True,
    )  # fmt: skip
    return equal(slopes, 0.0).drawn(curve)


@theorem(
    section="hyperparameters.md#the-batch-and-its-noise-scale", source="McCandlish et al. 2018, https://arxiv.org/abs/1812.06162, appendix A",
    broken={"the square of one batch's gradient": {"corrected": False}, "deviations as if both had one size": {"weighed": False}},
)  # fmt: skip
def two_batch_sizes_measure_the_noise_scale(lab: Lab, *, corrected: bool = True, weighed: bool = True) -> Verdict:
    """E[2‖g_{2B}‖² - ‖g_B‖²] = ‖G‖² and E[2B·(‖g_B‖² - ‖g_{2B}‖²)] = tr Σ: both unbiased; ‖g_B‖² alone is too large by tr Σ/B.

    Proof: E‖g_B‖² = ‖G‖² + tr Σ/B for a mean of B independent gradients; two equations in two unknowns.
    Experiment: five examples, B = 2, every batch of 2 and of 4 enumerated.
    """
    examples = lab.normal("examples", 5, 4)
    g = examples.mean(0)
    spread = (examples - g).square().sum() / 5
    small, large = (
        examples[torch.cartesian_prod(*[torch.arange(5)] * n)].mean(1).square().sum(-1).mean() for n in (2, 4)
    )
    norm = 2 * large - small if corrected else small
    trace = (4 if weighed else 2) * (small - large)
    return every(equal(norm, g @ g), equal(trace, spread))


@theorem(
    section="hyperparameters.md#the-batch-and-its-noise-scale", source="McCandlish et al. 2018, https://arxiv.org/abs/1812.06162",
    broken={"the whole of the gain": {"half": 1.0}},
)  # fmt: skip
def at_the_noise_scale_a_step_gains_half(lab: Lab, *, half: float = 0.5) -> Verdict:
    """The best step's mean gain is ΔL(B) = ΔL_max/(1 + B*/B): half of ΔL_max at B = B*.

    Proof: Put η(B) into the parabola: ΔL = ½‖G‖⁴/(GᵀHG + tr(HΣ)/B).
    Experiment: 200 quadratics; the parabola's minimum on a grid of 2,001 steps with its neighbourhood.
    """
    gradients = lab.normal("gradients", 200, 3)
    curvature = 0.1 + lab.uniform("curvature", 200, 3)
    noise = 0.1 + lab.uniform("noise", 200, 3)
    bend = (curvature * gradients.square()).sum(-1)
    square = gradients.square().sum(-1)
    scale = (curvature * noise).sum(-1) / bend
    top = square**2 / (2 * bend)
    shares = torch.linspace(0, 1, 2_001, dtype=torch.float64)[:, None]
    eta = shares * square / bend
    gain = (eta * square - eta**2 / 2 * (bend + (curvature * noise).sum(-1) / scale)).amax(0)
    return equal(gain / top, half, tolerance=1e-8)


# ---------------------------------------------------------------------------------------------------------------------
# Groups and samples


@theorem(
    section="hyperparameters.md#the-size-of-a-group", source="derived here",
    broken={"one over p answers": {"rule": "one over p"}, "as if 1-p were e^-p": {"rule": "exponential"}},
)  # fmt: skip
def the_group_that_sees_a_success(lab: Lab, *, rule: str = "logarithm") -> Verdict:
    """⌈log δ/log(1-p)⌉ is the least G for which a group holds a right answer with probability 1-δ or more.

    Proof: All G answers are wrong with probability (1-p)^G ≤ δ.
    Experiment: p from 1/100 to 1/2, δ from 1/2 to 1/1000; the least G by counting up.
    """
    found, law = [], []
    for p in (0.01, 0.03, 0.1, 0.25, 0.5):
        for miss in (0.5, 0.1, 0.01, 0.001):
            size, wrong = 1, 1 - p
            while wrong > miss * (1 + 1e-12):
                size, wrong = size + 1, wrong * (1 - p)
            found.append(float(size))
            exact = {
                "logarithm": math.log(miss) / math.log1p(-p),
                "one over p": 1 / p,
                "exponential": -math.log(miss) / p,
            }
            law.append(float(math.ceil(exact[rule] - 1e-9)))
    x = torch.logspace(-2, -0.3, 40, dtype=torch.float64)
    curve = Curve(
        x=tuple(x.tolist()), measured=tuple((math.log(0.1) / torch.log1p(-x)).tolist()), bound=tuple((1 / x).tolist()),
        across="p", up="G at δ = 1/10, and 1/p", log_x=True, log_y=True,
    )  # fmt: skip
    return equal(law, found).drawn(curve)


@theorem(
    section="hyperparameters.md#the-cap-of-importance-weights", source="derived here from Metelli et al. 2018, https://arxiv.org/abs/1809.06098",
    broken={"KL per token in place of D₂": {"order": 1}, "as if worth fell in proportion": {"exponential": False}},
)  # fmt: skip
def weights_of_whole_answers_end_at_a_length(lab: Lab, *, order: int = 2, exponential: bool = True) -> Verdict:
    """⌊log(1/s)/d₂⌋ is the largest T for which weighed answers of T tokens are worth a share s or more of fresh ones.

    Conditions: every token has the same d₂ = D₂(π‖μ) whatever its prefix.
    Proof: ESS/N → e^{-T·d₂} (B11.d), which falls with T and is s at T = log(1/s)/d₂.
    Experiment: a sampler near the policy; E_μ[w²] of T tokens multiplied up until the worth has fallen below s.
    """
    log_p = lab.normal("policy", lab.arms).log_softmax(-1)
    log_q = (log_p + 0.1 * lab.normal("step", lab.arms)).log_softmax(-1)
    q = log_q.exp()
    moment = float((q * (log_p - log_q).exp().square()).sum())
    d2 = math.log(moment) if order == 2 else float(kl_exact(log_p, log_q))
    counted, law = [], []
    for share in (0.9, 0.5, 0.2, 0.05):
        length, worth = 0, 1.0
        while (worth := worth / moment) >= share * (1 - 1e-9):
            length += 1
        counted.append(float(length))
        law.append(float(math.floor((math.log(1 / share) if exponential else 1 - share) / d2 + 1e-6)))
    x = [0.001 * 1.2**i for i in range(30)]
    curve = Curve(
        x=tuple(x), measured=tuple(math.log(5) / v for v in x), across="d₂ of a token, nats", up="longest answer worth a fifth",
        log_x=True, log_y=True,
    )  # fmt: skip
    return equal(law, counted).drawn(curve)


@theorem(
    section="hyperparameters.md#the-size-of-an-evaluation", source="Casella and Berger 2002",
    broken={"the interval without the power": {"power": 0.0}, "the variance of one arm": {"arms": 1}},
)  # fmt: skip
def two_accuracies_need_many_answers(lab: Lab, *, power: float = POWER, arms: int = 2) -> Verdict:
    """n = (z_{α/2} + z_β)²·2p(1-p)/d² answers per arm show a difference d of two accuracies near p in 80 % of the cases.

    Conditions: both are drawn anew; normal approximation, within 3 points of 80 % here.
    Proof: The difference has the variance 2p(1-p)/n; d must lie z_{α/2} + z_β of its deviations from 0.
    Experiment: p = ½ ± d/2, d = 1/10 and 7/100; the exact power of the two-sided test at 95 %, from both binomial laws.
    """
    found = []
    for gap in (0.1, 0.07):
        n = math.ceil((ALPHA + power) ** 2 * arms * 0.25 / gap**2)
        found.append(_unpaired_power(n, 0.5 - gap / 2, 0.5 + gap / 2))
    return within(torch.tensor(found), torch.full((2,), 0.8), 0.03 / 0.8)


@theorem(
    section="hyperparameters.md#the-size-of-an-evaluation", source="McNemar 1947, https://doi.org/10.1007/BF02295996; derived here",
    broken={"as if the prompts were drawn anew": {"paired": False}, "the interval without the power": {"power": 0.0}},
)  # fmt: skip
def the_same_prompts_need_fewer(lab: Lab, *, paired: bool = True, power: float = POWER) -> Verdict:
    """n = (z_{α/2} + z_β)²·c/d² prompts show a difference d of two policies that disagree on a share c of them.

    Conditions: the same prompts for both; normal approximation with d² ≪ c, within 4 points of 80 % here.
    Proof: A prompt's difference is ±1 with probability c and 0 otherwise: variance c - d² in place of 2p(1-p).
    Experiment: c = 1/5 and 1/10, d = 1/20; the exact power of (b - c)/√(b + c) at 95 %, from the law of gained and lost.
    """
    found, gap = [], 0.05
    for disagreement in (0.2, 0.1):
        spread = disagreement if paired else 0.5
        n = math.ceil((ALPHA + power) ** 2 * spread / gap**2)
        found.append(_paired_power(n, (disagreement + gap) / 2, (disagreement - gap) / 2))
    return within(torch.tensor(found), torch.full((2,), 0.8), 0.04 / 0.8)


@theorem(
    section="hyperparameters.md#the-best-of-several-runs", source="Boucheron et al. 2013; Gumbel 1954",
    broken={"without the two": {"two": 1.0}, "as if the best were like any": {"selected": False}},
)  # fmt: skip
def the_best_of_equal_runs_looks_better(lab: Lab, *, two: float = 2.0, selected: bool = True) -> Verdict:
    """0.9·√(log N)·σ ≤ E max of N scores with normal errors σ ≤ √(2·log N)·σ for 5 ≤ N ≤ 1000: what selection alone adds.

    Proof: e^{t·E max} ≤ E Σ e^{t·x} = N·e^{t²σ²/2}; take t = √(2·log N)/σ. The lower bound by quadrature.
    Experiment: N from 5 to 1000; E max = ∫ x dΦ(x)^N on 4001 points; the library's `selection_bias`.
    """
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    phi = torch.special.ndtr(x)
    sizes = (5, 10, 16, 30, 100, 300, 1000)
    exact = []
    for n in sizes:
        law = phi**n if selected else phi
        exact.append(float(((x[1:] + x[:-1]) / 2 * law.diff()).sum()))
    bounds = [selection_bias(n) * math.sqrt(two / 2) for n in sizes]
    curve = Curve(
        x=sizes, measured=tuple(exact), bound=tuple(selection_bias(n) for n in sizes), across="runs compared N",
        up="E max / σ", log_x=True,
    )  # fmt: skip
    return every(at_most(exact, bounds), at_least(exact, [0.9 * math.sqrt(math.log(n)) for n in sizes])).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------


def _clip_range(lab: Lab, *, reverse: bool, second_order: bool, bound: str) -> Verdict:
    """KL of ratios that are spread over a range and average to 1, and of the two-point law."""
    ranges = 0.05 + 0.85 * lab.uniform("ranges", 300, 2)
    ranges[0] = torch.tensor([0.2, 0.2])
    ranges[1] = torch.tensor([0.2, 0.28])
    old = lab.simplex("old", 300, 20, lab.arms)
    spread = 2 * lab.uniform("ratios", 300, 20, lab.arms) - 1
    centred = spread - (old * spread).sum(-1, keepdim=True)
    room = torch.minimum(
        ranges[:, None, 0] / (-centred).amax(-1).clamp(min=1e-12),
        ranges[:, None, 1] / centred.amax(-1).clamp(min=1e-12),
    )
    new = old * (1 + room[..., None] * centred)
    low, high = ranges.unbind(-1)
    ends = torch.stack([1 - low, 1 + high], -1)
    two = torch.stack([high, low], -1) / (low + high)[:, None]  # E_old[ρ] = 1
    measured, exact = (
        kl_exact(b.log(), a.log()) if reverse else kl_exact(a.log(), b.log())
        for a, b in ((new, old), (two * ends, two))
    )
    way = "new_old" if bound == "new_old" else "old_new"
    bounds = torch.tensor(
        [clip_range_kl(clip_low=a, clip_high=b, direction=way) for a, b in ranges.tolist()], dtype=torch.float64
    )
    if second_order:
        bounds = low * high / 2
    tight = equal(exact, bounds)
    curve = Curve(
        x=tuple(low.sort().values.tolist()), measured=tuple(measured.amax(-1)[low.argsort()].tolist()),
        bound=tuple(bounds[low.argsort()].tolist()), across="ε_l of a random range", up="largest KL seen, and its bound",
    )  # fmt: skip
    return every(at_most(measured, bounds[:, None]), tight).drawn(curve)


def _binomial(n: int, p: float) -> Tensor:
    k = torch.arange(n + 1, dtype=torch.float64)
    size = torch.tensor(float(n), dtype=torch.float64)
    log = torch.lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    return (log + k * math.log(p) + (n - k) * math.log1p(-p)).exp()


def _unpaired_power(n: int, p: float, q: float) -> float:
    """P(|p̂ - q̂| > z·√(2p̄(1-p̄)/n)) with both counts binomial."""
    k = torch.arange(n + 1, dtype=torch.float64)
    mean = (k[:, None] + k) / (2 * n)
    z = (k[:, None] - k) / n / (2 * mean * (1 - mean) / n).clamp(min=1e-300).sqrt()
    return float(((z.abs() > ALPHA) * _binomial(n, p)[:, None] * _binomial(n, q)).sum())


def _paired_power(n: int, gained: float, lost: float) -> float:
    """P(|b - c| > z·√(b + c)) with b + c ~ Binomial(n, gained + lost), b ~ Binomial(b + c, gained/(gained + lost))."""
    changed, total = _binomial(n, gained + lost), 0.0
    for m in torch.nonzero(changed > 1e-9).flatten().tolist():
        if m:
            b = torch.arange(m + 1, dtype=torch.float64)
            seen = (2 * b - m).abs() > ALPHA * math.sqrt(m)
            total += float(changed[m] * (_binomial(m, gained / (gained + lost)) * seen).sum())
    return total
