"""docs/theory/ppo.md: value functions, generalised advantage estimation, the critic's loss, whitening, V-trace.

Each function states a fact in its docstring and measures it: `corollary.theory.theorem` says how one is written.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corollary.losses.policy import reinforce
from corollary.losses.value import clipped, squared
from corollary.ops.reduce import token_mean, weighted_sum
from corollary.ops.returns import (
    at_last_token,
    gae,
    lambda_returns,
    length_adaptive_gae,
    reward_to_go,
    vtrace,
    vtrace_returns,
    whiten,
)
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import World, gradient_of
from corollary.theory.verdict import Curve, Verdict, at_least, at_most, equal, every, within

VALUES = "ppo.md#value-functions"
GAE = "ppo.md#generalised-advantage-estimation"
TRADE = "ppo.md#bias-and-variance"
CUTS = "ppo.md#masks-and-cuts"
CRITIC = "ppo.md#the-loss-of-a-critic"
WHITEN = "ppo.md#whitening"
VTRACE = "ppo.md#v-trace"

SCHULMAN = "Schulman et al. 2016 (GAE), https://arxiv.org/abs/1506.02438"
SUTTON_BARTO = "Sutton and Barto 2018, http://incompleteideas.net/book/the-book-2nd.html"
ANDRYCHOWICZ = "Andrychowicz et al. 2020, https://arxiv.org/abs/2006.05990"
VAPO = "Yue et al. 2025 (VAPO), https://arxiv.org/abs/2504.05118"
IMPALA = "Espeholt et al. 2018 (IMPALA), https://arxiv.org/abs/1802.01561"
TSITSIKLIS = "Tsitsiklis and Van Roy 1997, https://doi.org/10.1109/9.580874"

INSTANCES = 400
DECAYS = (0.0, 0.5, 0.9, 1.0)  # λ
GRID = tuple(i / 20 for i in range(21))


# Value functions


@theorem(section=VALUES, source=SUTTON_BARTO, broken={"another policy's answers": {"own": False}})
def the_best_critic_is_the_conditional_mean(lab: Lab, *, own: bool = True) -> Verdict:
    """argmin_V E_{y~π}[Σ_t ½(V(s_t) - R_t)²] is V^π(s) = E[R_t | s_t = s], in every prefix s

    Proof: the derivative by V(s) is d(s)·(V(s) - E[R | s]), with d(s) > 0 how often s is passed.
    Experiment: a tree with answers of different lengths; the derivative of `squared` of `reward_to_go` at V^π, and the mean return.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    chances = world.probabilities(theta if own else lab.policy(world, "another"))
    returns = reward_to_go(at_last_token(world.rewards, world.trained), world.trained)
    values = world.values(theta)

    def loss(v: Tensor) -> Tensor:
        return weighted_sum(squared(v[world.states], returns).loss, chances[:, None] * world.trained)

    means = _given_prefix(world, chances, returns)
    return every(equal(gradient_of(loss, values), 0.0, where="derivative"), equal(means, values, where="mean return"))


