"""docs/theory/errata.md: statements of guides and documentation that are false, each refuted by a measurement.

A theorem here says that a claim fails; its broken twin is the case in which the claim is true, or the claim itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from corollary.losses.distillation import jsd
from corollary.losses.likelihood import nll
from corollary.losses.policy import ppo_clip, reinforce
from corollary.losses.preference import cdpo, dpo, ipo, ipo_mean, robust_dpo
from corollary.losses.reward_model import bradley_terry
from corollary.ops.advantage import group_std, has_signal, leave_one_out, leave_one_out_std
from corollary.ops.estimate import clopper_pearson, pass_at_k, pass_at_k_plug_in
from corollary.ops.kl import entropy_bonus, k1, k1_reverse, k2, k3, k3_reverse, kl_exact
from corollary.ops.ratio import geometric_ratio, log_product_ratio, sequence_product, tis, token_ratio
from corollary.ops.reduce import constant, sequence_mean, sequence_sum, token_mean, weighted_sum
from corollary.theory import tree as trees
from corollary.theory.bandit import bandit
from corollary.theory.expectation import Level, expected_gradient, expected_penalty_gradient
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import gradient_of
from corollary.theory.verdict import Curve, Verdict, apart, at_least, at_most, equal, every, parallel, within

HERE = "derived here: a counterexample"
PPO = "Schulman et al. 2017, https://arxiv.org/abs/1707.06347"
DPO = "Rafailov et al. 2023, https://arxiv.org/abs/2305.18290"
TANG_MUNOS = "Tang and Munos 2025, https://arxiv.org/abs/2506.09477"
DR_GRPO = "Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783"

INSTANCES = 200

Advantage = Callable[[Tensor], Tensor]
Penalty = Callable[..., Tensor]


# Clipping


@theorem(
    section="errata.md#clipping-keeps-the-ratio-inside-1ε", source=PPO,
    broken={"a step so small that no clip is needed": {"size": 0.01}},
)  # fmt: skip
def clipping_holds_no_ratio(lab: Lab, *, size: float = 5.0) -> Verdict:
    """After one step of ppo_clip the ratio may lie anywhere: r > 1 + ε, and there ∂L_clip/∂θ = 0

    Proof: at r = 1 the gradient is A·∇logπ, clipped or not, and the step's length is the learning rate's business; beyond 1 + ε the
    gradient is 0, which pushes nothing back.
    Experiment: the rarest arm of a bandit, A = 1, one gradient step of size 5; the figure: its ratio over the size, beside 1 + ε.
    """
    world = lab.bandit()
    old = lab.policy(world)
    rare = int(old.argmin())
    one = torch.ones((), dtype=torch.float64)

    def loss(theta: Tensor) -> Tensor:
        return ppo_clip(theta.log_softmax(-1)[0, rare], old.log_softmax(-1)[0, rare], one).loss

    def ratio(step: float) -> float:
        return float(token_ratio((old - step * slope).log_softmax(-1), old.log_softmax(-1))[0, rare])

    slope = gradient_of(loss, old)
    sizes = torch.linspace(0, 8, 33).tolist()
    drawn = Curve(
        x=tuple(sizes), measured=tuple(map(ratio, sizes)), bound=(1.2,) * 33, across="size of the step", up="ratio"
    )  # fmt: skip
    left = gradient_of(loss, old - size * slope)
    return every(at_least(ratio(size), 1.5, where="ratio"), equal(left, 0.0, where="gradient there")).drawn(drawn)


@theorem(
    section="errata.md#ppos-objective-is-a-lower-bound", source=HERE,
    broken={"one ratio for the whole answer": {"per_token": False}, "even odds at the start": {"rare": 0.5}},
)  # fmt: skip
def the_clipped_surrogate_rises_while_the_reward_falls(
    lab: Lab, *, per_token: bool = True, rare: float | None = None
) -> Verdict:
    """L_clip = g(1-p) - p > 0 and J' - J = gp - (1-p) < 0, for small p: no lower bound

    π(a) = p, π(b) = 1-p, then ±1 with even odds. π'(a) = 1-p; after a it takes -1, after b +1 with (1+g)/2.
    Proof: the first token has advantage 0, so its ratio 1/p - 1 costs nothing; what follows is weighed by how often π goes there.
    Experiment: `ppo_clip` with exact advantages on the four answers, p about .02 and g about .15.
    """
    p = 0.01 + 0.02 * float(lab.uniform("p", 1)) if rare is None else rare
    g = 0.1 + 0.1 * float(lab.uniform("g", 1))
    world = trees.tree(vocabulary=2, depth=2).earning(torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64))
    old = torch.tensor([[p, 1 - p], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64).log()
    new = torch.tensor([[1 - p, p], [1e-300, 1.0], [(1 + g) / 2, (1 - g) / 2]], dtype=torch.float64).log()
    if per_token:
        credit = world.advantages(old)[world.states, world.tokens]
        each = -ppo_clip(world.logprobs(new), world.logprobs(old), credit).loss.sum(-1)
    else:
        credit = world.rewards - world.expected_reward(old)
        each = -ppo_clip(world.sequence_logprobs(new), world.sequence_logprobs(old), credit).loss
    promised = world.probabilities(old) @ each
    gained = world.expected_reward(new) - world.expected_reward(old)
    return every(at_least(promised, 0.05, where="L_clip"), at_most(gained, -0.9, where="J' - J"))


@theorem(
    section="errata.md#dual-clip-and-ppo-clip-have-the-same-gradient",
    source="Ye et al. 2020, https://arxiv.org/abs/1912.09729",
    broken={"good answers": {"bad": False}, "ratios below c": {"beyond": False}},
)  # fmt: skip
def a_dual_clip_has_another_gradient(lab: Lab, *, bad: bool = True, beyond: bool = True) -> Verdict:
    """A < 0, r > c:  ∂L_clip/∂logπ = -A·r, which grows with r; of the dual clip it is 0

    Proof: min(r·A, clip(r)·A) = r·A for A < 0 and r > 1; the dual clip takes max(·, c·A) = c·A, a constant.
    Experiment: `ppo_clip` with c = 3 and without, on ratios of 3.5 to 30 and negative advantages.
    """
    u = lab.uniform("ratios", INSTANCES)
    logs = (3.5 * (30 / 3.5) ** u).log() if beyond else (0.9 + 2 * u).log()
    credit = -(0.1 + lab.uniform("advantages", INSTANCES)) * (1 if bad else -1)
    plain, dual = (
        _slopes(lambda x, c=c: ppo_clip(x, torch.zeros_like(x), credit, dual_clip=c).loss, logs) for c in (None, 3.0)
    )
    return every(
        equal(dual, 0.0, where="dual clip"), equal(plain, -credit * logs.exp(), where="PPO"), apart(plain, dual)
    )


@theorem(
    section="errata.md#clipping-the-gradients-norm-changes-its-direction",
    source="Pascanu et al. 2013, https://arxiv.org/abs/1211.5063",
    broken={"each entry by itself": {"by": "entries"}, "each tensor by itself": {"by": "tensors"}},
)  # fmt: skip
def a_clipped_norm_keeps_the_direction(lab: Lab, *, by: Literal["norm", "entries", "tensors"] = "norm") -> Verdict:
    """g' = g·min(1, c/‖g‖) ∥ g

    Proof: a positive number times g.
    Experiment: torch's own clipping of a model of two tensors whose gradients differ in size, c = 1; the twins clip entries
    (`clip_grad_value_`) and tensors one by one.
    """
    tensors = [lab.normal("first", 4), 10 * lab.normal("second", 5)]
    kept = torch.cat(tensors)
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in tensors]
    for parameter, gradient in zip(parameters, tensors, strict=True):
        parameter.grad = gradient.clone()
    if by == "entries":
        torch.nn.utils.clip_grad_value_(parameters, 1.0)
    for part in [parameters] if by == "norm" else [[p] for p in parameters] if by == "tensors" else []:
        torch.nn.utils.clip_grad_norm_(part, 1.0)
    return parallel(torch.cat([p.grad for p in parameters if p.grad is not None]), kept)


@theorem(
    section="errata.md#clipping-each-microbatch-equals-clipping-the-batch", source=HERE,
    broken={"one microbatch": {"parts": 1}, "a bound that is never reached": {"bound": 1e9}},
)  # fmt: skip
def clipping_each_microbatch_turns_the_step(lab: Lab, *, parts: int = 2, bound: float = 1.0) -> Verdict:
    """Σ_m clip(g_m) is not parallel to clip(Σ_m g_m)

    Conditions: the parts have different directions, and are shortened by different factors.
    Proof: large parts are shortened more than small ones, so the sum leans towards the small.
    Experiment: two gradients, the first five times as long; torch's clipping of each, and of the sum.
    """
    gradients = lab.normal("gradients", 2, 6)[:parts] * torch.tensor([[10.0], [2.0]], dtype=torch.float64)[:parts]
    one_by_one = sum((_clipped(g, bound) for g in gradients), torch.zeros(6, dtype=torch.float64))
    together = _clipped(gradients.sum(0), bound)
    return apart(one_by_one / one_by_one.norm(), together / together.norm(), 1e-3, "directions")


# KL


@theorem(
    section="errata.md#k3-in-the-loss-minimises-the-reverse-kl", source=TANG_MUNOS,
    broken={"k2": {"penalty": k2}, "k3 weighed by the ratio": {"penalty": k3_reverse}},
)  # fmt: skip
def k3_as_a_loss_is_the_other_kl(lab: Lab, *, penalty: Penalty = k3) -> Verdict:
    """E_π[∇k3] = ∇KL(ref‖π) = π - ref, not ∇KL(π‖ref)

    Proof: ∇k3 = (1 - ref/π)·∇logπ, whose mean is -E_ref[∇logπ].
    Experiment: a bandit, `k3` on every arm; both gradients by differentiating the exact KLs.
    """
    world = lab.bandit()
    theta, ref = lab.policy(world), lab.policy(world, "reference")
    mean = -expected_penalty_gradient(penalty, world, policy=theta, reference=ref).mean
    forward, reverse = (gradient_of(f, theta) for f in (lambda x: world.kl(ref, x), lambda x: world.kl(x, ref)))
    return every(equal(mean, forward, where="forward"), apart(mean, reverse, 1e-3, where="reverse"))


@theorem(
    section="errata.md#k1-in-the-loss-penalises-the-kl", source=TANG_MUNOS,
    broken={"k1 weighed by the ratio": {"penalty": k1_reverse}},
)  # fmt: skip
def k1_as_a_loss_has_no_pull(lab: Lab, *, penalty: Penalty = k1) -> Verdict:
    """E_π[∇k1] = E_π[∇logπ] = 0, although ∇KL(π‖ref) is not

    Proof: Σ π·∇logπ = ∇Σπ = ∇1.
    Experiment: a token tree, `k1` on every answer; the exact gradient of the KL beside it.
    """
    world = lab.tree()
    theta, ref = lab.policy(world), lab.policy(world, "reference")
    mean = expected_penalty_gradient(penalty, world, policy=theta, reference=ref).mean
    wanted = gradient_of(lambda x: world.kl(x, ref), theta).norm()
    return every(equal(mean, 0.0, where="k1"), at_least(wanted, 1e-3, where="‖∇KL‖"))


@theorem(
    section="errata.md#clamping-k3-at-10-is-harmless", source="derived here, of NeMo RL's default",
    broken={"not clamped": {"bound": math.inf}, "log-ratios within 2.6": {"far": False}},
)  # fmt: skip
def a_clamped_k3_lets_go_far_out(lab: Lab, *, bound: float = 10.0, far: bool = True) -> Verdict:
    """log(ref/π) > 2.61 or log(π/ref) > 11:  ∂clamp(k3, ±10)/∂logπ = 0, where ∂k3/∂logπ = 1 - ref/π is largest

    Proof: e^x - 1 - x passes 10 at x = 2.610, e^{-x} - 1 + x at 11.0; beyond, the clamp is a constant.
    Experiment: `k3` at log-ratios of 2.62 to 30 on the one side and 11.1 to 40 on the other.
    """
    u = lab.uniform("gaps", INSTANCES)
    x = torch.cat([-2.62 - 27 * u, 11.1 + 29 * u]) if far else torch.cat([-2.6 * u, 10 * u])
    plain, clamped = (
        _slopes(lambda logs, b=b: k3(logs, torch.zeros_like(logs)).clamp(-b, b), x) for b in (math.inf, bound)
    )
    grid = torch.linspace(-4, 13, 69, dtype=torch.float64)
    drawn = Curve(
        x=tuple(grid.tolist()), across="log(π/ref)", up="slope of k3 clamped; unclamped",
        measured=tuple(_slopes(lambda logs: k3(logs, torch.zeros_like(logs)).clamp(-bound, bound), grid).tolist()),
        bound=tuple(_slopes(lambda logs: k3(logs, torch.zeros_like(logs)), grid).tolist()),
    )  # fmt: skip
    return every(equal(clamped, 0.0, where="clamped"), at_least(plain.abs(), 0.99, where="k3")).drawn(drawn)


@theorem(
    section="errata.md#js_divergence_error-and-policy_kl_error-measure-what-they-say",
    source="derived here, of NeMo RL's metrics",
    broken={"each term under the policy it is of": {"weighed": True}},
)  # fmt: skip
def two_metrics_measure_something_else(lab: Lab, *, weighed: bool = False) -> Verdict:
    """E_gen[gen/train - 1 - log(gen/train)] ≠ KL(train‖gen)      ½E_gen[k3(m, train) + k3(m, gen)] ≠ JSD(train, gen)

    m = (train + gen)/2; k3(p, q) = q/p - 1 - log(q/p), which estimates KL(p‖q) on samples of p alone.
    Proof: in one atom they are equal; in two, p_gen = (.5, .5) and p_train = (.9, .1) tell them apart. Weighed, Σ p·k3(p, q) = KL(p‖q).
    Experiment: `k3` on pairs of random distributions, tokens weighed by gen; in the twin each term by the policy it starts from.
    """
    shape = (INSTANCES, max(2, lab.arms))
    gen, train = ((lab.simplex(name, *shape) + 0.05) / (1 + 0.05 * shape[1]) for name in ("gen", "train"))
    mix = (gen + train) / 2
    logs, kl = (lambda p: p.log()), (lambda p, q: kl_exact(p.log(), q.log()))
    if weighed:
        policy = (train * k3(logs(train), logs(gen))).sum(-1)
        js = ((gen * k3(logs(gen), logs(mix))).sum(-1) + (train * k3(logs(train), logs(mix))).sum(-1)) / 2
    else:
        policy = (gen * k3(logs(train), logs(gen))).sum(-1)
        js = (gen * (k3(logs(mix), logs(train)) + k3(logs(mix), logs(gen)))).sum(-1) / 2
    return every(
        apart(policy, kl(train, gen), 0.01, "policy_kl_error"),
        apart(js, (kl(gen, mix) + kl(train, mix)) / 2, 0.01, "js_divergence_error"),
    )


@theorem(
    section="errata.md#a-kl-loss-on-tokens-has-the-gradient-of-the-answers-kl", source=TANG_MUNOS,
    broken={"the whole answer as one token": {"level": "sequence"}},
)  # fmt: skip
def a_kl_loss_on_tokens_forgets_what_follows(lab: Lab, *, level: Level = "token") -> Verdict:
    """E_π[Σ_t ∇k2(x_t)] ≠ ∇KL(π‖ref) of answers

    Proof: KL of answers is Σ_s d(s)·KL(π(·|s)‖ref(·|s)); a loss on tokens differentiates the KLs and holds the visits d fixed,
    which today's token moves. With one token they are the same.
    Experiment: `k2`, whose gradient is right token by token, on a token tree.
    """
    world = lab.tree()
    theta, ref = lab.policy(world), lab.policy(world, "reference")
    mean = -expected_penalty_gradient(k2, world, policy=theta, reference=ref, level=level).mean
    return apart(mean, gradient_of(lambda x: world.kl(x, ref), theta), 1e-3)


@theorem(
    section="errata.md#the-entropy-bonus-from-sampled-log-probabilities-raises-entropy", source=HERE,
    broken={"the exact entropy of each token": {"exact": True}},
)  # fmt: skip
def a_sampled_entropy_bonus_lifts_nothing(lab: Lab, *, exact: bool = False) -> Verdict:
    """d H/dη = ⟨E[step], ∇H⟩ = 0 along a bonus on -logπ(y), although ∇H ≠ 0

    Proof: E[∇logπ] = 0: the mean step is 0, whatever it is projected on.
    Experiment: `entropy_bonus` with α = 1 on a bandit's arms, fed -logπ(y); in the twin the entropy over all arms.
    """
    world = lab.bandit()
    theta = lab.policy(world)

    def sampled(logprobs: Tensor) -> Tensor:
        return entropy_bonus(-logprobs, coef=1.0)

    bonus = partial(entropy_bonus, coef=1.0)
    step = expected_penalty_gradient(bonus if exact else sampled, world, policy=theta).mean
    slope = gradient_of(lambda x: world.entropy(x)[0].sum(), theta)
    return every(equal((step * slope).sum(), 0.0, where="dH/dη"), at_least(slope.norm(), 1e-3, where="‖∇H‖"))


@theorem(
    section="errata.md#twice-the-learning-rate-twice-the-kl", source="Amari 1998, https://doi.org/10.1162/089976698300017746",
    broken={"of first order": {"times": 2.0}},
)  # fmt: skip
def twice_the_step_costs_four_times_the_kl(lab: Lab, *, times: float = 4.0) -> Verdict:
    """KL(θ‖θ + 2ηd) / KL(θ‖θ + ηd) → 4

    Proof: KL is 0 at θ and never negative, so its first derivative is 0 there and the second is what is left.
    Experiment: a token tree, the sign of the gradient of J as direction (Adam's first step), η = 10⁻³.
    """
    world = lab.tree()
    theta = lab.policy(world)
    direction = gradient_of(world.expected_reward, theta).sign()
    once, twice = (world.kl(theta, theta + eta * direction) for eta in (1e-3, 2e-3))
    return within(twice / once, torch.tensor(times, dtype=torch.float64), 0.02)


# Preferences


@theorem(
    section="errata.md#the-dpo-gradient-is-weighted-by-σmargin", source=DPO,
    broken={"weighted by σ(z)": {"sign": 1.0}},
)  # fmt: skip
def dpo_pulls_hardest_on_wrong_pairs(lab: Lab, *, sign: float = -1.0) -> Verdict:
    """∂L/∂logπ(y_w) = -β·σ(-z)      z = β·margin; largest where the pair is ordered wrongly

    Proof: d(-log σ(z))/dz = -(1 - σ(z)) = -σ(-z).
    Experiment: `dpo` on random pairs, β = .3; the figure: the weight over z, beside σ(-z).
    """
    w, *rest = lab.normal("pairs", 4, INSTANCES) * 5
    z = 0.3 * ((w - rest[1]) - (rest[0] - rest[2]))
    pull = -_slopes(lambda x: dpo(x, *rest, beta=0.3).loss, w) / 0.3
    order = z.argsort()[::5]
    drawn = Curve(
        x=tuple(z[order].tolist()), measured=tuple(pull[order].tolist()), bound=tuple((sign * z[order]).sigmoid().tolist()),
        across="z", up="weight of the pair",
    )  # fmt: skip
    return equal(pull, (sign * z).sigmoid()).drawn(drawn)


@theorem(
    section="errata.md#larger-β-aligns-more-aggressively", source=DPO,
    broken={"β multiplies the reward": {"divides": False}},
)  # fmt: skip
def a_larger_beta_asks_for_less(lab: Lab, *, divides: bool = True) -> Verdict:
    """β < β'  ⇒  KL(π*_β‖ref) ≥ KL(π*_β'‖ref)      π*_β ∝ ref·e^{r/β}, DPO's target

    Proof: dKL/dβ = -Var_{π*}(r)/β³ ≤ 0.
    Experiment: a token tree, β from .1 to 10; the figure: the KL over β.
    """
    world = lab.tree()
    logs = world.sequence_logprobs(lab.policy(world, "reference"))
    betas = torch.logspace(-1, 1, 15, dtype=torch.float64)
    heat = 1 / betas if divides else betas
    kls = kl_exact(logs + heat[:, None] * world.rewards, logs.expand(15, -1))
    drawn = Curve(x=tuple(betas.tolist()), measured=tuple(kls.tolist()), across="β", up="KL(π*‖ref), nats", log_x=True)
    return at_most(kls[1:], kls[:-1]).drawn(drawn)


@theorem(
    section="errata.md#fitting-preferences-raises-the-chosen-log-probability",
    source="Razin et al. 2024, https://arxiv.org/abs/2410.08847",
    broken={"a parameter for each answer": {"shared": False}},
)  # fmt: skip
def both_answers_of_a_pair_can_fall(lab: Lab, *, shared: bool = True) -> Verdict:
    """π(y) ∝ e^{θ·h(y)}, h = (1, 0, h₃) with h₃ > 2:  descending DPO sends the margin up and logπ(y_w) down

    Conditions: from θ = 0 with the reference there.
    Proof: the margin is θ, so θ rises, and dlogπ(y_w)/dθ = 1 - E_π[h] < 0 as soon as E_π[h] > 1: at θ = 0 it is (1 + h₃)/3.
    Experiment: 60 steps on `dpo`, β = 1; the figure: logπ(y_w). In the twin the three logits are free.
    """
    third = 2.5 + float(lab.uniform("third", 1))
    features = (
        torch.tensor([[1.0], [0.0], [third]], dtype=torch.float64) if shared else torch.eye(3, dtype=torch.float64)
    )
    zero = torch.zeros(features.shape[1], dtype=torch.float64)
    ref = (features @ zero).log_softmax(-1)

    def pair(theta: Tensor) -> Tensor:
        logs = (features @ theta).log_softmax(-1)
        return dpo(logs[0], logs[1], ref[0], ref[1], beta=1.0).loss

    theta, chosen, losses = zero, [], []
    for _ in range(60):
        chosen.append(float((features @ theta).log_softmax(-1)[0]))
        losses.append(float(pair(theta)))
        theta = theta - gradient_of(pair, theta)
    drawn = Curve(x=tuple(range(60)), measured=tuple(chosen), across="steps", up="log π(y_w)")
    return every(
        at_most(losses[-1], losses[0] / 3, where="loss"), at_most(chosen[-1], chosen[0] - 1, where="log π(y_w)")
    ).drawn(drawn)


@theorem(
    section="errata.md#an-accuracy-of-1-means-the-chosen-answer-is-the-likelier", source=HERE,
    broken={"a reference that prefers neither": {"even": True}},
)  # fmt: skip
def a_rewarded_pair_may_be_the_wrong_way_round(lab: Lab, *, even: bool = False) -> Verdict:
    """β·(Δ_w - Δ_l) > 0 for every pair, and logπ(y_w) < logπ(y_l) for every pair

    Proof: logπ(y_w) - logπ(y_l) = margin - (logref(y_l) - logref(y_w)), negative while the margin is the smaller.
    Experiment: `dpo`'s metric `accuracy` on pairs that the reference ranks wrongly by 2 to 3 nats and the policy by 1 to 2 less.
    """
    lead = 0.0 if even else 2 + lab.uniform("reference", INSTANCES)
    margin = 1 + 0.9 * lab.uniform("margin", INSTANCES)
    w, zero = lab.normal("chosen", INSTANCES) - 9, torch.zeros(INSTANCES, dtype=torch.float64)
    rejected = w - margin + lead
    found = dpo(w, rejected, zero - 9, zero - 9 + lead, beta=0.1)
    return every(
        equal(found.metrics["accuracy"], 1.0, where="accuracy"),
        at_most(w, rejected - 0.09, where="log π(y_w) below log π(y_l)"),
    )


@theorem(
    section="errata.md#a-robust-preference-loss-is-bounded-below",
    source="Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409",
    broken={"DPO": {"loss": dpo}, "cDPO": {"loss": cdpo}},
)  # fmt: skip
def a_robust_preference_loss_has_no_floor(lab: Lab, *, loss: Callable[..., object] = robust_dpo) -> Verdict:
    """rDPO(z)/z → -ε/(1-2ε) < 0 as z → ∞: unbounded below, pair by pair

    Proof: -(1-ε)·log σ(z) → 0 and ε·log σ(-z) → -ε·z; divided by 1 - 2ε.
    Experiment: `robust_dpo` with ε = .1 at margins of 10³ to 10⁶ nats, β = 1.
    """
    z = 10 ** (3 + 3 * lab.uniform("margins", INSTANCES))
    zero = torch.zeros_like(z)
    found = loss(z, zero, zero, zero, beta=1.0).loss  # pyright: ignore[reportAttributeAccessIssue]
    return at_most(found, -0.99 * 0.125 * z)


@theorem(
    section="errata.md#sums-or-means-in-ipo-are-a-matter-of-τ",
    source="Azar et al. 2023, https://arxiv.org/abs/2310.12036; derived here",
    broken={"answers of one length": {"varied": False}},
)  # fmt: skip
def no_tau_joins_sums_and_means_in_ipo(lab: Lab, *, varied: bool = True) -> Verdict:
    """IPO of means is at rest where Δ = n/(2τ), IPO of sums where Δ = 1/(2τ'): for answers of several lengths n no τ' does both

    Proof: of the means, with both answers n tokens long, the square is (Δ/n - 1/(2τ))².
    Experiment: `ipo_mean` with τ = .1 at its optimum, and `ipo` there with τ' = τ/n of the first pair.
    """
    n = (
        torch.tensor([4.0, 8.0, 16.0, 32.0], dtype=torch.float64)
        if varied
        else torch.full((4,), 8.0, dtype=torch.float64)
    )
    zero, rejected = torch.zeros(4, dtype=torch.float64), lab.normal("rejected", 4) - 20
    chosen = rejected + n / 0.2
    mean = _slopes(lambda x: ipo_mean(x, rejected, zero, zero, n, n, tau=0.1).loss, chosen)
    total = _slopes(lambda x: ipo(x, rejected, zero, zero, tau=0.1 / float(n[0])).loss, chosen)
    return every(equal(mean, 0.0, where="means"), at_least(total.abs().max(), 1.0, where="sums"))


@theorem(
    section="errata.md#a-reward-models-score-says-how-good-an-answer-is",
    source="Bradley and Terry 1952, https://doi.org/10.1093/biomet/39.3-4.324",
    broken={"only the chosen answer's score": {"both": False}},
)  # fmt: skip
def a_reward_models_zero_is_anywhere(lab: Lab, *, both: bool = True) -> Verdict:
    """L(r_w + c, r_l + c) = L(r_w, r_l) for any c of the prompt

    Proof: Bradley–Terry sees r_w - r_l alone.
    Experiment: `bradley_terry` on random scores, c normal and different for each prompt.
    """
    w, lost, c = lab.normal("scores", 3, INSTANCES)
    moved = bradley_terry(w + 10 * c, lost + (10 * c if both else 0.0)).loss
    return equal(moved, bradley_terry(w, lost).loss)


# Advantages


@theorem(
    section="errata.md#std-normalisation-only-reduces-variance", source=HERE,
    broken={"without the deviation": {"advantage": leave_one_out}},
)  # fmt: skip
def std_normalisation_can_lower_the_reward(
    lab: Lab, *, advantage: Advantage = partial(group_std, ddof=0, eps=1e-12)
) -> Verdict:
    """r = (0, 1, 50), π near (.1, .88, .02), G = 2:  ⟨E[step], ∇J⟩ < 0: on average the step lowers the expected reward

    Proof: two standardised answers are ±1, whichever earns more. The middle arm beats .1 and loses to .02, so it is pushed up; but it
    earns less than the mean, π·r = 1.88.
    Experiment: `reinforce` on all pairs of arms, π moved a little by the lab.
    """
    world = bandit([0.0, 1.0, 50.0])
    weights = torch.tensor([[0.1, 0.88, 0.02]], dtype=torch.float64) * (0.95 + 0.1 * lab.uniform("policy", 1, 3))
    theta = weights.log()
    step = expected_gradient(reinforce, advantage, sequence_sum, world, group_size=2, policy=theta).mean
    slope = gradient_of(world.expected_reward, theta)
    return at_most((step * slope).sum() / (step.norm() * slope.norm()), -0.05, where="cosine")


@theorem(
    section="errata.md#grpos-advantage-is-unbiased", source=DR_GRPO,
    broken={"leave-one-out": {"advantage": leave_one_out}},
)  # fmt: skip
def grpos_advantage_is_not_the_advantage(lab: Lab, *, advantage: Advantage = group_std) -> Verdict:
    """E[A_i | y_i] ≠ r(y_i) - J      A_i = (r_i - mean r)/(s + ε)

    Proof: the mean holds r_i itself, which gives (G-1)/G·(r_i - J); the deviation holds it too, and divides by what it makes large.
    Experiment: a bandit, G = 3: the first answer given, its advantage averaged over all pairs of peers.
    """
    world = lab.bandit()
    theta = lab.policy(world)
    chances = world.probabilities(theta)
    groups = world.groups(3)
    peers = chances[groups[:, 1]] * chances[groups[:, 2]]
    each = peers * advantage(world.rewards[groups])[:, 0]
    given = torch.zeros_like(chances).index_add(0, groups[:, 0], each)
    return apart(given, world.rewards - world.expected_reward(theta), 1e-3)


@theorem(
    section="errata.md#leave-one-out-mean-and-deviation-sum-to-zero", source="derived here, of NeMo RL's default",
    broken={"the group's deviation": {"advantage": group_std}, "no deviation": {"advantage": leave_one_out}},
)  # fmt: skip
def leave_one_out_deviations_do_not_sum_to_zero(lab: Lab, *, advantage: Advantage = leave_one_out_std) -> Verdict:
    """r = (1, 0, 0, 0):  A = (1, -.577, -.577, -.577), Σ A = -.732      A_i = (r_i - mean_{j≠i} r_j)/s_{-i}, undivided where s_{-i} = 0

    Proof: the one success has peers that agree and is not divided; the others' peers deviate by 1/√3.
    Experiment: `leave_one_out_std` on that group and on 200 groups of random rewards.
    """
    rewards = torch.cat(
        [torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64), lab.uniform("rewards", INSTANCES, 4)]
    )
    sums = advantage(rewards).sum(-1).abs()
    return every(at_least(sums[0], 0.7, where="one success of four"), at_least(sums[1:].mean(), 0.1, where="random"))


@theorem(
    section="errata.md#dropping-groups-without-advantage-changes-nothing",
    source="Yu et al. 2025 (DAPO), https://arxiv.org/abs/2503.14476",
    broken={"the weights of the whole step": {"remade": False}},
)  # fmt: skip
def silent_groups_stand_in_the_denominator(lab: Lab, *, remade: bool = True) -> Verdict:
    """Weights made after the drop:  every token pulls N/N_kept times as hard      N tokens of the step, N_kept of the groups kept

    Proof: a token mean divides by the tokens that it is shown.
    Experiment: four groups of four answers of random lengths, two of them silent; `leave_one_out`, `token_mean`, `ppo_clip`.
    """
    rewards = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
    lengths = 1 + (8 * lab.uniform("lengths", 16)).long()
    trained = torch.arange(8) < lengths[:, None]
    kept = has_signal(rewards).repeat_interleave(4)
    credit = leave_one_out(rewards).flatten()[:, None].expand(16, 8)
    old = -lab.uniform("old", 16, 8)

    def pull(rows: Tensor, weights: Tensor) -> Tensor:
        return _slopes(lambda x: ppo_clip(x, old[rows], credit[rows]).loss * weights, old[rows])

    whole = token_mean(trained)
    found = pull(kept, token_mean(trained[kept]) if remade else whole[kept])
    plain = pull(torch.ones(16, dtype=torch.bool), whole)[kept]
    grown = int(trained.sum()) / int(trained[kept].sum())
    return every(equal(found, grown * plain, where="by N/N_kept"), apart(found, plain, 0.01, where="pull"))


@theorem(
    section="errata.md#mean-square-less-squared-mean-is-the-variance-in-float32",
    source="Chan et al. 1983, https://doi.org/10.1080/00031305.1983.10483115",
    broken={"rewards around 0": {"offset": 0.0}},
)  # fmt: skip
def a_difference_of_squares_loses_the_variance(lab: Lab, *, offset: float = 1000.0) -> Verdict:
    """float32, rewards 1000 + u, u in [0, .4):  √(E[x²] - E[x]²) can be off by more than half; deviations from the mean are not

    Proof: x² is about 10⁶, whose last digit is worth .06; the variance is about .01.
    Experiment: 200 groups of four, against float64; the library's `group_std` on the same numbers beside it.
    """
    rewards = (offset + 0.4 * lab.uniform("rewards", INSTANCES, 4)).float()
    exact = rewards.double()
    truth = exact.std(-1, correction=0)
    squares = (rewards.square().mean(-1) - rewards.mean(-1).square()).clamp(min=0).sqrt()
    wrong = ((squares - truth) / truth).abs().max()
    centred = exact - exact.mean(-1, keepdim=True)
    right = equal(group_std(rewards, ddof=0, eps=1e-12), centred / truth[:, None], 1e-5, "deviations")
    return every(right, at_least(wrong, 0.5, where="difference of squares"))


@theorem(
    section="errata.md#adding-1e-8-to-a-denominator-is-harmless", source="derived here, of NeMo RL's masked mean",
    broken={"nothing added": {"eps": 0.0}, "an ε that half precision has": {"eps": 1e-3}},
)  # fmt: skip
def an_epsilon_in_a_denominator_is_felt(lab: Lab, *, eps: float = 1e-8) -> Verdict:
    """x/(1 + 10⁻⁸) differs from x by 10⁻⁸, a hundred million roundings of float64; in float16, 10⁻⁸ is 0 and guards nothing

    Proof: 1/(1+ε) = 1 - ε + …; float16's smallest number is 6·10⁻⁸, and half of that rounds to 0.
    Experiment: the mean of one token with ε in its denominator, beside `token_mean`; ε as a float16.
    """
    x = 0.5 + lab.uniform("values", INSTANCES, 1)
    weights = token_mean(torch.ones(1, 1, dtype=torch.bool))
    exact, found = (x * weights).sum(-1), x.sum(-1) / (1 + eps)
    half = float(torch.tensor(eps, dtype=torch.float64).half())
    return every(at_least(((found - exact) / exact).abs(), 9e-9), equal(half, 0.0, where="float16"))


# Averages


@theorem(
    section="errata.md#token-mean-and-sequence-mean-differ-only-in-scale", source=DR_GRPO,
    broken={"answers of one length": {"varied": False}},
)  # fmt: skip
def no_scale_joins_two_averages(lab: Lab, *, varied: bool = True) -> Verdict:
    """Σ_{b,t} A_b·∇logπ/N is not parallel to Σ_b (1/n_b)·Σ_t A_b·∇logπ

    Proof: the quotient of the two weights of a token is proportional to the length of its answer.
    Experiment: `token_mean` and `sequence_mean` times random advantages, six answers of 1 to 12 tokens.
    """
    lengths = torch.tensor([1, 2, 3, 5, 8, 12]) if varied else torch.full((6,), 12)
    trained = torch.arange(12) < lengths[:, None]
    credit = lab.normal("advantages", 6, 1)
    tokens, sequences = (credit * average(trained) for average in (token_mean, sequence_mean))
    return apart(tokens / tokens.norm(), sequences / sequences.norm(), 0.01, "directions")


@theorem(
    section="errata.md#a-mean-of-microbatch-means-is-the-batch-mean", source="algebra",
    broken={"as many tokens in each": {"uneven": False}},
)  # fmt: skip
def a_mean_of_means_forgets_the_counts(lab: Lab, *, uneven: bool = True) -> Verdict:
    """(1/M)·Σ_m (1/N_m)·Σ x ≠ (1/N)·Σ x where microbatches have different numbers N_m of tokens

    Proof: the left weighs a token by 1/(M·N_m), the right by 1/N.
    Experiment: `nll` of two answers, one to a microbatch, 3 and 17 tokens; 200 batches. In the twin both have 17.
    """
    trained = torch.arange(17) < torch.tensor([[3 if uneven else 17], [17]])
    losses = nll(-3 * lab.uniform("logprobs", INSTANCES, 2, 17)).loss
    whole = torch.stack([weighted_sum(x, token_mean(trained)) for x in losses])
    by_part = torch.cat([token_mean(trained[[m]]) for m in (0, 1)]) / 2
    parts = torch.stack([weighted_sum(x, by_part) for x in losses])
    return apart(parts, whole, 0.01)


@theorem(
    section="errata.md#the-padded-width-is-as-good-as-a-constant-length", source=DR_GRPO,
    broken={"one constant for the run": {"padded": False}},
)  # fmt: skip
def the_padded_width_is_no_constant(lab: Lab, *, padded: bool = True) -> Verdict:
    """The weight of a token is 1/(N·L): with the batch's width for L, a longer neighbour makes it smaller

    Proof: the width is the length of the longest answer that happens to be there.
    Experiment: `constant` for three answers, alone and in a batch padded to three tokens more; what the first answer's tokens weigh.
    """
    lengths = 1 + (6 * lab.uniform("lengths", 3)).long()
    widths = int(lengths.max()), int(lengths.max()) + 3
    found = []
    for width in widths:
        trained = torch.arange(width) < lengths[:, None]
        found.append(constant(trained, length=width if padded else 20)[0, 0])
    return apart(found[0], found[1], 0.01)


@theorem(
    section="errata.md#multiplying-by-a-mask-removes-what-is-masked", source="IEEE 754: 0·∞ is not a number",
    broken={"zeroed before the exponential": {"how": "before"}},
)  # fmt: skip
def a_mask_lets_infinity_through(lab: Lab, *, how: Literal["multiplied", "after", "before"] = "multiplied") -> Verdict:
    """∂(m·e^x)/∂x is not a number at m = 0, e^x = ∞; nor is it with `where` behind the exponential

    Proof: the gradient is 0·e^x = 0·∞. Zeroed before, e^0 = 1 and everything is finite.
    Experiment: float32, log-ratios of which those behind the mask are 100 and more; values and gradients that are not numbers.
    """
    mask = torch.arange(6) < 3
    x = lab.normal("log-ratios", 6).float().where(mask, 100 + 50 * lab.uniform("far", 6).float()).requires_grad_()
    if how == "multiplied":
        terms = x.exp() * mask
    else:
        terms = x.exp().where(mask, 0.0) if how == "after" else x.where(mask, 0.0).exp().where(mask, 0.0)
    slope = torch.autograd.grad(terms.sum(), x)[0]
    later = torch.autograd.grad(x.exp().where(mask, 0.0).sum(), x)[0]
    return every(
        at_least(float((~slope.isfinite()).sum()), 3, where="gradients"),
        at_least(float((~later.isfinite()).sum()), 3, where="`where` behind the exponential"),
    )


# Off-policy


@theorem(
    section="errata.md#a-weight-per-token-corrects-the-sampler-mismatch", source=HERE,
    broken={"the product over the answer": {"whole": True}, "the policy's own answers": {"step": 0.0}},
)  # fmt: skip
def weights_per_token_leave_a_bias(lab: Lab, *, whole: bool = False, step: float = 1.0) -> Verdict:
    """E_μ[Σ_t w_t·r·∇logπ(y_t|s_t)] ≠ ∇J      w_t = π(y_t|s_t)/μ(y_t|s_t)

    Each weight is unbiased for its own token: E_μ[w_t|s_t] = 1.
    Proof: w_t corrects the token, but the prefix s_t and what follows are still μ's. Only Π_t w_t corrects the answer.
    Experiment: a token tree, a sampler one standard deviation away; `tis` without a cap that matters, and `sequence_product`.
    """
    world = lab.tree()
    theta = lab.policy(world)
    sampler = theta + step * lab.policy(world, "sampler")
    logs, drawn = world.logprobs(theta), world.logprobs(sampler)
    weight = sequence_product(logs, drawn, world.trained) if whole else tis(logs, drawn, cap=1e12)
    chances = world.probabilities(sampler)[:, None]

    def surrogate(x: Tensor) -> Tensor:
        each = -reinforce(world.logprobs(x), world.rewards[:, None]).loss
        return (chances * weight * each).sum()

    return apart(gradient_of(surrogate, theta), gradient_of(world.expected_reward, theta), 1e-3)


@theorem(
    section="errata.md#capping-importance-weights-only-lowers-variance",
    source="Ionides 2008, https://doi.org/10.1198/106186008X320456",
    broken={"no cap": {"cap": 1e12}},
)  # fmt: skip
def a_capped_weight_is_too_small_on_average(lab: Lab, *, cap: float = 1.0) -> Verdict:
    """E_μ[min(w, C)] = 1 - E_μ[(w - C)₊] < 1

    Proof: min(w, C) = w - (w - C)₊ and E_μ[w] = 1.
    Experiment: whole answers of a token tree, `tis` with C = 1, a sampler 1.5 standard deviations away.
    """
    world = lab.tree()
    theta = lab.policy(world)
    sampler = theta + 1.5 * lab.policy(world, "sampler")
    weight = tis(world.sequence_logprobs(theta), world.sequence_logprobs(sampler), cap=cap)
    return at_most(world.probabilities(sampler) @ weight, 1 - 1e-3)


@theorem(
    section="errata.md#gspos-ratio-is-an-importance-weight", source="derived here, by Jensen's inequality",
    broken={"the product": {"geometric": False}},
)  # fmt: skip
def a_geometric_mean_ratio_averages_below_one(lab: Lab, *, geometric: bool = True) -> Verdict:
    """E_{y~π}[(π'(y)/π(y))^{1/n}] < 1 for answers of n > 1 tokens, while an importance weight averages to 1

    Proof: x^{1/n} is concave and strictly so, and E_π[π'/π] = 1.
    Experiment: a token tree, π' one standard deviation away; `geometric_ratio`.
    """
    world = lab.tree()
    theta = lab.policy(world)
    moved = theta + lab.policy(world, "move")
    before, after = world.logprobs(theta), world.logprobs(moved)
    if geometric:
        ratio = geometric_ratio(after, before, world.trained)
    else:
        ratio = log_product_ratio(after, before, world.trained).exp()
    return at_most(world.probabilities(theta) @ ratio.flatten(), 1 - 1e-3)


# Bounds and measures


@theorem(
    section="errata.md#the-generalised-jsd-tends-to-the-forward-kl", source="derived here, of https://arxiv.org/abs/2306.13649",
    broken={"divided by β(1-β)": {"divided": True}},
)  # fmt: skip
def a_generalised_jsd_vanishes_at_its_ends(lab: Lab, *, divided: bool = False) -> Verdict:
    """JSD_β → 0 as β → 0 and as β → 1      JSD_β/(β(1-β)) → KL(P‖Q) and KL(Q‖P)

    Proof: as β → 0 the mixture M = βP + (1-β)Q tends to Q, so β·KL(P‖M) → 0 like β·KL(P‖Q), and KL(Q‖M) is of order β². At the other
    end P and Q change places.
    Experiment: `jsd` at β = 10⁻⁵ and 1 - 10⁻⁵ beside `kl_exact`; the figure: over β, as it is.
    """
    student, teacher = lab.normal("student", 50, 4), lab.normal("teacher", 50, 4)
    forward, reverse = kl_exact(teacher, student), kl_exact(student, teacher)
    beta = 1e-5
    left, right = (jsd(student, teacher, beta=b).loss for b in (beta, 1 - beta))
    scaled = [x / (beta * (1 - beta)) for x in (left, right)]
    seen = scaled if divided else [left, right]
    grid = torch.linspace(0.01, 0.99, 50).tolist()
    drawn = Curve(
        x=tuple(grid), measured=tuple(float(jsd(student[0], teacher[0], beta=b).loss) for b in grid), across="β", up="JSD_β"
    )  # fmt: skip
    return every(
        at_most(seen[0], forward / 100, where="β → 0"), at_most(seen[1], reverse / 100, where="β → 1"),
        within(scaled[0], forward, 0.01, "β → 0, divided"), within(scaled[1], reverse, 0.01, "β → 1, divided"),
    ).drawn(drawn)  # fmt: skip


@theorem(
    section="errata.md#best-of-n-costs-log-n-nats", source="Beirami et al. 2024, https://arxiv.org/abs/2401.01879",
    broken={"always the best of n equal answers": {"drawn_again": False}},
)  # fmt: skip
def the_best_of_n_costs_less_than_log_n(lab: Lab, *, drawn_again: bool = True) -> Verdict:
    """log n - KL(BoN‖ref) ≥ (n-1)/n

    log n is what it costs to give always the same one of n answers that the reference gives equally often.
    Proof: BoN has the density n·F^{n-1} over the reference, whose mean logarithm is log n - (n-1)/n where F is continuous;
    steps in F only lower it, since what happens within a step is forgotten.
    Experiment: the exact law F^n - F₋^n over the answers of a tree, n = 2 to 16; the figure: the KL, beside log n.
    """
    world = lab.tree()
    chances = world.probabilities(lab.policy(world, "reference"))[world.rewards.argsort()]
    sizes, costs = (2, 4, 8, 16), []
    for n in sizes:
        law = (chances.cumsum(0) ** n).diff(prepend=torch.zeros(1, dtype=torch.float64))
        ref = chances
        if not drawn_again:
            ref = torch.full((n,), 1 / n, dtype=torch.float64)
            law = (torch.arange(n) == n - 1).double()
        costs.append(float(torch.special.xlogy(law, law / ref).sum()))
    saved = [math.log(n) - cost for n, cost in zip(sizes, costs, strict=True)]
    drawn = Curve(
        x=sizes, measured=tuple(costs), bound=tuple(map(math.log, sizes)), across="n", up="KL, nats", log_x=True
    )  # fmt: skip
    return at_least(saved, [(n - 1) / n for n in sizes]).drawn(drawn)


@theorem(
    section="errata.md#walds-interval-covers-what-it-says",
    source="Brown, Cai and DasGupta 2001, https://doi.org/10.1214/ss/1009213286",
    broken={"Clopper and Pearson": {"method": "clopper_pearson"}},
)  # fmt: skip
def walds_interval_covers_too_little(lab: Lab, *, method: Literal["wald", "clopper_pearson"] = "wald") -> Verdict:
    """min_p P(p within q̂ ± 1.96·√(q̂(1-q̂)/n)) < .9 at n = 20

    Proof: at q̂ = 0 the interval has no width, and P(q̂ = 0) = (1-p)^n is large for small p.
    Experiment: the exact binomial for p from .01 to .99; the figure: the coverage over p, beside .95.
    """
    n = 20
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    k = torch.arange(n + 1, dtype=torch.float64)
    ways = torch.tensor([math.comb(n, c) for c in range(n + 1)], dtype=torch.float64)
    law = ways * p[:, None] ** k * (1 - p[:, None]) ** (n - k)
    if method == "wald":
        share = k / n
        half = 1.959963984540054 * (share * (1 - share) / n).sqrt()
        low, high = share - half, share + half
    else:
        found = [clopper_pearson(c, n) for c in range(n + 1)]
        low, high = (
            torch.tensor(ends, dtype=torch.float64) for ends in ([i.low for i in found], [i.high for i in found])
        )
    covered = (law * ((low <= p[:, None]) & (p[:, None] <= high))).sum(-1)
    drawn = Curve(
        x=tuple(p.tolist()), measured=tuple(covered.tolist()), bound=(0.95,) * 99, across="p", up="coverage"
    )  # fmt: skip
    return at_most(covered.min(), 0.9).drawn(drawn)


@theorem(
    section="errata.md#passk-can-be-had-from-the-success-rate", source="Chen et al. 2021, https://arxiv.org/abs/2107.03374",
    broken={"the share of k-subsets with a right answer": {"estimate": pass_at_k}},
)  # fmt: skip
def a_plugged_in_pass_at_k_is_too_low(
    lab: Lab, *, estimate: Callable[[int, int, int], float] = pass_at_k_plug_in
) -> Verdict:
    """E[1 - (1 - c/n)^k] < 1 - (1-p)^k      c of n answers right, 1 < k ≤ n

    Proof: 1 - (1-x)^k is strictly concave in x for k > 1, and E[c/n] = p.
    Experiment: the exact binomial, n = 12, k = 5, p from .05 to .6; the figure: the bias over p.
    """
    n, k = 12, 5
    p = torch.linspace(0.05, 0.6, 12, dtype=torch.float64)
    counts = torch.arange(n + 1, dtype=torch.float64)
    ways = torch.tensor([math.comb(n, c) for c in range(n + 1)], dtype=torch.float64)
    law = ways * p[:, None] ** counts * (1 - p[:, None]) ** (n - counts)
    mean = law @ torch.tensor([estimate(n, c, k) for c in range(n + 1)], dtype=torch.float64)
    truth = 1 - (1 - p) ** k
    drawn = Curve(
        x=tuple(p.tolist()), measured=tuple(mean.tolist()), bound=tuple(truth.tolist()), across="p", up="pass@5"
    )  # fmt: skip
    return at_most(mean, truth - 0.002).drawn(drawn)


@theorem(
    section="errata.md#a-small-kl-rules-out-reward-hacking",
    source="Kwa et al. 2024, https://arxiv.org/abs/2407.14503",
    broken={"an error that is bounded": {"heavy": False}},
)  # fmt: skip
def a_small_kl_bounds_no_heavy_error(lab: Lab, *, heavy: bool = True) -> Verdict:
    """KL(π‖ref) → 0 and E_π[error] → ∞ together, where the proxy's error has a heavy tail under the reference

    Proof: an answer of probability e under ref with error e^{-.9}; π gives it √e. KL ≈ √e·log(1/√e) → 0, E_π[error] ≈ e^{-.4} → ∞,
    although E_ref[error] = e^{.1} → 0. A bounded error is held by the KL.
    Experiment: e from 10⁻² to 10⁻¹², times a number of the lab's; the figure: E_π[error] over the KL.
    """
    rare = 10 ** -torch.linspace(2, 12, 11, dtype=torch.float64) * (0.5 + lab.uniform("rare", 1))
    error = rare**-0.9 if heavy else torch.ones_like(rare)
    ref, policy = (torch.stack([p, 1 - p], -1) for p in (rare, rare.sqrt()))
    kl = kl_exact(policy.log(), ref.log())
    seen = policy[:, 0] * error
    drawn = Curve(
        x=tuple(kl.tolist()), measured=tuple(seen.tolist()), across="KL(π‖ref), nats", up="E_π[error]", log_x=True, log_y=True
    )  # fmt: skip
    return every(
        at_most(kl[1:], kl[:-1], where="KL falls"), at_least(seen[1:], seen[:-1], where="the error grows"),
        at_least(seen[-1], 1e4),
    ).drawn(drawn)  # fmt: skip


def _slopes(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The derivative of a sum of independent entries, by each."""
    leaf = at.detach().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def _clipped(gradient: Tensor, bound: float) -> Tensor:
    """By its norm, with torch's function."""
    parameter = torch.nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([parameter], bound)
    assert parameter.grad is not None
    return parameter.grad
