"""docs/theory/custom.md: from an objective of your own to a weight, an advantage and a loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from corollary.losses.policy import ppo_clip, reinforce
from corollary.losses.preference import dpo, hinge
from corollary.ops.advantage import leave_one_out
from corollary.ops.reduce import sequence_sum
from corollary.theory.expectation import expected_gradient
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import World, gradient_of
from corollary.theory.verdict import Curve, Verdict, apart, equal, every
from corollary.types import Terms

AVERSION = 0.5


@theorem(
    section="custom.md#from-an-objective-to-a-weight", source="derived here from the score function",
    broken={"the reward as the weight of all": {"linear": True}},
)  # fmt: skip
def any_objective_of_the_law_has_a_weight(lab: Lab, *, linear: bool = False) -> Verdict:
    """∇F(P_θ) = E_{y~P}[w(y) ∇logP(y)]      w(y) = ∂F/∂P(y)

    Conditions: F can be differentiated by the probability of every answer.
    Proof: the chain rule, ∇F = Σ_y ∂F/∂P(y)·∇P(y), and ∇P = P∇logP.
    Experiment: a token tree; the expected reward, its mean less half its variance, the entropy, and the best of three.
    """
    world = lab.tree()
    theta, r = lab.policy(world), world.rewards
    solved = (r > r.median()).double()
    objectives: dict[str, Callable[[Tensor], Tensor]] = {
        "expected reward": lambda p: (p * r).sum(),
        "mean less variance": lambda p: (p * r).sum() - AVERSION * ((p * r.square()).sum() - (p * r).sum().square()),
        "entropy": lambda p: -(p * p.log()).sum(),
        "one of three solved": lambda p: 1 - (1 - (p * solved).sum()) ** 3,
    }
    law, scores = world.probabilities(theta), world.scores(theta)
    found = []
    for name, objective in objectives.items():
        weight = r if linear else gradient_of(objective, law)
        exact = gradient_of(lambda x, f=objective: f(world.probabilities(x)), theta)
        found.append(equal(torch.einsum("s,s,snv->nv", law, weight, scores), exact, where=name))
    return every(*found)


@theorem(
    section="custom.md#from-a-weight-to-an-advantage", source="derived here",
    broken={"the answer's own reward in the mean": {"own": True}},
)  # fmt: skip
def statistics_of_the_others_are_constants(lab: Lab, *, own: bool = False) -> Verdict:
    """E[(1/G) Σ_i (r_i - λ(r_i² - 2·m_i·r_i)) ∇logπ(y_i)] = ∇(E[r] - λ·Var[r])      m_i = mean of the others' rewards

    Conditions: m_i is made of other answers than y_i.
    Proof: the weight of the mean less variance is r - λ(r² - 2E[r]·r). m_i is independent of y_i and has the mean E[r], so it may
    stand for it; the answer's own reward in m_i adds 2λ/G·E[r²∇logπ].
    Experiment: every group of 2 to 4 arms; λ = ½. The figure: how far off the twin is, over G.
    """
    world = lab.bandit()
    theta, sizes = lab.policy(world), range(2, 5)
    exact = gradient_of(lambda x: world.expected_reward(x) - AVERSION * _variance(world, x), theta)

    def mean(g: int, *, own: bool) -> Tensor:
        def advantage(rewards: Tensor) -> Tensor:
            m = rewards.mean() if own else (rewards.sum() - rewards) / (g - 1)
            return rewards - AVERSION * (rewards.square() - 2 * m * rewards)

        return expected_gradient(reinforce, advantage, sequence_sum, world, group_size=g, policy=theta, ordered=0).mean

    biases = tuple(float((mean(g, own=True) - exact).norm() / exact.norm()) for g in sizes)
    drawn = Curve(x=tuple(sizes), measured=biases, across="G", up="relative bias with its own reward in the mean")
    return every(*(equal(mean(g, own=own), exact, where=f"groups of {g}") for g in sizes)).drawn(drawn)


@theorem(
    section="custom.md#from-an-advantage-to-a-loss", source="Schulman et al. 2017, https://arxiv.org/abs/1707.06347",
    broken={"after the policy has moved": {"step": 0.5}},
)  # fmt: skip
def a_surrogate_has_the_gradient_and_not_the_value(lab: Lab, *, step: float = 0.0) -> Verdict:
    """E[-∇(-ρ·A)] = E[-∇(-A·logπ)] = ∇J at π = π_old      although E[-ρ·A], E[-A·logπ] and -J differ

    Conditions: the policy is the one that the answers were drawn from; the advantage is a constant.
    Proof: ∇ρ = ρ∇logπ, and ρ = 1. The value of -ρA is -ΣA, 0 for the baseline of the others; nothing makes it -J.
    Experiment: `ppo_clip` and `reinforce` with `leave_one_out` on every pair of arms.
    """
    world = lab.bandit()
    sampler = lab.policy(world)
    policy = sampler + step * lab.policy(world, "direction")
    ratio, score = (
        expected_gradient(loss, leave_one_out, sequence_sum, world, policy=policy, sampler=sampler, ordered=0)
        for loss in (ppo_clip, reinforce)
    )
    exact = gradient_of(world.expected_reward, policy)
    value = -float(world.expected_reward(policy))
    return every(
        equal(ratio.mean, exact, where="ppo_clip"), equal(score.mean, exact, where="reinforce"),
        apart(ratio.value, value, where="value of ppo_clip"), apart(score.value, value, where="value of reinforce"),
    )  # fmt: skip


@theorem(
    section="custom.md#a-loss-from-a-model-of-the-judge",
    source="Bradley and Terry 1952; Rafailov et al. 2023, https://arxiv.org/abs/2305.18290",
    broken={"a hinge, which is no likelihood": {"loss": hinge}},
)  # fmt: skip
def a_likelihood_recovers_the_judge(lab: Lab, *, loss: Callable[..., Terms] = dpo) -> Verdict:
    """argmin_z -p·logσ(z) - (1-p)·logσ(-z) = log(p/(1-p))      so that σ(z) is the share p of judges who prefer the first

    Proof: the derivative is σ(z) - p. A hinge's is -p + (1-p) wherever |z| < 1, whatever z: it knows who wins, and not how often.
    Experiment: `dpo` on the pair and on the pair turned round, weighed by p and 1-p, for 50 values of p; its derivative there.
    """
    p = 0.55 + 0.4 * lab.uniform("p", 50)
    beta, zero = 0.1, torch.zeros(50, dtype=torch.float64)

    def mean(z: Tensor) -> Tensor:
        gap = z / beta
        first = loss(gap, zero, zero, zero, beta=beta).loss
        other = loss(zero, gap, zero, zero, beta=beta).loss
        return (p * first + (1 - p) * other).sum()

    return equal(gradient_of(mean, (p / (1 - p)).log()), 0.0)


def _variance(world: World, theta: Tensor) -> Tensor:
    """Of an answer's reward."""
    return world.earning(world.rewards.square()).expected_reward(theta) - world.expected_reward(theta).square()
