"""docs/theory/foundations.md: the policy gradient, baselines, performance difference, trust regions, the regularised optimum.

Each function states a fact in its docstring and measures it: `corollary.theory.theorem` says how one is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from corollary.losses.policy import reinforce
from corollary.ops.advantage import group_mean, leave_one_out
from corollary.ops.bounds import cpo_floor, total_variation_bound, trpo_floor, update_floor
from corollary.ops.kl import entropy_bonus, entropy_exact, kl_exact
from corollary.ops.ratio import geometric_ratio, token_ratio
from corollary.ops.reduce import sequence_mean, sequence_sum
from corollary.ops.returns import gae, kl_penalised_returns, reward_to_go
from corollary.theory.expectation import expected_gradient, expected_penalty_gradient
from corollary.theory.lab import Lab
from corollary.theory.mdp import MDP
from corollary.theory.theorem import theorem
from corollary.theory.tree import World, gradient_of, tree
from corollary.theory.verdict import Curve, Verdict, at_least, at_most, equal, every, within

GRADIENT = "foundations.md#policy-gradient"
VALUES = "foundations.md#value-functions"
BASELINES = "foundations.md#baselines"
DIFFERENCE = "foundations.md#performance-difference"
TRUST = "foundations.md#trust-regions"
OPTIMUM = "foundations.md#regularised-optimum"
ENTROPY = "foundations.md#entropy"
NATURAL = "foundations.md#natural-gradient"

WILLIAMS = "Williams 1992, https://doi.org/10.1007/BF00992696"
SUTTON = "Sutton et al. 2000, Policy gradient methods for reinforcement learning with function approximation"
PUTERMAN = "Puterman 1994, Markov decision processes"
KAKADE_LANGFORD = "Kakade and Langford 2002, Approximately optimal approximate reinforcement learning"
TRPO = "Schulman et al. 2015 (TRPO), https://arxiv.org/abs/1502.05477"
LEVINE = "Ziebart 2010; Levine 2018, https://arxiv.org/abs/1805.00909"
AMARI = "Amari 1998, https://doi.org/10.1162/089976698300017746"

STEPS = (0.1, 0.05, 0.025, 0.0125)
INSTANCES = 400


# The policy gradient


@theorem("B1.a", section=GRADIENT, source=WILLIAMS, broken={"the score without the reward": {"rewarded": False}})
def score_function(lab: Lab, *, rewarded: bool = True) -> Verdict:
    """∇J = E_{y~π}[r(y) ∇logπ(y)]

    Conditions: π(y) > 0 for every answer; r does not depend on π.
    Proof: ∇Σ_y π(y)r(y) = Σ_y r(y)∇π(y), and ∇π = π∇logπ.
    Experiment: a token tree; both sides by enumeration, ∇J by differentiating J.
    """
    world = lab.tree()
    theta = lab.policy(world)
    rewards = world.rewards if rewarded else torch.ones_like(world.rewards)
    mean = torch.einsum("s,s,snv->nv", world.probabilities(theta), rewards, world.scores(theta))
    return equal(mean, gradient_of(world.expected_reward, theta))


@theorem(
    "B1.b", section=GRADIENT, source=SUTTON,
    broken={"Q in the place of A": {"centred": False}, "every prefix counts alike": {"visited": False}},
)  # fmt: skip
def policy_gradient_by_prefix(lab: Lab, *, centred: bool = True, visited: bool = True) -> Verdict:
    """∇J = Σ_s d(s) Σ_a π(a|s) A(s,a) ∇logπ(a|s)      of softmax logits: ∂J/∂z(s,a) = d(s)·π(a|s)·A(s,a)

    d(s) is how often an answer passes prefix s, A = Q - V.
    Proof: logπ(y) = Σ_t logπ(y_t|s_t), so the score function is a sum over prefixes; given prefix and token the reward averages
    to Q. ∂logπ(a|s)/∂z(s,b) = 1[a=b] - π(b|s), hence Σ_a π Q ∂logπ(a|s)/∂z(s,b) = π(b|s)(Q(s,b) - V(s)).
    Experiment: a tree with answers of different lengths; visits, Q and V by enumeration, beside ∇J by differentiation.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    credit = world.advantages(theta) if centred else world.action_values(theta)
    visits = world.visits(theta) if visited else torch.full_like(world.visits(theta), 1 / len(theta))
    return equal(visits[:, None] * theta.softmax(-1) * credit, gradient_of(world.expected_reward, theta))


@theorem(
    "B1.c", section=GRADIENT, source="Taylor's theorem",
    broken={"one-sided differences": {"central": False}},
)  # fmt: skip
def central_differences_agree_to_second_order(lab: Lab, *, central: bool = True) -> Verdict:
    """‖(J(θ + h·e) - J(θ - h·e))/2h - ∇J‖ = O(h²), over all coordinates e

    Proof: the even terms of Taylor's series cancel in the difference; what is left first is h²·J‴/6.
    Experiment: a token tree, every logit moved by h = .1 down to .0125; the slope of the error in log-log is 2, within 3 %.
    """
    world = lab.tree()
    theta = lab.policy(world)
    exact = gradient_of(world.expected_reward, theta)
    errors = [float((_differences(world.expected_reward, theta, h, central=central) - exact).norm()) for h in STEPS]
    return within(_slope(STEPS, errors), 2.0, 0.03, "slope").drawn(_over_steps(errors, "error of the gradient"))


@theorem(section=GRADIENT, source=SUTTON, broken={"from the next token on": {"own": False}})
def rewards_of_the_past_drop_out(lab: Lab, *, own: bool = True) -> Verdict:
    """∇E[Σ_t r_t] = E[Σ_t R_t ∇logπ(y_t|s_t)]      R_t = r_t + r_{t+1} + …

    Proof: a reward before token t is a function of the prefix s_t alone, a baseline: its product with ∇logπ(y_t|s_t) averages
    to 0. The token's own reward is none: it depends on y_t.
    Experiment: a tree with answers of different lengths, a normal reward for each prefix and token; `reward_to_go`.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    rewards = lab.normal("token rewards", *theta.shape)[world.states, world.tokens].where(world.trained, 0.0)
    returns = reward_to_go(rewards, world.trained) - (0.0 if own else rewards)
    mean = torch.einsum("s,st,stnv->nv", world.probabilities(theta), returns, _token_scores(world, theta))
    return equal(mean, gradient_of(world.earning(rewards.sum(-1)).expected_reward, theta))


@theorem(
    section=GRADIENT, source=WILLIAMS,
    broken={"each answer's tokens are averaged": {"average": sequence_mean}},
)  # fmt: skip
def reinforce_ascends_the_expected_reward(lab: Lab, *, average: Callable[[Tensor], Tensor] = sequence_sum) -> Verdict:
    """E[-∇ Σ_t -r(y)·logπ(y_t|s_t)] = ∇J

    Conditions: an answer counts by the sum of its tokens, or all answers have one length.
    Proof: Σ_t logπ(y_t|s_t) = logπ(y), so the loss is the score function's integrand. A mean over tokens divides it by a length
    that the policy can change.
    Experiment: the library's `reinforce` and `sequence_sum` on every answer of a tree with different lengths.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    found = expected_gradient(reinforce, lambda rewards: rewards, average, world, group_size=1, policy=theta)
    return equal(found.mean, gradient_of(world.expected_reward, theta))


# Values


@theorem(section=VALUES, source=SUTTON, broken={"every action counts alike": {"by_policy": False}})
def advantages_average_to_zero(lab: Lab, *, by_policy: bool = True) -> Verdict:
    """Σ_a π(a|s) A(s,a) = 0 in every state

    Proof: Σ_a π(a|s) Q(s,a) = V(s), and V(s) is a constant in that sum.
    Experiment: every prefix of a token tree, every state of a decision process.
    """
    world, mdp = lab.tree(), lab.mdp()

    def mean(of: World | MDP) -> Tensor:
        theta = lab.policy(of)
        return (of.advantages(theta) * (theta if by_policy else torch.zeros_like(theta)).softmax(-1)).sum(-1)

    return every(equal(mean(world), 0.0, where="tree"), equal(mean(mdp), 0.0, where="decision process"))


@theorem(section=VALUES, source=SUTTON, broken={"the factor 1 - γ left out": {"normalised": False}})
def discounted_visits_are_a_distribution(lab: Lab, *, normalised: bool = True) -> Verdict:
    """d(s) = (1-γ) Σ_t γ^t P(s_t = s)      Σ_s d(s) = 1

    Proof: P(s_t = ·) sums to 1 for every t, and Σ_t γ^t = 1/(1-γ).
    Experiment: the series summed until γ^t < 10⁻¹⁶, beside the linear system (I - γP_πᵀ)d = (1-γ)·start that `MDP` solves.
    """
    mdp = lab.mdp()
    theta = lab.policy(mdp)
    kernel = torch.einsum("sa,sat->st", theta.softmax(-1), mdp.transitions)
    here, visits = mdp.start, torch.zeros_like(mdp.start)
    for t in range(_sweeps(mdp.discount)):
        visits = visits + mdp.discount**t * here
        here = here @ kernel
    visits = visits * (1 - mdp.discount if normalised else 1.0)
    return every(equal(visits.sum(), 1.0, where="sum"), equal(visits, mdp.visits(theta), where="linear system"))