@theorem(
    section=VALUES,
    source="the variance as the least squared error",
    broken={"without the noise of the returns": {"noise": 0.0}},
)
def a_critics_error_splits(lab: Lab, *, noise: float = 1.0) -> Verdict:
    """E[Σ_t ½(V(s_t) - R_t)²] = ½Σ_s d(s)(V(s) - V^π(s))² + ½Σ_s d(s)·Var[R | s]      for every V

    What no critic can learn is the second part: a loss that has stopped falling need not be a bad critic.
    Proof: V - R = (V - V^π) - (R - V^π), and the second has mean 0 given s.
    Experiment: a tree with answers of different lengths, V normal; `squared` of `reward_to_go`.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    chances, visits, exact = world.probabilities(theta), world.visits(theta), world.values(theta)
    returns = reward_to_go(at_last_token(world.rewards, world.trained), world.trained)
    values = lab.normal("critic", len(exact))
    loss = weighted_sum(squared(values[world.states], returns).loss, chances[:, None] * world.trained)
    variance = _given_prefix(world, chances, returns.square()) - exact.square()
    return equal(loss, (visits @ (values - exact).square() + noise * visits @ variance) / 2)


@theorem(
    section=VALUES, source="the law of total variance", broken={"a critic that sees the answer": {"sees_answer": True}}
)
def no_critic_explains_more_than_the_values(lab: Lab, *, sees_answer: bool = False) -> Verdict:
    """1 - Var(R - V)/Var(R) is largest at V^π, among all critics of the prefix; there it is below 1 where returns vary given s

    Var over the tokens of π's answers. The logged `explained variance` of a perfect critic is therefore not 1.
    Proof: Var(R - V) = Var(R - V^π) + Var(V^π - V), as R - V^π has mean 0 given s.
    Experiment: a tree with answers of different lengths, 400 critics from V^π to far from it, V^π itself among them; the figure: over
    the size of a critic's error.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    weights = (world.probabilities(theta)[:, None] * world.trained).flatten()
    weights = weights / weights.sum()
    returns = reward_to_go(at_last_token(world.rewards, world.trained), world.trained).flatten()

    def explained(guess: Tensor) -> Tensor:
        left = returns - guess
        return 1 - weights @ (left - weights @ left).square() / (weights @ (returns - weights @ returns).square())

    exact = world.values(theta)
    sizes = torch.linspace(0, 2, INSTANCES, dtype=torch.float64)[:, None]
    critics = (exact + sizes * lab.normal("critics", INSTANCES, len(exact)))[:, world.states].flatten(1)
    found = torch.stack([explained(v) for v in critics])
    if sees_answer:
        found = torch.cat([found, explained(returns)[None]])
    best = explained(exact[world.states].flatten())
    drawn = Curve(
        x=tuple(sizes[::20, 0].tolist()), measured=tuple(found[:INSTANCES:20].tolist()), bound=(float(best),) * (INSTANCES // 20),
        across="error of the critic", up="explained variance",
    )  # fmt: skip
    return every(at_most(found, best), at_most(best, 1 - 1e-6, where="V^π")).drawn(drawn)


@theorem(
    section=VALUES, source=TSITSIKLIS, broken={"one sweep fewer": {"fewer": 1}, "off the values": {"exact": False}}
)
def td_lambda_settles_on_the_values(lab: Lab, *, fewer: int = 0, exact: bool = True) -> Verdict:
    """V(s) ← E[V(s_t) + A_t^λ | s_t = s] leaves V^π as it is, and reaches it from any V in T sweeps, for every λ; λ = 1 in one

    Conditions: answers of at most T tokens, γ = 1.
    Proof: with V^π every δ_t has mean 0. A prefix whose successors are right becomes right, so each sweep adds a depth.
    Experiment: `lambda_returns` on a tree with answers of different lengths, λ = 0, .5, .9, 1; the figure: the error over sweeps at λ = .5.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    chances, rewards, known = (
        world.probabilities(theta),
        at_last_token(world.rewards, world.trained),
        world.values(theta),
    )
    start = lab.normal("critic", len(known))

    def swept(v: Tensor, lam: float) -> Tensor:
        return _given_prefix(world, chances, lambda_returns(rewards, v[world.states], world.trained, lam=lam))

    found, errors = [], []
    for lam in DECAYS:
        v = start
        for _ in range(1 if lam == 1.0 else int(world.lengths.max()) - fewer):
            errors += [float((v - known).abs().max())] if lam == 0.5 else []
            v = swept(v, lam)
        fixed = known if exact else known + start
        found += [
            equal(v, known, where=f"λ = {lam}, swept"),
            equal(swept(fixed, lam), fixed, where=f"λ = {lam}, fixed"),
        ]
    drawn = Curve(x=tuple(range(len(errors))), measured=tuple(errors), across="sweeps", up="largest error of V, λ = .5")
    return every(*found).drawn(drawn)


@theorem(section=VALUES, source=TSITSIKLIS, broken={"γ(1-λ) alone": {"summed": False}})
def td_lambda_contracts(lab: Lab, *, summed: bool = True) -> Verdict:
    """‖T_λV - T_λW‖∞ ≤ γ(1-λ)/(1-γλ)·‖V - W‖∞      T_λV = V + Σ_t (γλ)^t E[δ_t]

    Proof: T_λV - T_λW = γ(1-λ)·Σ_t (γλP)^t·P(V - W), and each P^t is an average. V - W constant gives equality.
    Experiment: a decision process; 400 pairs V, W, one of which differs by a constant; λ = 0, .5, .9, 1. The figure: the factor over λ.
    """
    mdp = lab.mdp()
    theta = lab.policy(mdp)
    pi, gamma = theta.softmax(-1), mdp.discount
    kernel, rewards = torch.einsum("sa,sat->st", pi, mdp.transitions), (pi * mdp.rewards).sum(-1)
    eye = torch.eye(len(kernel), dtype=torch.float64)
    one = lab.normal("V", len(kernel), INSTANCES)
    other = torch.cat([one[:, :1] + 1.0, lab.normal("W", len(kernel), INSTANCES - 1)], -1)
    gaps = (one - other).abs().amax(0)

    def swept(v: Tensor, lam: float) -> Tensor:
        return v + torch.linalg.solve(eye - gamma * lam * kernel, rewards[:, None] + gamma * kernel @ v - v)

    def factor(lam: float) -> float:
        return gamma * (1 - lam) / (1 - gamma * lam if summed else 1.0)

    shrunk = {lam: (swept(one, lam) - swept(other, lam)).abs().amax(0) for lam in (*DECAYS, *GRID)}
    drawn = Curve(
        x=GRID, measured=tuple(float((shrunk[lam] / gaps).max()) for lam in GRID), bound=tuple(map(factor, GRID)),
        across="λ", up="largest factor of a sweep",
    )  # fmt: skip
    return every(*(at_most(shrunk[lam], factor(lam) * gaps, where=f"λ = {lam}") for lam in DECAYS)).drawn(drawn)


# Generalised advantage estimation


@theorem(
    section=GAE,
    source=SCHULMAN,
    broken={"weights that do not sum to 1": {"last": False}, "γ^n left out": {"discounted": False}},
)
def gae_averages_over_n_steps(lab: Lab, *, last: bool = True, discounted: bool = True) -> Verdict:
    """A_t = (1-λ)·Σ_{n=1}^{m-1} λ^{n-1} A_t^(n) + λ^{m-1} A_t^(m)      A_t^(n) = Σ_{k<n} γ^k r_{t+k} + γ^n V_{t+n} - V_t, m tokens left

    Proof: A_t^(n) = Σ_{k<n} γ^k δ_{t+k}, so δ_{t+k} counts in all n > k: with (1-λ)(λ^k + … + λ^{m-2}) + λ^{m-1} = λ^k.
    Experiment: `gae` of 400 sequences of 7 normal rewards and values, λ and γ from the lab and 1.
    """
    rewards, values = lab.normal("rewards", INSTANCES, 7), lab.normal("values", INSTANCES, 7)
    behind, trained = torch.cat([values, torch.zeros_like(values[:, :1])], -1), torch.ones_like(rewards) > 0
    lam = 0.5 + 0.4 * float(lab.uniform("lam", 1))

    def n_step(t: int, n: int, gamma: float) -> Tensor:
        decay = gamma ** torch.arange(n, dtype=torch.float64)
        reached = (decay * rewards[:, t : t + n]).sum(-1)
        return reached + (gamma**n if discounted else 1.0) * behind[:, t + n] - values[:, t]

    def averaged(t: int, gamma: float) -> Tensor:
        left = 7 - t
        weights = [(1 - lam) * lam ** (n - 1) for n in range(1, left)] + [
            lam ** (left - 1) * (1.0 if last else 1 - lam)
        ]
        return torch.stack([w * n_step(t, n, gamma) for n, w in enumerate(weights, 1)]).sum(0)

    gamma = lab.discount
    known = torch.stack([averaged(t, gamma) for t in range(7)], -1)
    return equal(gae(rewards, values, trained, gamma=gamma, lam=lam), known)


@theorem(
    section=GAE, source="Ng, Harada and Russell 1999, Policy invariance under reward transformations",
    broken={"the critic keeps its values": {"critic_too": False}},
)  # fmt: skip
def gae_does_not_see_shaping(lab: Lab, *, critic_too: bool = True) -> Verdict:
    """A_t(r + γΦ_{t+1} - Φ_t, V - Φ) = A_t(r, V)      any potential Φ, 0 behind the end

    So a critic is a potential: V and r enter only through δ, and shaping rewards by Φ is subtracting Φ from the critic.
    Proof: δ_t = r_t + γV_{t+1} - V_t is the same number.
    Experiment: `gae` of 400 sequences of 7 normal rewards, values and potentials.
    """
    rewards, values, potential = (lab.normal(name, INSTANCES, 7) for name in ("rewards", "values", "potential"))
    behind, trained = (
        torch.cat([potential[:, 1:], torch.zeros_like(potential[:, :1])], -1),
        torch.ones_like(rewards) > 0,
    )
    shaped = rewards + lab.discount * behind - potential
    plain = gae(rewards, values, trained, gamma=lab.discount, lam=0.8)
    return equal(gae(shaped, values - potential if critic_too else values, trained, gamma=lab.discount, lam=0.8), plain)


@theorem(section=GAE, source=VAPO, broken={"λ = .95 for every length": {"adaptive": False}})
def length_adaptive_decay_keeps_the_end_in_sight(lab: Lab, *, adaptive: bool = True) -> Verdict:
    """The reward at the end counts λ^{n-1} in the first token's advantage; with λ = 1 - 1/(αn) that tends to e^{-1/α}, not to 0

    Proof: δ of the last token counts λ^{n-1} at the first, and (1 - x/n)^n → e^{-x}.
    Experiment: `length_adaptive_gae`, V = 0, α = ½, answers of 4 to 200 tokens; within 1 % of e^-2 at 200. The figure: beside λ = .95.
    """
    lengths = torch.tensor([4, 8, 16, 32, 64, 128, 200])
    trained = torch.arange(200) < lengths[:, None]
    rewards = at_last_token(torch.ones(len(lengths), dtype=torch.float64), trained)
    nothing = torch.zeros_like(rewards)
    found = (length_adaptive_gae(rewards, nothing, trained, alpha=0.5) if adaptive else gae(rewards, nothing, trained))[
        :, 0
    ]
    n = lengths.double()
    drawn = Curve(
        x=tuple(lengths.tolist()), measured=tuple(found.tolist()), bound=tuple((0.95 ** (n - 1)).tolist()), across="tokens",
        up="weight of the reward at the first token (bound: λ = .95)", log_x=True,
    )  # fmt: skip
    return every(equal(found, (1 - 2 / n) ** (n - 1)), within(found[-1], math.exp(-2), 0.01, "limit")).drawn(drawn)


# Bias and variance


@theorem("B10.a", section=TRADE, source=SCHULMAN, broken={"λ = .9": {"lam": 0.9}})
def at_lambda_one_any_critic_is_unbiased(lab: Lab, *, lam: float = 1.0) -> Verdict:
    """λ = 1:  E_{y~π}[Σ_t A_t ∇logπ(y_t|s_t)] = ∇J      for every V

    Conditions: γ = 1.
    Proof: A_t = R_t - V(s_t), and V is a baseline: it does not see y_t.
    Experiment: `gae` on every answer of a tree with different lengths, V normal.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    credit = _credit(world, lab.normal("critic", len(theta)), lam)
    return equal(_mean_gradient(world, theta, credit), gradient_of(world.expected_reward, theta))


@theorem("B10.b", section=TRADE, source=SCHULMAN, broken={"a critic that is off": {"exact": False}})
def with_the_exact_critic_any_lambda_is_unbiased(lab: Lab, *, exact: bool = True) -> Verdict:
    """V = V^π:  E_{y~π}[Σ_t A_t ∇logπ(y_t|s_t)] = ∇J      for every λ in [0, 1]

    Conditions: γ = 1.
    Proof: E[δ_t | s_t, y_t] = A^π(s_t, y_t), and every later δ has mean 0 given what came before.
    Experiment: `gae` on every answer of a tree with different lengths, λ = 0, .5, .9, 1.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    critic, slope = _critic(lab, world, theta, exact=exact), gradient_of(world.expected_reward, theta)
    return every(*(
        equal(_mean_gradient(world, theta, _credit(world, critic, lam)), slope, where=f"λ = {lam}") for lam in DECAYS
    ))  # fmt: skip


@theorem(
    "B10.c", section=TRADE, source="derived here, of Schulman et al. 2016, https://arxiv.org/abs/1506.02438",
    broken={"the whole error of the critic": {"damped": False}, "no bias": {"biased": False}},
)  # fmt: skip
def a_wrong_critic_biases_by_one_minus_lambda(lab: Lab, *, damped: bool = True, biased: bool = True) -> Verdict:
    """E[A_t | s_t, y_t] + V(s_t) - Q^π(s_t, y_t) = (1-λ)·Σ_{k≥1} λ^{k-1} E[V(s_{t+k}) - V^π(s_{t+k}) | s_t, y_t]

    What the critic says of s_t itself is a baseline and costs nothing; what it says of later prefixes leaks in with 1-λ.
    Conditions: γ = 1; V = 0 behind the end.
    Proof: with e = V - V^π, δ_t gains e_{t+1} - e_t, and Σ_k λ^k(e_{t+k+1} - e_{t+k}) = -e_t + (1-λ)·Σ_k λ^{k-1} e_{t+k}.
    Experiment: `gae` on every answer of a tree with different lengths, V^π plus normal noise; the figure: error of ∇J over λ, relative.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    critic, chances, slope = (
        _critic(lab, world, theta, exact=False),
        world.probabilities(theta),
        gradient_of(world.expected_reward, theta),
    )
    off = (critic - world.values(theta))[world.states].where(world.trained, 0.0)
    later = torch.cat([off[:, 1:], torch.zeros_like(off[:, :1])], -1)
    found = []
    for lam in DECAYS:
        credit = _credit(world, critic, lam)
        gap = _given_token(world, chances, credit + critic[world.states]) - world.action_values(theta)
        leaked = (1 - lam if damped else 1.0) * reward_to_go(later, world.trained, gamma=lam)
        known = _given_token(world, chances, leaked) if biased else torch.zeros_like(gap)
        found.append(equal(gap, known, where=f"λ = {lam}"))
    errors = [
        float((_mean_gradient(world, theta, _credit(world, critic, lam)) - slope).norm() / slope.norm()) for lam in GRID
    ]
    return every(*found).drawn(Curve(x=GRID, measured=tuple(errors), across="λ", up="error of the mean gradient"))


@theorem(
    "B10.d", section=TRADE, source="derived here, for softmax logits of each prefix",
    broken={"λ in the place of λ²": {"power": 1}, "it falls with λ": {"rises": False}},
)  # fmt: skip
def variance_grows_with_lambda(lab: Lab, *, power: int = 2, rises: bool = True) -> Verdict:
    """V = V^π:  E‖g‖² = E[Σ_t ‖∇logπ(y_t|s_t)‖²·Σ_{k≥0} λ^{2k} δ_{t+k}²]      g = Σ_t A_t ∇logπ(y_t|s_t), so Var g grows with λ

    Conditions: γ = 1, and each prefix has logits of its own.
    Proof: tokens of different prefixes have orthogonal scores; given (s_t, y_t) the δ's are uncorrelated: each has mean 0 given all before.
    Experiment: `gae` on every answer of a tree with different lengths, δ by λ = 0; the figure: the variance over λ.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    critic, chances = _critic(lab, world, theta, exact=True), world.probabilities(theta)
    sizes = _scores(world, theta).square().sum((-1, -2))  # [S, T]
    deltas, found, variances = _credit(world, critic, 0.0), [], []
    mean = gradient_of(world.expected_reward, theta).square().sum()
    for lam in GRID:
        moment = chances @ (sizes * _credit(world, critic, lam).square()).sum(-1)
        known = chances @ (sizes * reward_to_go(deltas.square(), world.trained, gamma=lam**power)).sum(-1)
        found.append(equal(moment, known, where=f"λ = {lam}"))
        variances.append(_second_moment(world, theta, _credit(world, critic, lam)) - mean)
    steps = torch.stack(variances).diff() * (1 if rises else -1)
    drawn = Curve(
        x=GRID, measured=tuple(map(float, variances)), across="λ", up="variance of the gradient, exact critic"
    )
    return every(*found, at_least(steps, 0.0, where="from λ to the next")).drawn(drawn)


# Masks and cuts


@theorem(section=CUTS, source="derived here", broken={"they are read as steps": {"skipped": False}})
def observations_are_no_steps(lab: Lab, *, skipped: bool = True) -> Verdict:
    """A tool's tokens between an answer's tokens change no advantage: the next token is the next trained one

    Proof: what the policy did not write is no decision; (V, A) of what follows are carried over it.
    Experiment: `gae` of 400 sequences of 6 tokens, with an untrained token between each two, whose rewards and values are NaN.
    """
    rewards, values = lab.normal("rewards", INSTANCES, 6), lab.normal("values", INSTANCES, 6)
    trained = torch.ones_like(rewards) > 0
    fill = torch.full_like(rewards, torch.nan) if skipped else lab.normal("observed", INSTANCES, 6)

    def spread(x: Tensor, between: Tensor) -> Tensor:
        return torch.stack([x, between], -1).flatten(1)

    mask = spread(trained.double(), torch.full_like(rewards, 0.0 if skipped else 1.0)) > 0
    found = gae(spread(rewards, fill), spread(values, fill), mask, gamma=lab.discount)
    return equal(found[:, ::2], gae(rewards, values, trained, gamma=lab.discount))


@theorem(section=CUTS, source="Pardo et al. 2018, Time limits in reinforcement learning, https://arxiv.org/abs/1712.00378",
         broken={"a cut answer counts as ended": {"bootstrapped": False}})  # fmt: skip
def a_cut_answer_must_bootstrap(lab: Lab, *, bootstrapped: bool = True) -> Verdict:
    """V = V^π, answers cut before their last token:  E[A_t | s_t, y_t] = A^π(s_t, y_t)      with V^π of the cut prefix behind the end

    Proof: the cut prefix's value is the mean of the rewards that were cut off.
    Experiment: `gae` with `bootstrap`, a tree with answers of different lengths, one token less than the longest; λ = 0, .5, .9, 1.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    limit, critic, chances = int(world.lengths.max()) - 1, world.values(theta), world.probabilities(theta)
    kept = world.trained & (torch.arange(world.tokens.shape[1]) < limit)
    ended = world.lengths <= limit
    rewards = at_last_token(world.rewards, world.trained).where(ended[:, None], 0.0)
    behind = critic[world.states[:, limit]].where(~ended, 0.0) if bootstrapped else torch.zeros_like(world.rewards)
    seen = (
        torch.zeros_like(theta).index_put((world.states[kept], world.tokens[kept]), torch.ones((), dtype=torch.float64))
        > 0
    )

    def gap(lam: float) -> Verdict:
        credit = gae(rewards, critic[world.states], kept, behind, lam=lam)
        found = _given_token(world, chances, credit)
        return equal(found[seen], world.advantages(theta)[seen], where=f"λ = {lam}")

    return every(*map(gap, DECAYS))


# The loss of a critic


@theorem(section=CRITIC, source=ANDRYCHOWICZ, broken={"the smaller of the two errors": {"larger": False}})
def a_clipped_value_loss_is_never_smaller(lab: Lab, *, larger: bool = True) -> Verdict:
    """½max[(V-R)², (clip(V, V_old ± ε)-R)²] ≥ ½(V-R)²; its derivative is V - R, or 0 where V has left the band towards R

    The cut falls on values that come nearer to R: it slows a critic that learns fast, and bounds nothing when it goes astray.
    Proof: a maximum. Outside the band clip(V) is its edge; the second term is the larger, and constant, where R is nearer to V than to it.
    Experiment: `clipped` and `squared`, 400 normal values, old values and returns; the figure: both over V, V_old = 0, R = 1.
    """
    v, old, returns = (lab.normal(name, INSTANCES) for name in ("values", "old", "returns"))
    edge = v.clamp(old - 0.2, old + 0.2)
    plain = squared(v, returns).loss
    loss = clipped(v, old, returns, clip=0.2).loss if larger else plain.minimum((edge - returns).square() / 2)
    leaf = v.clone().requires_grad_()
    slope = torch.autograd.grad(clipped(leaf, old, returns, clip=0.2).loss.sum(), leaf)[0]
    cut = (v != edge) & ((returns - v).abs() < (returns - edge).abs())
    grid = torch.linspace(-1, 2.5, 36, dtype=torch.float64)
    lines = clipped(grid, torch.zeros_like(grid), torch.ones_like(grid)).loss, squared(grid, torch.ones_like(grid)).loss
    drawn = Curve(
        x=tuple(grid.tolist()), measured=tuple(lines[0].tolist()), bound=tuple(lines[1].tolist()),
        across="V", up="loss (bound: without the clip)",
    )  # fmt: skip
    return every(at_least(loss, plain), equal(slope, (v - returns).where(~cut, 0.0), where="derivative")).drawn(drawn)


@theorem(section=CRITIC, source="derived here", broken={"the same ε": {"scaled": False}})
def a_value_clip_knows_the_scale_of_rewards(lab: Lab, *, scaled: bool = True) -> Verdict:
    """L(cV, cV_old, cR; cε) = c²·L(V, V_old, R; ε)      with the same ε it is another loss

    So ε is in reward units: rewards ten times as large need a clip ten times as wide.
    Proof: clip(cV, cV_old ± cε) = c·clip(V, V_old ± ε).
    Experiment: `clipped`, 400 normal values, old values and returns, c = 10.
    """
    v, old, returns = (lab.normal(name, INSTANCES) for name in ("values", "old", "returns"))
    loss = clipped(10 * v, 10 * old, 10 * returns, clip=2.0 if scaled else 0.2).loss
    return equal(loss, 100 * clipped(v, old, returns, clip=0.2).loss)


# Whitening


@theorem(section=WHITEN, source=ANDRYCHOWICZ, broken={"only the scale changes": {"shifted": False}})
def whitening_scales_and_shifts(lab: Lab, *, shifted: bool = True) -> Verdict:
    """g(whiten(A)) = (g(A) - mean A·g(1))/√(s² + ε)      g(A) = Σ w·A·∇logπ, the step of one batch

    The division changes the step's length alone. The mean is another baseline: g(1), which has mean 0, is not 0 in one batch, and pushes
    every sampled token down where most advantages are good.
    Proof: g is linear in A.
    Experiment: `whiten` and `reinforce` with `token_mean` on 8 answers of a tree with different lengths, advantages of mean 1.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    rows = (lab.uniform("rows", 8) * len(world.rewards)).long()
    trained = world.trained[rows]
    a = (1 + lab.normal("advantages", *trained.shape)).where(trained, 0.0)

    def step(credit: Tensor) -> Tensor:
        weights = token_mean(trained)
        return -gradient_of(lambda x: weighted_sum(reinforce(world.logprobs(x)[rows], credit).loss, weights), theta)

    kept = a[trained]
    known = step(a) - (kept.mean() * step(torch.ones_like(a)) if shifted else 0.0)
    return equal(step(whiten(a, trained)), known / (kept.var() + 1e-8).sqrt())


@theorem(section=WHITEN, source=ANDRYCHOWICZ, broken={"padding counts as zeros": {"masked": False}})
def whitening_counts_trained_tokens_only(lab: Lab, *, masked: bool = True) -> Verdict:
    """Over the trained tokens: mean whiten(A) = 0 and mean whiten(A)² = 1, whatever stands in the padding

    Proof: (x - mean x)/s has mean 0 and mean square 1. Zeros of padding pull the mean to 0 and the deviation down or up.
    Experiment: `whiten`, ε = 0, population variance, answers of 1 to 6 tokens in 9 columns of NaN.
    """
    trained = torch.arange(9) < torch.tensor([1, 6, 3, 2])[:, None]
    a = 2 + lab.normal("advantages", 4, 9)
    counted = trained if masked else torch.ones_like(trained)
    found = whiten(a.where(trained, torch.nan if masked else 0.0), counted, ddof=0, eps=0.0)[trained]
    return every(equal(found.mean(), 0.0, where="mean"), equal(found.square().mean(), 1.0, where="variance"))


# V-trace


@theorem(section=VTRACE, source=IMPALA, broken={"off-policy": {"step": 0.5}})
def on_policy_vtrace_is_td_lambda(lab: Lab, *, step: float = 0.0) -> Verdict:
    """π = π_old  ⇒  v_t = V_t + A_t^λ, and the advantages at λ = 1 are GAE's

    Proof: all ratios are 1, so ρ̂ = 1, c = λ, and v_t - V_t = δ_t + γλ(v_{t+1} - V_{t+1}) is GAE's recursion.
    Experiment: `vtrace_returns`, `vtrace`, `lambda_returns`, `gae` on 400 sequences of 6 tokens.
    """
    rewards, values, old = (lab.normal(name, INSTANCES, 6) for name in ("rewards", "values", "old"))
    trained, gamma, new = torch.ones_like(rewards) > 0, lab.discount, old + step * lab.normal("moves", INSTANCES, 6)
    return every(
        equal(
            vtrace_returns(rewards, values, new, old, trained, gamma=gamma, lam=0.8),
            lambda_returns(rewards, values, trained, gamma=gamma, lam=0.8), where="targets",
        ),
        equal(vtrace(rewards, values, new, old, trained, gamma=gamma), gae(rewards, values, trained, gamma=gamma, lam=1.0)),
    )  # fmt: skip


@theorem(section=VTRACE, source=IMPALA + ", theorem 1", broken={"the values of π": {"capped": False}})
def vtrace_settles_between_two_policies(lab: Lab, *, capped: bool = True) -> Verdict:
    """E_{y~μ}[v_t | s_t] = V(s_t) at V = V^{π_ρ̄}      π_ρ̄(a|s) ∝ min(ρ̄·μ(a|s), π(a|s)): π for large ρ̄, μ for small

    The cap on ρ decides whose values come out, the cap on traces only how soon.
    Conditions: γ = 1.
    Proof: E_μ[ρ̂(r + V(s') - V(s)) | s] is Σ_a min(ρ̄μ, π)·(Q - V) = 0 there, and so are all later δ's, whatever the traces before them.
    Experiment: `vtrace_returns` on every answer of a tree, ρ̄ = .3, 1, 10⁶, trace caps .5 and 1; the figure: J of π_ρ̄ over ρ̄.
    """
    world = lab.eos_tree()
    mu, pi = lab.policy(world), lab.policy(world, "target")
    chances, rewards = world.probabilities(mu), at_last_token(world.rewards, world.trained)
    logs, old = world.logprobs(pi), world.logprobs(mu)

    def between(cap: float) -> Tensor:
        return (cap * mu.softmax(-1)).minimum(pi.softmax(-1)).log()

    def fixed(cap: float, trace: float) -> Verdict:
        values = world.values(between(cap) if capped else pi)
        targets = vtrace_returns(
            rewards, values[world.states], logs, old, world.trained, ratio_cap=cap, trace_cap=trace
        )
        return equal(_given_prefix(world, chances, targets), values, where=f"ρ̄ = {cap:g}")

    caps = torch.logspace(-1.5, 1.5, 25, dtype=torch.float64).tolist()
    earned, aim = [float(world.expected_reward(between(cap))) for cap in caps], float(world.expected_reward(pi))
    drawn = Curve(
        x=tuple(caps),
        measured=tuple(earned),
        bound=(aim,) * 25,
        across="ρ̄",
        up="J of the policy that is valued",
        log_x=True,
    )
    return every(*(fixed(cap, trace) for cap in (0.3, 1.0, 1e6) for trace in (0.5, 1.0))).drawn(drawn)


# What several experiments share


def _critic(lab: Lab, world: World, theta: Tensor, *, exact: bool) -> Tensor:
    """`[N]` V^π, or that with an error of 1."""
    values = world.values(theta)
    return values if exact else values + lab.normal("error of the critic", len(values))


def _credit(world: World, critic: Tensor, lam: float) -> Tensor:
    """`[S, T]` GAE of every answer."""
    return gae(at_last_token(world.rewards, world.trained), critic[world.states], world.trained, lam=lam)


def _scores(world: World, theta: Tensor) -> Tensor:
    """`[S, T, N, V]` ∇logπ of every token: one-hot less π in the row of its prefix; 0 behind the end."""
    taken = torch.nn.functional.one_hot(world.tokens, world.vocabulary) - theta.softmax(-1)[world.states]
    rows = torch.nn.functional.one_hot(world.states, len(theta)).double() * world.trained[..., None]
    return rows[..., None] * taken[:, :, None]


def _mean_gradient(world: World, theta: Tensor, credit: Tensor) -> Tensor:
    """`[N, V]` E[Σ_t A_t ∇logπ(y_t|s_t)]."""
    held = world.probabilities(theta).detach()[:, None] * credit
    return gradient_of(lambda x: (held * world.logprobs(x)).sum(), theta)


def _second_moment(world: World, theta: Tensor, credit: Tensor) -> Tensor:
    """E‖Σ_t A_t ∇logπ(y_t|s_t)‖²."""
    each = torch.einsum("st,stnv->snv", credit, _scores(world, theta))
    return world.probabilities(theta) @ each.square().sum((1, 2))


def _given_prefix(world: World, chances: Tensor, x: Tensor) -> Tensor:
    """`[N]` E[x_t | s_t = s] of per-token numbers `[S, T]`."""
    weights = (chances[:, None] * world.trained)[world.trained]
    places = world.states[world.trained]
    empty = torch.zeros(int(world.states.max()) + 1, dtype=torch.float64)
    total, count = (empty.index_add(0, places, w) for w in (weights * x[world.trained], weights))
    return total / count


def _given_token(world: World, chances: Tensor, x: Tensor) -> Tensor:
    """`[N, V]` E[x_t | s_t = s, y_t = a]; 0 where no answer goes on so."""
    weights = (chances[:, None] * world.trained)[world.trained]
    places = (world.states[world.trained], world.tokens[world.trained])
    empty = torch.zeros(int(world.states.max()) + 1, world.vocabulary, dtype=torch.float64)
    total, count = (empty.index_put(places, w, accumulate=True) for w in (weights * x[world.trained], weights))
    return (total / count).where(count > 0, 0.0)
