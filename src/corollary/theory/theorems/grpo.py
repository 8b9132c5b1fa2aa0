"""docs/theory/grpo.md: groups as baselines, what std normalisation optimises, length, clipping, off-policy error, averages.

Each function states a fact in its docstring and measures it: `corollary.theory.theorem` says how one is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from corollary.losses.policy import cispo, ppo_clip, reinforce, sapo
from corollary.losses.sequence import gspo
from corollary.ops.advantage import (
    difficulty_weight,
    group_mean,
    group_std,
    has_signal,
    leave_one_out,
    leave_one_out_std,
    max_rl,
    pass_at_k_advantage,
)
from corollary.ops.bounds import informative_share, leave_one_out_noise, update_floor
from corollary.ops.ratio import geometric_ratio, log_product_ratio, token_ratio
from corollary.ops.reduce import constant, sequence_mean, sequence_sum, token_mean, weighted_sum
from corollary.theory import tree as trees
from corollary.theory.bandit import bandit
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import World, gradient_of
from corollary.theory.verdict import Curve, Verdict, apart, at_least, at_most, equal, every, parallel, within
from corollary.types import Terms

START = "grpo.md#from-reinforce"
GROUPS = "grpo.md#groups-as-baselines"
STD = "grpo.md#what-std-normalisation-optimises"
TEACH = "grpo.md#which-groups-teach"
LENGTH = "grpo.md#length-bias"
CLIP = "grpo.md#clipping"
WHOLE = "grpo.md#ratios-of-whole-answers"
STALE = "grpo.md#off-policy-error"
AVERAGE = "grpo.md#averages-and-microbatches"

PPO = "Schulman et al. 2017, https://arxiv.org/abs/1707.06347"
GRPO = "Shao et al. 2024 (GRPO), https://arxiv.org/abs/2402.03300"
DR_GRPO = "Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783"
DAPO = "Yu et al. 2025 (DAPO), https://arxiv.org/abs/2503.14476"
RLOO = "Kool et al. 2019; Ahmadian et al. 2024 (RLOO), https://arxiv.org/abs/2402.14740"
ARCSINE = "Davis and Recht 2025, https://arxiv.org/abs/2510.13651"
GSPO = "Zheng et al. 2025 (GSPO), https://arxiv.org/abs/2507.18071"

INSTANCES = 400
P = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)  # probabilities of a right answer
TINY = 1e-18  # ε of a standard deviation, where the statement has none

Advantage = Callable[[Tensor], Tensor]
Average = Callable[[Tensor], Tensor]


# From REINFORCE


@theorem(
    section=START, source=PPO,
    broken={"after a step": {"step": 0.3}, "without the advantage": {"credited": False}},
)  # fmt: skip
def the_first_step_of_an_update_is_reinforce(lab: Lab, *, step: float = 0.0, credited: bool = True) -> Verdict:
    """π = π_old  ⇒  L_clip = -A and ∂L_clip/∂logπ = -A = ∂(-A·logπ)/∂logπ

    Proof: the ratio is 1, inside every clip range, and its derivative by logπ is itself.
    Experiment: normal advantages and log-probabilities; `ppo_clip` beside `reinforce`.
    """
    old, advantages = lab.normal("old", INSTANCES) - 2, lab.normal("advantages", INSTANCES)
    loss = _slopes(lambda x: ppo_clip(x, old, advantages if credited else torch.ones_like(advantages)).loss, old + step)
    plain = _slopes(lambda x: reinforce(x, advantages).loss, old + step)
    value = ppo_clip(old + step, old, advantages).loss
    return every(equal(loss, plain, where="gradient"), equal(value, -advantages, where="value"))


@theorem(
    section=START, source="the chain rule",
    broken={"the old policy's log-probabilities carry gradient": {"constant_old": False}},
)  # fmt: skip
def old_logprobs_must_be_constants(lab: Lab, *, constant_old: bool = True) -> Verdict:
    """∂/∂θ [A·exp(logπ_θ - sg logπ_θ)] = A·∇logπ_θ      without sg it is 0

    Proof: d e^{x - c} = e^{x - c} dx where c is a constant; where c = x the ratio is 1 for every θ.
    Experiment: a token tree on-policy; the ratio with and without stop-gradient, beside J's gradient.
    """
    world = lab.tree()
    theta = lab.policy(world)
    chances, credit = world.probabilities(theta), world.rewards

    def surrogate(x: Tensor) -> Tensor:
        logs = world.sequence_logprobs(x)
        ratio = token_ratio(logs, logs) if constant_old else (logs - logs).exp()
        return (chances * credit * ratio).sum()

    return equal(gradient_of(surrogate, theta), gradient_of(world.expected_reward, theta))


# Groups as baselines


@theorem(section=GROUPS, source=RLOO, broken={"the factor turned over": {"inverse": True}})
def leave_one_out_is_the_group_mean_rescaled(lab: Lab, *, inverse: bool = False) -> Verdict:
    """r_i - mean_{j≠i} r_j = G/(G-1)·(r_i - mean r)

    Proof: mean_{j≠i} r_j = (G·mean r - r_i)/(G-1).
    Experiment: normal rewards of groups of 2 to 8.
    """

    def pair(size: int) -> Verdict:
        rewards = lab.normal("rewards", INSTANCES, size)
        factor = (size - 1) / size if inverse else size / (size - 1)
        return equal(leave_one_out(rewards), factor * group_mean(rewards), where=f"G = {size}")

    return every(*map(pair, range(2, 9)))


@theorem("B24.a", section=GROUPS, source=ARCSINE, broken={"the group's own mean": {"advantage": group_mean}})
def leave_one_out_ascends_the_success_rate(lab: Lab, *, advantage: Advantage = leave_one_out) -> Verdict:
    """r ∈ {0, 1}:  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = ∇p      A leave-one-out, p the probability of a right answer

    Proof: A_i is r_i less a baseline that does not see y_i, and E[r ∇logπ] = ∇p.
    Experiment: every number of right answers in a group of 2 to 6, weighed by its probability, for p from .05 to .95.
    """
    return every(*(equal(_weight(advantage, P, size), 1.0, where=f"G = {size}") for size in range(2, 7)))


@theorem(
    "B24.b", section=GROUPS, source="Walder and Karkhanis 2025, https://arxiv.org/abs/2505.15201",
    broken={"pass@(k-1)": {"less": 1}},
)  # fmt: skip
def pass_at_k_advantages_ascend_pass_at_k(lab: Lab, *, less: int = 0) -> Verdict:
    """r ∈ {0, 1}:  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = ∇pass@k = k(1-p)^{k-1}·∇p      pass@k = 1 - (1-p)^k

    Proof: A_i is k times the chance that answer i is the one that makes k of the group's answers succeed, i and k-1 others; given
    y_i right it averages to k(1-p)^{k-1}.
    Experiment: `pass_at_k_advantage`, groups of 6, k = 2 to 6, every number of right answers; the figure: k = 4.
    """
    found = {k: _weight(partial(pass_at_k_advantage, k=k), P, 6) for k in range(2, 7)}
    known = {k: (k - less) * (1 - P) ** (k - 1 - less) for k in found}
    drawn = _over_p(found[4], known[4], "pull on p with k = 4")
    return every(*(equal(found[k], known[k], where=f"k = {k}") for k in found)).drawn(drawn)


@theorem(
    "B24.c", section=GROUPS, source=ARCSINE,
    broken={"log p itself": {"found": False}, "the success rate": {"power": 0}},
)  # fmt: skip
def the_mean_over_successes_ascends_the_logarithm(lab: Lab, *, found: bool = True, power: int = 1) -> Verdict:
    """E[mean over right answers of ∇logπ(y)] = P(any is right)·∇log p = (1 - (1-p)^G)·∇p/p      0 where none is right

    Rejection sampling: fine-tuning on the group's right answers.
    Proof: given that some answer is right, each right one is a draw of π(·|right), and E[∇logπ(y)|right] = ∇p/p.
    Experiment: groups of 2 to 6, every number of right answers, p from .05 to .95; the figure: G = 4, beside 1/p.
    """

    def successes(rewards: Tensor) -> Tensor:
        return rewards * rewards.shape[-1] / rewards.sum(-1, keepdim=True).clamp(min=1)

    def known(size: int) -> Tensor:
        return (1 - (1 - P) ** size if found else 1.0) / P**power

    drawn = _over_p(_weight(successes, P, 4), 1 / P, "pull on p")
    return every(*(equal(_weight(successes, P, g), known(g), where=f"G = {g}") for g in range(2, 7))).drawn(drawn)


@theorem(
    section=GROUPS, source="Tajwar et al. 2026, https://arxiv.org/abs/2602.02710; the last term derived here",
    broken={"up to G": {"terms": 1}, "the success rate": {"advantage": leave_one_out}},
)  # fmt: skip
def max_rl_sums_pass_at_k(lab: Lab, *, terms: int = 0, advantage: Advantage = max_rl) -> Verdict:
    """A_i = (r_i - mean r)/mean r  ⇒  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = ∇Σ_{k=1}^{G-1} pass@k/k      → ∇log p as G → ∞

    Proof: Σ_i r_i/Σr alone gives (1-(1-p)^G)·∇p/p. The -1 in groups with a right answer adds (1-p)^G times the mean score given
    all wrong, -∇p/(1-p). Together Σ_{k=1}^{G-1} (1-p)^{k-1}·∇p, and ∇pass@k = k(1-p)^{k-1}·∇p.
    Experiment: `max_rl`, groups of 2 to 6, every number of right answers; the figure: G = 6 beside 1/p.
    """

    def known(size: int) -> Tensor:
        return torch.stack([(1 - P) ** (k - 1) for k in range(1, size + terms)]).sum(0)

    drawn = _over_p(_weight(advantage, P, 6), 1 / P, "pull on p")
    return every(*(equal(_weight(advantage, P, g), known(g), where=f"G = {g}") for g in range(2, 7))).drawn(drawn)


# What std normalisation optimises


@theorem(
    "B13.a", section=STD, source=ARCSINE,
    broken={"the other deviation": {"other": True}, "without the deviation": {"advantage": group_mean}},
)  # fmt: skip
def std_normalisation_weighs_prompts_by_difficulty(
    lab: Lab, *, other: bool = False, advantage: Callable[..., Tensor] = group_std
) -> Verdict:
    """r ∈ {0, 1}:  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = w_G(p)·∇p      A_i = (r_i - mean r)/s
    w_G(p) = Σ_{k=1}^{G-1} C(G,k)·p^{k-1}(1-p)^{G-k-1}·√(k(G-k))/G      times √((G-1)/G) where s² divides by G - 1

    Proof: with k right of G, s = √(k(G-k))/G and Σ_i A_i ∇logπ(y_i) = (k(1-k/G)·∇p/p + (G-k)(k/G)·∇p/(1-p))/s in mean.
    Experiment: the library's `ppo_clip` and `token_mean` on a prompt of two answers, all groups of G = 2 to 5, both deviations,
    beside `difficulty_weight`; the figure: G = 5.
    """
    found = []
    for size in (2, 3, 5):
        for ddof in (0, 1):
            kept = partial(advantage, ddof=ddof, eps=TINY) if advantage is group_std else advantage
            for p in (0.05, 0.3, 0.8):
                world, theta = bandit([1.0, 0.0]), torch.tensor([[p, 1 - p]], dtype=torch.float64).log()
                weight = difficulty_weight(p, group_size=size, ddof=0 if (ddof == 0) != other else 1)
                mean = _expected_step(world, theta, kept, token_mean, size)
                known = weight * gradient_of(world.expected_reward, theta)
                found.append(equal(mean, known, where=f"G = {size}, p = {p}"))
    known = _at_each(partial(difficulty_weight, group_size=5))
    return every(*found).drawn(_over_p(_weight(partial(group_std, eps=TINY), P, 5), known, "pull on p with G = 5"))


@theorem(
    "B13.b", section=STD, source=ARCSINE,
    broken={"the limit is 1/(p(1-p))": {"power": 1.0}, "the ceiling of deviations over G - 1": {"root": 1.0}},
)  # fmt: skip
def large_groups_ascend_the_arcsine(lab: Lab, *, power: float = 0.5, root: float = 0.5) -> Verdict:
    """w_G(p) ≤ √(1-1/G)/√(p(1-p)) and w_G(p) → 1/√(p(1-p)) = d/dp 2·arcsin√p      deviations that divide by G

    Proof: w_G = E[√q̂(1-q̂)]/(p(1-p)) with q̂ the share of right answers; √ is concave and E[q̂(1-q̂)] = (1-1/G)·p(1-p). q̂ → p.
    Experiment: `group_std`, G = 2 to 256, p from .05 to .95, every number of right answers; within 2 % at G = 256. The figure: p = .05.
    """
    limit = 1 / (P * (1 - P)) ** power
    sizes = (2, 4, 8, 16, 64, 256)
    found = torch.stack([_weight(partial(group_std, ddof=0, eps=TINY), P, g) for g in sizes])
    ceilings = torch.stack([limit * (1 - 1 / g) ** root for g in sizes])
    drawn = Curve(
        x=sizes, measured=tuple(found[:, 0].tolist()), bound=tuple(ceilings[:, 0].tolist()),
        across="G", up="pull on p = .05", log_x=True,
    )  # fmt: skip
    return every(at_most(found, ceilings), within(found[-1], limit, 0.02, "G = 256")).drawn(drawn)


@theorem(
    section=STD, source=ARCSINE,
    broken={"without the deviation": {"advantage": leave_one_out}, "two answers per prompt": {"size": 2}},
)  # fmt: skip
def std_normalisation_changes_the_objective(
    lab: Lab, *, advantage: Advantage = partial(group_std, ddof=0), size: int = 4
) -> Verdict:
    """Two prompts solved with probability p ≠ q:  w_G(p)·∇p + w_G(q)·∇q is not parallel to ∇(p + q)

    Conditions: G ≥ 3, w_G(p) ≠ w_G(q).
    Proof: ∇p and ∇q are independent directions, and a sum with unequal weights of such is parallel only to itself.
    Experiment: two prompts with logits of their own, p below .12 and q near ½; the library's loss on all groups of each.
    """
    rates = (0.02 + 0.1 * float(lab.uniform("p", 1)), 0.4 + 0.2 * float(lab.uniform("q", 1)))
    thetas = [torch.tensor([[p, 1 - p]], dtype=torch.float64).log() for p in rates]
    world = bandit([1.0, 0.0])
    step = torch.cat([_expected_step(world, t, advantage, token_mean, size) for t in thetas]).flatten()
    slope = torch.cat([gradient_of(world.expected_reward, t) for t in thetas]).flatten()
    return apart(step / step.norm(), slope / slope.norm(), 1e-3, "directions")


@theorem(
    section=STD, source="derived here; as 2-GRPO in https://arxiv.org/abs/2510.00977",
    broken={"three answers": {"size": 3}, "s² over G - 1": {"ddof": 1}},
)  # fmt: skip
def two_standardised_answers_ascend_the_success_rate(lab: Lab, *, size: int = 2, ddof: Literal[0, 1] = 0) -> Verdict:
    """G = 2, r ∈ {0, 1}, s² = Σ(r - mean r)²/G:  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = ∇p

    Proof: a mixed group has advantages ±1 whatever p is, so w_2(p) = 2p(1-p)·½/(p(1-p)) = 1.
    Experiment: `group_std` for p from .05 to .95; the figure: three answers favour both ends already.
    """
    drawn = _over_p(_weight(partial(group_std, ddof=0, eps=TINY), P, 3), torch.ones_like(P), "pull on p with G = 3")
    return equal(_weight(partial(group_std, ddof=ddof, eps=TINY), P, size), 1.0).drawn(drawn)


@theorem(
    section=STD, source="derived here",
    broken={"without the deviation": {"advantage": group_mean}},
)  # fmt: skip
def two_standardised_answers_compare(
    lab: Lab, *, advantage: Advantage = partial(group_std, ddof=0, eps=TINY)
) -> Verdict:
    """G = 2, any reward, s² = Σ(r - mean r)²/G:  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = 2∇P(y beats y') with y' ~ sg[π], ties counting ½

    How far one answer is better than the other is gone: only that it is.
    Proof: the advantages are ±1 by the sign of r_1 - r_2, and E[sign(r(y) - r(y'))·∇logπ(y)] = ∇E[sign]; sign = 2·(win + ½ tie) - 1.
    Experiment: a bandit with two equal rewards among others; the library's loss on all pairs.
    """
    world = bandit([*lab.uniform("rewards", max(3, lab.arms)).tolist(), 0.5, 0.5])
    theta = lab.policy(world)
    opponent = world.probabilities(theta)
    wins = (world.rewards[:, None] > world.rewards).double() + (world.rewards[:, None] == world.rewards) / 2
    known = gradient_of(lambda x: 2 * world.probabilities(x) @ wins @ opponent, theta)
    return equal(_expected_step(world, theta, advantage, token_mean, 2), known)


@theorem(
    "B13.e", section=STD, source="derived here: the peers are independent of the answer",
    broken={"the deviation of the whole group": {"advantage": group_std}},
)  # fmt: skip
def the_others_deviation_keeps_the_direction(lab: Lab, *, advantage: Advantage = leave_one_out_std) -> Verdict:
    """E[(1/G)·Σ_i A_i ∇logπ(y_i)] = E[1/s_{-i}]·∇J for any reward      A_i = (r_i - mean_{j≠i} r_j)/s_{-i}, from the others alone

    The deviation of the whole group, which holds r_i, turns the direction.
    Conditions: G ≥ 3. Where the others all agree, 1/s_{-i} stands for 1.
    Proof: given the others, A_i is r_i times a constant less a constant; the mean over y_i is ∇J/s_{-i}.
    Experiment: a bandit with at least three rewards; the library's loss on all groups of 3 and of 4.
    """
    world = bandit(lab.uniform("rewards", max(3, lab.arms)).tolist())
    theta = lab.policy(world)
    slope = gradient_of(world.expected_reward, theta)
    return every(*(
        parallel(_expected_step(world, theta, advantage, token_mean, size), slope, where=f"G = {size}") for size in (3, 4)
    ))  # fmt: skip


@theorem(
    "B13.f", section=STD, source="derived here, of NeMo RL's default",
    broken={"groups whose others agree are left out": {"agreeing": 0.0}, "the weight of the whole group": {"whole": True}},
)  # fmt: skip
def the_others_deviation_weighs_prompts_too(lab: Lab, *, agreeing: float = 1.0, whole: bool = False) -> Verdict:
    """r ∈ {0, 1}, A by the others' mean and deviation:  E[(1/G)·Σ_i A_i ∇logπ(y_i)] = w(p)·∇p
    w(p) = Σ_{k=0}^{n} C(n,k)·p^k(1-p)^{n-k}/s_k      n = G - 1, s_k = √(k(n-k)/(n(n-1))), and 1 where that is 0

    Proof: w = E[1/s_{-i}], and k of the n others are right with binomial probability.
    Experiment: `leave_one_out_std`, groups of 4, 8 and 16, p from .05 to .95, every number of right answers; the figure: G = 8.
    """

    def known(size: int) -> Tensor:
        n = size - 1
        k = torch.arange(n + 1, dtype=torch.float64)
        s = (k * (n - k) / (n * (n - 1))).sqrt()
        return (_binomial(P, n) * torch.where(s > 0, 1 / s, agreeing)).sum(-1)

    found = {g: _weight(partial(leave_one_out_std, eps=TINY), P, g) for g in (4, 8, 16)}
    verdicts = [
        equal(found[g], _at_each(partial(difficulty_weight, group_size=g)) if whole else known(g), where=f"G = {g}")
        for g in found
    ]
    return every(*verdicts).drawn(_over_p(found[8], known(8), "pull on p with G = 8"))


@theorem(
    "B28",
    section=STD,
    source=GRPO,
    broken={"a < 0": {"sign": -1.0}, "without the deviation": {"advantage": group_mean}},
)
def standardised_advantages_ignore_scale_and_offset(
    lab: Lab, *, sign: float = 1.0, advantage: Advantage = partial(group_std, eps=TINY)
) -> Verdict:
    """A(a·r + b) = A(r)      a > 0, any b; A = (r - mean r)/s

    Proof: mean(a·r + b) = a·mean r + b and s(a·r + b) = |a|·s(r).
    Experiment: 400 groups of 5 normal rewards, scales from .1 to 10, offsets up to 10.
    """
    rewards = lab.normal("rewards", INSTANCES, 5)
    scale = sign * 10 ** (2 * lab.uniform("scale", INSTANCES, 1) - 1)
    moved = scale * rewards + 10 * lab.normal("offset", INSTANCES, 1)
    return equal(advantage(moved), advantage(rewards), 1e-10)


@theorem(
    section=STD, source="Samuelson 1968, How deviant can you be?",
    broken={"s² over G": {"ddof": 0}, "a bound that does not grow": {"grows": False}},
)  # fmt: skip
def no_advantage_is_larger_than_that_of_a_lone_success(
    lab: Lab, *, ddof: Literal[0, 1] = 1, grows: bool = True
) -> Verdict:
    """|A_i| ≤ (G-1)/√G      A = (r - mean r)/s, s² = Σ(r - mean r)²/(G-1); attained where one answer differs from all others

    A rare success pulls √G times as hard as one among many.
    Proof: the other deviations sum to -d_i, so Σ_j d_j² ≥ d_i² + d_i²/(G-1) = d_i²·G/(G-1).
    Experiment: groups of 2 to 32, normal rewards and a lone success; the figure: the largest advantage over G.
    """
    sizes, largest = (2, 3, 4, 8, 16, 32), []
    for size in sizes:
        rewards = torch.cat([lab.normal("rewards", INSTANCES, size), torch.eye(size, dtype=torch.float64)])
        largest.append(float(group_std(rewards, ddof=ddof, eps=TINY).abs().max()))
    bounds = [(g - 1) / math.sqrt(g) if grows else 1 / math.sqrt(2) for g in sizes]
    drawn = Curve(
        x=sizes,
        measured=tuple(largest),
        bound=tuple(bounds),
        across="G",
        up="largest advantage",
        log_x=True,
        log_y=True,
    )
    return at_most(largest, bounds).drawn(drawn)


# Which groups teach


@theorem("B23.a", section=TEACH, source=DAPO, broken={"groups with a right answer": {"wrong_too": False}})
def groups_teach_where_answers_differ(lab: Lab, *, wrong_too: bool = True) -> Verdict:
    """P(a group has an advantage that is not 0) = 1 - p^G - (1-p)^G      r ∈ {0, 1}

    Proof: all right and all wrong are disjoint, and in both every reward is the mean.
    Experiment: `has_signal` and `group_mean` of every number of right answers, G = 2 to 16, p from .05 to .95; the figure: G = 8.
    """
    shares, found = {}, []
    for size in (2, 3, 4, 8, 16):
        rewards = _successes(size)
        seen = has_signal(rewards)
        shares[size] = (_binomial(P, size) * seen).sum(-1)
        known = _at_each(partial(informative_share, group_size=size)) + (0.0 if wrong_too else P**size)
        found += [
            equal(shares[size], known, where=f"G = {size}"),
            equal(seen.double(), group_mean(rewards).any(-1).double()),
        ]
    known = _at_each(partial(informative_share, group_size=8))
    return every(*found).drawn(_over_p(shares[8], known, "informative groups of 8"))


@theorem("B23.b", section=TEACH, source="derived here", broken={"per group": {"per_answer": False}})
def small_groups_teach_most_per_answer(lab: Lab, *, per_answer: bool = True) -> Verdict:
    """(1 - p^G - (1-p)^G)/G does not grow with G ≥ 2, for any p

    So G = 2 yields most informative groups per answer; a large G is for rare successes, p < 1/G, where the yield is flat.
    Proof: with e_j = p^j + (1-p)^j it is p(1-p)·(e_0 + … + e_{G-2})/G, and e_0 + … + e_{G-2} ≥ G·e_{G-1}, for e_0 = 2, e_1 = 1 and e falls.
    Experiment: p = .001 to .999, G = 2 to 64; the figure: p = .05.
    """
    rates = torch.logspace(-3, -0.31, 20, dtype=torch.float64)
    sizes = range(2, 65)
    both = torch.cat([rates, 1 - rates])
    yields = torch.stack(
        [_at_each(partial(informative_share, group_size=g), both) / (g if per_answer else 1) for g in sizes]
    )
    drawn = Curve(
        x=tuple(sizes), measured=tuple(informative_share(0.05, group_size=g) / g for g in sizes),
        across="G", up="informative groups per answer, p = .05", log_x=True,
    )  # fmt: skip
    return at_most(yields[1:], yields[:-1]).drawn(drawn)


@theorem(
    "B23.c", section=TEACH, source="derived here, by the variance of a U-statistic",
    broken={"G in the place of G - 1": {"less": 0}, "rewards without a baseline": {"advantage": lambda r: r}},
)  # fmt: skip
def what_larger_groups_save(lab: Lab, *, less: int = 1, advantage: Advantage = leave_one_out) -> Verdict:
    """G·Var[(1/G)·Σ_i A_i s_i] = p(1-p)·((1-2p)² + 2p(1-p)/(G-1))      s = ∂logπ/∂logit: 1-p of a right answer, -p of a wrong one

    Doubling G halves the second term: it halves the variance at p = ½ and saves little on a rare success.
    Proof: it is a U-statistic of kernel ½(r - r')(s - s'), which is ½ where one is right and one wrong, else 0. Hoeffding: G·Var =
    4ζ₁(G-2)/(G-1) + 2ζ₂/(G-1), 4ζ₁ = p(1-p)(1-2p)², ζ₂ = ½p(1-p) - p²(1-p)².
    Experiment: `leave_one_out`, every number of right answers, G = 2 to 16, beside `leave_one_out_noise`; the figure: p = ½ over G.
    """
    sizes = (2, 3, 4, 8, 16)
    found = {g: _variance(advantage, P, g) / (P * (1 - P)) for g in sizes}
    known = {g: _at_each(partial(leave_one_out_noise, group_size=g + 1 - less)) for g in sizes}
    middle = len(P) // 2
    drawn = Curve(
        x=sizes, measured=tuple(float(found[g][middle]) for g in sizes), bound=tuple(float(known[g][middle]) for g in sizes),
        across="G", up="variance per answer, p = ½", log_x=True, log_y=True,
    )  # fmt: skip
    return every(*(equal(found[g], known[g], where=f"G = {g}") for g in sizes)).drawn(drawn)


@theorem(section=TEACH, source=DAPO, broken={"the denominator stays": {"rescaled": False}})
def leaving_out_silent_groups_rescales(lab: Lab, *, rescaled: bool = True) -> Verdict:
    """E[step | the group teaches] = E[step] / (1 - p^G - (1-p)^G)      a step of one group; token_mean counts what is left

    Dynamic sampling, which draws until groups teach, is a larger learning rate on prompts that are nearly solved or hopeless. With
    a denominator that counts all groups, leaving the silent ones out changes nothing.
    Proof: a silent group's gradient is 0, so E[step] = P(it teaches)·E[step | it teaches].
    Experiment: `leave_one_out` on every number of right answers, G = 2 to 8, silent groups left out by `has_signal`; the figure: G = 4.
    """
    found = {}
    for size in (2, 4, 8):
        chance = _binomial(P, size) * has_signal(_successes(size))
        found[size] = (chance * _pulls(leave_one_out, P, size)).sum(-1) / (chance.sum(-1) if rescaled else 1.0)
    known = {g: 1 / _at_each(partial(informative_share, group_size=g)) for g in found}
    return every(*(equal(found[g], known[g], where=f"G = {g}") for g in found)).drawn(
        _over_p(found[4], known[4], "pull on p with G = 4")
    )


@theorem(section=TEACH, source="derived here", broken={"the arcsine's slope": {"power": 0.5}})
def pairs_that_differ_ascend_the_logit(lab: Lab, *, power: float = 1.0) -> Verdict:
    """G = 2, groups that teach alone, A leave-one-out:  E[step] = ½∇logit p = ∇p / (2p(1-p))

    Proof: the pull is 1/(1 - p² - (1-p)²) = 1/(2p(1-p)), and d/dp log(p/(1-p)) = 1/(p(1-p)).
    Experiment: `leave_one_out` on pairs, those that agree left out; beside the derivative of ½·logit.
    """
    chance = _binomial(P, 2) * has_signal(_successes(2))
    found = (chance * _pulls(leave_one_out, P, 2)).sum(-1) / chance.sum(-1)
    known = _slopes(lambda p: p.logit() / 2, P) if power == 1.0 else 1 / (2 * (P * (1 - P)) ** power)
    return equal(found, known).drawn(_over_p(found, known, "pull on p"))


# Length bias


@theorem(
    "B13.c", section=LENGTH, source=DR_GRPO,
    broken={"the token mean": {"average": token_mean}, "the mean of each answer": {"average": sequence_mean}},
)  # fmt: skip
def a_constant_length_keeps_the_gradient(lab: Lab, *, average: Average | None = None) -> Verdict:
    """E[-∇ Σ w·L_clip] = (G-1)/(G·L)·∇J      w = 1/(G·L) for each token, L a constant; A = r - mean r of the group

    A mean over tokens divides by lengths that the policy chooses, and has neither this size nor this direction.
    Proof: with w constant the step is Σ_i A_i ∇logπ(y_i)/(G·L), and the group's own mean takes (G-1)/G of ∇J.
    Experiment: `group_mean`, `ppo_clip`, `constant` on all pairs of a tree with answers of different lengths.
    """
    world = lab.eos_tree()
    theta, longest = lab.policy(world), int(world.lengths.max())
    mean = _expected_step(world, theta, group_mean, average or partial(constant, length=longest), 2)
    return equal(mean, gradient_of(world.expected_reward, theta) / (2 * longest))


@theorem("B13.d", section=LENGTH, source=DR_GRPO, broken={"the padded width in the place of L": {"padded": True}})
def weights_of_a_token(lab: Lab, *, padded: bool = False) -> Verdict:
    """token_mean 1/N · sequence_mean 1/(B·n_b) · sequence_sum 1/B · constant 1/(B·L)      N tokens, B answers, n_b of answer b

    Proof: the derivative of Σ w·x by x is w.
    Experiment: the derivative of `weighted_sum` of normal terms by each term, answers of 1 to 6 tokens in 9 columns.
    """
    lengths = torch.cat([torch.tensor([1, 6]), 1 + (6 * lab.uniform("lengths", 6)).long()])
    trained, width = torch.arange(9) < lengths[:, None], 9
    n, b, longest = lengths[:, None].double().expand(-1, width), len(lengths), 12
    known = {
        token_mean: 1 / n.sum(0)[0].expand_as(n), sequence_mean: 1 / (b * n), sequence_sum: torch.ones_like(n) / b,
        partial(constant, length=width if padded else longest): torch.ones_like(n) / (b * longest),
    }  # fmt: skip
    terms = lab.normal("terms", b, width)
    return every(*(
        equal(_slopes(lambda x, a=average: weighted_sum(x, a(trained)), terms), weight.where(trained, 0.0))
        for average, weight in known.items()
    ))  # fmt: skip


@theorem(
    section=LENGTH, source="derived here",
    broken={"without the baseline": {"centred": False}, "each answer by the sum of its tokens": {"average": sequence_sum}},
)  # fmt: skip
def sequence_mean_ascends_reward_over_length(
    lab: Lab, *, centred: bool = True, average: Average = sequence_mean
) -> Verdict:
    """E[-∇ Σ w·L] = ∇ E_{y~π}[(r(y) - sg J)/n(y)]      w = 1/(G·n), A leave-one-out, n tokens of y

    An answer worse than the mean loses less the longer it is; one better than the mean gains less: long failures, short successes.
    Proof: the others' mean has mean J and does not see y_i; Σ_t ∇logπ(y_t) = ∇logπ(y).
    Experiment: `leave_one_out`, `ppo_clip`, `sequence_mean` on all pairs of a tree with answers of different lengths.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    base = world.expected_reward(theta) if centred else 0.0
    rate = world.earning((world.rewards - base) / world.lengths)
    return equal(_expected_step(world, theta, leave_one_out, average, 2), gradient_of(rate.expected_reward, theta))


@theorem(section=LENGTH, source=DR_GRPO, broken={"answers of one length": {"varied": False}})
def averages_point_in_different_directions(lab: Lab, *, varied: bool = True) -> Verdict:
    """The expected steps of token_mean, sequence_mean and constant have three directions where lengths differ, one where they do not

    Proof: at one length n all three weigh a token by a constant. Otherwise sequence_mean scales an answer by 1/n_b, token_mean a group
    by 1/Σn.
    Experiment: `group_mean` and `ppo_clip` on all pairs of a tree with an end token; the cosine of each two is below 1.
    """
    world = lab.eos_tree() if varied else _even_tree(lab)
    theta, longest = lab.policy(world), int(world.lengths.max())
    averages = (token_mean, sequence_mean, partial(constant, length=longest))
    steps = [_expected_step(world, theta, group_mean, a, 2).flatten() for a in averages]
    units = [s / s.norm() for s in steps]
    return every(*(apart(units[i], units[j], 1e-3) for i, j in ((0, 1), (0, 2), (1, 2))))


# Clipping


@theorem("B12.a", section=CLIP, source=PPO, broken={"the clip alone, without the minimum": {"pessimistic": False}})
def clipping_never_promises_more(lab: Lab, *, pessimistic: bool = True) -> Verdict:
    """min(r·A, clip(r)·A) ≤ r·A; with a dual clip c:  max(min(r·A, clip(r)·A), c·A) ≥ both, where A < 0

    Proof: a minimum is at most either argument, a maximum at least either.
    Experiment: `ppo_clip`, ratios from e^-4 to e^4 and normal advantages; c = 3. The figure: A = 1 over r, beside r·A.
    """
    x, a = 8 * lab.uniform("ratios", INSTANCES) - 4, lab.normal("advantages", INSTANCES)
    old = torch.zeros_like(x)
    objective = -ppo_clip(x, old, a).loss if pessimistic else x.exp().clamp(0.8, 1.2) * a
    dual, bad = -ppo_clip(x, old, a, dual_clip=3.0).loss, a < 0
    grid = torch.linspace(0.2, 2, 37, dtype=torch.float64)
    kept = -ppo_clip(grid.log(), torch.zeros_like(grid), torch.ones_like(grid)).loss
    drawn = Curve(
        x=tuple(grid.tolist()),
        measured=tuple(kept.tolist()),
        bound=tuple(grid.tolist()),
        across="r",
        up="objective, A = 1",
    )
    return every(
        at_most(objective, x.exp() * a, where="one token"),
        at_least(dual[bad], torch.maximum(objective, 3 * a)[bad], where="dual clip"),
    ).drawn(drawn)


@theorem(
    section=CLIP, source="Ye et al. 2020, https://arxiv.org/abs/1912.09729",
    broken={"PPO without it": {"dual_clip": None}, "its c for good answers as well": {"bad": False}},
)  # fmt: skip
def a_dual_clip_bounds_bad_answers(lab: Lab, *, dual_clip: float | None = 3.0, bad: bool = True) -> Verdict:
    """A < 0:  L ≤ c·|A|, and ∂L/∂logπ = 0 where r > c      c > 1 + ε_high

    PPO alone is unbounded there: r·|A| grows with the ratio, and so does its gradient.
    Proof: L = min(r·|A|, c·|A|) for r ≥ 1 - ε_low; the second is a constant.
    Experiment: `ppo_clip` with c = 3 and A < 0, ratios from e^-4 to e^4; the figure: A = -1 over r.
    """
    x, a = 8 * lab.uniform("ratios", INSTANCES) - 4, -lab.normal("advantages", INSTANCES).abs() * (1 if bad else -1)

    def loss(logs: Tensor) -> Tensor:
        return ppo_clip(logs, torch.zeros_like(logs), a, dual_clip=dual_clip, clip_high=20.0).loss

    far = x > math.log(3)
    grid = torch.linspace(0.2, 5, 49, dtype=torch.float64)
    one = ppo_clip(grid.log(), torch.zeros_like(grid), -torch.ones_like(grid), dual_clip=dual_clip).loss
    drawn = Curve(
        x=tuple(grid.tolist()), measured=tuple(one.tolist()), bound=(3.0,) * len(grid), across="r", up="loss, A = -1"
    )
    return every(at_most(loss(x).abs(), 3 * a.abs()), equal(_slopes(loss, x)[far], 0.0, where="gradient")).drawn(drawn)


@theorem(
    section=CLIP, source=PPO,
    broken={"cut on both sides": {"one_sided": False}, "CISPO": {"loss": cispo}},
)  # fmt: skip
def the_clip_cuts_one_side(lab: Lab, *, one_sided: bool = True, loss: Callable[..., Terms] = ppo_clip) -> Verdict:
    """∂L_clip/∂logπ = 0 where (A > 0, r > 1 + ε_high) or (A < 0, r < 1 - ε_low), and -r·A everywhere else

    A ratio that has gone the wrong way keeps its whole gradient, however far it is.
    Proof: the minimum takes clip(r)·A, a constant, only where that is the smaller.
    Experiment: `ppo_clip` with .2 and .28, ratios from e^-2 to e^2, normal advantages.
    """
    x, a = 4 * lab.uniform("ratios", INSTANCES) - 2, lab.normal("advantages", INSTANCES)
    r, old = x.exp(), torch.zeros_like(x)
    high, low = r > 1.28, r < 0.8
    cut = (high & (a > 0)) | (low & (a < 0)) if one_sided else high | low
    found = _slopes(lambda logs: loss(logs, old, a, clip_low=0.2, clip_high=0.28).loss, x)
    return equal(found, (-r * a).where(~cut, 0.0))


@theorem(
    "B12.b", section=CLIP, source="derived here: a counterexample",
    broken={"one ratio for the whole answer": {"per_token": False}},
)  # fmt: skip
def clipping_is_no_lower_bound(lab: Lab, *, per_token: bool = True) -> Verdict:
    """E_{y~π}[Σ_t min(ρ_t A_t, clip(ρ_t) A_t)] - (J' - J) = 1.1·(1 - 2p), up to 1.1: PPO's objective promises what is not there

    Two tokens. π(a) = p, π(b) = 1-p, then ±1 with even odds: J = 0 and the first token's advantages are 0. π' turns the first token
    round, π'(a) = 1-p; after a it always takes -1, after b +1 with .55.
    Proof: the first token's ratio costs nothing, as its A is 0; the rest is weighed by π: L = .1(1-p) - p, and J' = .1p - (1-p).
    Experiment: `ppo_clip` on the four answers, p from .001 to .2; the figure: L, and J' - J as the bound that it would have to be below.
    """
    world = trees.tree(vocabulary=2, depth=2).earning(torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64))
    rates, promised, gained = torch.logspace(-3, -0.7, 20, dtype=torch.float64).tolist(), [], []
    for p in rates:
        theta = torch.tensor([[p, 1 - p], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64).log()
        new = torch.tensor([[1 - p, p], [1e-300, 1.0], [0.55, 0.45]], dtype=torch.float64).log()
        promised.append(_clipped_promise(world, theta, new, per_token=per_token))
        gained.append(world.expected_reward(new) - world.expected_reward(theta))
    gap = torch.stack(promised) - torch.stack(gained)
    drawn = Curve(
        x=tuple(rates), measured=tuple(map(float, promised)), bound=tuple(map(float, gained)), across="p", up="L", log_x=True
    )  # fmt: skip
    return equal(gap, [1.1 * (1 - 2 * p) for p in rates]).drawn(drawn)


@theorem(
    "B12.c", section=CLIP, source="the performance difference at one step",
    broken={"Q in the place of A": {"centred": False}, "the clip alone, without the minimum": {"pessimistic": False}},
)  # fmt: skip
def clipping_whole_answers_is_a_lower_bound(lab: Lab, *, centred: bool = True, pessimistic: bool = True) -> Verdict:
    """E_{y~π}[min(ρ·A, clip(ρ)·A)] ≤ J' - J      ρ = π'(y)/π(y) of the whole answer, A = r(y) - J

    Proof: the minimum is at most ρ·A, and E_π[ρ·A] = E_π'[r] - J.
    Experiment: 400 pairs of policies over a token tree, steps of .01 to 3; `ppo_clip` on answers. The figure: L beside J' - J.
    """
    world = lab.tree()
    old, new = _moved_policies(lab, world)
    before, after = (torch.vmap(world.sequence_logprobs)(x) for x in (old, new))
    start = (before.exp() * world.rewards).sum(-1, keepdim=True)
    gain = (after.exp() * world.rewards).sum(-1) - start[:, 0]
    credit = world.rewards - (start if centred else 0.0)
    objective = (
        -ppo_clip(after, before, credit).loss if pessimistic else token_ratio(after, before).clamp(0.8, 1.2) * credit
    )
    promised = (before.exp() * objective).sum(-1)
    order = gain.argsort()[::10]
    drawn = Curve(
        x=tuple(gain[order].tolist()), measured=tuple(promised[order].tolist()), bound=tuple(gain[order].tolist()),
        across="J' - J", up="L",
    )  # fmt: skip
    return at_most(promised, gain).drawn(drawn)


@theorem(
    section=CLIP, source="derived here",
    broken={"the clipped token alone in the batch": {"alone": True}},
)  # fmt: skip
def other_tokens_move_a_clipped_ratio(lab: Lab, *, alone: bool = False) -> Verdict:
    """d log π(a)/dη = r_b·|A_b|·w·(π(a) + π(b) - Σ_c π(c)²) along the step of a batch {a: clipped, A_a > 0; b: A_b < 0}

    The clip has cut a's own gradient, and a's ratio rises all the same where that is positive: unless a third token has nearly all of the
    probability.
    Proof: the step is -w·r_b·|A_b|·∇logπ(b), and ⟨∇logπ(a), ∇logπ(b)⟩ = Σ_c π(c)² - π(a) - π(b) for a ≠ b.
    Experiment: a bandit, `ppo_clip`, r_a = 1.25; then 40 steps. The figure: r_a, beside 1 + ε.
    """
    arms = max(3, lab.arms)
    old = torch.tensor([[0.2] + [0.8 / (arms - 1)] * (arms - 1)], dtype=torch.float64).log()
    start = torch.tensor([[0.25] + [0.75 / (arms - 1)] * (arms - 1)], dtype=torch.float64).log()
    credit = torch.tensor([1.0, 0.0 if alone else -0.5 - float(lab.uniform("credit", 1))], dtype=torch.float64)

    def loss(theta: Tensor) -> Tensor:
        return ppo_clip(theta.log_softmax(-1)[0, :2], old[0, :2], credit).loss.mean()

    pi = start[0].exp()
    step = -gradient_of(loss, start)
    rate = (gradient_of(lambda x: x.log_softmax(-1)[0, 0], start) * step).sum()
    known = (0.75 / 0.8) * -credit[1] / 2 * (pi[0] + pi[1] - pi.square().sum())
    theta, ratios = start, []
    for _ in range(40):
        ratios.append(float((theta.log_softmax(-1) - old)[0, 0].exp()))
        theta = theta - 0.1 * gradient_of(loss, theta)
    drawn = Curve(
        x=tuple(range(40)), measured=tuple(ratios), bound=(1.2,) * 40, across="steps", up="ratio of the clipped token"
    )
    return every(equal(rate, known), at_least(ratios[-1], 1.25 + 0.01, where="after 40 steps")).drawn(drawn)


@theorem(section=CLIP, source="derived here", broken={"plain gradient steps": {"momentum": 0.0}})
def momentum_carries_a_ratio_out_of_the_clip(lab: Lab, *, momentum: float = 0.9) -> Verdict:
    """logr_∞ = logr_k + lr·m_k·μ/(1-μ)      k the step that takes r past 1 + ε, m_k the momentum there

    Once cut, the gradient is 0, and the optimizer goes on for 1/(1-μ) steps. A ratio inside the clip range is nothing that PPO holds.
    Proof: m_{k+j} = μ^j·m_k where the gradient is 0, and Σ_{j≥1} μ^j = μ/(1-μ).
    Experiment: one token with A = 1, `ppo_clip`, m ← μm + g with μ = .9; the figure: r over the steps, beside 1 + ε.
    """
    x, m = -0.1 * lab.uniform("start", 1), torch.zeros(1, dtype=torch.float64)
    lr = 0.02 + 0.02 * float(lab.uniform("lr", 1))
    one, logs, crossing, speed = torch.ones(1, dtype=torch.float64), [], None, 0.0
    for _ in range(300):
        m = momentum * m - _slopes(lambda logprobs: ppo_clip(logprobs, torch.zeros_like(one), one).loss, x)
        x = x + lr * m
        logs.append(x.item())
        if crossing is None and x.item() > math.log(1.2):
            crossing, speed = x.item(), lr * m.item()
    assert crossing is not None
    drawn = Curve(
        x=tuple(range(80)), measured=tuple(math.exp(v) for v in logs[:80]), bound=(1.2,) * 80, across="steps", up="ratio"
    )  # fmt: skip
    further = logs[-1] - crossing
    return every(
        equal(further, speed * momentum / (1 - momentum)), at_least(further, lr * 1.2, where="a plain step")
    ).drawn(drawn)


@theorem(
    section=CLIP, source="MiniMax 2025 (CISPO), https://arxiv.org/abs/2506.13585",
    broken={"PPO's clip": {"loss": ppo_clip}},
)  # fmt: skip
def cispo_never_cuts_a_gradient(lab: Lab, *, loss: Callable[..., Terms] = cispo) -> Verdict:
    """∂L/∂logπ = -clip(r, 1-ε_low, 1+ε_high)·A, so at least (1-ε_low)·|A| for every token

    Proof: the clipped ratio stands behind a stop-gradient, and ∂logπ/∂logπ = 1.
    Experiment: `cispo` with .2 and .28, ratios from e^-3 to e^3; the figure: the gradient's size at A = 1, beside PPO's.
    """
    x, a = 6 * lab.uniform("ratios", INSTANCES) - 3, lab.normal("advantages", INSTANCES)
    old = torch.zeros_like(x)
    found = _slopes(lambda logs: loss(logs, old, a, clip_low=0.2, clip_high=0.28).loss, x)
    grid = torch.linspace(0.2, 2, 37, dtype=torch.float64).log()
    lines = [
        _slopes(
            lambda logs, f=f: f(logs, torch.zeros_like(grid), torch.ones_like(grid), clip_low=0.2, clip_high=0.28).loss,
            grid,
        )
        for f in (cispo, ppo_clip)
    ]
    drawn = Curve(
        x=tuple(grid.exp().tolist()), measured=tuple((-lines[0]).tolist()), bound=tuple((-lines[1]).tolist()),
        across="r", up="gradient at A = 1 (bound: PPO's)",
    )  # fmt: skip
    return every(equal(found, -x.exp().clamp(0.8, 1.28) * a), at_least(found.abs(), 0.8 * a.abs())).drawn(drawn)


@theorem(
    section=CLIP, source="Soft adaptive policy optimization 2025, https://arxiv.org/abs/2511.20347",
    broken={"away from r = 1": {"step": 0.2}},
)  # fmt: skip
def sapo_starts_as_reinforce(lab: Lab, *, step: float = 0.0) -> Verdict:
    """∂L/∂logπ = -A at r = 1 for every τ, though L = -2A/τ there

    Proof: the slope in r is -A·4σ(u)σ(-u) with u = τ(r-1), which is -A at u = 0.
    Experiment: `sapo`, τ from .1 to 10, normal advantages.
    """
    a, x = lab.normal("advantages", INSTANCES), torch.full((INSTANCES,), step, dtype=torch.float64)
    old = torch.zeros_like(x)
    return every(*(
        every(equal(_slopes(lambda logs, t=t: sapo(logs, old, a, tau_pos=t, tau_neg=t).loss, x), -a, where=f"τ = {t}"),
              equal(sapo(old, old, a, tau_pos=t, tau_neg=t).loss, -2 * a / t))
        for t in (0.1, 1.0, 10.0)
    ))  # fmt: skip


# Ratios of whole answers


@theorem(
    section=WHOLE, source=GSPO,
    broken={"the whole answer's own ratio": {"geometric": False}, "each token's own ratio": {"own": True}},
)  # fmt: skip
def gspo_gives_all_tokens_one_weight(lab: Lab, *, geometric: bool = True, own: bool = False) -> Verdict:
    """∂L/∂logπ(y_t) = -s·A/(B·n) for every token of an answer inside the clip      s = (Π_t r_t)^{1/n}, averaged by sequence_mean

    Proof: logs = (1/n)·Σ_t logr_t, so ∂s/∂logπ_t = s/n; the n equal terms of an answer, each weighed 1/(B·n), add up to one.
    Experiment: `gspo` and `sequence_mean` on all answers of a tree with different lengths, a wide clip.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    old, new = world.logprobs(theta), world.logprobs(theta + 0.3 * lab.policy(world, "direction"))
    a = lab.normal("advantages", len(old))[:, None].expand_as(old)
    weights = sequence_mean(world.trained)

    def loss(logs: Tensor) -> Tensor:
        return weighted_sum(gspo(logs, old, a, world.trained, clip_low=1.0, clip_high=1e6).loss, weights)

    whole = log_product_ratio(new, old, world.trained)[:, None]
    s = token_ratio(new, old) if own else (whole / world.lengths[:, None] if geometric else whole).exp()
    return equal(_slopes(loss, new), (-s * a * weights).where(world.trained, 0.0))


@theorem(section=WHOLE, source=GSPO, broken={"the same width for every length": {"grows": False}})
def gspos_clip_widens_with_length(lab: Lab, *, grows: bool = True) -> Verdict:
    """s ≤ 1 + ε  ⟺  log(π(y)/π_old(y)) ≤ n·log(1 + ε)      n tokens: a drift of ε nats is allowed for every token

    Proof: s = (π(y)/π_old(y))^{1/n}, and the logarithm is increasing.
    Experiment: `gspo`'s own `clipped`, A > 0, ε = .01, answers of 1 to 200 tokens; the figure: log-ratios at which it cuts.
    """
    lengths = torch.tensor([1, 2, 5, 10, 20, 50, 100, 200])
    trained = torch.arange(200) < lengths[:, None]
    edge = math.log(1.01)
    drift = torch.linspace(0.05, 2.95, 30, dtype=torch.float64)[:, None] * edge * lengths
    cuts = []
    for row in drift:
        logs = (row / lengths)[:, None].where(trained, 0.0)
        ones = torch.ones_like(logs)
        cuts.append(
            gspo(logs, torch.zeros_like(logs), ones, trained, clip_low=0.01, clip_high=0.01).metrics["clipped"][:, 0]
        )
    found = torch.stack(cuts)
    first = torch.stack(
        [drift[:, i][found[:, i] > 0][0] if found[:, i].any() else drift[-1, i] for i in range(len(lengths))]
    )
    drawn = Curve(
        x=tuple(lengths.tolist()), measured=tuple(first.tolist()), bound=tuple((edge * lengths).tolist()),
        across="tokens", up="log-ratio of the answer where the clip cuts", log_x=True, log_y=True,
    )  # fmt: skip
    return equal(found, (drift > edge * (lengths if grows else 1)).double()).drawn(drawn)


@theorem(
    section=WHOLE, source="derived here, by Jensen's inequality", broken={"the product itself": {"geometric": False}}
)
def a_geometric_mean_is_no_importance_weight(lab: Lab, *, geometric: bool = True) -> Verdict:
    """E_{y~π_old}[(π(y)/π_old(y))^{1/n}] < 1 = E_{y~π_old}[π(y)/π_old(y)]      n > 1 tokens, π ≠ π_old

    So GSPO's s does not turn a mean over the old policy's answers into one over the new policy's: it measures drift.
    Proof: x^{1/n} is strictly concave, and the mean of π/π_old is 1.
    Experiment: a token tree with answers of one length, 20 steps of growing size; the figure: E[s] over the size.
    """
    world = _even_tree(lab)
    theta, direction = lab.policy(world), lab.policy(world, "direction")
    sizes = torch.linspace(0.1, 2, 20, dtype=torch.float64)
    old, chances, means, wholes = world.logprobs(theta), world.probabilities(theta), [], []
    for size in sizes.tolist():
        new = world.logprobs(theta + size * direction)
        whole = log_product_ratio(new, old, world.trained).exp()
        means.append(chances @ (geometric_ratio(new, old, world.trained) if geometric else whole))
        wholes.append(chances @ whole)
    drawn = Curve(
        x=tuple(sizes.tolist()), measured=tuple(map(float, means)), bound=(1.0,) * 20, across="size of the step", up="E[s]"
    )  # fmt: skip
    return every(equal(torch.stack(wholes), 1.0), at_most(torch.stack(means), 1 - 1e-4, where="s")).drawn(drawn)


# Off-policy error


@theorem(
    section="grpo.md#sampler-and-trainer", source="derived here",
    broken={"the trainer forgets the temperature": {"trained_at": 1.0}},
)  # fmt: skip
def both_sides_take_the_same_temperature(lab: Lab, *, trained_at: float = 0.9) -> Verdict:
    """Answers drawn at temperature T give E[r·∇log π_T] = ∇J(π_T) with π_T = softmax(z/T): the trainer divides its logits by T as the sampler does.

    Proof: π_T is a policy with parameters z like any other, so its score function gives its gradient. The score of softmax(z) is another vector,
        and under π_T its mean is not even 0.
    Experiment: a token tree, T = 0.9, both expectations by enumeration.
    """
    world = lab.tree()
    theta = lab.policy(world)
    drawn = world.probabilities(theta / 0.9)
    score = gradient_of(lambda z: (drawn * world.rewards) @ world.sequence_logprobs(z / trained_at), theta)
    return equal(score, gradient_of(lambda z: world.expected_reward(z / 0.9), theta))


@theorem(
    section=STALE, source="derived here: the bound 2T(T-1)α²·max|A| within a factor of 2",
    broken={"it grows with T": {"order": 1}, "ratios of the prefix as well": {"prefix": True}},
)  # fmt: skip
def token_ratios_are_off_by_the_square_of_the_length(lab: Lab, *, order: int = 2, prefix: bool = False) -> Verdict:
    """There are policies with J' - J - L = 2α·Σ_{t<T} [(1-b)^t - (1-b-α)^t] → α²·T(T-1)      L = E_{y~π}[Σ_t ρ_t A_t], max|A| = 1

    Every token's distribution moved by α in total variation; the ratio of the token alone does not see that its prefix became likelier.
    Proof: an answer that has once taken token 1 is in a state where 1 earns 1 and 0 earns -1, taken with even odds by π: A = ±1 there,
    and 0 before. π' takes 1 with α more: states of that kind are visited (1-b)^t - (1-b-α)^t more often, and each gains 2α.
    Experiment: all answers of 2 to 8 tokens, `token_ratio`, α = .002, b = .001; `update_floor` holds. The figure: the error over T.
    """
    alpha, b = 0.002, 0.001
    horizons, errors, floors = range(2, 9), [], []
    for horizon in horizons:
        world, theta, new = _broken_promises(horizon, b, alpha)
        credit = world.advantages(theta)[world.states, world.tokens]
        ratios = token_ratio(world.logprobs(new), world.logprobs(theta))
        ahead = torch.cat([torch.ones_like(ratios[:, :1]), ratios.cumprod(-1)[:, :-1]], -1) if prefix else 1.0
        surrogate = world.probabilities(theta) @ (ahead * ratios * credit).sum(-1)
        gain = world.expected_reward(new) - world.expected_reward(theta)
        errors.append(gain - surrogate)
        floors.append(float(surrogate) - update_floor(float(surrogate), horizon=horizon, tv=alpha, max_advantage=1.0))
    found = torch.stack(errors)
    exact = [2 * alpha * sum((1 - b) ** t - (1 - b - alpha) ** t for t in range(n)) for n in horizons]
    growth = torch.tensor([n * (n - 1) if order == 2 else n for n in horizons], dtype=torch.float64)
    drawn = Curve(
        x=tuple(horizons), measured=tuple(found.tolist()), bound=tuple(floors), across="T, tokens", up="J' - J - L",
        log_x=True, log_y=True,
    )  # fmt: skip
    return every(
        equal(found / alpha**2, torch.tensor(exact, dtype=torch.float64) / alpha**2, 1e-8),
        within(found / found[0], growth / growth[0], 0.03, "growth"),
        at_most(found, floors, where="update_floor"),
    ).drawn(drawn)


# Averages and microbatches


@theorem(
    "B14.a", section=AVERAGE, source="algebra", broken={"weights made for each microbatch": {"of_the_step": False}}
)
def microbatches_add_up(lab: Lab, *, of_the_step: bool = True) -> Verdict:
    """Σ over microbatches of Σ w·L = the whole step's Σ w·L, and its gradient, where w was made for the whole step

    Proof: a sum may be split anywhere; w does not change with the split.
    Experiment: `ppo_clip` on 12 answers of different lengths in microbatches of 3, 1 and 8; all four averages. Weights made for each
    microbatch, with the mean over microbatches, are the error of 2024's gradient accumulation.
    """
    batch = _batch(lab)
    parts = (slice(0, 3), slice(3, 4), slice(4, 12))

    def pieces(average: Average, weights: Tensor) -> list[Tensor]:
        if of_the_step:
            return [batch.step(part, weights[part]) for part in parts]
        return [batch.step(part, average(batch.trained[part])) / len(parts) for part in parts]

    return every(*(
        equal(torch.stack(pieces(a, a(batch.trained))).sum(0), batch.step(slice(0, 12), a(batch.trained)))
        for a in batch.averages
    ))  # fmt: skip


@theorem(
    "B14.b", section=AVERAGE, source="algebra",
    broken={"the padded width in the place of L": {"padded": True}, "padding counts as tokens": {"masked": False}},
)  # fmt: skip
def padding_changes_nothing(lab: Lab, *, padded: bool = False, masked: bool = True) -> Verdict:
    """Columns that are not trained on, on either side, whatever stands in them, change neither Σ w·L nor its gradient

    Proof: their weight is 0, and `weighted_sum` puts 0 in the place of a term before it multiplies, so that 0·NaN cannot come up.
    Experiment: `ppo_clip` on 12 answers, 0 to 3 columns of NaN before and up to 5 behind; all four averages.
    """
    batch = _batch(lab)
    logs, old = batch.world.logprobs(batch.theta)[batch.rows], batch.old[batch.rows]

    def step(average: Average, before: int, behind: int) -> Tensor:
        leaf = logs.detach().requires_grad_()

        def wide(x: Tensor, fill: float) -> Tensor:
            return torch.nn.functional.pad(x.double(), (before, behind), value=fill)

        fill = torch.nan if masked else -1.0
        trained = wide(batch.trained, 0.0 if masked else 1.0) > 0
        a = wide(batch.advantages[:, None].expand_as(logs), fill if masked else 1.0)
        if padded:
            average = partial(constant, length=trained.shape[1])
        total = weighted_sum(ppo_clip(wide(leaf, fill), wide(old, fill), a).loss, average(trained))
        return torch.cat([total.detach()[None], torch.autograd.grad(total, leaf)[0][batch.trained]])

    return every(*(
        equal(step(a, before, behind), step(a, 0, 0), where=f"{before} before, {behind} behind")
        for a in batch.averages for before, behind in ((0, 1), (3, 0), (2, 5))
    ))  # fmt: skip


@theorem(
    "B14.c", section=AVERAGE, source="algebra",
    broken={"not multiplied by the number of ranks": {"multiplied": False}, "weights made on each rank": {"of_the_step": False}},
)  # fmt: skip
def ranks_add_up(lab: Lab, *, multiplied: bool = True, of_the_step: bool = True) -> Verdict:
    """(1/R)·Σ_r ∇(R·Σ_{b on rank r} w·L) = ∇ Σ_b w·L      R ranks whose gradients are averaged, w made for the whole step

    Proof: the factor R undoes the average. A rank without answers adds 0.
    Experiment: `ppo_clip` on 12 answers over 3 ranks with 2, 10 and no answers; all four averages.
    """
    batch = _batch(lab)
    ranks = (slice(0, 2), slice(2, 12), slice(12, 12))

    def shard(average: Average, part: slice, weights: Tensor) -> Tensor:
        own = weights[part] if of_the_step or part.start == part.stop else average(batch.trained[part])
        return batch.step(part, own) * (len(ranks) if multiplied and of_the_step else 1)

    return every(*(
        equal(torch.stack([shard(a, part, a(batch.trained)) for part in ranks]).mean(0), batch.step(slice(0, 12), a(batch.trained)))
        for a in batch.averages
    ))  # fmt: skip


@theorem(
    "B14.d", section=AVERAGE, source="algebra", broken={"answers in any order, groups by position": {"across": True}}
)
def order_does_not_matter(lab: Lab, *, across: bool = False) -> Verdict:
    """Prompts in another order, and answers in another order within their group, leave the step as it is

    Proof: a group's statistics and the step's sum are symmetric. A group is known by its prompt: where answers come back in any order,
    groups by position mix prompts.
    Experiment: `group_std`, `ppo_clip`, `token_mean` on 3 groups of 4 answers.
    """
    batch = _batch(lab)
    rewards = lab.normal("rewards", 12)
    groups = torch.arange(12).view(3, 4)[torch.tensor([2, 0, 1])][:, torch.tensor([3, 1, 0, 2])].flatten()
    order = torch.arange(12).view(4, 3).T.flatten() if across else groups

    def step(of: Tensor) -> Tensor:
        a = group_std(rewards[of].view(3, 4)).flatten()
        moved = batch._replace(rows=batch.rows[of], advantages=a)
        return moved.step(slice(0, 12), token_mean(moved.trained))

    return equal(step(order), step(torch.arange(12)))


@theorem("B14.e", section=AVERAGE, source="algebra", broken={"weights made from the packed row": {"before": False}})
def packing_changes_nothing(lab: Lab, *, before: bool = True) -> Verdict:
    """Answers laid end to end in one row, each token with the weight that it had: the same Σ w·L

    Proof: the sum is over tokens, and does not know their rows. A row's own mean would take the pack for one long answer.
    Experiment: `ppo_clip` on 12 answers of different lengths, padded and packed; all four averages.
    """
    batch = _batch(lab)
    m = batch.trained
    logs, old = batch.world.logprobs(batch.theta)[batch.rows], batch.old[batch.rows]
    a = batch.advantages[:, None].expand_as(logs)
    packed = [x[m][None] for x in (logs, old, a)]

    def pair(average: Average) -> Verdict:
        weights = average(m)
        row = weights[m][None] if before else average(torch.ones_like(packed[0]) > 0)
        return equal(weighted_sum(ppo_clip(*packed).loss, row), weighted_sum(ppo_clip(logs, old, a).loss, weights))

    return every(*map(pair, batch.averages))


@theorem(
    section=AVERAGE, source="derived here",
    broken={"they are the same": {"covaries": False}},
)  # fmt: skip
def a_mean_of_means_is_off_by_a_covariance(lab: Lab, *, covaries: bool = True) -> Verdict:
    """mean of all tokens - mean over microbatches of their means = Cov(n, x̄)/mean n      n tokens and x̄ mean of a microbatch

    Proof: Σ n·x̄/Σ n = mean(n·x̄)/mean n, and mean(n·x̄) = mean n·mean x̄ + Cov.
    Experiment: `token_mean` of 12 answers whose terms are normal, less a part that grows with length; six microbatches of two.
    """
    batch = _batch(lab)
    terms = lab.normal("terms", *batch.trained.shape) - batch.trained.sum(-1, keepdim=True)
    whole = weighted_sum(terms, token_mean(batch.trained))
    pairs = list(zip(terms.split(2), batch.trained.split(2), strict=True))
    means = torch.stack([weighted_sum(x, token_mean(m)) for x, m in pairs])
    n = torch.stack([m.sum().double() for _, m in pairs])
    covariance = ((n - n.mean()) * (means - means.mean())).mean() if covaries else torch.zeros(())
    return equal(whole - means.mean(), covariance / n.mean())


# What several experiments share


class _Batch(NamedTuple):
    """A step's answers, some drawn more than once."""

    world: World
    theta: Tensor  # [N, V]
    rows: Tensor  # [B] answers
    old: Tensor  # [S, T] nats
    advantages: Tensor  # [B]

    @property
    def trained(self) -> Tensor:
        return self.world.trained[self.rows]

    @property
    def averages(self) -> tuple[Average, ...]:
        return token_mean, sequence_mean, sequence_sum, partial(constant, length=7)

    def step(self, part: slice, weights: Tensor) -> Tensor:
        """The loss of some of the answers and its gradient, in one row."""
        rows, a = self.rows[part], self.advantages[part, None]

        def loss(theta: Tensor) -> Tensor:
            logs = self.world.logprobs(theta)[rows]
            return weighted_sum(ppo_clip(logs, self.old[rows], a.expand_as(logs)).loss, weights)

        return torch.cat([loss(self.theta)[None], gradient_of(loss, self.theta).flatten()])


def _batch(lab: Lab) -> _Batch:
    world = lab.eos_tree()
    theta = lab.policy(world)
    rows = (lab.uniform("rows", 12) * len(world.rewards)).long()
    rows[0], rows[4] = world.lengths.argmin(), world.lengths.argmax()
    old = world.logprobs(theta + 0.3 * lab.policy(world, "direction"))
    return _Batch(world, theta, rows, old, lab.normal("advantages", 12))


def _even_tree(lab: Lab) -> World:
    """Answers of one length, whatever world the lab's user gave."""
    rewards = lab.normal("even rewards", lab.vocabulary**lab.depth)
    return trees.tree(vocabulary=lab.vocabulary, depth=lab.depth).earning(rewards)


def _slopes(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The derivative of each entry, or of a sum of them."""
    leaf = at.detach().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def _successes(size: int) -> Tensor:
    """`[G+1, G]` rewards: k right answers in row k."""
    return torch.ones(size + 1, size, dtype=torch.float64).tril(-1)


def _binomial(p: Tensor, size: int) -> Tensor:
    """`[len(p), G+1]` probability of k right answers of `size`."""
    k = torch.arange(size + 1, dtype=torch.float64)
    ways = math.lgamma(size + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    return (ways + torch.xlogy(k, p[:, None]) + torch.xlogy(size - k, 1 - p[:, None])).exp()


def _pulls(advantage: Advantage, p: Tensor, size: int) -> Tensor:
    """`[len(p), G+1]` (1/G)·Σ A ∇logπ in units of ∇p by the number of right answers, whose ∇logπ is ∇p/p; of wrong ones -∇p/(1-p)."""
    rewards = _successes(size)
    a = advantage(rewards)
    right, wrong = (a * rewards).sum(-1), (a * (1 - rewards)).sum(-1)
    return (right / p[:, None] - wrong / (1 - p[:, None])) / size


def _weight(advantage: Advantage, p: Tensor, size: int) -> Tensor:
    """`[len(p)]` E[(1/G)·Σ A ∇logπ] in units of ∇p."""
    return (_binomial(p, size) * _pulls(advantage, p, size)).sum(-1)


def _variance(advantage: Advantage, p: Tensor, size: int) -> Tensor:
    """`[len(p)]` G·Var of the gradient in the logit, where ∇p = p(1-p)."""
    each, chance = _pulls(advantage, p, size) * (p * (1 - p))[:, None], _binomial(p, size)
    mean = (chance * each).sum(-1, keepdim=True)
    return size * (chance * (each - mean).square()).sum(-1)


def _expected_step(world: World, theta: Tensor, advantage: Advantage, average: Average, size: int) -> Tensor:
    """`[N, V]` E[-∇ Σ w·L_clip] of a step of one group, on-policy: every group with its probability."""
    groups, ways = world.multisets(size)
    chances = ways * world.group_probabilities(theta, groups)
    trained = world.trained[groups]
    weights = torch.stack([average(mask) for mask in trained]) * chances[:, None, None]
    logs = world.logprobs(theta).detach().requires_grad_()
    seen = logs[groups]
    a = advantage(world.rewards[groups])[..., None].expand_as(seen)
    total = weighted_sum(ppo_clip(seen, seen.detach(), a).loss, weights)
    pull = torch.autograd.grad(-total, logs)[0]
    return gradient_of(lambda x: (pull * world.logprobs(x)).sum(), theta)


def _moved_policies(lab: Lab, world: World) -> tuple[Tensor, Tensor]:
    """(`[M, N, V]` policies of a tree, each a step of .01 to 3 away)."""
    shape = (INSTANCES, *lab.policy(world).shape)
    old = lab.normal("policies", *shape)
    return old, old + 10 ** (2.5 * lab.uniform("sizes", INSTANCES, 1, 1) - 2) * lab.normal("moves", *shape)


def _clipped_promise(world: World, theta: Tensor, new: Tensor, *, per_token: bool) -> Tensor:
    """E_{y~π} of PPO's objective with exact advantages: summed over tokens, or of the whole answer."""
    chances = world.probabilities(theta)
    if not per_token:
        credit = world.rewards - world.expected_reward(theta)
        return chances @ -ppo_clip(world.sequence_logprobs(new), world.sequence_logprobs(theta), credit).loss
    credit = world.advantages(theta)[world.states, world.tokens]
    return chances @ -ppo_clip(world.logprobs(new), world.logprobs(theta), credit).loss.sum(-1)


def _broken_promises(horizon: int, b: float, alpha: float) -> tuple[World, Tensor, Tensor]:
    """(answers of two tokens, π, π'): once 1 has been taken, 1 earns 1 and 0 earns -1; before, nothing is earned."""
    world = trees.tree(vocabulary=2, depth=horizon)
    past = world.tokens.cumsum(-1) - world.tokens > 0
    world = world.earning(((2.0 * world.tokens - 1) * past).sum(-1).double())
    ones = torch.empty(int(world.states.max()) + 1, dtype=torch.float64)
    ones[world.states] = torch.where(past, 0.5, b).double()
    return world, torch.stack([1 - ones, ones], -1).log(), torch.stack([1 - ones - alpha, ones + alpha], -1).log()


def _at_each(function: Callable[[float], float], p: Tensor = P) -> Tensor:
    return torch.tensor([function(x) for x in p.tolist()], dtype=torch.float64)


def _over_p(found: Tensor, known: Tensor, up: str) -> Curve:
    return Curve(x=tuple(P.tolist()), measured=tuple(found.tolist()), bound=tuple(known.tolist()), across="p", up=up)