@theorem(
    section=VALUES, source=PUTERMAN,
    broken={"twice the contraction": {"power": 2}},
)  # fmt: skip
def bellman_sweeps_contract(lab: Lab, *, power: int = 1) -> Verdict:
    """‖TV - TW‖∞ ≤ γ‖V - W‖∞      (TV)(s) = max_a r(s,a) + γ Σ_t P(t|s,a) V(t)

    Proof: |max_a x_a - max_a y_a| ≤ max_a |x_a - y_a|, and an average of V - W lies within ±‖V - W‖∞; equal where V - W is constant.
    Experiment: pairs of normal values and pairs that differ by a constant; the figure: how far n sweeps from 0 are from V*.
    """
    mdp = lab.mdp()
    one = lab.normal("values", INSTANCES, lab.states)
    other = torch.cat([lab.normal("other", INSTANCES - 1, lab.states), one[-1:] + 1.0])
    swept = (mdp.transitions @ one[:, None, :, None])[..., 0], (mdp.transitions @ other[:, None, :, None])[..., 0]
    first, second = ((mdp.rewards + mdp.discount * s).amax(-1) for s in swept)
    found = at_most((first - second).abs().amax(-1), mdp.discount**power * (one - other).abs().amax(-1))
    best, values, gaps = mdp.optimal_values(), torch.zeros_like(mdp.start), []
    for _ in range(30):
        gaps.append(float((best - values).abs().max()))
        values = mdp.backed_up(values).amax(-1)
    limits = tuple(mdp.discount**n * gaps[0] for n in range(30))
    return found.drawn(
        Curve(x=tuple(range(30)), measured=tuple(gaps), bound=limits, across="sweeps", up="off V*", log_y=True)
    )


@theorem(section=VALUES, source=PUTERMAN, broken={"one sweep is enough": {"sweeps": 1}})
def the_optimum_is_greedy_in_its_own_values(lab: Lab, *, sweeps: int | None = None) -> Verdict:
    """V* = TV* ≥ V^π for every π in every state, and π*(s) = argmax_a Q*(s,a) attains it

    Proof: V^π = T_πV^π ≤ TV^π, so V^π ≤ TⁿV^π → V*, as T is monotone. π* has T_π*V* = TV* = V*, and V^π* alone solves that.
    Experiment: a decision process; V* by value iteration; random policies, and the greedy one.
    """
    mdp = lab.mdp()
    best = mdp.optimal_values() if sweeps is None else torch.zeros_like(mdp.start)
    for _ in range(sweeps or 0):
        best = mdp.backed_up(best).amax(-1)
    spread = 10 * lab.uniform("sharpness", INSTANCES, 1, 1)
    values = torch.vmap(mdp.values)(spread * lab.normal("policies", INSTANCES, lab.states, lab.actions))
    q = mdp.backed_up(best)
    greedy = torch.where(q == q.amax(-1, keepdim=True), 0.0, -torch.full_like(q, math.inf))
    return every(at_most(values, best.expand_as(values)), equal(mdp.values(greedy), best, where="greedy"))


