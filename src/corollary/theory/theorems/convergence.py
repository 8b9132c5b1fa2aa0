"""docs/theory/convergence.md: how fast softmax policies reach the optimum, by gradient, natural gradient and soft policy iteration."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corollary.ops.kl import entropy_exact, kl_exact
from corollary.theory.lab import Lab
from corollary.theory.mdp import MDP
from corollary.theory.theorem import theorem
from corollary.theory.tree import gradient_of
from corollary.theory.verdict import Curve, Verdict, apart, at_least, at_most, equal, every

MEI = "Mei et al. 2020, https://arxiv.org/abs/2005.06392"
AGARWAL = "Agarwal et al. 2021, https://arxiv.org/abs/1908.00261"
CEN = "Cen et al. 2022, https://arxiv.org/abs/2007.06558"
TIMES = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)


# ---------------------------------------------------------------------------------------------------------------------
# The gradient of a softmax


@theorem(
    "B9.a", section="convergence.md#softmax-policy-gradient", source=MEI,
    broken={"1/t² in place of 1/t": {"power": 2}, "from a start that avoids the best arm": {"uniform": False}},
)  # fmt: skip
def softmax_ascent_reaches_the_best_arm(lab: Lab, *, power: int = 1, uniform: bool = True) -> Verdict:
    """δ_t = r(a*) - E_{π_t}[r] ≤ 5K²/t for exact gradient ascent with η = 2/5.

    Conditions: K arms with rewards in [0, 1]; the uniform policy at the start.
    Proof: Ascent at a smoothness of 5/2 gains ‖∇‖²/5 a step, and ‖∇‖ ≥ π(a*)·δ (B9.b). From the uniform start π(a*) never falls:
    π(a*)(r(a*) - J) is the largest component of the gradient. So 1/δ grows by 1/5K² a step.
    Experiment: the lab's arms stretched to rewards from 0 to 1; 1000 steps.
    """
    rewards, start = _arms(lab), torch.zeros(lab.arms, dtype=torch.float64)
    if not uniform:
        start = -10.0 * (rewards > 0).double()
    gaps, _ = _ascend(rewards, start, 0.4, 1000)
    seen = [gaps[t] for t in TIMES]
    bounds = [5 * lab.arms**2 / t**power for t in TIMES]
    curve = Curve(
        x=TIMES, measured=tuple(seen), bound=tuple(bounds), across="steps t", up="δ_t", log_x=True, log_y=True
    )
    return at_most(seen, bounds).drawn(curve)


@theorem(
    "B9.b", section="convergence.md#softmax-policy-gradient", source=MEI,
    broken={"the probability of the best arm is left out": {"weighed": False}},
)  # fmt: skip
def a_gradient_is_small_only_near_an_optimum_or_a_plateau(lab: Lab, *, weighed: bool = True) -> Verdict:
    """‖∇J(θ)‖ ≥ π(a*)·δ in the logits of a bandit, δ = r(a*) - E_π[r].

    Proof: The component of a* alone is π(a*)·(r(a*) - E_π[r]).
    Experiment: 500 policies from flat to sharp; the gradient by differentiating J.
    """
    world = lab.bandit()
    thetas = torch.logspace(-1, 1, 500, dtype=torch.float64)[:, None] * lab.normal("policies", 500, lab.arms)
    slope = gradient_of(lambda leaf: (leaf.softmax(-1) @ world.rewards).sum(), thetas)
    pi, best = thetas.softmax(-1), int(world.rewards.argmax())
    gap = world.rewards[best] - pi @ world.rewards
    p = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    norm = math.sqrt(2) * p * (1 - p)  # two arms of rewards 1 and 0
    curve = Curve(
        x=tuple(p.tolist()), measured=tuple(norm.tolist()), bound=tuple((p * (1 - p)).tolist()),
        across="π(a*) of two arms", up="norm of the gradient",
    )  # fmt: skip
    return at_least(slope.norm(dim=-1), pi[:, best] * gap if weighed else gap).drawn(curve)


@theorem(
    "B9.c", section="convergence.md#softmax-policy-gradient", source=MEI,
    broken={"by the natural gradient": {"natural": True}},
)  # fmt: skip
def softmax_ascent_is_no_faster_than_one_over_t(lab: Lab, *, natural: bool = False) -> Verdict:
    """δ_t ≥ Δ²/(6t) for all large t, with η ≤ 1: t·δ_t does not vanish. Δ is the gap between the best arm and the second.

    Proof: ‖∇‖ ≤ √2·δ/Δ, so that a step at smoothness L takes away at most (η + Lη²/2)·2δ²/Δ², and 1/δ grows linearly at most.
    Experiment: the lab's arms stretched to rewards from 0 to 1 with Δ ≥ 0.3, from the uniform policy, η = 2/5, 1000 steps.
    """
    rewards = _arms(lab)
    gaps, _ = _ascend(rewards, torch.zeros_like(rewards), 0.4, 1000, natural=natural)
    delta = float(1 - rewards.sort().values[-2])
    late = [t for t in TIMES if t >= 10]
    seen, bounds = [gaps[t] for t in late], [delta**2 / (6 * t) for t in late]
    curve = Curve(
        x=tuple(late), measured=tuple(seen), bound=tuple(bounds), across="steps t", up="δ_t", log_x=True, log_y=True
    )
    return at_least([t * d for t, d in zip(late, seen, strict=True)], delta**2 / 6).drawn(curve)


@theorem(
    section="convergence.md#softmax-policy-gradient", source="derived here",
    broken={"a smoothness of 1/20": {"smoothness": 0.05}},
)  # fmt: skip
def a_softmax_bandit_is_smooth(lab: Lab, *, smoothness: float = 0.5) -> Verdict:
    """|yᵀ∇²J(θ)y| ≤ ½·‖y‖² for rewards in [0, 1]: a smoothness of ½, five times less than the 5/2 that is usually quoted.

    Proof: yᵀ∇²J y = Cov_π(r, (y - E_π y)²); |E_π[(r - J)·z]| ≤ E_π z for z ≥ 0, and Var_π(y) ≤ (max y - min y)²/4 ≤ ‖y‖²/2.
    Experiment: 100 policies from flat to sharp; the eigenvalues of the second derivative, by differentiating the gradient.
    """
    rewards = _arms(lab)
    thetas = torch.logspace(-1, 0.7, 100, dtype=torch.float64)[:, None] * lab.normal("policies", 100, lab.arms)
    thetas = torch.cat([thetas, (1.3 * rewards - 0.6)[None]])  # two arms: where σ'' is largest

    def slope(leaf: Tensor, arm: int) -> Tensor:
        pi = leaf.softmax(-1)
        return (pi[:, arm] * (rewards[arm] - pi @ rewards)).sum()

    second = torch.stack([gradient_of(lambda leaf, a=a: slope(leaf, a), thetas) for a in range(lab.arms)], -1)
    return at_most(torch.linalg.eigvalsh(second).abs().amax(-1), smoothness)


@theorem(
    section="convergence.md#softmax-policy-gradient", source="Nesterov 2004; the constant derived here",
    broken={"a smoothness of 1/20": {"smoothness": 0.05}},
)  # fmt: skip
def a_step_gains_at_least(lab: Lab, *, smoothness: float = 0.5) -> Verdict:
    """J(θ + η∇J) ≥ J(θ) + (η - Lη²/2)·‖∇J‖² where L bounds the second derivative; L = ½ for a softmax of rewards in [0, 1].

    Proof: Taylor along the step: the remainder is at most L·‖η∇J‖²/2.
    Experiment: 300 policies from flat to sharp, η from 1/10 to 20.
    """
    rewards = _arms(lab)
    thetas = torch.logspace(-1, 0.7, 300, dtype=torch.float64)[:, None] * lab.normal("policies", 300, lab.arms)
    pi = thetas.softmax(-1)
    value = pi @ rewards
    slope = pi * (rewards - value[:, None])
    verdicts = []
    for eta in (0.1, 0.4, 1.0, 2.0, 4.0, 10.0, 20.0):
        gained = (thetas + eta * slope).softmax(-1) @ rewards - value
        verdicts.append(at_least(gained, (eta - smoothness * eta**2 / 2) * slope.square().sum(-1)))
    return every(*verdicts)


@theorem(
    section="convergence.md#softmax-policy-gradient", source="derived here",
    broken={"four times as fast": {"faster": 4.0}, "as if π(a*) were 1": {"passed": False}},
)  # fmt: skip
def the_gap_closes_by_what_the_policy_passed(lab: Lab, *, faster: float = 1.0, passed: bool = True) -> Verdict:
    """1/δ_T ≥ 1/δ_0 + (η - η²/4)·Σ_{t<T} π_t(a*)² for rewards in [0, 1], any start and η ≤ 2.

    Proof: A step gains (η - η²/4)‖∇‖² ≥ (η - η²/4)·π(a*)²δ² (L = ½, B9.b); divide δ_t - δ_{t+1} by δ_t·δ_{t+1} ≤ δ_t².
    Experiment: the lab's arms from a start that likes the worst arm; 1000 steps of η = 2/5. The bound is within a factor 3 at the end.
    """
    eta, rewards = 0.4, _arms(lab)
    gaps, best = _ascend(rewards, -2.0 * (rewards > 0).double(), eta, 1000)
    weights = [p**2 if passed else 1.0 for p in best]
    sums = [sum(weights[:t]) for t in TIMES]
    seen = [gaps[t] for t in TIMES]
    bounds = [1 / (1 / gaps[0] + faster * (eta - eta**2 / 4) * s) for s in sums]
    curve = Curve(
        x=TIMES, measured=tuple(seen), bound=tuple(bounds), across="steps t", up="δ_t", log_x=True, log_y=True
    )
    return at_most(seen, bounds).drawn(curve)


@theorem(
    section="convergence.md#softmax-policy-gradient", source=MEI,
    broken={"the probability of the best action is left out": {"weighed": False}},
)  # fmt: skip
def a_decision_process_has_no_other_stationary_policies(lab: Lab, *, weighed: bool = True) -> Verdict:
    """‖∇J(θ)‖ ≥ min_s π(a*(s)|s) · (J* - J(θ)) / (√S · max_s d*(s)/d(s)).

    Proof: The component (s, a) is d(s)π(a|s)A(s,a)/(1-γ). Keep a*(s) only, √S·‖x‖₂ ≥ ‖x‖₁, d ≥ d*/max(d*/d); the rest is the
    performance difference J* - J = Σ d*(s)A(s, a*(s))/(1-γ), B3.a.
    Experiment: a random decision process, 40 policies from flat to sharp, some of which avoid the best actions.
    """
    mdp = lab.mdp()
    best = mdp.backed_up(mdp.optimal_values()).argmax(-1)
    top = torch.nn.functional.one_hot(best, lab.actions).double()
    goal = 1000 * top
    measured, bounds = [], []
    for n in range(40):
        theta = (0.2 + 0.1 * n) * lab.policy(mdp, f"policy {n}") - (12 * top if n % 4 == 0 else 0)
        pi, d = theta.softmax(-1), mdp.visits(theta)
        slope = d[:, None] * pi * mdp.advantages(theta) / (1 - mdp.discount)
        least = float((pi * top).sum(-1).min()) if weighed else 1.0
        mismatch = float((mdp.visits(goal) / d).max())
        gap = float(mdp.expected_reward(goal) - mdp.expected_reward(theta))
        measured.append(float(slope.norm()))
        bounds.append(least * gap / (math.sqrt(lab.states) * mismatch))
    return at_least(measured, bounds)


# ---------------------------------------------------------------------------------------------------------------------
# Plateaus


@theorem(
    section="convergence.md#plateaus", source="derived here; the phenomenon in Mei et al. 2020, NeurIPS",
    broken={"by the natural gradient": {"natural": True}},
)  # fmt: skip
def a_plateau_is_left_in_time_one_over_p(lab: Lab, *, natural: bool = False) -> Verdict:
    """From π(a*) = p gradient ascent needs at least (1/p - 2)·(K-1)/(ηK) steps to reach π(a*) = ½.

    Conditions: r(a*) = 1, the other K-1 arms earn 0 and are equally likely.
    Proof: A step divides the odds u = (1-p)/p by exp(ηp(1-p)·K/(K-1)), so u falls by at most η(1-p)²K/(K-1) ≤ ηK/(K-1); and u must
    fall from 1/p - 1 to 1.
    Experiment: η = 2/5 and p from 1/5 to 1/500; steps counted.
    """
    eta, k = 0.4, lab.arms
    starts = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
    steps = [_escape(p, eta, k, natural=natural) for p in starts]
    bounds = [(1 / p - 2) * (k - 1) / (eta * k) for p in starts]
    curve = Curve(
        x=tuple(1 / p for p in starts), measured=tuple(steps), bound=tuple(bounds), across="1/p", up="steps to ½",
        log_x=True, log_y=True,
    )  # fmt: skip
    return at_least(steps, bounds).drawn(curve)


@theorem(
    section="convergence.md#plateaus", source="derived here",
    broken={"by the plain gradient": {"natural": False}},
)  # fmt: skip
def the_natural_gradient_leaves_a_plateau_in_logarithmic_time(lab: Lab, *, natural: bool = True) -> Verdict:
    """From π(a*) = p natural gradient ascent reaches π(a*) = ½ in ⌈log((1-p)/p)/η⌉ steps.

    Conditions: r(a*) = 1, the other arms earn 0.
    Proof: A step multiplies π(a) by e^{ηr(a)} and normalises: the odds of a* grow by e^η, whatever they are.
    Experiment: η = 2/5 and p from 1/5 to 10⁻³; steps counted.
    """
    starts = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
    steps = [_escape(p, 0.4, lab.arms, natural=natural) for p in starts]
    law = [math.ceil(math.log((1 - p) / p) / 0.4 - 1e-9) for p in starts]
    curve = Curve(
        x=tuple(1 / p for p in starts),
        measured=tuple(steps),
        bound=tuple(law),
        across="1/p",
        up="steps to ½",
        log_x=True,
    )
    return equal(steps, [float(n) for n in law]).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# The natural gradient


@theorem(
    "B9.d", section="convergence.md#natural-gradient", source=AGARWAL,
    broken={"from a start that avoids the best actions": {"uniform": False}, "the sign of the step": {"sign": -1.0}},
)  # fmt: skip
def the_natural_gradient_converges_whatever_the_start_states(
    lab: Lab, *, uniform: bool = True, sign: float = 1.0
) -> Verdict:
    """J* - J_T ≤ log|A|/(ηT) + 1/((1-γ)²T) with θ ← θ + η·A^π/(1-γ), and J_t never falls. No state's visits enter.

    Conditions: rewards in [0, 1]; the uniform policy at the start.
    Proof: A step is exponentiated: the performance difference to π* telescopes in KL(π*‖π_t) ≤ log|A|, and log Z_t is paid by V.
    Experiment: a random decision process, η = 1, 300 steps.
    """
    mdp, eta = lab.mdp(), 1.0
    optimal = mdp.optimal_values()
    theta = torch.zeros_like(mdp.rewards)
    if not uniform:
        worst = torch.nn.functional.one_hot(mdp.backed_up(optimal).argmin(-1), lab.actions).double()
        theta = 10 / (1 - mdp.discount) ** 2 * worst
    values = [mdp.values(theta)]
    for _ in range(300):
        theta = theta + sign * eta / (1 - mdp.discount) * mdp.advantages(theta)
        values.append(mdp.values(theta))
    each = torch.stack(values)
    gaps = (mdp.start @ optimal) - each @ mdp.start
    t = torch.arange(1, 301, dtype=torch.float64)
    bounds = math.log(lab.actions) / (eta * t) + 1 / ((1 - mdp.discount) ** 2 * t)
    shown = [0, 1, 2, 4, 9, 19, 49, 99, 199, 299]
    curve = Curve(
        x=tuple(t[shown].tolist()), measured=tuple(gaps[1:][shown].clamp(min=1e-16).tolist()), bound=tuple(bounds[shown].tolist()),
        across="steps T", up="J* - J", log_x=True, log_y=True,
    )  # fmt: skip
    return every(at_most(gaps[1:], bounds), at_least(each.diff(dim=0), 0.0, slack=1e-11)).drawn(curve)


@theorem(
    section="convergence.md#natural-gradient", source="derived here",
    broken={"by the plain gradient": {"natural": False}},
)  # fmt: skip
def the_natural_gradient_of_a_bandit_converges_exponentially(lab: Lab, *, natural: bool = True) -> Verdict:
    """δ_T ≤ (1/π_0(a*) - 1)·e^{-ηΔT} with θ ← θ + η·r; Δ is the gap between the best arm and the second.

    Conditions: rewards in [0, 1].
    Proof: π_T(a) ∝ π_0(a)·e^{ηTr(a)}, so π_T(a)/π_T(a*) ≤ π_0(a)/π_0(a*)·e^{-ηΔT}; a lost reward is at most 1.
    Experiment: the lab's arms stretched to rewards from 0 to 1 with Δ ≥ 0.3; η = 2/5, 200 steps.
    """
    rewards, theta = _arms(lab), lab.normal("start", lab.arms)
    gaps, best = _ascend(rewards, theta, 0.4, 200, natural=natural)
    delta = float(1 - rewards.sort().values[-2])
    times = list(range(0, 201, 10))
    seen = [gaps[t] for t in times]
    bounds = [(1 / best[0] - 1) * math.exp(-0.4 * delta * t) for t in times]
    curve = Curve(
        x=tuple(times), measured=tuple(max(g, 1e-16) for g in seen), bound=tuple(bounds), across="steps T", up="δ_T", log_y=True
    )  # fmt: skip
    return at_most(seen, bounds, slack=1e-15).drawn(curve)


@theorem(
    section="convergence.md#natural-gradient", source="Freund and Schapire 1997; Cesa-Bianchi and Lugosi 2006",
    broken={"the second term is left out": {"second": 0.0}},
)  # fmt: skip
def multiplicative_weights_regret_little(lab: Lab, *, second: float = 1 / 8) -> Verdict:
    """max_a Σ_t r_t(a) - Σ_t E_{π_t}[r_t] ≤ log K/η + ηT/8 for any rewards r_t in [0, 1], with π_{t+1} ∝ π_t·e^{ηr_t}.

    Conditions: the uniform policy at the start; the rewards may answer the policy.
    Proof: log Z_t ≤ η·E[r_t] + η²/8 by Hoeffding's lemma; Σ_t log Z_t ≥ η·max_a Σ_t r_t(a) - log K.
    Experiment: 50 random sequences of 60 rewards, and one that pays each arm in turn; η from 1/20 to 4.
    """
    rounds, k = 60, lab.arms
    drawn = (lab.uniform("rewards", rounds, 50, k) > 0.5).double()
    turns = torch.eye(k, dtype=torch.float64)[torch.arange(rounds) % k][:, None]
    sequences = torch.cat([drawn, turns], dim=1)
    before = sequences.cumsum(0) - sequences  # [T, M, K] what each arm has paid
    verdicts = []
    for eta in (0.05, 0.3, 1.0, 4.0):
        earned = ((eta * before).softmax(-1) * sequences).sum((0, -1))
        regret = sequences.sum(0).max(-1).values - earned
        verdicts.append(at_most(regret, math.log(k) / eta + second * eta * rounds))
    return every(*verdicts)


# ---------------------------------------------------------------------------------------------------------------------
# Entropy regularisation


@theorem(
    "B9.e", section="convergence.md#entropy-regularisation", source=CEN,
    broken={"without the entropy's part of the step": {"regularised": False}},
)  # fmt: skip
def the_regularised_natural_gradient_converges_linearly(lab: Lab, *, regularised: bool = True) -> Verdict:
    """‖Q*_τ - Q_{t+1}‖ ≤ C·γ·(1-ητ)^t with C = ‖Q*_τ - Q_0‖ + 2τ(1 - ητ/(1-γ))·‖logπ* - logπ_0‖, all norms max-norms.

    Conditions: 0 < η ≤ (1-γ)/τ; π_{t+1} ∝ π_t^{1-ητ/(1-γ)}·e^{ηQ_t/(1-γ)}.
    Proof: The step is an average of soft policy iteration and of standing still; the pair (‖Q* - Q‖, ‖Q* - τ log ξ‖) obeys a linear
    recursion with largest eigenvalue 1 - ητ, where ξ is the policy before it is normalised.
    Experiment: a random decision process, τ = 1/10, a normal start, η at 1, ½ and 1/10 of its largest; 150 steps.
    """
    mdp, tau = lab.mdp(), 0.1
    optimal = mdp.backed_up(mdp.optimal_values(temperature=tau))
    goal = (optimal / tau).log_softmax(-1)
    verdicts, shown = [], []
    for share in (1.0, 0.5, 0.1):
        eta = share * (1 - mdp.discount) / tau
        log_pi = lab.policy(mdp).log_softmax(-1)
        q = _soft_q(mdp, log_pi, tau)
        scale = float((optimal - q).abs().max() + 2 * tau * (1 - share) * (goal - log_pi).abs().max())
        keep = 1 - share if regularised else 1.0
        errors = []
        for _ in range(150):
            log_pi = (keep * log_pi + eta / (1 - mdp.discount) * q).log_softmax(-1)
            q = _soft_q(mdp, log_pi, tau)
            errors.append(float((optimal - q).abs().max()))
        bounds = [scale * mdp.discount * (1 - eta * tau) ** t for t in range(150)]
        verdicts.append(at_most(errors, bounds, slack=1e-12 / (1 - mdp.discount)))
        shown = [(t, max(errors[t], 1e-16), bounds[t]) for t in range(0, 150, 10)]
    t, measured, bound = (tuple(float(v) for v in column) for column in zip(*shown, strict=True))
    curve = Curve(x=t, measured=measured, bound=bound, across="steps t", up="largest error of Q, η at 1/10", log_y=True)
    return every(*verdicts).drawn(curve)


@theorem(
    "B9.f", section="convergence.md#entropy-regularisation", source="derived here",
    broken={"half the step": {"share": 0.5}, "the penalty towards the start alone": {"penalised": False}},
)  # fmt: skip
def a_mirror_step_of_one_over_beta_lands(lab: Lab, *, share: float = 1.0, penalised: bool = True) -> Verdict:
    """π_1 ∝ π_0·exp(η·(r - β·log(π_0/ref))) with η = 1/β is π* ∝ ref·e^{r/β}, from any start π_0.

    Proof: The exponent is r/β - log π_0 + log ref: the start drops out.
    Experiment: a bandit, β = 0.7, a normal start and reference; the figure shows KL(π_1‖π*) over η·β.
    """
    rewards, beta = lab.bandit().rewards, 0.7
    start, ref = lab.normal("policies", 2, lab.arms).log_softmax(-1)
    goal = (ref + rewards / beta).log_softmax(-1)

    def landed(part: float) -> Tensor:
        pull = rewards - beta * (start - ref) if penalised else rewards
        return (start + part / beta * pull).log_softmax(-1)

    x = torch.linspace(0, 2, 41, dtype=torch.float64).tolist()
    curve = Curve(x=tuple(x), measured=tuple(float(kl_exact(landed(v), goal)) for v in x), across="η·β", up="KL to π*")
    return equal(landed(share).exp(), goal.exp()).drawn(curve)


@theorem(
    section="convergence.md#entropy-regularisation", source="derived here; with another constant Mei et al. 2020, https://arxiv.org/abs/2005.06392",
    broken={"four times the constant": {"constant": 16.0}, "the largest probability": {"least": False}},
)  # fmt: skip
def entropy_leaves_no_plateau_of_its_own(lab: Lab, *, constant: float = 4.0, least: bool = True) -> Verdict:
    """‖∇J_τ‖² ≥ 4τ·(min_a π(a))²·(J_τ* - J_τ) in the logits, J_τ = E_π[r] + τ·H(π): linear convergence while every arm lives.

    Proof: J_τ* - J_τ = τ·KL(π‖π*) ≤ (τ/4)·‖z - z*‖² for every choice of logits, since Cov_π ≤ ½; ∇J_τ = -τ·π∘(ζ - E_π ζ) with
    ζ = logπ - logπ*, of norm ≥ τ·min π·‖ζ - E_π ζ‖.
    Experiment: 500 policies from flat to sharp, four temperatures, policies near the optimum too; by automatic differentiation.
    """
    rewards = lab.bandit().rewards
    sizes = torch.logspace(-2, 0.7, 500, dtype=torch.float64)[:, None]
    verdicts = []
    for tau in (0.03, 0.3, 3.0, 100.0):
        goal = (rewards / tau).log_softmax(-1)
        thetas = sizes * lab.normal("policies", 500, lab.arms) + (goal if tau > 1 else 0)

        def value(leaf: Tensor, tau: float = tau) -> Tensor:
            return leaf.softmax(-1) @ rewards + tau * entropy_exact(leaf)

        slope = gradient_of(lambda leaf, value=value: value(leaf).sum(), thetas)
        pi = thetas.softmax(-1)
        p = pi.amin(-1) if least else pi.amax(-1)
        gap = tau * kl_exact(thetas, goal.expand_as(thetas))
        verdicts.append(at_least(slope.square().sum(-1) / tau, constant * p**2 * gap, slack=1e-13))
        verdicts.append(equal(tau * (rewards / tau).logsumexp(-1) - value(thetas), gap, tolerance=1e-11))
    return every(*verdicts)


@theorem(
    section="convergence.md#entropy-regularisation", source="derived here; the rate's form Mei et al. 2020, https://arxiv.org/abs/2005.06392",
    broken={"without the entropy's part of the gradient": {"regularised": False}},
)  # fmt: skip
def regularised_ascent_converges_linearly(lab: Lab, *, regularised: bool = True) -> Verdict:
    """J_τ* - J_τ(θ_T) ≤ (J_τ* - J_τ(θ_0))·Π_{t<T}(1 - 2τ·(min_a π_t(a))²/L) with η = 1/L, L = ½ + τ(½ + 5/2·log K).

    Conditions: rewards in [0, 1]; gradient ascent on J_τ = E_π[r] + τ·H(π).
    Proof: J_τ has a smoothness of L: ½ of the reward, and |Cov_π(logπ, (y - ȳ)²)| + Var_π(y) ≤ (5/2·H + ½)‖y‖² of the entropy. A step
    gains ‖∇‖²/2L ≥ 2τ(min π)²/L of the gap.
    Experiment: the lab's arms stretched to rewards from 0 to 1, τ = 1, from the uniform policy; 300 steps.
    """
    rewards, tau = _arms(lab), 1.0
    smoothness = 0.5 + tau * (0.5 + 2.5 * math.log(lab.arms))
    theta, goal = torch.zeros_like(rewards), (rewards / tau).log_softmax(-1)
    gaps, bounds = [], []
    bound = float(tau * kl_exact(theta, goal))
    for _ in range(300):
        log_pi = theta.log_softmax(-1)
        pi = log_pi.exp()
        gaps.append(float(tau * (pi * (log_pi - goal)).sum()))
        bounds.append(bound)
        bound *= 1 - 2 * tau * float(pi.min()) ** 2 / smoothness
        worth = rewards - tau * log_pi if regularised else rewards
        theta = theta + pi * (worth - (pi * worth).sum()) / smoothness
    shown = range(0, 300, 15)
    curve = Curve(
        x=tuple(shown), measured=tuple(max(gaps[t], 1e-16) for t in shown), bound=tuple(bounds[t] for t in shown),
        across="steps t", up="J_τ* - J_τ", log_y=True,
    )  # fmt: skip
    return at_most(gaps, bounds, slack=1e-14).drawn(curve)


@theorem(
    section="convergence.md#entropy-regularisation", source="Ziebart 2010; Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290",
    broken={"the discount squared": {"power": 2}},
)  # fmt: skip
def soft_sweeps_contract_too(lab: Lab, *, power: int = 1) -> Verdict:
    """‖T_τV - T_τW‖ ≤ γ·‖V - W‖ in the max-norm, T_τV = τ·logsumexp((r + γPV)/τ).

    Proof: logsumexp is monotone and shifts by what is added to all, so it changes by no more than its arguments: γP(V - W).
    Experiment: a random decision process, τ from 1/100 to 10, 100 pairs of values, some of which differ by a constant.
    """
    mdp = lab.mdp()
    v, w = 3 * lab.normal("values", 2, 100, lab.states)
    w[:10] = v[:10] + 1.0
    verdicts = []
    for tau in (0.01, 0.1, 1.0, 10.0):
        a, b = (
            tau * ((mdp.rewards + mdp.discount * torch.einsum("sat,nt->nsa", mdp.transitions, x)) / tau).logsumexp(-1)
            for x in (v, w)
        )
        change, before = (a - b).abs().amax(-1), (v - w).abs().amax(-1)
        verdicts.append(at_most(change, mdp.discount**power * before))
    return every(*verdicts)


@theorem(
    section="convergence.md#entropy-regularisation", source="Nachum et al. 2017, https://arxiv.org/abs/1702.08892; the constant derived here",
    broken={"half of it": {"share": 0.5}, "of one step alone": {"horizon": False}},
)  # fmt: skip
def a_temperature_costs_at_most_its_entropy(lab: Lab, *, share: float = 1.0, horizon: bool = True) -> Verdict:
    """0 ≤ V*_τ - V* ≤ τ·log|A|/(1-γ): the price of the entropy bonus, and what it can add.

    Proof: The soft value of any policy is its value plus τ times a discounted sum of entropies in [0, log|A|].
    Experiment: a random decision process, τ from 1/100 to 100; the bound is attained as τ → ∞.
    """
    mdp = lab.mdp()
    plain = mdp.optimal_values()
    taus = (0.01, 0.1, 1.0, 10.0, 100.0)
    gaps = [mdp.optimal_values(temperature=tau) - plain for tau in taus]
    scale = share * math.log(lab.actions) / ((1 - mdp.discount) if horizon else 1.0)
    curve = Curve(
        x=taus, measured=tuple(float(g.max()) for g in gaps), bound=tuple(t * scale for t in taus), across="τ",
        up="V*_τ - V*", log_x=True, log_y=True,
    )  # fmt: skip
    verdicts = [at_most(gap, tau * scale) for tau, gap in zip(taus, gaps, strict=True)]
    return every(*verdicts, *[at_least(gap, 0.0) for gap in gaps]).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# Policy iteration


@theorem(
    section="convergence.md#policy-iteration", source="Howard 1960; Puterman 1994",
    broken={"the least Q in place of the largest": {"sign": -1.0}},
)  # fmt: skip
def policy_iteration_never_falls(lab: Lab, *, sign: float = 1.0) -> Verdict:
    """V^{π'} ≥ TV^π ≥ V^π in every state for π' greedy in Q^π, so that ‖V* - V_k‖ ≤ γ^k·‖V* - V_0‖.

    Proof: TV^π ≥ V^π by the maximum; T_{π'} is monotone and T_{π'}V^π = TV^π, so its iterates only rise, to V^{π'}. TV* = V*.
    Experiment: a random decision process, 10 random policies, 6 iterations each.
    """
    mdp = lab.mdp()
    optimal = mdp.optimal_values()
    verdicts = []
    for n in range(10):
        theta = 3 * lab.policy(mdp, f"policy {n}")
        first = mdp.values(theta)
        for k in range(1, 7):
            before, q = mdp.values(theta), mdp.action_values(theta)
            swept = q.max(-1).values
            theta = 1000 * torch.nn.functional.one_hot((sign * q).argmax(-1), lab.actions).double()
            after = mdp.values(theta)
            error = (optimal - after).abs().max()
            reached = mdp.discount**k * (optimal - first).abs().max()
            verdicts += [at_least(after, swept), at_least(swept, before), at_most(error, reached)]
    return every(*verdicts)


@theorem(
    section="convergence.md#policy-iteration", source="Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290",
    broken={"a Q without the entropies to come": {"soft": False}},
)  # fmt: skip
def soft_policy_iteration_never_falls(lab: Lab, *, soft: bool = True) -> Verdict:
    """V_τ^{π'} ≥ V_τ^π in every state for π' ∝ e^{Q_τ^π/τ}, Q_τ with the entropies of later steps.

    Proof: π' maximises E_π[Q_τ] + τ·H state by state, at least V_τ^π; the operator of π' is monotone, so its iterates only rise.
    Experiment: a random decision process, τ = 1/5, 5 iterations from the optimal soft policy and from 5 random ones.
    """
    mdp, tau = lab.mdp(), 0.2
    best = mdp.backed_up(mdp.optimal_values(temperature=tau)) / tau
    verdicts = []
    for start in (best, *[3 * lab.policy(mdp, f"policy {n}") for n in range(5)]):
        log_pi = start.log_softmax(-1)
        for _ in range(5):
            before = _soft_values(mdp, log_pi, tau)
            q = mdp.backed_up(before) if soft else mdp.action_values(log_pi)
            log_pi = (q / tau).log_softmax(-1)
            verdicts.append(at_least(_soft_values(mdp, log_pi, tau), before, slack=1e-11))
    return every(*verdicts)


# ---------------------------------------------------------------------------------------------------------------------
# Noise


@theorem(
    section="convergence.md#noise", source="derived here",
    broken={"first order in the step": {"exact": False}, "noise that averages out": {"floor": False}},
)  # fmt: skip
def a_constant_step_keeps_a_noise_floor(lab: Lab, *, exact: bool = True, floor: bool = True) -> Verdict:
    """E[x_t²] = (1-ηh)^{2t}·x_0² + (1 - (1-ηh)^{2t})·ησ²/(h(2 - ηh)) for x ← x - η(hx + ξ), Var ξ = σ²: it stays at a floor.

    Conditions: 0 < ηh < 2; the noise is independent from step to step, with mean 0.
    Proof: E[x²] obeys v ← (1-ηh)²v + η²σ², whose fixed point is η²σ²/(1 - (1-ηh)²) = ησ²/(h(2-ηh)).
    Experiment: noise of ±σ, all 1024 sequences of ten steps; three step sizes.
    """
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 10)
    curvature, sigma, start = (float(v) for v in 0.5 + lab.uniform("quadratic", 3))
    verdicts, shown = [], None
    for eta in (0.1, 0.4, 0.9):
        x = torch.full((len(signs),), start, dtype=torch.float64)
        level = eta * sigma**2 / (curvature * (2 - eta * curvature)) if exact else eta * sigma**2 / (2 * curvature)
        measured, law = [start**2], [start**2]
        for t in range(10):
            x = x - eta * (curvature * x + sigma * signs[:, t])
            kept = (1 - eta * curvature) ** (2 * (t + 1))
            measured.append(float(x.square().mean()))
            law.append(kept * start**2 + ((1 - kept) * level if floor else 0.0))
        verdicts.append(equal(measured, law))
        steps = tuple(float(t) for t in range(11))
        shown = Curve(x=steps, measured=tuple(measured), bound=tuple(law), across="steps t", up="E[x²]", log_y=True)
    assert shown is not None
    return every(*verdicts).drawn(shown)


@theorem(
    section="convergence.md#noise", source="Robbins and Monro 1951, https://doi.org/10.1214/aoms/1177729586",
    broken={"a constant step": {"falling": False}},
)  # fmt: skip
def steps_of_one_over_t_average(lab: Lab, *, falling: bool = True) -> Verdict:
    """x_t = (ξ_1 + … + ξ_t)/t for x ← x - η_t·(x - ξ_t) with η_t = 1/t, so that Var x_t = σ²/t: a falling step has no floor.

    Proof: x_t = (1 - 1/t)·x_{t-1} + ξ_t/t; multiply by t and sum.
    Experiment: 200 sequences of 100 normal numbers.
    """
    xi = lab.normal("targets", 100, 200)
    x = lab.normal("start", 200)
    for t in range(1, 101):
        x = x - (1 / t if falling else 0.1) * (x - xi[t - 1])
    return equal(x, xi.mean(0))


@theorem(
    section="convergence.md#noise", source="Chung et al. 2021; derived here",
    broken={"with the sampled action's reward only": {"sampled": True}},
)  # fmt: skip
def exact_gradients_do_not_lock_in(lab: Lab, *, sampled: bool = False) -> Verdict:
    """From the uniform policy π_t(a*) never falls under exact gradient ascent, whatever the step; under sampled steps it may.

    Conditions: rewards in [0, 1], all arms' expectation in the step. REINFORCE moves by η·r(a)(e_a - π) for the arm that it drew.
    Proof: π(a*)(r(a*) - J) is the largest component of the gradient while a* is the likeliest arm, so a* stays that.
    Experiment: the lab's arms, η of 2/5, 2 and 10; 100 steps. In the twin the worst arm but one that earns is drawn each time.
    """
    rewards = _arms(lab).clamp(min=0.1)
    worst = int(rewards.argmin())
    verdicts = []
    for eta in (0.4, 2.0, 10.0):
        theta, best = torch.zeros_like(rewards), []
        for _ in range(100):
            pi = theta.softmax(-1)
            best.append(float(pi[rewards.argmax()]))
            slope = rewards[worst] * (torch.eye(lab.arms, dtype=torch.float64)[worst] - pi)
            theta = theta + eta * (slope if sampled else pi * (rewards - pi @ rewards))
        verdicts.append(at_least(best[1:], best[:-1], slack=1e-14))
    return every(*verdicts, apart(best[0], best[-1]))


# ---------------------------------------------------------------------------------------------------------------------


def _arms(lab: Lab) -> Tensor:
    """`[K]` the bandit's rewards, stretched so that the best earns 1, the worst 0, and the second at most 0.7."""
    rewards = lab.bandit().rewards
    stretched = (rewards - rewards.min()) / (rewards.max() - rewards.min())
    return torch.where(stretched < 1, 0.7 * stretched, stretched)


def _ascend(
    rewards: Tensor, theta: Tensor, eta: float, steps: int, *, natural: bool = False
) -> tuple[list[float], list[float]]:
    """(δ_t, π_t(a*)) for t = 0 … steps."""
    best = int(rewards.argmax())
    lost = rewards[best] - rewards  # δ = Σ π·lost keeps its digits as δ → 0
    gaps, probabilities = [], []
    for _ in range(steps + 1):
        pi = theta.softmax(-1)
        gap = pi @ lost
        gaps.append(float(gap))
        probabilities.append(float(pi[best]))
        worth = gap - lost
        theta = theta + eta * (worth if natural else pi * worth)
    return gaps, probabilities


def _escape(p: float, eta: float, arms: int, *, natural: bool) -> float:
    """Steps from π(a*) = p to ½; one arm earns 1, the others 0."""
    odds, steps = math.log(p / (1 - p)), 0  # of the best arm
    while odds < -1e-9:
        q = 1 / (1 + math.exp(-odds))
        odds += eta if natural else eta * q * (1 - q) * arms / (arms - 1)
        steps += 1
    return float(steps)


def _soft_values(mdp: MDP, log_pi: Tensor, tau: float) -> Tensor:
    """`[S]` V_τ^π, of the reward plus τ·entropy."""
    pi = log_pi.exp()
    kernel = torch.einsum("sa,sat->st", pi, mdp.transitions)
    earned = (pi * mdp.rewards).sum(-1) + tau * entropy_exact(log_pi)
    return torch.linalg.solve(torch.eye(len(kernel), dtype=torch.float64) - mdp.discount * kernel, earned)


def _soft_q(mdp: MDP, log_pi: Tensor, tau: float) -> Tensor:
    """`[S, A]` Q_τ^π."""
    return mdp.backed_up(_soft_values(mdp, log_pi, tau))
