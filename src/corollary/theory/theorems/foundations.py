"""docs/theory/foundations.md: the policy gradient, baselines, performance difference, trust regions, the regularised optimum."""

from __future__ import annotations

import torch

from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import gradient_of
from corollary.theory.verdict import Verdict, equal


@theorem(
    "B1.a", section="foundations.md#policy-gradient", source="Williams 1992, https://doi.org/10.1007/BF00992696",
    broken={"the score without the reward": {"rewarded": False}},
)  # fmt: skip
def score_function(lab: Lab, *, rewarded: bool = True) -> Verdict:
    """∇J = E_{y~π}[R(y) ∇logπ(y)].

    Proof: ∇Σ_y π(y)R(y) = Σ_y R(y)∇π(y), and ∇π = π∇logπ. R does not depend on π.
    Experiment: a token tree; both sides by enumeration, ∇J by differentiating J.
    """
    world = lab.tree()
    theta = lab.policy(world)
    rewards = world.rewards if rewarded else torch.ones_like(world.rewards)
    mean = torch.einsum("s,s,snv->nv", world.probabilities(theta), rewards, world.scores(theta))
    return equal(mean, gradient_of(world.expected_reward, theta))


@theorem(
    "B2.a", section="foundations.md#baselines", source="Williams 1992, https://doi.org/10.1007/BF00992696",
    broken={"the baseline sees the action": {"sees_action": True}},
)  # fmt: skip
def baselines_cost_nothing(lab: Lab, *, sees_action: bool = False) -> Verdict:
    """E[b(s) ∇logπ(a|s)] = 0 for every baseline b.

    Conditions: b does not depend on the action.
    Proof: Σ_a π(a|s)∇logπ(a|s) = ∇Σ_a π(a|s) = ∇1 = 0 in every state, and b(s) is a constant in that sum.
    Experiment: a token tree, b normal for each prefix (for each prefix and token in the twin), the expectation by enumeration.
    """
    world = lab.tree()
    theta = lab.policy(world)
    b = lab.normal("baseline", *theta.shape) if sees_action else lab.normal("baseline", len(theta), 1).expand_as(theta)
    held = (world.visits(theta)[:, None] * theta.detach().softmax(-1) * b).detach()
    return equal(gradient_of(lambda leaf: (held * leaf.log_softmax(-1)).sum(), theta), 0.0)