@theorem(
    section=VALUES, source=KAKADE_LANGFORD,
    broken={"the sign turned": {"sign": -1.0}},
)  # fmt: skip
def reweighing_by_advantage_improves_every_state(lab: Lab, *, sign: float = 1.0) -> Verdict:
    """π'(a|s) ∝ π(a|s)·exp(η·A(s,a))  ⇒  V^π'(s) ≥ V^π(s) in every state

    Conditions: η ≥ 0.
    Proof: Σ_a π'A = Cov_π(e^{ηA}, A)/E_π[e^{ηA}] ≥ 0, both increasing in A. So T_π'V^π ≥ V^π, and repeating T_π' rises to V^π'.
    Experiment: 400 random decision processes and policies, η from 1 to 100.
    """
    drawn = _updates(lab)
    eta = sign * 10 ** (2 * lab.uniform("eta", INSTANCES, 1, 1))

    def gain(transitions: Tensor, rewards: Tensor, start: Tensor, theta: Tensor, eta: Tensor) -> Tensor:
        mdp = MDP(transitions=transitions, rewards=rewards, start=start, discount=lab.discount)
        return mdp.values(theta + eta * mdp.advantages(theta)) - mdp.values(theta)

    gains = torch.vmap(gain)(*drawn[:4], eta)
    order = eta.abs().flatten().argsort()[:: INSTANCES // 80]
    curve = Curve(
        x=tuple(eta.abs().flatten()[order].tolist()), measured=tuple(gains.amin(-1)[order].tolist()), bound=(0.0,) * len(order),
        across="η", up="least gain of a state", log_x=True,
    )  # fmt: skip
    return at_least(gains, 0.0).drawn(curve)


@theorem(
    section=VALUES, source="Schulman et al. 2016 (GAE), https://arxiv.org/abs/1506.02438",
    broken={"λ = 0.95": {"lam": 0.95}},
)  # fmt: skip
def temporal_differences_telescope(lab: Lab, *, lam: float = 1.0) -> Verdict:
    """Σ_{k≥t} (r_k + V_{k+1} - V_k) = R_t - V_t      for any V, right or wrong

    Conditions: λ = 1, so that the differences are summed without a decay; V = 0 behind the last token.
    Proof: the sum of V_{k+1} - V_k telescopes to V_end - V_t = -V_t.
    Experiment: `gae` beside `reward_to_go` on every answer of a tree with different lengths, V normal.
    """
    world = lab.eos_tree()
    rewards = world.rewards[:, None] * (world.trained.cumsum(-1) == world.lengths[:, None]) * world.trained
    values = lab.normal("critic", int(world.states.max()) + 1)[world.states]
    found = gae(rewards, values, world.trained, lam=lam)
    return equal(found, (reward_to_go(rewards, world.trained) - values).where(world.trained, 0.0))


# Baselines


@theorem("B2.a", section=BASELINES, source=WILLIAMS, broken={"the baseline sees the action": {"sees_action": True}})
def baselines_cost_nothing(lab: Lab, *, sees_action: bool = False) -> Verdict:
    """E[b(s) ∇logπ(a|s)] = 0 for every baseline b

    Conditions: b does not depend on the action.
    Proof: Σ_a π(a|s)∇logπ(a|s) = ∇Σ_a π(a|s) = ∇1 = 0 in every state, and b(s) is a constant in that sum.
    Experiment: a token tree, b normal for each prefix (for each prefix and token in the twin), the expectation by enumeration.
    """
    world = lab.tree()
    theta = lab.policy(world)
    b = lab.normal("baseline", *theta.shape) if sees_action else lab.normal("baseline", len(theta), 1).expand_as(theta)
    held = (world.visits(theta)[:, None] * theta.detach().softmax(-1) * b).detach()
    return equal(gradient_of(lambda leaf: (held * leaf.log_softmax(-1)).sum(), theta), 0.0)


@theorem(
    "B2.b", section=BASELINES, source="Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783",
    broken={"no factor": {"shrinks": False}},
)  # fmt: skip
def the_group_mean_shrinks_the_gradient(lab: Lab, *, shrinks: bool = True) -> Verdict:
    """E[(1/G) Σ_i (r_i - mean r) ∇logπ(y_i)] = (G-1)/G · ∇J

    Proof: r_i - mean r = (1-1/G)·r_i - (1/G)·Σ_{j≠i} r_j; the second part is independent of y_i, hence a baseline.
    Experiment: every group of 2 to 5 answers of a bandit; `group_mean` with `reinforce`.
    """
    world = lab.bandit()
    theta = lab.policy(world)
    exact = gradient_of(world.expected_reward, theta)
    sizes = range(2, 6)
    means = torch.stack([
        expected_gradient(reinforce, group_mean, sequence_sum, world, group_size=g, policy=theta, ordered=0).mean
        for g in sizes
    ])  # fmt: skip
    factors = torch.tensor([(g - 1) / g if shrinks else 1.0 for g in sizes], dtype=torch.float64)
    ratios = means.flatten(1).norm(dim=1) / exact.norm()
    drawn = Curve(
        x=tuple(sizes), measured=tuple(ratios.tolist()), bound=tuple((g - 1) / g for g in sizes),
        across="G, answers of a group", up="‖mean gradient‖ / ‖∇J‖",
    )  # fmt: skip
    return equal(means, factors[:, None, None] * exact).drawn(drawn)


@theorem(
    "B2.c", section=BASELINES, source="Kool et al. 2019; Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740",
    broken={"the answer's own reward in its baseline": {"advantage": group_mean}},
)  # fmt: skip
def leaving_one_out_is_unbiased(lab: Lab, *, advantage: Callable[[Tensor], Tensor] = leave_one_out) -> Verdict:
    """E[(1/G) Σ_i (r_i - mean_{j≠i} r_j) ∇logπ(y_i)] = ∇J

    Proof: the other answers are independent of y_i, so the mean of their rewards is a baseline that y_i cannot see.
    Experiment: every group of 2 answers of a tree of 2 tokens with different lengths, and of 2 to 4 arms; `leave_one_out` with
    `reinforce`.
    """
    found = []
    for world, sizes in ((replace(lab, vocabulary=2).eos_tree(), (2,)), (lab.bandit(), (2, 3, 4))):
        theta = lab.policy(world)
        exact = gradient_of(world.expected_reward, theta)
        for g in sizes:
            got = expected_gradient(reinforce, advantage, sequence_sum, world, group_size=g, policy=theta, ordered=0)
            found.append(equal(got.mean, exact, where=f"groups of {g}, {world.name}"))
    return every(*found)


@theorem(
    "B2.d", section=BASELINES, source="Greensmith et al. 2004, Variance reduction techniques for gradient estimates",
    broken={"the expected reward is the best baseline": {"weighed": False}},
)  # fmt: skip
def the_best_baseline_weighs_rewards_by_squared_scores(lab: Lab, *, weighed: bool = True) -> Verdict:
    """argmin_b Var[(r - b)·S] = E[‖S‖² r] / E[‖S‖²]      S = ∇logπ(y)

    Proof: the mean does not depend on b, so Var is E[‖S‖²(r-b)²] up to a constant, a parabola in b; its derivative
    -2E[‖S‖²(r-b)] is 0 at b*.
    Experiment: a bandit; the exact variance at b* beside that at 201 other baselines, b* and the expected reward among them.
    """
    world = lab.bandit()
    theta = lab.policy(world)
    p, mean = world.probabilities(theta), float(world.expected_reward(theta))
    squares, best = _squared_scores(world, theta)
    grid = torch.cat([torch.linspace(-1, 2, 199, dtype=torch.float64), torch.tensor([best, mean], dtype=torch.float64)])
    seconds = (p * squares * (world.rewards - grid[:, None]).square()).sum(-1)
    variances = seconds - gradient_of(world.expected_reward, theta).square().sum()
    drawn = Curve(
        x=tuple(grid[:199].tolist()), measured=tuple(variances[:199].tolist()), across="b", up="variance of one sample",
    )  # fmt: skip
    return at_least(variances, variances[-2 if weighed else -1]).drawn(drawn)


@theorem(section=BASELINES, source="derived here", broken={"with the expected reward": {"weighed": False}})
def what_the_best_baseline_saves(lab: Lab, *, weighed: bool = True) -> Verdict:
    """Var[r·S] - Var[(r - b*)·S] = E[‖S‖² r]² / E[‖S‖²]

    Proof: E[‖S‖²(r² - (r-b)²)] = 2b·E[‖S‖²r] - b²·E[‖S‖²], at b* = E[‖S‖²r]/E[‖S‖²].
    Experiment: every answer of a tree with different lengths.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    p = world.probabilities(theta)
    squares, best = _squared_scores(world, theta)
    b = best if weighed else float(world.expected_reward(theta))
    saved = (p * squares * (world.rewards.square() - (world.rewards - b).square())).sum()
    return equal(saved, (p * squares * world.rewards).sum().square() / (p * squares).sum())


# Performance difference


@theorem("B3.a", section=DIFFERENCE, source=KAKADE_LANGFORD, broken={"the old policy's visits": {"visiting": "old"}})
def performance_difference(lab: Lab, *, visiting: Literal["old", "new"] = "new") -> Verdict:
    """J(π') - J(π) = E_{s~d', a~π'}[A^π(s,a)] / (1-γ)

    d' are the visits of the new policy π', A^π the advantages of the old one.
    Proof: E_π'[Σ_t γ^t(r_t + γV^π(s_{t+1}) - V^π(s_t))] telescopes to J(π') - E[V^π(s_0)], and given s_t and a_t its terms
    average to A^π(s_t,a_t).
    Experiment: a decision process and two unrelated policies; both sides by linear algebra.
    """
    mdp = lab.mdp()
    old, new = lab.policy(mdp), lab.policy(mdp, "new policy")
    visits = mdp.visits(new if visiting == "new" else old)
    gain = (visits[:, None] * new.softmax(-1) * mdp.advantages(old)).sum() / (1 - mdp.discount)
    return equal(gain, mdp.expected_reward(new) - mdp.expected_reward(old))


@theorem("B3.b", section=DIFFERENCE, source=KAKADE_LANGFORD, broken={"the old policy's visits": {"visiting": "old"}})
def performance_difference_of_answers(lab: Lab, *, visiting: Literal["old", "new"] = "new") -> Verdict:
    """J(π') - J(π) = E_{y~π'}[Σ_t A^π(s_t, y_t)]

    Proof: `an_answers_advantages_add_up`, averaged over the answers of π'.
    Experiment: a tree with answers of different lengths and two unrelated policies; both sides by enumeration.
    """
    world = lab.eos_tree()
    old, new = lab.policy(world), lab.policy(world, "new policy")
    visits = world.visits(new if visiting == "new" else old)
    gain = (visits[:, None] * new.softmax(-1) * world.advantages(old)).sum()
    return equal(gain, world.expected_reward(new) - world.expected_reward(old))


@theorem(section=DIFFERENCE, source=KAKADE_LANGFORD, broken={"Q in the place of A": {"centred": False}})
def an_answers_advantages_add_up(lab: Lab, *, centred: bool = True) -> Verdict:
    """Σ_t A^π(s_t, y_t) = r(y) - J(π)      for every single answer y, likely or not

    Proof: writing a token is deterministic: Q(s_t, y_t) = V(s_{t+1}), so the sum telescopes from V(root) = J to r(y).
    Experiment: every answer of a token tree.
    """
    world = lab.tree()
    theta = lab.policy(world)
    credit = world.advantages(theta) if centred else world.action_values(theta)
    total = credit[world.states, world.tokens].where(world.trained, 0.0).sum(-1)
    return equal(total, world.rewards - world.expected_reward(theta))


@theorem(
    "B3.c", section=DIFFERENCE, source="Sutton et al. 2000; Agarwal et al. 2021, https://arxiv.org/abs/1908.00261",
    broken={
        "the factor 1/(1-γ) left out": {"horizon": False},
        "states counted as if γ were 1": {"discounted": False},
    },
)  # fmt: skip
def softmax_gradient_of_a_decision_process(lab: Lab, *, horizon: bool = True, discounted: bool = True) -> Verdict:
    """∂J/∂z(s,a) = d(s)·π(a|s)·A(s,a) / (1-γ)      d the discounted visits

    Proof: differentiate the performance difference at π' = π: the visits' own change is multiplied by Σ_a πA = 0, and
    Σ_b A(s,b)·∂π(b|s)/∂z(s,a) = π(a|s)(A(s,a) - Σ_b πA) = π(a|s)A(s,a).
    Experiment: a decision process; beside ∇J by differentiating the linear system, and by central differences. Undiscounted
    states are what most code for γ < 1 samples from (Nota and Thomas 2020): that is not a gradient of J.
    """
    mdp = lab.mdp()
    theta = lab.policy(mdp)
    visits = (mdp if discounted else replace(mdp, discount=1 - 1e-9)).visits(theta)
    closed = visits[:, None] * theta.softmax(-1) * mdp.advantages(theta) / (1 - mdp.discount if horizon else 1.0)
    measured = _differences(mdp.expected_reward, theta, 1e-4, central=True)
    return every(
        equal(closed, gradient_of(mdp.expected_reward, theta), where="differentiation"),
        equal(closed, measured, 1e-5, where="differences"),
    )


@theorem("B4.a", section=DIFFERENCE, source=TRPO, broken={"Q in the place of A": {"centred": False}})
def the_surrogate_touches_the_objective(lab: Lab, *, centred: bool = True) -> Verdict:
    """L_π(π) = J(π)      L_π(π') = J(π) + Σ_s d_π(s) Σ_a π'(a|s) A^π(s,a)

    Proof: Σ_a π(a|s) A^π(s,a) = 0 in every state.
    Experiment: a tree with answers of different lengths; the figure: L beside J along a line through π.
    """
    world = lab.eos_tree()
    theta, along = lab.policy(world), lab.policy(world, "direction", scale=0.5)
    surrogate = _surrogate(world, theta, world.advantages(theta) if centred else world.action_values(theta))
    places = torch.linspace(-2, 2, 41, dtype=torch.float64)
    lines = [torch.vmap(f)(theta + places[:, None, None] * along) for f in (surrogate, world.expected_reward)]
    drawn = Curve(
        x=tuple(places.tolist()), measured=tuple(lines[1].tolist()), bound=tuple(lines[0].tolist()),
        across="step", up="J, and L as the bound",
    )  # fmt: skip
    return equal(surrogate(theta), world.expected_reward(theta)).drawn(drawn)


@theorem("B4.b", section=DIFFERENCE, source=TRPO, broken={"away from π": {"step": 0.5}})
def the_surrogate_has_the_gradient_of_the_objective(lab: Lab, *, step: float = 0.0) -> Verdict:
    """∇L_π(π') = ∇J(π') at π' = π

    Proof: ∇L_π = Σ_s d_π(s) Σ_a A^π ∇π', at π the policy gradient by prefixes. Elsewhere both d and A are stale.
    Experiment: a tree with answers of different lengths; both gradients by differentiation.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    there = theta + step * lab.policy(world, "direction")
    surrogate = _surrogate(world, theta, world.advantages(theta))
    return equal(gradient_of(surrogate, there), gradient_of(world.expected_reward, there))


@theorem(
    "B4.c", section=DIFFERENCE, source=TRPO,
    broken={"advantages of an older policy": {"staleness": 0.3}},
)  # fmt: skip
def the_surrogate_is_off_by_second_order(lab: Lab, *, staleness: float = 0.0) -> Verdict:
    """J(π') - L_π(π') = O(‖π' - π‖²)

    Conditions: the advantages are those of π itself.
    Proof: value and gradient agree at π; what Taylor's theorem leaves is second order.
    Experiment: a tree with answers of different lengths, 64 directions, steps of .1 down to .0125; the slope of the
    error's root mean square is 2, within 5 %.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    surrogate = _surrogate(world, theta, world.advantages(theta + staleness * lab.policy(world, "older")))
    directions = lab.normal("directions", 64, *theta.shape)

    def error(h: float) -> float:
        there = theta + h * directions
        return float((torch.vmap(surrogate)(there) - torch.vmap(world.expected_reward)(there)).square().mean().sqrt())

    errors = [error(h) for h in STEPS]
    return within(_slope(STEPS, errors), 2.0, 0.05, "slope").drawn(_over_steps(errors, "|J - L|"))


@theorem(
    "B4.d", section=DIFFERENCE, source=TRPO,
    broken={"one ratio for all tokens of an answer": {"per_token": False}},
)  # fmt: skip
def token_ratios_sample_the_surrogate(lab: Lab, *, per_token: bool = True) -> Verdict:
    """E_{y~π}[Σ_t ρ_t A^π(s_t, y_t)] = L_π(π') - J(π)      ρ_t = π'(y_t|s_t) / π(y_t|s_t), for every π'

    Proof: given the prefix, E_{a~π}[ρ A] = Σ_a π'(a|s) A(s,a); prefixes come from π, so they count d_π(s).
    Experiment: the library's `token_ratio` on every answer of a tree with different lengths, π' near to and far from π.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    credit, old = world.advantages(theta), world.logprobs(theta)
    surrogate = _surrogate(world, theta, credit)
    found = []
    for step in (0.1, 1.0):
        new = theta + step * lab.policy(world, "direction")
        logs = world.logprobs(new)
        whole = geometric_ratio(logs, old, world.trained)[:, None]
        ratios = token_ratio(logs, old) if per_token else whole.expand_as(logs)
        sampled = (ratios * credit[world.states, world.tokens]).where(world.trained, 0.0).sum(-1)
        mean = (world.probabilities(theta) * sampled).sum()
        found.append(equal(mean, surrogate(new) - world.expected_reward(theta), where=f"step {step}"))
    return every(*found)


# Trust regions


@theorem("B5.a", section=TRUST, source=TRPO + ", theorem 1", broken={"the surrogate alone bounds J": {"penalty": 0.0}})
def an_update_is_bounded_by_its_largest_kl(lab: Lab, *, penalty: float = 1.0) -> Verdict:
    """J(π') - J(π) ≥ L - 4ε·γ/(1-γ)² · max_s KL(π‖π')      ε = max|A|, L = E_{s~d, a~π'}[A]/(1-γ)

    Proof: the bound with max TV², and TV² ≤ KL/2 ≤ KL.
    Experiment: 400 decision processes with steps of .01 to 3; `trpo_floor`. The bound is loose, and the surrogate alone
    fails. The figure: how far J falls below L, beside what the bound allows.
    """
    u = _updates(lab).measured(lab.discount)
    floors = [
        trpo_floor(surrogate, penalty * kl, gamma=lab.discount, max_advantage=a)
        for surrogate, kl, a in zip(u.surrogate.tolist(), u.max_kl.tolist(), u.max_advantage.tolist(), strict=True)
    ]
    room = u.surrogate - torch.tensor(floors, dtype=torch.float64)
    return at_least(u.gain, floors).drawn(_room_below(u.max_tv, u.surrogate - u.gain, room))


@theorem("B5.b", section=TRUST, source=TRPO + ", theorem 1", broken={"the surrogate alone bounds J": {"penalty": 0.0}})
def an_update_is_bounded_by_its_largest_tv(lab: Lab, *, penalty: float = 1.0) -> Verdict:
    """J(π') - J(π) ≥ L - 4ε·γ/(1-γ)² · max_s TV(π, π')²

    Proof: |Σ_a(π' - π)A| ≤ 2α·ε in every state, and the visits at time t differ by at most 2(1-(1-α)^t) in ‖·‖₁, since both
    policies can be coupled to agree with probability 1-α a step. Σ_t γ^t·2αε·2(1-(1-α)^t) ≤ 4α²ε·γ/(1-γ)².
    Experiment: as for the largest KL; the figure: how far J falls below L, beside the penalty, over the size of the step.
    """
    u = _updates(lab).measured(lab.discount)
    squares = (penalty * u.max_tv.square()).tolist()
    floors = [
        trpo_floor(surrogate, square, gamma=lab.discount, max_advantage=a)
        for surrogate, square, a in zip(u.surrogate.tolist(), squares, u.max_advantage.tolist(), strict=True)
    ]
    return at_least(u.gain, floors).drawn(
        _room_below(u.max_tv, u.surrogate - u.gain, u.surrogate - torch.tensor(floors, dtype=torch.float64))
    )


@theorem(
    "B5.c", section=TRUST, source="Achiam et al. 2017 (CPO), https://arxiv.org/abs/1705.10528",
    broken={"the surrogate alone bounds J": {"penalty": 0.0}},
)  # fmt: skip
def an_update_is_bounded_by_its_mean_tv(lab: Lab, *, penalty: float = 1.0) -> Verdict:
    """|J(π') - J(π) - L| ≤ 2ε'·γ/(1-γ)² · E_{s~d}[TV(π, π')]      ε' = max_s |E_{a~π'} A(s,a)|

    Proof: (1-γ)(J' - J - L) = Σ_s (d'(s) - d(s))·Σ_a π'A ≤ ‖d' - d‖₁·ε', and ‖d' - d‖₁ ≤ 2γ/(1-γ)·E_d[TV].
    Experiment: 400 decision processes with steps of .01 to 3; `cpo_floor`, from below and from above.
    """
    u = _updates(lab).measured(lab.discount)
    rows = zip(u.surrogate.tolist(), (penalty * u.mean_tv).tolist(), u.max_expected.tolist(), strict=True)
    floors = torch.tensor(
        [cpo_floor(low, tv, gamma=lab.discount, max_expected_advantage=e) for low, tv, e in rows], dtype=torch.float64
    )
    below, room = u.surrogate - u.gain, u.surrogate - floors
    return every(at_least(u.gain, floors), at_most(u.gain, u.surrogate + room)).drawn(
        _room_below(u.mean_tv, below.abs(), room)
    )


@theorem(
    "B5.d", section=TRUST, source="derived here: a coupling over T tokens and the performance difference",
    broken={"the surrogate alone bounds J": {"penalty": 0.0}},
)  # fmt: skip
def an_update_of_answers_is_bounded(lab: Lab, *, penalty: float = 1.0) -> Verdict:
    """J(π') - J(π) ≥ L - 2T(T-1)·α²·max|A|      α = max_s TV(π, π'), L = E_{y~π}[Σ_t ρ_t A_t], T tokens

    Proof: J' - J - L = Σ_t Σ_s (d'_t(s) - d_t(s))·Σ_a π'A. |Σ_a (π'-π)A| ≤ 2α·max|A|, and ‖d'_t - d_t‖₁ ≤ 2tα; summed over
    t = 0..T-1 that is 4α²·max|A|·T(T-1)/2.
    Experiment: 400 pairs of policies over a tree with answers of different lengths, steps of .01 to 3; `update_floor`.
    """
    world = lab.eos_tree()
    theta, new = _moved_policies(lab, world)
    gain = torch.vmap(world.expected_reward)(new) - torch.vmap(world.expected_reward)(theta)
    credit = torch.vmap(world.advantages)(theta)
    visits = torch.vmap(world.visits)(theta)
    surrogate = (visits[..., None] * new.softmax(-1) * credit).sum((-1, -2))
    tv = penalty * _tv(theta, new).amax(-1)
    horizon, largest = int(world.lengths.max()), credit.abs().amax((-1, -2))
    floors = torch.tensor([
        update_floor(low, horizon=horizon, tv=alpha, max_advantage=a)
        for low, alpha, a in zip(surrogate.tolist(), tv.tolist(), largest.tolist(), strict=True)
    ], dtype=torch.float64)  # fmt: skip
    return at_least(gain, floors).drawn(_room_below(_tv(theta, new).amax(-1), surrogate - gain, surrogate - floors))


@theorem(
    section=TRUST, source="derived here",
    broken={"nine tenths of the distance in the bound": {"shrink": 0.9}, "an estimate by tokens needs no bound": {"shrink": 0.0}},
)  # fmt: skip
def the_bound_of_an_update_is_attained(lab: Lab, *, shrink: float = 1.0) -> Verdict:
    """J(π') - J(π) = L - 2T(T-1)·α²·max|A|      for T = 2 and some update, at every α ≤ ½

    So the constant of `an_update_of_answers_is_bounded` cannot be improved for two tokens.
    Proof: π is uniform, and in both prefixes one token earns x and the other -x. The new policy moves α from the first prefix to
    the second, gets better by α in the first and worse by α in the second: L = ½·2αx - ½·2αx = 0, J' - J = (½-α)·2αx - (½+α)·2αx.
    Experiment: 30 values of α and of x; `update_floor` with the tree's own advantages. The figure: J' - J over α, and the floor.
    """
    alphas, sizes = lab.uniform("alpha", 30) / 2, 1 + lab.uniform("size", 30)
    base = tree(vocabulary=2, depth=2)
    theta = torch.zeros(3, 2, dtype=torch.float64)
    found = []
    for alpha, x in zip(alphas.tolist(), sizes.tolist(), strict=True):
        world = base.earning(x * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64))
        moves = torch.zeros_like(theta)
        moves[0, 1], moves[1, 0], moves[2, 1] = alpha, alpha, alpha
        new = (0.5 + moves - moves.flip(-1)).log()
        surrogate = _surrogate(world, theta, world.advantages(theta))(new) - world.expected_reward(theta)
        largest = float(world.advantages(theta).abs().max())
        floor = update_floor(
            float(surrogate), horizon=2, tv=shrink * float(_tv(theta, new).max()), max_advantage=largest
        )
        found.append((float(world.expected_reward(new) - world.expected_reward(theta)), floor))
    gains, floors = zip(*found, strict=True)
    order = alphas.argsort().tolist()
    drawn = Curve(
        x=tuple(alphas[order].tolist()), measured=tuple(gains[i] / sizes[i].item() for i in order),
        bound=tuple(floors[i] / sizes[i].item() for i in order), across="α", up="(J' - J)/x",
    )  # fmt: skip
    return equal(gains, floors).drawn(drawn)


@theorem(section=TRUST, source="derived here: a coupling", broken={"half as far": {"factor": 1.0}})
def visits_drift_with_the_depth(lab: Lab, *, factor: float = 2.0) -> Verdict:
    """Σ_s |d'_t(s) - d_t(s)| ≤ 2(1 - (1-α)^t) ≤ 2tα      prefixes of t tokens, α = max_s TV(π(·|s), π'(·|s))

    Proof: draw each token of both policies together so that they agree with probability 1 - TV ≥ 1 - α. After t tokens the
    prefixes still agree with probability ≥ (1-α)^t, and ‖d' - d‖₁ is at most twice the probability that they do not.
    Experiment: 400 pairs of policies over a token tree, every depth; equality at t = 1 where the root moves most, as it
    does in every fourth pair, which differs only there.
    """
    world = replace(lab, own=None).tree()
    theta, new = _moved_policies(lab, world)
    new[::4, 1:] = theta[::4, 1:]
    depth = torch.zeros(theta.shape[1], dtype=torch.int64)
    depth[world.states[world.trained]] = torch.arange(world.tokens.shape[1]).expand_as(world.tokens)[world.trained]
    drift = (torch.vmap(world.visits)(new) - torch.vmap(world.visits)(theta)).abs()
    alpha = _tv(theta, new).amax(-1)
    times = torch.arange(1, int(depth.max()) + 1)
    drifts = torch.stack([drift[:, depth == t].sum(-1) for t in times.tolist()])
    return at_most(drifts, factor * (1 - (1 - alpha) ** times[:, None]))


@theorem(
    "B5.e", section=TRUST,
    source="Pinsker 1960; Bretagnolle and Huber 1979, as compared by Canonne 2022, https://arxiv.org/abs/2202.07198",
    broken={"half of Pinsker's": {"scale": 0.25}, "√(1-e^{-KL}) without its root": {"rooted": False}},
)  # fmt: skip
def total_variation_is_bounded_by_kl(lab: Lab, *, scale: float = 0.5, rooted: bool = True) -> Verdict:
    """TV(p, q) ≤ min(√(KL(p‖q)/2), √(1 - e^{-KL(p‖q)}))

    Proof: Pinsker: for two outcomes KL - 2(p-q)² has its minimum 0 at p = q, and lumping outcomes by the sign of p - q keeps TV
    while KL only falls. Bretagnolle and Huber: 1 - TV² ≥ (Σ√(pq))² ≥ exp(E_p log(q/p)), by Cauchy-Schwarz and by Jensen.
    Experiment: 1200 pairs of distributions, near to and far from each other; `total_variation_bound`.
    """
    base = lab.normal("p", 3 * INSTANCES, lab.vocabulary)
    near = base + 10 ** (3 * lab.uniform("step", len(base), 1) - 2) * lab.normal("q", *base.shape)
    tv, kl = _tv(base, near), kl_exact(base, near)
    limits = torch.tensor([total_variation_bound(k * scale / 0.5) for k in kl.tolist()], dtype=torch.float64)
    if not rooted:
        limits = limits.minimum(-(-kl).expm1())
    order = kl.argsort()[:: max(1, len(kl) // 100)]
    drawn = Curve(
        x=tuple(kl[order].tolist()), measured=tuple(tv[order].tolist()), bound=tuple(limits[order].tolist()),
        across="KL, nats", up="total variation", log_x=True, log_y=True,
    )  # fmt: skip
    return at_most(tv, limits).drawn(drawn)


# The optimum under a KL penalty


@theorem(
    "B6.a", section=OPTIMUM, source=LEVINE,
    broken={"the reference forgotten": {"referred": False}, "β counted twice": {"heat": 2.0}},
)  # fmt: skip
def the_regularised_optimum_tilts_the_reference(lab: Lab, *, referred: bool = True, heat: float = 1.0) -> Verdict:
    """argmax_π E_π[r] - β·KL(π‖ref) = π*,      π*(y) = ref(y)·exp(r(y)/β) / Z

    Conditions: β > 0, ref(y) > 0.
    Proof: J_β(π) = β·log Z - β·KL(π‖π*) (B6.c), and KL ≥ 0 with equality only at π*.
    Experiment: answers of a tree, β half the spread of the rewards; J_β of π* beside 400 distributions, half of them near it.
    The figure: J_β of the reference tilted with another temperature than β.
    """
    world = lab.tree()
    ref, r, beta = _regularised(lab, world)
    best = _tilted(ref if referred else torch.full_like(ref, 1 / len(ref)), r, beta * heat)
    others = torch.cat([lab.simplex("far", INSTANCES // 2, len(r)), _near(lab, _tilted(ref, r, beta), INSTANCES // 2)])
    heats = torch.logspace(-1, 1, 41, dtype=torch.float64)
    top = float(_regularised_reward(_tilted(ref, r, beta), ref, r, beta))
    drawn = Curve(
        x=tuple(heats.tolist()), measured=tuple(_regularised_reward(_tilted(ref, r, beta * heats[:, None]), ref, r, beta).tolist()),
        bound=(top,) * len(heats), across="temperature of the tilt, over β", up="J_β", log_x=True,
    )  # fmt: skip
    return at_most(_regularised_reward(others, ref, r, beta), _regularised_reward(best, ref, r, beta)).drawn(drawn)


@theorem("B6.b", section=OPTIMUM, source=LEVINE, broken={"Z without the reference": {"weighed": False}})
def the_regularised_value_is_the_log_partition(lab: Lab, *, weighed: bool = True) -> Verdict:
    """max_π E_π[r] - β·KL(π‖ref) = β·log Z      Z = E_ref[exp(r/β)]

    Proof: log(π*/ref) = r/β - log Z, so E_π*[r] - β·KL(π*‖ref) = E_π*[r - r + β·log Z].
    Experiment: answers of a tree.
    """
    world = lab.tree()
    ref, r, beta = _regularised(lab, world)
    z = ((r / beta).exp() * (ref if weighed else 1.0)).sum()
    return equal(_regularised_reward(_tilted(ref, r, beta), ref, r, beta), beta * z.log())


@theorem("B6.c", section=OPTIMUM, source=LEVINE, broken={"KL the other way round": {"reverse": False}})
def the_regularised_objective_is_a_distance(lab: Lab, *, reverse: bool = True) -> Verdict:
    """E_π[r] - β·KL(π‖ref) = β·log Z - β·KL(π‖π*)      for every π

    Proof: r = β·log(π*/ref) + β·log Z; put in: E_π[β·log(π*/ref) - β·log(π/ref)] + β·log Z.
    Experiment: 400 distributions over the answers of a tree.
    """
    world = lab.tree()
    ref, r, beta = _regularised(lab, world)
    best, others = _tilted(ref, r, beta), lab.simplex("policies", INSTANCES, len(r))
    distance = _kl(others, best) if reverse else _kl(best.expand_as(others), others)
    return equal(
        _regularised_reward(others, ref, r, beta), beta * (ref * (r / beta).exp()).sum().log() - beta * distance
    )


@theorem(
    "B6.d", section=OPTIMUM, source="Rafailov et al. 2023, https://arxiv.org/abs/2305.18290",
    broken={"KL(ref‖π) in the place of KL(π‖ref)": {"forward": True}},
)  # fmt: skip
def ascent_reaches_the_regularised_optimum(lab: Lab, *, forward: bool = False) -> Verdict:
    """gradient ascent on J_β over the logits of the token policies ends at π*(y) ∝ ref(y)·exp(r(y)/β)

    Proof: J_β = β·log Z - β·KL(π‖π*); a table of logits reaches every distribution over the answers, and where ∇J_β = 0 every
    prefix has the conditional of π*: there is no other stationary point.
    Experiment: L-BFGS from the reference; the largest error of an answer's probability is below 10⁻⁶.
    """
    world = lab.tree()
    reference = lab.policy(world, "reference")
    beta = float(world.rewards.std())
    theta = reference.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [theta], max_iter=300, tolerance_grad=1e-10, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = world.kl(reference, theta) if forward else world.kl(theta, reference)
        loss = beta * penalty - world.expected_reward(theta)
        loss.backward()
        return loss

    optimiser.step(closure)
    return equal(world.probabilities(theta), _tilted(world.probabilities(reference), world.rewards, beta), 1e-6)


@theorem(
    "B6.e", section=OPTIMUM, source="Laplace's expansion",
    broken={"the gain halved": {"gain": 0.5}, "KL not halved": {"half": 1.0}},
)  # fmt: skip
def a_small_budget_buys_variance(lab: Lab, *, gain: float = 1.0, half: float = 0.5) -> Verdict:
    """KL(π*‖ref) ≈ Var_ref(r)/(2β²)      E_π*[r] - E_ref[r] ≈ Var_ref(r)/β      for large β

    So a gain costs KL by its square: gain ≈ √(2·KL·Var_ref(r)).
    Proof: log Z = m/β + Var/(2β²) + O(β⁻³); E_π*[r] is its derivative in 1/β, and KL = E_π*[r]/β - log Z.
    Experiment: β a hundred times the range of the rewards: both within 2 %. The figure: the exact gain over KL, beside √(2·KL·Var).
    """
    world = lab.tree()
    ref, r, _ = _regularised(lab, world)
    mean = (ref * r).sum()
    variance, span = (ref * (r - mean).square()).sum(), float(r.max() - r.min())
    betas = torch.logspace(2, -1, 31, dtype=torch.float64) * span
    best = _tilted(ref, r, betas[:, None])
    kls, gains = _kl(best, ref), (best * r).sum(-1) - mean
    drawn = Curve(
        x=tuple(kls.tolist()), measured=tuple(gains.tolist()), bound=tuple((2 * kls * variance).sqrt().tolist()),
        across="KL(π*‖ref), nats", up="E[r] gained", log_x=True, log_y=True,
    )  # fmt: skip
    return every(
        within(gain * variance / betas[0], gains[0], 0.02, "gain"),
        within(half * variance / betas[0] ** 2, kls[0], 0.02, "KL"),
    ).drawn(drawn)


@theorem(
    "B6.f", section=OPTIMUM, source=LEVINE,
    broken={"the reference's own Q": {"soft": False}},
)  # fmt: skip
def soft_bellman_gives_the_optimum_token_by_token(lab: Lab, *, soft: bool = True) -> Verdict:
    """V(s) = β·log Σ_a ref(a|s)·exp(Q(s,a)/β),  Q(s,a) = V(sa) or the reward at the end
    π*(a|s) = ref(a|s)·exp((Q(s,a) - V(s))/β)      and the product over tokens is ref(y)·exp(r(y)/β)/Z

    Proof: by induction from the leaves exp(V(s)/β) = E_ref[exp(r/β) | s]; in the product over t all V cancel but V(root) = β·log Z.
    Experiment: a tree with answers of different lengths, V swept from the leaves; each answer's probability beside B6.a. With the
    mean reward Q^ref in the place of soft Q the policy steers by what the reference would do later, not by what it will do.
    """
    world = lab.eos_tree()
    reference = lab.policy(world, "reference")
    beta = float(world.rewards.std()) / 2
    values = torch.zeros(len(reference), dtype=torch.float64)
    for _ in range(world.tokens.shape[1]):
        values = beta * (reference.log_softmax(-1) + _next_values(world, values) / beta).logsumexp(-1)
    q = _next_values(world, values) if soft else world.action_values(reference)
    policy = reference.log_softmax(-1) + q / beta
    return equal(world.probabilities(policy), _tilted(world.probabilities(reference), world.rewards, beta))


@theorem(section=OPTIMUM, source=LEVINE, broken={"without log Z": {"normalised": False}})
def kl_of_the_regularised_optimum(lab: Lab, *, normalised: bool = True) -> Verdict:
    """KL(π*‖ref) = E_π*[r]/β - log Z

    Proof: the mean of log(π*/ref) = r/β - log Z under π*.
    Experiment: answers of a tree, β from a tenth to ten times the spread of the rewards; the figure: KL over β.
    """
    world = lab.tree()
    ref, r, spread = _regularised(lab, world)
    betas = torch.logspace(1, -1, 21, dtype=torch.float64)[:, None] * spread
    best = _tilted(ref, r, betas)
    log_z = ((r / betas).exp() * ref).sum(-1).log() if normalised else 0.0
    kls = _kl(best, ref)
    drawn = Curve(
        x=tuple(betas[:, 0].tolist()), measured=tuple(kls.tolist()), across="β", up="KL(π*‖ref), nats", log_x=True, log_y=True,
    )  # fmt: skip
    return equal((best * r).sum(-1) / betas[:, 0] - log_z, kls).drawn(drawn)


@theorem(
    section=OPTIMUM, source="derived here from B6.c",
    broken={"tilted by the reward's rank": {"ranked": True}},
)  # fmt: skip
def no_policy_earns_more_at_the_same_kl(lab: Lab, *, ranked: bool = False) -> Verdict:
    """KL(π‖ref) ≤ KL(π*‖ref)  ⇒  E_π[r] ≤ E_π*[r]

    Proof: E_π[r] - β·KL(π‖ref) ≤ E_π*[r] - β·KL(π*‖ref), as π* maximises it; the difference of the KLs is on the right side.
    Experiment: 400 policies tilted by the reward plus noise, each by so much that its KL is that of π*; the twin's π* is tilted by
    the ranks of the rewards and scaled to the KL of π* likewise.
    """
    world = lab.tree()
    ref, r, beta = _regularised(lab, world)
    best = _tilted(ref, r, beta)
    budget = _kl(best, ref)
    noise = 10 ** (3 * lab.uniform("size", INSTANCES, 1) - 2) * r.std()
    others = _at_kl(ref, r + noise * lab.normal("noise", INSTANCES, len(r)), budget)
    if ranked:
        best = _at_kl(ref, r.argsort().argsort().double()[None], budget)[0]
        others = torch.cat([others, _tilted(ref, r, beta)[None]])
    return at_most((others * r).sum(-1), (best * r).sum())


@theorem(section=OPTIMUM, source="derived here", broken={"the reference's variance": {"here": False}})
def reward_grows_by_its_variance(lab: Lab, *, here: bool = True) -> Verdict:
    """d E_π*[r] / d(1/β) = Var_π*(r)      so weakening the leash never costs expected reward

    Proof: E_π*[r] is the derivative of log Z in 1/β; its second derivative is the variance.
    Experiment: answers of a tree, 1/β from 0.1 to 10 over the spread of the rewards, by differentiation.
    """
    world = lab.tree()
    ref, r, _ = _regularised(lab, world)
    inverse = (torch.logspace(-1, 1, 21, dtype=torch.float64) / r.std())[:, None].requires_grad_()
    best = _tilted(ref, r, 1 / inverse)
    mean = (best * r).sum(-1, keepdim=True)
    (slope,) = torch.autograd.grad(mean.sum(), inverse)
    under = best if here else ref.expand_as(best)
    centre = (under * r).sum(-1, keepdim=True)
    drawn = Curve(
        x=tuple(inverse[:, 0].tolist()), measured=tuple(mean[:, 0].tolist()), across="1/β", up="E[r] at the optimum", log_x=True,
    )  # fmt: skip
    return equal(slope, (under * (r - centre).square()).sum(-1, keepdim=True)).drawn(drawn)


@theorem(
    section=OPTIMUM, source="Rafailov et al. 2023, https://arxiv.org/abs/2305.18290",
    broken={"the reward alone scaled": {"jointly": False}},
)  # fmt: skip
def the_optimum_sees_rewards_over_beta_up_to_a_constant(lab: Lab, *, jointly: bool = True) -> Verdict:
    """π*(r + c, β) = π*(r, β)      π*(k·r, k·β) = π*(r, β)

    Conditions: k > 0; c the same for all answers to a prompt.
    Proof: exp(c/β) goes into Z, and only r/β enters the exponent.
    Experiment: answers of a tree, c = 3 and k = 2.
    """
    world = lab.tree()
    ref, r, beta = _regularised(lab, world)
    return equal(_tilted(ref, 2 * r + 3, 2 * beta if jointly else beta), _tilted(ref, r, beta))


@theorem(
    section=OPTIMUM, source="Jaques et al. 2019, https://arxiv.org/abs/1907.00456",
    broken={"logπ/ref as a loss": {"in_reward": False}},
)  # fmt: skip
def a_kl_penalty_belongs_in_the_reward(lab: Lab, *, in_reward: bool = True) -> Verdict:
    """∇(E[r] - β·KL(π‖ref)) = E[Σ_t R_t ∇logπ(y_t|s_t)]      R_t = r(y) - β·Σ_{k≥t} log(π/ref)(y_k|s_k)

    Proof: the score function with the reward r - β·log(π/ref); the reward's own derivative adds -β·E[∇logπ(y)] = 0, and what
    was paid before t is a baseline of token t.
    Experiment: the library's `kl_penalised_returns` on every answer of a tree with different lengths. As a loss log(π/ref) moves
    nothing on average.
    """
    world = lab.eos_tree()
    theta, reference = lab.policy(world), lab.policy(world, "reference")
    beta = 0.5
    returns = kl_penalised_returns(
        world.rewards, world.logprobs(theta), world.logprobs(reference), world.trained, beta=beta if in_reward else 0.0
    )
    mean = torch.einsum("s,st,stnv->nv", world.probabilities(theta), returns, _token_scores(world, theta))
    return equal(mean, gradient_of(lambda x: world.expected_reward(x) - beta * world.kl(x, reference), theta))


@theorem(
    section=OPTIMUM, source="Haarnoja et al. 2017, https://arxiv.org/abs/1702.08165",
    broken={"the entropy not counted": {"counted": False}},
)  # fmt: skip
def soft_values_are_attained(lab: Lab, *, counted: bool = True) -> Verdict:
    """V = τ·log Σ_a exp(Q/τ), Q = r + γPV  ⇒  π ∝ exp(Q/τ) earns V, counting τ·H(π(·|s)) in every state

    Proof: with π = exp((Q-V)/τ): Σ_a π(r + γPV) - τΣ_a π·logπ = Σ_a π(Q - (Q - V)) = V, so V solves the Bellman equation of π
    with the reward r - τ·logπ, which has one solution.
    Experiment: a decision process, τ = .2; V by soft value iteration, the value of π by linear algebra.
    """
    mdp = lab.mdp()
    temperature = 0.2
    values = mdp.optimal_values(temperature=temperature)
    theta = mdp.backed_up(values) / temperature
    paid = temperature * theta.log_softmax(-1) if counted else 0.0
    return equal(replace(mdp, rewards=mdp.rewards - paid).values(theta), values)


# Entropy


@theorem(
    "B22", section=ENTROPY, source="Cui et al. 2025, https://arxiv.org/abs/2505.22617",
    broken={"the sign turned": {"sign": 1.0}, "not centred": {"centred": False}},
)  # fmt: skip
def entropy_falls_by_a_covariance(lab: Lab, *, sign: float = -1.0, centred: bool = True) -> Verdict:
    """dH/dt = -Cov_π(logπ, dz/dt)      along any flow of the logits

    Raising what is likely already lowers the entropy; raising what is unlikely lifts it.
    Proof: ∂H/∂z_a = -π_a(logπ_a + H); along ż that is -Σ_a π_a·(logπ_a - E_π logπ)·ż_a.
    Experiment: 400 distributions and flows, `entropy_exact` by differentiation; the figure: the entropy of a bandit's policy under
    the exact policy gradient.
    """
    z, flow = lab.normal("logits", INSTANCES, lab.vocabulary), lab.normal("flow", INSTANCES, lab.vocabulary)
    slope = (gradient_of(lambda leaf: entropy_exact(leaf).sum(), z) * flow).sum(-1)
    p, log = z.softmax(-1), z.log_softmax(-1)
    mean = (p * flow).sum(-1) if centred else 0.0
    covariance = (p * log * flow).sum(-1) - (p * log).sum(-1) * mean
    return equal(slope, sign * covariance).drawn(_entropy_under_ascent(lab))


@theorem(
    section=ENTROPY, source="Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x",
    broken={"without + H": {"centred": False}},
)  # fmt: skip
def gradient_of_the_entropy(lab: Lab, *, centred: bool = True) -> Verdict:
    """∂H/∂z_a = -π_a·(logπ_a + H)

    Proof: ∂H/∂π_b = -(logπ_b + 1) and ∂π_b/∂z_a = π_b(1[a=b] - π_a); the ones cancel, and -Σ_b π_b·logπ_b = H.
    Experiment: 400 distributions; `entropy_exact` by differentiation.
    """
    z = lab.normal("logits", INSTANCES, lab.vocabulary)
    p, log = z.softmax(-1), z.log_softmax(-1)
    h = -(p * log).sum(-1, keepdim=True)
    return equal(gradient_of(lambda leaf: entropy_exact(leaf).sum(), z), -p * (log + (h if centred else 0.0)))


@theorem(
    section=ENTROPY, source="Shannon 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x",
    broken={"every prefix counts alike": {"visited": False}},
)  # fmt: skip
def entropy_adds_up_over_tokens(lab: Lab, *, visited: bool = True) -> Verdict:
    """H(y) = -E[logπ(y)] = Σ_s d(s)·H(π(·|s))

    Proof: logπ(y) = Σ_t logπ(y_t|s_t), and given the prefix -logπ(y_t|s_t) averages to the entropy there.
    Experiment: a tree with answers of different lengths; `entropy_exact` of every prefix.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    visits = world.visits(theta) if visited else torch.full_like(world.visits(theta), 1 / len(theta))
    whole = -(world.probabilities(theta) * world.sequence_logprobs(theta)).sum()
    return equal((visits * entropy_exact(theta)).sum(), whole)


@theorem(
    section=ENTROPY, source="Kullback and Leibler 1951, https://doi.org/10.1214/aoms/1177729694",
    broken={"prefixes of the reference": {"visiting": "reference"}},
)  # fmt: skip
def kl_adds_up_over_tokens(lab: Lab, *, visiting: Literal["policy", "reference"] = "policy") -> Verdict:
    """KL(π‖ref) of whole answers = Σ_s d_π(s)·KL(π(·|s)‖ref(·|s))

    Conditions: prefixes are drawn from π.
    Proof: log(π/ref)(y) is a sum over tokens, and given the prefix each averages to the KL there.
    Experiment: a tree with answers of different lengths; `kl_exact` of every prefix.
    """
    world = lab.eos_tree()
    theta, reference = lab.policy(world), lab.policy(world, "reference")
    visits = world.visits(theta if visiting == "policy" else reference)
    return equal((visits * kl_exact(theta, reference)).sum(), world.kl(theta, reference))


@theorem(section=ENTROPY, source="derived here", broken={"the exact entropy of each token": {"exact": True}})
def sampled_entropy_moves_nothing(lab: Lab, *, exact: bool = False) -> Verdict:
    """E[∇(-logπ(y_t|s_t))] = 0      although E[-logπ(y_t|s_t)] is the entropy

    Proof: the score averages to 0: the estimate's mean is right, its derivative forgets that the samples come from π.
    Experiment: logπ as a loss on every answer of a tree; in the twin `entropy_bonus`, which sees the whole distribution.
    """
    world = lab.tree()
    loss = _entropy_of_tokens if exact else _sampled_entropy
    return equal(expected_penalty_gradient(loss, world, policy=lab.policy(world)).mean, 0.0)


# The natural gradient


@theorem(
    "B26", section=NATURAL, source=AMARI, broken={"without the half": {"half": 1.0}, "of first order": {"order": 1.0}}
)
def kl_of_a_step_is_quadratic(lab: Lab, *, half: float = 0.5, order: float = 2.0) -> Verdict:
    """KL(θ‖θ + η·d) = η²/2 · dᵀFd + O(η³)      F = E[∇logπ ∇logπᵀ], for every direction d

    So the KL of a step grows with the square of the learning rate, of gradient steps as of sign steps (Adam's first).
    Proof: KL is 0 with derivative -E[∇logπ] = 0 at η = 0; its second derivative is -E[∇²logπ] = F.
    Experiment: a token tree, d = ∇J and d = sign(∇J), η = 10⁻³ of unit length: within 1 %, and the slope in log-log within 1 %.
    """
    world = lab.tree()
    theta = lab.policy(world)
    gradient, fisher = gradient_of(world.expected_reward, theta), _fisher(world, theta)
    etas = torch.logspace(-3, -1, 9, dtype=torch.float64)
    found = []
    for name, d in (("gradient", gradient), ("sign", gradient.sign())):
        d = d / d.norm()
        kls = torch.vmap(lambda eta, d=d: world.kl(theta, theta + eta * d))(etas)
        limits = half * etas**2 * (d.flatten() @ fisher @ d.flatten())
        drawn = Curve(
            x=tuple(etas.tolist()), measured=tuple(kls.tolist()), bound=tuple(limits.tolist()),
            across="η", up="KL of the step, nats", log_x=True, log_y=True,
        )  # fmt: skip
        found += [
            within(limits[0], kls[0], 0.01, name).drawn(drawn),
            within(_slope(etas[:3].tolist(), kls[:3].tolist()), order, 0.01, f"{name}, slope"),
        ]
    return every(*found)


@theorem(section=NATURAL, source=AMARI, broken={"away from θ": {"step": 0.5}})
def fisher_is_the_curvature_of_kl(lab: Lab, *, step: float = 0.0) -> Verdict:
    """∇²_θ' KL(π_θ‖π_θ') = ∇²_θ' KL(π_θ'‖π_θ) = F = E[∇logπ ∇logπᵀ]      at θ' = θ

    Proof: -E[∇²logπ] = E[∇logπ ∇logπᵀ], from differentiating E[∇logπ] = 0 once more; in the other direction the same, since
    log(π_θ'/π_θ) vanishes at θ.
    Experiment: a token tree; both Hessians by differentiation, the outer products by enumeration.
    """
    world = lab.tree()
    theta = lab.policy(world)
    there = theta + step * lab.policy(world, "direction")
    fisher = _fisher(world, theta)
    hessians = [
        torch.func.hessian(kl)(there).reshape(fisher.shape)
        for kl in (lambda x: world.kl(theta, x), lambda x: world.kl(x, theta))
    ]
    return equal(torch.stack(hessians), fisher)


@theorem(section=NATURAL, source=AMARI, broken={"the plain gradient": {"natural": False}})
def the_natural_gradient_is_steepest_in_kl(lab: Lab, *, natural: bool = True) -> Verdict:
    """argmax_d ∇J·d subject to dᵀFd = c is d ∝ F⁺∇J

    Proof: in the inner product of F, ∇J·d = ⟨F⁺∇J, d⟩_F ≤ ‖F⁺∇J‖_F·‖d‖_F, by Cauchy-Schwarz.
    Experiment: a token tree; the gain ∇J·d/√(dᵀFd) of 400 directions, the gradient, its sign and F⁺∇J among them. The figure: what
    steps along the gradient gain, beside the natural gradient's at the same dᵀFd.
    """
    world = lab.tree()
    theta = lab.policy(world)
    gradient, fisher = gradient_of(world.expected_reward, theta).flatten(), _fisher(world, theta)
    steepest = torch.linalg.pinv(fisher, hermitian=True) @ gradient
    noise = (
        lab.normal("directions", INSTANCES, len(gradient))
        * steepest.norm()
        * 10 ** (-2 * lab.uniform("size", INSTANCES, 1))
    )
    others = torch.cat([steepest + noise, torch.stack([gradient, gradient.sign(), steepest])])
    gains = (others @ gradient) / torch.einsum("di,ij,dj->d", others, fisher, others).sqrt()
    lengths = torch.logspace(-3, 0, 25, dtype=torch.float64)
    lines = [_gains_along(world, theta, d / (d @ fisher @ d).sqrt(), lengths) for d in (gradient, steepest)]
    drawn = Curve(
        x=tuple((lengths.square() / 2).tolist()), measured=lines[0], bound=lines[1],
        across="½dᵀFd, nats", up="J gained", log_x=True, log_y=True,
    )  # fmt: skip
    return at_most(gains, gains[-1 if natural else -3]).drawn(drawn)


@theorem(
    section=NATURAL, source="Kakade 2001, A natural policy gradient; Agarwal et al. 2021, https://arxiv.org/abs/1908.00261",
    broken={"the advantage weighed by π": {"weighed": True}},
)  # fmt: skip
def the_natural_gradient_of_a_softmax_is_the_advantage(lab: Lab, *, weighed: bool = False) -> Verdict:
    """F·A = ∇J      so F⁺∇J is A, up to a constant in each state: a natural step is π' ∝ π·exp(η·A)

    Proof: F has a block d(s)(diag π - ππᵀ) for each prefix; on A it gives d(s)·π·(A - Σ_a πA) = d(s)·π·A, the gradient.
    Experiment: a token tree; F by enumeration of the scores.
    """
    world = lab.tree()
    theta = lab.policy(world)
    step = world.advantages(theta) * (theta.softmax(-1) if weighed else 1.0)
    return equal(_fisher(world, theta) @ step.flatten(), gradient_of(world.expected_reward, theta).flatten())


@theorem(section=NATURAL, source=AMARI, broken={"the plain gradient": {"natural": False}})
def the_natural_gradient_does_not_see_the_parameters(lab: Lab, *, natural: bool = True) -> Verdict:
    """θ = Mφ  ⇒  M·(natural gradient in φ) moves π as the natural gradient in θ does

    Conditions: M can be inverted.
    Proof: ∇_φJ = Mᵀ∇_θJ and F_φ = MᵀF_θM, so M·F_φ⁻¹∇_φJ = F_θ⁻¹∇_θJ. The plain gradient becomes MMᵀ∇_θJ.
    Experiment: a bandit, M normal plus twice the identity; the change of every answer's log-probability to first order.
    """
    world = lab.bandit()
    theta = lab.policy(world)
    gradient, fisher, scores = (
        gradient_of(world.expected_reward, theta).flatten(),
        _fisher(world, theta),
        world.scores(theta),
    )
    mixing = lab.normal("mixing", lab.arms, lab.arms) / math.sqrt(lab.arms) + 2 * torch.eye(
        lab.arms, dtype=torch.float64
    )

    def moved(m: Tensor) -> Tensor:
        plain, curvature = m.T @ gradient, m.T @ fisher @ m
        return scores.flatten(1) @ m @ (torch.linalg.pinv(curvature, hermitian=True) @ plain if natural else plain)

    return equal(moved(mixing), moved(torch.eye(lab.arms, dtype=torch.float64)), 1e-9)


@theorem(section=NATURAL, source=TRPO, broken={"without the 2": {"factor": 1.0}})
def the_trust_region_step_has_the_kl_asked_for(lab: Lab, *, factor: float = 2.0) -> Verdict:
    """d = √(2δ / gᵀF⁺g)·F⁺g  ⇒  KL(θ‖θ+d) → δ      as δ → 0

    Proof: ½dᵀFd = δ, and the KL of a step is that up to third order.
    Experiment: a token tree; at δ = 10⁻⁶ within 2 %. The figure: KL measured, beside δ.
    """
    world = lab.tree()
    theta = lab.policy(world)
    gradient, fisher = gradient_of(world.expected_reward, theta).flatten(), _fisher(world, theta)
    natural = torch.linalg.pinv(fisher, hermitian=True) @ gradient
    deltas = torch.logspace(-6, 0, 25, dtype=torch.float64)
    steps = (factor * deltas / (gradient @ natural)).sqrt()[:, None] * natural
    kls = torch.vmap(lambda d: world.kl(theta, theta + d.view_as(theta)))(steps)
    drawn = Curve(
        x=tuple(deltas.tolist()), measured=tuple(kls.tolist()), bound=tuple(deltas.tolist()),
        across="δ asked for, nats", up="KL of the step, nats", log_x=True, log_y=True,
    )  # fmt: skip
    return within(kls[0], deltas[0], 0.02).drawn(drawn)


# What several experiments share


class _Measured(NamedTuple):
    gain: Tensor  # [M] J(π') - J(π)
    surrogate: Tensor  # [M] L
    max_kl: Tensor  # [M] nats
    max_tv: Tensor  # [M]
    mean_tv: Tensor  # [M] over the old policy's visits
    max_advantage: Tensor  # [M]
    max_expected: Tensor  # [M] of the new policy's expected advantage


class _Updates(NamedTuple):
    transitions: Tensor  # [M, S, A, S]
    rewards: Tensor  # [M, S, A]
    start: Tensor  # [M, S]
    old: Tensor  # [M, S, A] logits
    new: Tensor  # [M, S, A] logits

    def measured(self, discount: float) -> _Measured:
        def one(transitions: Tensor, rewards: Tensor, start: Tensor, old: Tensor, new: Tensor) -> tuple[Tensor, ...]:
            mdp = MDP(transitions=transitions, rewards=rewards, start=start, discount=discount)
            visits, credit = mdp.visits(old), mdp.advantages(old)
            expected = (new.softmax(-1) * credit).sum(-1)
            tv = _tv(old, new)
            return (
                mdp.expected_reward(new) - mdp.expected_reward(old), visits @ expected / (1 - discount),
                kl_exact(old, new).max(), tv.max(), visits @ tv, credit.abs().max(), expected.abs().max(),
            )  # fmt: skip

        return _Measured(*torch.vmap(one)(*self))


def _updates(lab: Lab) -> _Updates:
    """Decision processes, each with a policy and a step of .01 to 3 away from it."""
    shape = (INSTANCES, lab.states, lab.actions)
    old = lab.normal("policies", *shape)
    return _Updates(
        transitions=lab.simplex("transitions", *shape, lab.states),
        rewards=lab.uniform("rewards", *shape),
        start=lab.simplex("starts", INSTANCES, lab.states),
        old=old,
        new=old + _sizes(lab) * lab.normal("moves", *shape),
    )


def _moved_policies(lab: Lab, world: World) -> tuple[Tensor, Tensor]:
    """(`[M, N, V]` policies of a tree, each a step of .01 to 3 away)."""
    shape = (INSTANCES, *lab.policy(world).shape)
    old = lab.normal("policies", *shape)
    return old, old + _sizes(lab) * lab.normal("moves", *shape)


def _sizes(lab: Lab) -> Tensor:
    return 10 ** (2.5 * lab.uniform("sizes", INSTANCES, 1, 1) - 2)


def _tv(one: Tensor, other: Tensor) -> Tensor:
    """Of the last dimension's distributions, from their logits."""
    return (one.softmax(-1) - other.softmax(-1)).abs().sum(-1) / 2


def _room_below(distance: Tensor, below: Tensor, allowed: Tensor) -> Curve:
    """How far J lies from the surrogate where it lies below it, and how far it may, over the distance of the policies."""
    order = [i for i in distance.argsort().tolist() if below[i] > 1e-12][::4]
    return Curve(
        x=tuple(distance[order].tolist()), measured=tuple(below[order].tolist()), bound=tuple(allowed[order].tolist()),
        across="total variation of the step", up="L - (J' - J)", log_x=True, log_y=True,
    )  # fmt: skip


def _differences(objective: Callable[[Tensor], Tensor], theta: Tensor, h: float, *, central: bool) -> Tensor:
    """The gradient by moving each coordinate by h."""
    moves = h * torch.eye(theta.numel(), dtype=torch.float64).view(-1, *theta.shape)
    up = torch.vmap(objective)(theta + moves)
    down = torch.vmap(objective)(theta - moves) if central else objective(theta)
    return ((up - down) / (2 * h if central else h)).view_as(theta)


def _slope(x: tuple[float, ...] | list[float], y: list[float]) -> float:
    """Of log y over log x, by least squares."""
    a, b = (torch.tensor(side, dtype=torch.float64).log() for side in (x, y))
    a = a - a.mean()
    return float((a @ b) / (a @ a))


def _over_steps(errors: list[float], up: str) -> Curve:
    """Beside a parabola through the largest step."""
    limits = tuple(errors[0] * (h / STEPS[0]) ** 2 for h in STEPS)
    return Curve(x=STEPS, measured=tuple(errors), bound=limits, across="h", up=up, log_x=True, log_y=True)


def _sweeps(discount: float) -> int:
    """After how many steps γ^t is below 10⁻¹⁶·(1-γ)."""
    return math.ceil(math.log(1e-16 * (1 - discount)) / math.log(discount))


def _token_scores(world: World, theta: Tensor) -> Tensor:
    """`[S, T, N, V]` ∇logπ of every token of every answer."""
    return torch.func.jacrev(world.logprobs)(theta.detach())


def _squared_scores(world: World, theta: Tensor) -> tuple[Tensor, float]:
    """(`[S]` ‖∇logπ(y)‖², the baseline that they make best)."""
    p, squares = world.probabilities(theta), world.scores(theta).square().sum((1, 2))
    return squares, float((p * squares * world.rewards).sum() / (p * squares).sum())


def _surrogate(world: World, theta: Tensor, credit: Tensor) -> Callable[[Tensor], Tensor]:
    """L_π(π') = J(π) + Σ d_π π' A, with visits and advantages held fixed."""
    held = (world.visits(theta)[:, None] * credit).detach()
    value = world.expected_reward(theta).detach()
    return lambda new: value + (held * new.softmax(-1)).sum()


def _regularised(lab: Lab, world: World) -> tuple[Tensor, Tensor, float]:
    """(`[S]` the reference's probabilities, `[S]` rewards, β)."""
    return world.probabilities(lab.policy(world, "reference")), world.rewards, float(world.rewards.std()) / 2


def _tilted(ref: Tensor, rewards: Tensor, beta: float | Tensor) -> Tensor:
    """ref·exp(r/β)/Z."""
    return (ref.log() + rewards / beta).softmax(-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(-1)


def _regularised_reward(p: Tensor, ref: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J_β of distributions over answers."""
    return (p * rewards).sum(-1) - beta * _kl(p, ref)


def _near(lab: Lab, p: Tensor, number: int) -> Tensor:
    """Distributions up to a nat away from p."""
    return (p.log() + lab.uniform("sizes", number, 1) * lab.normal("moves", number, len(p))).softmax(-1)


def _at_kl(ref: Tensor, direction: Tensor, budget: Tensor) -> Tensor:
    """`[M, S]` ref·exp(k·direction)/Z with k so large that KL from the reference is the budget: by bisection, from below."""
    low = torch.zeros(len(direction), 1, dtype=torch.float64)
    high = low + 1e3 / direction.std(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        below = _kl(_tilted(ref, middle * direction, 1.0).clamp(min=1e-300), ref)[:, None] <= budget
        low, high = middle.where(below, low), high.where(below, middle)
    return _tilted(ref, low * direction, 1.0)


def _next_values(world: World, values: Tensor) -> Tensor:
    """`[N, V]` what follows each token: the value of the prefix that it makes, or the answer's reward where it ends one."""
    following = values[world.states.roll(-1, 1)]
    last = torch.arange(world.tokens.shape[1]) == world.lengths[:, None] - 1
    after = torch.where(last, world.rewards[:, None], following)[world.trained]
    places = (world.states[world.trained], world.tokens[world.trained])
    return torch.zeros(len(values), world.vocabulary, dtype=torch.float64).index_put(places, after)


def _sampled_entropy(logprobs: Tensor) -> Tensor:
    return logprobs


def _entropy_of_tokens(logprobs: Tensor, entropy: Tensor) -> Tensor:
    return entropy_bonus(entropy, coef=1.0) + 0.0 * logprobs


def _entropy_under_ascent(lab: Lab) -> Curve:
    """Of a bandit's policy while it follows ∇J."""
    world = lab.bandit()
    theta, found = lab.policy(world), []
    for _ in range(60):
        found.append(float(entropy_exact(theta).sum()))
        theta = theta + 2.0 * gradient_of(world.expected_reward, theta)
    return Curve(x=tuple(range(60)), measured=tuple(found), across="steps of the policy gradient", up="entropy, nats")


def _fisher(world: World, theta: Tensor) -> Tensor:
    """`[NV, NV]` E[∇logπ ∇logπᵀ] over whole answers."""
    scores = world.scores(theta).flatten(1)
    return torch.einsum("s,si,sj->ij", world.probabilities(theta.detach()), scores, scores)


def _gains_along(world: World, theta: Tensor, direction: Tensor, lengths: Tensor) -> tuple[float, ...]:
    there = theta + lengths[:, None, None] * direction.view_as(theta)
    return tuple((torch.vmap(world.expected_reward)(there) - world.expected_reward(theta)).tolist())
