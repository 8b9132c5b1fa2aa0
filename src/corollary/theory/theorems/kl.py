"""docs/theory/kl.md: importance sampling and its truncation; estimators of KL, their values, gradients and variances."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from corollary.losses.distillation import forward_kl, jsd, reverse_kl
from corollary.losses.policy import reinforce
from corollary.ops.bounds import (
    best_truncation_cap,
    expected_sample_size,
    importance_second_moment,
    truncated_second_moment,
    truncation_bias,
)  # fmt: skip
from corollary.ops.kl import k1, k1_reverse, k2, k3, k3_reverse, kl_exact
from corollary.ops.ratio import icepop, log_product_ratio, mis, sequence_product, tis, token_ratio
from corollary.ops.returns import kl_penalised_returns
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import World, gradient_of
from corollary.theory.verdict import Curve, Verdict, apart, at_least, at_most, equal, every, parallel, within

SCHULMAN = "Schulman 2020, http://joschu.net/blog/kl-approx.html"
TANG = "Tang and Munos 2025, https://arxiv.org/abs/2506.09477"
IONIDES = "Ionides 2008, https://doi.org/10.1198/106186008X320456"
METELLI = "Metelli et al. 2018, https://arxiv.org/abs/1809.06098"
CAPS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0)
STEPS = (0.4, 0.2, 0.1, 0.05, 0.025)


# ---------------------------------------------------------------------------------------------------------------------
# Importance sampling


@theorem(
    "B11.a", section="kl.md#importance-sampling", source="Kahn and Marshall 1953, https://doi.org/10.1287/opre.1.5.263",
    broken={"the ratio is upside down": {"inverted": True}, "a weight per token, averaged": {"sequence": False}},
)  # fmt: skip
def weights_move_an_expectation(lab: Lab, *, inverted: bool = False, sequence: bool = True) -> Verdict:
    """E_μ[w·f] = E_π[f] for every f of the answer, with w = π(y)/μ(y).

    Conditions: μ(y) > 0 wherever π(y)·f(y) ≠ 0.
    Proof: Σ_y μ(y)·(π(y)/μ(y))·f(y) = Σ_y π(y)·f(y).
    Experiment: a token tree, two policies, 100 functions with normal values; the library's product of token ratios is w.
    """
    world, pi, mu = _world(lab)
    above, below = (mu, pi) if inverted else (pi, mu)
    if sequence:
        w = _weights(world, above, below)
    else:
        ratios = token_ratio(world.logprobs(above), world.logprobs(below))
        w = ratios.where(world.trained, 0.0).sum(-1) / world.lengths
    f = lab.normal("functions", 100, len(w))
    return equal(f @ (world.probabilities(mu) * w), f @ world.probabilities(pi))


@theorem(
    "B11.b", section="kl.md#importance-sampling", source=METELLI,
    broken={"the divergence of the sampler from the target": {"swapped": True}, "KL in its place": {"order": 1}},
)  # fmt: skip
def the_second_moment_of_the_weights_is_a_divergence(lab: Lab, *, swapped: bool = False, order: int = 2) -> Verdict:
    """E_μ[w²] = e^{D₂(π‖μ)}, and E_μ[(w·f)²] ≤ ‖f‖²·e^{D₂} with ‖f‖ = max|f|.

    Proof: D₂(π‖μ) = log Σ_y π(y)²/μ(y) is the logarithm of E_μ[w²]. Then f² ≤ ‖f‖² under the expectation.
    Experiment: a token tree, 200 functions uniform on [-1, 1]; D₂ from the probabilities, w from the library.
    """
    world, pi, mu = _world(lab)
    p, q = world.probabilities(pi), world.probabilities(mu)
    w = _weights(world, pi, mu)
    a, b = (q, p) if swapped else (p, q)
    divergence = float((a * (a / b).log()).sum()) if order == 1 else float((a**2 / b).sum().log())
    f = 2 * lab.uniform("functions", 200, len(w)) - 1
    bounds = [importance_second_moment(divergence, max_abs=float(top)) for top in f.abs().max(-1).values]
    return every(equal((q * w**2).sum(), math.exp(divergence)), at_most((w * f).square() @ q, bounds))


@theorem(
    section="kl.md#importance-sampling", source="van Erven and Harremoës 2014, https://arxiv.org/abs/1206.2459",
    broken={"D₂ in the other direction": {"swapped": True}},
)  # fmt: skip
def kl_is_at_most_the_divergence_of_order_two(lab: Lab, *, swapped: bool = False) -> Verdict:
    """KL(π‖μ) ≤ D₂(π‖μ).

    Proof: KL = E_π[log(π/μ)] ≤ log E_π[π/μ] = log Σ π²/μ = D₂, by Jensen.
    Experiment: 1000 pairs of distributions uniform on the simplex.
    """
    p, q = lab.simplex("pairs", 2, 1000, lab.arms)
    renyi = (q**2 / p if swapped else p**2 / q).sum(-1).log()
    return at_most(kl_exact(p.log(), q.log()), renyi)


@theorem(
    "B11.d", section="kl.md#importance-sampling", source=f"{METELLI}; for T tokens derived here",
    broken={"KL per token in place of D₂": {"order": 1}, "as if the samples lasted as 1/T": {"exponential": False}},
)  # fmt: skip
def samples_are_worth_exponentially_less(lab: Lab, *, order: int = 2, exponential: bool = True) -> Verdict:
    """ESS/N → e^{-T·d₂} for answers of T tokens, where d₂ is a token's D₂(π‖μ).

    Conditions: every token has the same d₂ whatever its prefix.
    Proof: ESS/N → (E_μ w)²/E_μ[w²] = e^{-D₂}; E_μ[w²] is a product over tokens, so D₂ = T·d₂.
    Experiment: answers of 1 to 4 tokens drawn independently of each other, all of them enumerated.
    """
    p, q = lab.simplex("tokens", 2, lab.vocabulary)
    d2 = float((p**2 / q).sum().log()) if order == 2 else float((p * (p / q).log()).sum())
    measured, predicted = [], []
    for length in range(1, 5):
        each = torch.cartesian_prod(*[torch.arange(lab.vocabulary)] * length).reshape(-1, length)
        w = sequence_product(p.log()[each], q.log()[each], torch.ones_like(each, dtype=torch.bool))[:, 0]
        mu = q[each].prod(-1)
        measured.append(float((mu * w).sum() ** 2 / (mu * w**2).sum()))
        law = expected_sample_size(1, length * d2) if exponential else expected_sample_size(1, d2) / length
        predicted.append(law)
    curve = Curve(
        x=(1, 2, 3, 4), measured=tuple(measured), bound=tuple(predicted), across="tokens T", up="ESS / N", log_y=True
    )
    return equal(measured, predicted).drawn(curve)


@theorem(
    "B11.e", section="kl.md#token-and-sequence-weights", source="Precup et al. 2000",
    broken={"a weight per token": {"sequence": False}, "no weight": {"weighed": False}},
)  # fmt: skip
def an_answers_weight_corrects_the_gradient(lab: Lab, *, sequence: bool = True, weighed: bool = True) -> Verdict:
    """E_μ[w·R·∇logπ(y)] = ∇J(π) with w = Π_t ρ_t over the whole answer; with the weights ρ_t of single tokens it is not.

    Proof: B11.a with f = R·∇logπ. A token's own weight leaves the prefix distributed as μ draws it, and the rest of the answer too.
    Experiment: a token tree, the library's REINFORCE with its correction; the policy 0.7 standard deviations from the sampler.
    """
    world, pi, mu = _world(lab)
    return equal(_corrected_gradient(world, pi, mu, sequence=sequence, weighed=weighed), _gradient(world, pi))


@theorem(
    "B11.f", section="kl.md#token-and-sequence-weights", source="derived here",
    broken={"of the second order": {"order": 2}},
)  # fmt: skip
def token_weights_are_off_by_the_step(lab: Lab, *, order: int = 1) -> Verdict:
    """‖E_μ[Σ_t ρ_t·R·∇logπ(y_t)] - ∇J(π)‖ = Θ(‖π - μ‖): the bias of a weight per token is of first order in the step.

    Conditions: answers of two tokens or more, not all worth the same.
    Proof: Expand the missing factor Π_{k≠t} ρ_k = 1 + Σ_{k≠t}(log π - log μ)(y_k) + O(step²); its first-order term has a mean.
    Experiment: a token tree, the policy moved by shrinking steps; the slope of log bias over log step.
    """
    world, mu = lab.tree(), lab.policy(lab.tree(), "sampler")
    way = lab.normal("direction", *mu.shape)
    steps = [0.01 * h for h in STEPS]
    bias = [
        float((_corrected_gradient(world, mu + h * way, mu, sequence=False) - _gradient(world, mu + h * way)).norm())
        for h in steps
    ]
    slope = math.log(bias[-1] / bias[-2]) / math.log(steps[-1] / steps[-2])
    lead = tuple(bias[-1] * h / steps[-1] for h in steps)
    curve = Curve(x=tuple(steps), measured=tuple(bias), bound=lead, across="step", up="bias", log_x=True, log_y=True)
    return within(slope, float(order), 0.1, where="slope").drawn(curve)


@theorem(
    "B11.g", section="kl.md#token-and-sequence-weights", source="Precup et al. 2000; Jiang and Li 2016, https://arxiv.org/abs/1511.03722",
    broken={"the sampled reward in place of Q": {"value": False}, "the token's own ratio only": {"prefix": False}},
)  # fmt: skip
def a_prefix_weight_needs_the_targets_value(lab: Lab, *, value: bool = True, prefix: bool = True) -> Verdict:
    """E_μ[Σ_t (Π_{k≤t} ρ_k)·Q^π(s_t, y_t)·∇logπ(y_t)] = ∇J(π).

    Conditions: Q^π is the target's own value; the sampler's later tokens carry no weight, so their reward has the sampler's mean.
    Proof: Π_{k≤t} ρ_k turns μ's distribution of the first t tokens into π's; the term depends on these alone. Then B1.b.
    Experiment: a token tree; Q by enumeration, and in the twin the answer's reward with the same weights.
    """
    world, pi, mu = _world(lab)
    ratios = token_ratio(world.logprobs(pi), world.logprobs(mu))
    weights = ratios.cumprod(-1) if prefix else ratios
    q = world.action_values(pi)[world.states, world.tokens] if value else world.rewards[:, None].expand_as(weights)
    held = (world.probabilities(mu)[:, None] * weights * q).where(world.trained, 0.0)
    return equal(gradient_of(lambda leaf: (held * world.logprobs(leaf)).sum(), pi), _gradient(world, pi))


@theorem(
    section="kl.md#importance-sampling", source="derived here", broken={"on the policy's answers": {"sampled_by": "policy"}}
)  # fmt: skip
def the_mean_log_ratio_is_minus_a_kl(lab: Lab, *, sampled_by: str = "sampler") -> Verdict:
    """E_μ[Σ_t log ρ_t] = -KL(μ‖π): on the sampler's answers the log-ratio is negative on average, though E_μ[Π_t ρ_t] = 1.

    Proof: Σ_t log ρ_t = log π(y) - log μ(y), whose mean under μ is -KL(μ‖π) by definition.
    Experiment: a token tree; the library's sum of log-ratios.
    """
    world, pi, mu = _world(lab)
    logs = log_product_ratio(world.logprobs(pi), world.logprobs(mu), world.trained)
    drawn = world.probabilities(mu if sampled_by == "sampler" else pi)
    return equal((drawn * logs).sum(), -world.kl(mu, pi))


# ---------------------------------------------------------------------------------------------------------------------
# Truncation


@theorem(
    "B11.c", section="kl.md#truncation", source=f"{IONIDES}; the last step derived here",
    broken={"a constant of 5": {"constant": 5.0}},
)  # fmt: skip
def truncation_biases_by_the_mass_above_the_cap(lab: Lab, *, constant: float = 4.0) -> Verdict:
    """|E_μ[min(w, C)·f] - E_π f| ≤ ‖f‖·E_μ[(w - C)₊] ≤ ‖f‖·e^{D₂}/(4C).

    Proof: The left side is |E_μ[(w - C)₊·f]|, since w - min(w, C) = (w - C)₊. By (w - 2C)² ≥ 0, w - C ≤ w²/4C, with equality at w = 2C.
    Experiment: a token tree, policies at ten distances from the sampler, nine caps, the worst f (constant); w truncated by the library.
    """
    world, pi, mu = _world(lab)
    q = world.probabilities(mu)
    measured, first, second = [], [], []
    for scale in (0.01, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.3, 1.6, 2.0):
        target = mu + scale * (pi - mu)
        w = _weights(world, target, mu)
        renyi = float((q * w**2).sum().log())
        for cap in CAPS:
            kept = sequence_product(world.logprobs(target), world.logprobs(mu), world.trained, cap=cap)[:, 0]
            measured.append(float(1 - (q * kept).sum()))  # f = 1: E_π f is 1
            first.append(float((q * (w - cap).clamp(min=0)).sum()))
            second.append(truncation_bias(renyi, cap=cap) * 4 / constant)
    n = len(CAPS)
    shown = slice(6 * n, 7 * n)
    curve = Curve(
        x=CAPS, measured=tuple(measured[shown]), bound=tuple(second[shown]), across="cap C", up="bias", log_x=True
    )
    return every(at_most(measured, first), at_most(first, second)).drawn(curve)


@theorem(
    section="kl.md#truncation", source=IONIDES,
    broken={"without truncation": {"truncated": False}, "C² in place of C": {"power": -1}},
)  # fmt: skip
def truncated_weights_have_a_bounded_second_moment(lab: Lab, *, truncated: bool = True, power: int = 1) -> Verdict:
    """E_μ[(min(w, C)·f)²] ≤ C·‖f‖², however far the sampler is.

    Proof: min(w, C)² ≤ C·w, and E_μ w = 1.
    Experiment: a token tree, nine caps, 100 functions and f = 1; in the second twin the bound falls with C.
    """
    world, pi, mu = _world(lab)
    q = world.probabilities(mu)
    f = torch.cat([torch.ones(1, len(q), dtype=torch.float64), 2 * lab.uniform("functions", 100, len(q)) - 1])
    verdicts = []
    for cap in CAPS:
        w = sequence_product(world.logprobs(pi), world.logprobs(mu), world.trained, cap=cap if truncated else None)[
            :, 0
        ]
        bounds = [truncated_second_moment(cap=cap**power, max_abs=float(top)) for top in f.abs().max(-1).values]
        verdicts.append(at_most((w * f).square() @ q, bounds))
    return every(*verdicts)


@theorem(
    section="kl.md#truncation", source="derived here", broken={"a quarter of it, as for truncation": {"constant": 4.0}}
)  # fmt: skip
def masking_loses_more_than_truncation(lab: Lab, *, constant: float = 1.0) -> Verdict:
    """0 ≤ E_π f - E_μ[min(w, C)·f] ≤ E_π f - E_μ[w·1[w ≤ C]·f] ≤ ‖f‖·e^{D₂}/C for f ≥ 0.

    Proof: w·1[w ≤ C] ≤ min(w, C) ≤ w, and f ≥ 0 keeps the order. What masking drops is w·1[w > C] ≤ w²/C.
    Experiment: one token, 300 pairs of distributions near to and far from each other, nine caps; the library's `tis` and `mis`.
    """
    world = lab.bandit()
    mu = lab.normal("samplers", 300, len(world.rewards))
    scale = torch.logspace(-3, 0.3, 300, dtype=torch.float64)[:, None]
    log_q, log_p = mu.log_softmax(-1), (mu + scale * lab.normal("steps", *mu.shape)).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    f = lab.uniform("functions", *mu.shape) ** 0.1
    exact = (p * f).sum(-1)
    renyi = (p**2 / q).sum(-1)
    verdicts = []
    for cap in CAPS:
        cut = exact - (q * tis(log_p, log_q, cap=cap) * f).sum(-1)
        left_out = exact - (q * mis(log_p, log_q, cap=cap) * f).sum(-1)
        bound = f.max(-1).values * renyi / (cap * constant)
        verdicts += [at_least(cut, 0.0), at_least(left_out, cut), at_most(left_out, bound)]
    return every(*verdicts)


@theorem(
    section="kl.md#truncation", source="Ling team 2025, https://arxiv.org/abs/2510.18855; derived here",
    broken={"as if weights below the band were kept": {"low": 0.0}},
)  # fmt: skip
def a_band_of_weights_samples_a_part_of_the_target(lab: Lab, *, low: float = 0.5) -> Verdict:
    """E_μ[w·1[α ≤ w ≤ β]·f] = E_π[f·1[α ≤ w ≤ β]]: nothing is distorted inside the band, everything outside is lost.

    Proof: B11.a with f·1[α ≤ w ≤ β] in the place of f.
    Experiment: 500 pairs of distributions of one token; the library's `icepop` with α = ½, β = 2.
    """
    p, q = lab.simplex("pairs", 2, 500, lab.arms)
    f = lab.normal("functions", 500, lab.arms)
    kept = (q * icepop(p.log(), q.log(), low=0.5, high=2.0) * f).sum(-1)
    return equal(kept, (p * f * ((p / q >= low) & (p / q <= 2.0))).sum(-1))


@theorem(
    "B27", section="kl.md#truncation", source="derived here",
    broken={"squared deviation taken for variance alone": {"eighth": 1.0}, "the square root of N": {"power": 1 / 2}},
)  # fmt: skip
def the_best_cap_grows_with_the_cube_root_of_the_samples(
    lab: Lab, *, eighth: float = 8.0, power: float = 1 / 3
) -> Verdict:
    """C* = (N·e^{2D₂}/8)^{1/3} minimises the bound (e^{D₂}/4C)² + C/N on the squared error of a truncated mean, ‖f‖ = 1.

    Proof: The derivative -e^{2D₂}/(8C³) + 1/N vanishes there alone, and the bound is convex in C > 0.
    Experiment: N from 1 to 4096 and D₂ from 0 to 3; the library's cap against 2001 others, by the library's two bounds.
    """
    grid = torch.logspace(-2, 3, 2001, dtype=torch.float64).tolist()
    reached, least, caps = [], [], []

    def bound(cap: float, samples: int, renyi: float) -> float:
        return truncation_bias(renyi, cap=cap) ** 2 + truncated_second_moment(cap=cap) / samples

    for samples in (1, 8, 64, 512, 4096):
        for renyi in (0.0, float(3 * lab.uniform("divergence", 1))):
            cap = (best_truncation_cap(samples, renyi) ** 3 * 8 / eighth) ** power
            caps.append(cap)
            reached.append(bound(cap, samples, renyi))
            least.append(min(bound(c, samples, renyi) for c in grid[:: 1 if samples == 64 else 20]))
    curve = Curve(
        x=tuple(grid[600:1500:15]), measured=tuple(bound(c, 64, 0.0) for c in grid[600:1500:15]),
        across="cap C", up="bound at N = 64, D₂ = 0", log_x=True, log_y=True,
    )  # fmt: skip
    return at_most(reached, least).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# Estimators of KL: values


@theorem(
    "B21.k1", section="kl.md#three-estimators", source=SCHULMAN,
    broken={"on the reference's samples": {"sampled_by": "reference"}, "on an old policy's samples": {"sampled_by": "old"}},
)  # fmt: skip
def k1_is_unbiased(lab: Lab, *, sampled_by: str = "policy") -> Verdict:
    """E_π[Σ_t k1_t] = KL(π‖ref) with k1 = x = logπ - logref.

    Proof: The definition of KL, token by token; the logarithm of a product is a sum.
    Experiment: a token tree; the library's k1 of every token.
    """
    return _unbiased(lab, k1, sampled_by)


@theorem(
    "B21.k3", section="kl.md#three-estimators", source=SCHULMAN,
    broken={"the ratio is upside down": {"swapped": True}, "on an old policy's samples": {"sampled_by": "old"}},
)  # fmt: skip
def k3_is_unbiased(lab: Lab, *, swapped: bool = False, sampled_by: str = "policy") -> Verdict:
    """E_π[Σ_t k3_t] = KL(π‖ref) with k3 = e^{-x} - 1 + x.

    Proof: E_π[e^{-x}] = Σ π·(ref/π) = 1 for every token, so that e^{-x} - 1 has mean 0 and x has mean KL.
    Experiment: a token tree; the library's k3 of every token.
    """
    return _unbiased(lab, (lambda logprobs, ref: k3(ref, logprobs)) if swapped else k3, sampled_by)


@theorem(
    "B21.k2", section="kl.md#three-estimators", source=f"{SCHULMAN}; the remainder derived here",
    broken={"as unbiased as k3": {"estimator": "k3"}, "the cubic term with the other sign": {"sign": -1.0}},
)  # fmt: skip
def k2_is_biased_by_the_cube(lab: Lab, *, estimator: str = "k2", sign: float = 1.0) -> Verdict:
    """|E_π[k2] - KL(π‖ref) - E_π[x³]/6| ≤ E_π[x⁴·e^{|x|}]/24 with k2 = x²/2: biased, by the third order in the distance.

    Proof: 1 = E_π[e^{-x}], and Taylor: |e^{-x} - 1 + x - x²/2 + x³/6| ≤ x⁴e^{|x|}/24. Take the mean: E[x] = KL.
    Experiment: 400 pairs of distributions from near to far; the library's k2. The bias itself is not 0.
    """
    made = {"k2": k2, "k3": k3}[estimator]
    logs, ref, _ = _pairs(lab, 400)
    p, x = logs.exp(), logs - ref
    bias = (p * made(logs, ref)).sum(-1) - kl_exact(logs, ref)
    rest = (bias - sign * (p * x**3).sum(-1) / 6).abs()
    return every(at_most(rest, (p * x**4 * x.abs().exp()).sum(-1) / 24, slack=1e-14), apart(bias, 0.0))


@theorem(section="kl.md#three-estimators", source=SCHULMAN, broken={"k1 in its place": {"estimator": "k1"}})
def k3_is_never_negative(lab: Lab, *, estimator: str = "k3") -> Verdict:
    """k3 ≥ 0 for every sample, and 0 only where π and ref agree.

    Proof: e^{-x} ≥ 1 - x, the tangent of a strictly convex function at 0, where alone it touches.
    Experiment: 400 pairs of distributions from near to far, every outcome; k3 against x²/2·e^{-|x|}, which is above 0.
    """
    made = {"k1": k1, "k3": k3}[estimator]
    logs, ref, _ = _pairs(lab, 400)
    x = logs - ref
    grid = torch.linspace(-2, 2, 41, dtype=torch.float64)
    shown = made(grid, torch.zeros_like(grid))
    curve = Curve(
        x=tuple(grid.tolist()), measured=tuple(shown.tolist()), bound=tuple((grid**2 / 2 * (-grid.abs()).exp()).tolist()),
        across="x = logπ - logref", up=estimator,
    )  # fmt: skip
    return at_least(made(logs, ref), x**2 / 2 * (-x.abs()).exp(), slack=1e-14).drawn(curve)


@theorem(
    section="kl.md#three-estimators", source=f"{SCHULMAN}; the orders derived here",
    broken={"k1 shrinks as fast": {"small": "k1"}, "k1 by KL, not twice": {"twice": 1.0}},
)  # fmt: skip
def k3_has_the_variance_of_a_square(lab: Lab, *, small: str = "k3", twice: float = 2.0) -> Verdict:
    """Var k1 = 2·KL·(1 + o(1)) and Var k3 = Var k2·(1 + o(1)) = O(KL²) as ref → π.

    Proof: Var x = E[x²] - KL² and E[x²]/2 = KL + O(x³), B21.k2. k3 = x²/2 + O(x³), whose variance is of fourth order.
    Experiment: a distribution and a reference that comes nearer; variances by enumeration. The slope in the step is 4, that of k1 is 2.
    """
    logits, way = lab.normal("policy", lab.arms), _centred(lab.normal("direction", lab.arms))
    logs = logits.log_softmax(-1)
    p, steps, seen = logs.exp(), [h / 50 for h in STEPS], {}
    refs = [(logits + h * way).log_softmax(-1) for h in steps]
    for name, made in (("k1", k1), ("k2", k2), ("k3", k3)):
        seen[name] = [float(_variance(p, made(logs, ref))) for ref in refs]
    kl = [float(kl_exact(logs, ref)) for ref in refs]
    ratio = steps[-1] / steps[-2]
    curve = Curve(
        x=tuple(steps), measured=tuple(seen["k3"]), bound=tuple(seen["k1"]), across="distance of the reference",
        up="variance of k3, below that of k1", log_x=True, log_y=True,
    )  # fmt: skip
    return every(
        within(seen["k1"][-1], twice * kl[-1], 0.05),
        within(math.log(seen[small][-1] / seen[small][-2]) / math.log(ratio), 4.0, 0.05),
        within(math.log(seen["k1"][-1] / seen["k1"][-2]) / math.log(ratio), 2.0, 0.05),
    ).drawn(curve)


@theorem(
    section="kl.md#three-estimators", source="derived here", broken={"near the reference": {"rare": (0.3, 0.4, 0.45)}}
)  # fmt: skip
def k3_is_the_noisier_where_the_policy_gave_something_up(
    lab: Lab, *, rare: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5)
) -> Verdict:
    """Var k3 ≥ r²/p - 2r - 1 - log²p for a token of probability p → 0 that the reference gives r: unbounded; Var k1 → 0.

    Conditions: two tokens, π = (p, 1-p), ref = (r, 1-r), p ≤ r.
    Proof: With e = r/p - 1, k3 is e - log(1 + e) at p. Its square is at least e² - 2e·log(1 + e), and p·e² = r²/p - 2r + p.
    Experiment: r = ½, p from 1/100 down; the library's k3 against its k1, whose variance is p(1-p)·log²(p/(1-p)).
    """
    variances: dict[str, list[float]] = {"k1": [], "k3": []}
    for p in rare:
        pi = torch.tensor([p, 1 - p], dtype=torch.float64)
        ref = torch.full_like(pi, 0.5)
        for name, made in (("k1", k1), ("k3", k3)):
            variances[name].append(float(_variance(pi, made(pi.log(), ref.log()))))
    curve = Curve(
        x=rare, measured=tuple(variances["k3"]), bound=tuple(variances["k1"]), across="p",
        up="variance of k3, above that of k1", log_x=True, log_y=True,
    )  # fmt: skip
    return at_least(variances["k3"], variances["k1"]).drawn(curve)


@theorem(
    section="kl.md#three-estimators", source=SCHULMAN,
    broken={"on an old policy's samples": {"fresh": False}, "-1 is best as the step shrinks": {"best": -1.0}},
)  # fmt: skip
def k3_is_k1_with_a_control_variate(lab: Lab, *, fresh: bool = True, best: float = 1.0) -> Verdict:
    """E_π[k1 + λ·(e^{-x} - 1)] = KL(π‖ref) for every λ; the least variance is at λ → 1, which is k3, as ref → π.

    Proof: E_π[e^{-x} - 1] = 0. λ* = -Cov(x, e^{-x})/Var(e^{-x}), and e^{-x} - 1 = -x + O(x²) turns that into 1 + O(x).
    Experiment: 400 pairs of distributions and λ normal; λ* of a pair that is 1/1000 apart.
    """
    logs, ref, way = _pairs(lab, 400)
    lam = lab.normal("lambda", 400, 1)
    p = logs.exp() if fresh else (logs + way).softmax(-1)
    noise = k3(logs, ref) - k1(logs, ref)  # e^{-x} - 1
    logs0 = lab.normal("policy", lab.arms).log_softmax(-1)
    x = k1(logs0, (logs0 + 1e-3 * _centred(lab.normal("direction", lab.arms))).log_softmax(-1))
    q, y = logs0.exp(), (-x).expm1()
    covariance = (q * (x - (q * x).sum()) * (y - (q * y).sum())).sum()
    return every(
        equal((p * (k1(logs, ref) + lam * noise)).sum(-1), kl_exact(logs, ref)),
        within(-covariance / _variance(q, y), best, 0.05),
    )


@theorem(
    section="kl.md#three-estimators", source="Cover and Thomas 2006",
    broken={"each policy is reported by rules of its own": {"same_rules": False}},
)  # fmt: skip
def what_is_reported_of_an_answer_moves_less(lab: Lab, *, same_rules: bool = True) -> Verdict:
    """KL(f(π)‖f(ref)) ≤ KL(π‖ref) for whatever is reported of an answer: its reward, its length, its first token, at random too.

    Proof: KL of the pair (answer, report) is KL of the answers, since both are reported alike; and it is KL of the reports plus a KL.
    Experiment: a token tree, two policies close to each other, 300 random rules that map an answer to three reports.
    """
    world, pi, _ = _world(lab)
    ref = pi + 0.1 * lab.normal("reference", *pi.shape)
    p, q = world.probabilities(pi), world.probabilities(ref)
    rules = lab.simplex("rules", 300, len(p), 3) ** 2
    rules = rules / rules.sum(-1, keepdim=True)
    others = rules if same_rules else rules.roll(1, 0)
    a, b = torch.einsum("s,nsk->nk", p, rules), torch.einsum("s,nsk->nk", q, others)
    return at_most(kl_exact(a.log(), b.log()), world.kl(pi, ref))


# ---------------------------------------------------------------------------------------------------------------------
# Estimators of KL: what they differentiate to


@theorem(
    "B21.k1-loss", section="kl.md#what-an-estimator-differentiates-to", source=TANG,
    broken={"weighed by a ratio with gradient": {"weighed": True}},
)  # fmt: skip
def k1_as_a_loss_holds_nothing_back(lab: Lab, *, weighed: bool = False) -> Verdict:
    """E_π[∇k1] = 0: as a loss k1 is noise, whatever its coefficient.

    Proof: ∇k1 = ∇logπ, whose mean is 0 (B2.a); the reference has left the gradient.
    Experiment: a token tree; the expected gradient of the library's k1. In the twin it is `k1_reverse`.
    """
    world, pi, ref = _world(lab, "reference")
    if weighed:
        found = _as_loss(world, pi, lambda lp: k1_reverse(lp, world.logprobs(ref), world.logprobs(pi)))
    else:
        found = _as_loss(world, pi, lambda lp: k1(lp, world.logprobs(ref)))
    return equal(found, 0.0)


@theorem(
    "B21.k2-loss", section="kl.md#what-an-estimator-differentiates-to", source=TANG,
    broken={"k3 in its place": {"estimator": "k3"}, "on an old policy's samples": {"fresh": False}},
)  # fmt: skip
def k2_as_a_loss_descends_the_reverse_kl(lab: Lab, *, estimator: str = "k2", fresh: bool = True) -> Verdict:
    """E_π[∇k2] = ∇KL(π‖ref), although k2's value is biased.

    Conditions: fresh samples; x is the log-ratio of whole answers (for tokens see B21.b).
    Proof: ∇k2 = x·∇logπ. ∇KL = Σ ∇π·x + Σ π·∇x = E_π[x·∇logπ] + 0.
    Experiment: a token tree, the library's k2 of an answer's log-probability.
    """
    made = {"k2": k2, "k3": k3}[estimator]
    world, pi, ref = _world(lab, "reference")
    found = _of_answers(world, pi, lambda lp: made(lp, world.sequence_logprobs(ref)), pi if fresh else ref)
    return equal(found, _kl_gradient(world, pi, ref))


@theorem(
    "B21.k3-loss", section="kl.md#what-an-estimator-differentiates-to", source=TANG,
    broken={"the reverse KL": {"direction": "reverse"}, "k2 in its place": {"estimator": "k2"}},
)  # fmt: skip
def k3_as_a_loss_descends_the_forward_kl(lab: Lab, *, direction: str = "forward", estimator: str = "k3") -> Verdict:
    """E_π[∇k3] = ∇KL(ref‖π): the other direction, although k3's value estimates KL(π‖ref).

    Proof: ∇k3 = (1 - e^{-x})·∇logπ; E_π[∇logπ] = 0 and E_π[e^{-x}∇logπ] = E_ref[∇logπ] = -∇KL(ref‖π).
    Experiment: a token tree, the library's k3 of an answer's log-probability.
    """
    made = {"k2": k2, "k3": k3}[estimator]
    world, pi, ref = _world(lab, "reference")
    found = _of_answers(world, pi, lambda lp: made(lp, world.sequence_logprobs(ref)), pi)
    forward = gradient_of(lambda leaf: world.kl(ref, leaf), pi)
    return equal(found, forward if direction == "forward" else _kl_gradient(world, pi, ref))


@theorem(
    "B21.ratio-k1", section="kl.md#what-an-estimator-differentiates-to", source=TANG,
    broken={"the ratio is a constant": {"detached": True}, "samples of another policy, ratio 1": {"ratio": False}},
)  # fmt: skip
def k1_with_a_ratio_descends_the_reverse_kl(lab: Lab, *, detached: bool = False, ratio: bool = True) -> Verdict:
    """E_μ[∇(ρ·k1)] = ∇KL(π‖ref) and E_μ[ρ·k1] = KL(π‖ref) with ρ = π/μ, which carries the gradient.

    Proof: E_μ[ρ·x] = Σ π·x is KL(π‖ref) as a function of π, for every π, so that its gradient is that of KL.
    Experiment: a token tree, answers drawn by an old policy; the library's `k1_reverse` of an answer's log-probability.
    """
    return _with_ratio(lab, k1_reverse, k1, detached=detached, ratio=ratio)


@theorem(
    "B21.ratio-k3", section="kl.md#what-an-estimator-differentiates-to",
    source="DeepSeek-AI 2025, https://arxiv.org/abs/2512.02556; Tang and Munos 2025, https://arxiv.org/abs/2506.09477",
    broken={"the ratio is a constant": {"detached": True}, "samples of another policy, ratio 1": {"ratio": False}},
)  # fmt: skip
def k3_with_a_ratio_descends_the_reverse_kl(lab: Lab, *, detached: bool = False, ratio: bool = True) -> Verdict:
    """E_μ[∇(ρ·k3)] = ∇KL(π‖ref) and E_μ[ρ·k3] = KL(π‖ref) with ρ = π/μ, which carries the gradient.

    Proof: E_μ[ρ·k3] = Σ π·k3 = KL(π‖ref) for every π (B21.k3). Sample by sample the gradient is ρ·x·∇logπ.
    Experiment: a token tree, answers drawn by an old policy; the library's `k3_reverse` of an answer's log-probability.
    """
    return _with_ratio(lab, k3_reverse, k3, detached=detached, ratio=ratio)


@theorem(
    "B21.ratio-k2", section="kl.md#what-an-estimator-differentiates-to", source=TANG,
    broken={"k3 in its place": {"estimator": "k3"}},
)  # fmt: skip
def k2_with_a_ratio_does_not(lab: Lab, *, estimator: str = "k2") -> Verdict:
    """E_π[∇(ρ·k2)] = ∇E_π[k2] = E_π[(x + x²/2)·∇logπ], which is not ∇KL(π‖ref).

    Proof: With the ratio the gradient is that of the mean value, and k2's mean is not KL (B21.k2).
    Experiment: a token tree, answers' log-probabilities; both equations and the distance from ∇KL.
    """
    made = {"k2": k2, "k3": k3}[estimator]
    world, pi, ref = _world(lab, "reference")
    base, other = world.sequence_logprobs(pi), world.sequence_logprobs(ref)
    found = _of_answers(world, pi, lambda lp: token_ratio(lp, base) * made(lp, other), pi)
    x = base - other
    held = world.probabilities(pi) * (x + x**2 / 2)
    by_hand = gradient_of(lambda leaf: (held * world.sequence_logprobs(leaf)).sum(), pi)
    return every(equal(found, by_hand), apart(found, _kl_gradient(world, pi, ref)))


@theorem(
    "B21.k1-reward", section="kl.md#what-a-tokens-loss-leaves-out", source=TANG,
    broken={"each token pays for itself alone": {"gamma": 0.0}, "the sign of a bonus": {"sign": -1.0}},
)  # fmt: skip
def k1_in_the_reward_gives_the_whole_gradient(lab: Lab, *, gamma: float = 1.0, sign: float = 1.0) -> Verdict:
    """E_π[Σ_t R_t·∇logπ(y_t)] = ∇[J - β·KL(π‖ref)] with R_t = Σ_{k≥t} (r_k - β·sg[k1_k]).

    Proof: B1.a with the reward r(y) - β·x(y), whose own derivative E_π[∇x] is 0; what lies before token t drops out.
    Experiment: a token tree, β = 0.3; the library's returns and REINFORCE.
    """
    world, pi, ref = _world(lab, "reference")
    beta = 0.3
    lp, other = world.logprobs(pi), world.logprobs(ref)
    returns = kl_penalised_returns(world.rewards, sign * lp, sign * other, world.trained, beta=beta, gamma=1.0)
    if gamma != 1.0:  # the answer's reward still reaches every token
        own = kl_penalised_returns(torch.zeros_like(world.rewards), lp, other, world.trained, beta=beta, gamma=gamma)
        returns = own + world.rewards[:, None]
    found = -_as_loss(world, pi, lambda leaf: reinforce(leaf, returns).loss)
    return equal(found, _gradient(world, pi) - beta * _kl_gradient(world, pi, ref))


@theorem(
    section="kl.md#what-a-tokens-loss-leaves-out", source="derived here", broken={"the gradient of KL": {"claim": "reverse"}}
)  # fmt: skip
def k3_in_the_reward_is_off_by_the_forward_kl(lab: Lab, *, claim: str = "difference") -> Verdict:
    """E_π[sg[k3]·∇logπ] = ∇KL(π‖ref) - ∇KL(ref‖π): unbiased in value, k3 in the reward is the wrong gradient.

    Proof: E_π[(e^{-x} - 1 + x)∇logπ] = E_ref[∇logπ] - 0 + E_π[x∇logπ] = -∇KL(ref‖π) + ∇KL(π‖ref).
    Experiment: a token tree, the library's k3 of an answer's log-probability as a constant.
    """
    world, pi, ref = _world(lab, "reference")
    held = k3(world.sequence_logprobs(pi), world.sequence_logprobs(ref))
    found = _of_answers(world, pi, lambda lp: held * lp, pi)
    forward = gradient_of(lambda leaf: world.kl(ref, leaf), pi)
    reverse = _kl_gradient(world, pi, ref)
    return equal(found, reverse - forward if claim == "difference" else reverse)


@theorem(
    "B21.b", section="kl.md#what-a-tokens-loss-leaves-out", source=f"{TANG}; the missing term derived here",
    broken={"the whole gradient": {"visits": False}, "k3 per token, without a ratio": {"estimator": "k3"}},
)  # fmt: skip
def a_loss_on_tokens_leaves_out_the_future(lab: Lab, *, visits: bool = True, estimator: str = "k2") -> Verdict:
    """E_π[Σ_t ∇k2_t] = ∇KL(π‖ref) - Σ_s KL_s·∇d(s): how today's token changes tomorrow's prefixes is not in it.

    Proof: KL(π‖ref) = Σ_s d(s)·KL_s over prefixes s that an answer passes d(s) times; k2 of a token gives ∇KL_s at every s.
    Experiment: a token tree; the library's k2 per token, KL_s by its `kl_exact`. The missing part is not 0.
    """
    made = {"k2": k2, "k3": k3}[estimator]
    world, pi, ref = _world(lab, "reference")
    found = _as_loss(world, pi, lambda lp: made(lp, world.logprobs(ref)))
    each = kl_exact(pi, ref)[world.states].where(world.trained, 0.0).sum(-1)
    missing = gradient_of(lambda leaf: (world.probabilities(leaf) * each).sum(), pi)
    whole = _kl_gradient(world, pi, ref)
    return every(equal(found, whole - missing if visits else whole), apart(found, whole, by=1e-4))


@theorem(
    section="kl.md#what-an-estimator-differentiates-to", source="derived here", broken={"fresh samples": {"fresh": True}}
)  # fmt: skip
def k2_on_old_samples_is_another_gradient(lab: Lab, *, fresh: bool = False) -> Verdict:
    """E_μ[∇k2] = E_μ[x·∇logπ], which is not ∇KL(π‖ref) for μ ≠ π; and weighed by sg[π/μ] it is.

    Proof: ∇KL = E_π[x∇logπ], B21.k2-loss: an expectation under π, which a weight moves back (B11.a).
    Experiment: a token tree, an old policy; the library's k2 with and without the library's weight of an answer.
    """
    world, pi, ref = _world(lab, "reference")
    old = pi if fresh else lab.policy(world, "old")
    other = world.sequence_logprobs(ref)
    plain = _of_answers(world, pi, lambda lp: k2(lp, other), old)
    weights = _weights(world, pi, old)
    weighed = _of_answers(world, pi, lambda lp: weights * k2(lp, other), old)
    whole = _kl_gradient(world, pi, ref)
    return every(equal(weighed, whole), apart(plain, whole))


@theorem(
    "B21.c", section="kl.md#clamps", source="derived here; https://github.com/NVIDIA-NeMo/RL clamps so",
    broken={"the library's k3, not clamped": {"clamp": math.inf}, "at twice the value": {"clamp": 20.0}},
)  # fmt: skip
def a_clamped_k3_lets_go_where_it_should_hold(lab: Lab, *, clamp: float = 10.0) -> Verdict:
    """∂min(k3, 10)/∂logπ = 0 where log(ref/π) > 2.61 or log(π/ref) > 11; without the clamp it is 1 - e^{-x}, 0 only at x = 0.

    Proof: k3 = e^{-x} - 1 + x passes 10 at x = -2.6103 and x = 10.99998; beyond, the clamped value is constant.
    Experiment: the library's k3 over 601 values of x; in the twins the clamp is another one.
    """
    x = torch.linspace(-15, 15, 601, dtype=torch.float64) + 1e-3 * (lab.uniform("offset", 1) - 0.5)
    leaf = x.clone().requires_grad_()
    value = k3(leaf, torch.zeros_like(x)).clamp(-clamp, clamp)
    slope = torch.autograd.grad(value.sum(), leaf)[0]
    out = (x < -2.6103) | (x > 10.99998)
    expected = torch.where(out, 0.0, 1 - (-x).exp())
    middle = (x > -4) & (x < 12)
    curve = Curve(
        x=tuple(x[middle].tolist()), measured=tuple(slope[middle].tolist()),
        bound=tuple((1 - (-x[middle]).exp()).clamp(min=-15).tolist()), across="x = logπ - logref", up="slope, clamped",
    )  # fmt: skip
    return equal(slope, expected).drawn(curve)


@theorem(
    "B21.d", section="kl.md#metrics-on-another-policys-samples", source="derived here, for metrics of https://github.com/NVIDIA-NeMo/RL",
    broken={"the weight is left out": {"weighed": False}, "both seen from the mixture, as published": {"from_mixture": True}},
)  # fmt: skip
def the_divergence_of_two_engines_needs_a_weight(
    lab: Lab, *, weighed: bool = True, from_mixture: bool = False
) -> Verdict:
    """½·E_gen[k3(gen‖m)] + ½·E_gen[ρ·k3(train‖m)] = JSD(gen, train) with m = (gen + train)/2 and ρ = train/gen.

    Proof: B21.k3 under gen for the first half; for the second B21.ratio-k3, since the tokens were not drawn from train.
    Experiment: 300 pairs of distributions; the library's estimators against its `jsd`. As published: k3(m‖train) and k3(m‖gen).
    """
    gen, train = lab.simplex("engines", 2, 300, lab.arms)
    mixture, g, t = ((gen + train) / 2).log(), gen.log(), train.log()
    if from_mixture:
        halves = k3(mixture, g) + k3(mixture, t)
    else:
        halves = k3(g, mixture) + (k3_reverse(t, mixture, g) if weighed else k3(t, mixture))
    return equal((gen * halves).sum(-1) / 2, jsd(t, g, beta=0.5).loss)


@theorem(
    section="kl.md#metrics-on-another-policys-samples", source="derived here",
    broken={"KL of the target": {"claim": "kl"}, "KL of the sampler": {"claim": "kl of the sampler"}},
)  # fmt: skip
def k3_on_the_wrong_samples_is_a_chi_square(lab: Lab, *, claim: str = "chi-square") -> Verdict:
    """E_μ[k3(π‖μ)] = e^{D₂(μ‖π)} - 1 - KL(μ‖π): on the sampler's tokens k3 of the trainer is no KL at all.

    Proof: E_μ[μ/π] = e^{D₂(μ‖π)}, and E_μ[log(π/μ)] = -KL(μ‖π).
    Experiment: 300 pairs of distributions; the library's k3.
    """
    mu, pi = lab.simplex("pairs", 2, 300, lab.arms)
    found = (mu * k3(pi.log(), mu.log())).sum(-1)
    claims = {
        "chi-square": (mu**2 / pi).sum(-1) - 1 - kl_exact(mu.log(), pi.log()),
        "kl": kl_exact(pi.log(), mu.log()),
        "kl of the sampler": kl_exact(mu.log(), pi.log()),
    }
    return equal(found, claims[claim])


# ---------------------------------------------------------------------------------------------------------------------
# Between the two directions


@theorem(
    section="kl.md#between-the-two-directions", source="derived here; Agarwal et al. 2023, https://arxiv.org/abs/2306.13649",
    broken={"the limit is the KL, as libraries have it": {"scaled": False}, "the directions swapped": {"swapped": True}},
)  # fmt: skip
def the_mixed_divergence_vanishes_at_both_ends(lab: Lab, *, scaled: bool = True, swapped: bool = False) -> Verdict:
    """JSD_β/(β(1-β)) → KL(P‖Q) as β → 0 and → KL(Q‖P) as β → 1, so JSD_β itself → 0 at both ends.

    Proof: With M = βP + (1-β)Q, KL(Q‖M) = O(β²) and KL(P‖M) → KL(P‖Q) as β → 0; the other end by symmetry.
    Experiment: 200 teachers P and students Q; the library's `jsd` at β = 10⁻⁶ and 1 - 10⁻⁶, its KLs of both directions.
    """
    student, teacher = lab.normal("pairs", 2, 200, lab.arms)
    beta = 1e-6
    scale = beta * (1 - beta) if scaled else 1.0
    low, high = (jsd(student, teacher, beta=b).loss / scale for b in (beta, 1 - beta))
    ends = forward_kl(student, teacher).loss, reverse_kl(student, teacher).loss
    forward, reverse = reversed(ends) if swapped else ends
    x = torch.linspace(0.01, 0.99, 99, dtype=torch.float64).tolist()
    shown = [float(jsd(student[0], teacher[0], beta=b).loss) for b in x]
    curve = Curve(x=tuple(x), measured=tuple(shown), across="β", up="JSD of one pair")
    return every(within(low, forward, 1e-4), within(high, reverse, 1e-4)).drawn(curve)


@theorem(
    section="kl.md#between-the-two-directions", source="Lin 1991, https://doi.org/10.1109/18.61115",
    broken={"a KL in its place": {"mixed": False}},
)  # fmt: skip
def the_mixed_divergence_is_bounded(lab: Lab, *, mixed: bool = True) -> Verdict:
    """0 ≤ JSD_β(P, Q) ≤ -β·log β - (1-β)·log(1-β) ≤ log 2, whatever the two are.

    Proof: P/M ≤ 1/β and Q/M ≤ 1/(1-β), so that β·KL(P‖M) ≤ -β·log β and (1-β)·KL(Q‖M) ≤ -(1-β)·log(1-β).
    Experiment: 300 pairs of logits ten standard deviations wide, β from 0.1 to 0.9; the library's `jsd`.
    """
    student, teacher = 10 * lab.normal("pairs", 2, 300, lab.arms)
    verdicts = []
    for beta in (0.1, 0.3, 0.5, 0.7, 0.9):
        found = jsd(student, teacher, beta=beta).loss if mixed else reverse_kl(student, teacher).loss
        top = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        verdicts += [at_most(found, top), at_least(found, 0.0)]
    return every(*verdicts)


@theorem(
    section="kl.md#between-the-two-directions", source="Gu et al. 2023, https://arxiv.org/abs/2306.08543; derived here",
    broken={"both weigh by the reference": {"weight": "reference"}},
)  # fmt: skip
def the_forward_gradient_does_not_grow_with_the_ratio(lab: Lab, *, weight: str = "policy") -> Verdict:
    """∂KL(ref‖π)/∂z = π - ref, each entry within [-1, 1]; ∂KL(π‖ref)/∂z = π∘(x - KL(π‖ref)), weighed by the policy itself.

    Proof: Differentiate both by the logits: ∂logπ_b/∂z_a = 1[a = b] - π_a.
    Experiment: 200 pairs of logits; the library's two losses by automatic differentiation.
    """
    z, ref = lab.normal("pairs", 2, 200, lab.arms)
    p, q = z.softmax(-1), ref.softmax(-1)
    x = k1(p.log(), q.log())
    by_hand = (p if weight == "policy" else q) * (x - kl_exact(z, ref)[:, None])
    forward = gradient_of(lambda leaf: forward_kl(leaf, ref).loss.sum(), z)
    reverse = gradient_of(lambda leaf: reverse_kl(leaf, ref).loss.sum(), z)
    return every(equal(forward, p - q), equal(reverse, by_hand))


@theorem(
    section="kl.md#between-the-two-directions", source="derived here",
    broken={"for policies far apart too": {"step": 1.0}},
)  # fmt: skip
def both_directions_agree_to_second_order(lab: Lab, *, step: float = 1e-3) -> Verdict:
    """KL(π‖ref) and KL(ref‖π) have the same expansion ½·dᵀFd + O(‖d‖³), and their gradients become parallel as ref → π.

    Proof: Both second derivatives at ref are the Fisher information; B26.
    Experiment: a token tree, a reference 1/1000 from the policy; values within 1 %, gradients parallel to 10⁻⁴.
    """
    world, pi, _ = _world(lab)
    ref = pi + step * lab.normal("direction", *pi.shape)
    forward = gradient_of(lambda leaf: world.kl(ref, leaf), pi)
    return every(
        within(world.kl(pi, ref), world.kl(ref, pi), 0.01),
        parallel(forward, _kl_gradient(world, pi, ref), tolerance=1e-4),
    )


# ---------------------------------------------------------------------------------------------------------------------


def _world(lab: Lab, other: str = "sampler") -> tuple[World, Tensor, Tensor]:
    """(a token tree, a policy, a second one 0.7 standard deviations away)."""
    world = lab.tree()
    pi = lab.policy(world)
    return world, pi, pi + 0.7 * lab.normal(other, *pi.shape)


def _weights(world: World, pi: Tensor, mu: Tensor) -> Tensor:
    """`[S]` π(y)/μ(y)."""
    return sequence_product(world.logprobs(pi), world.logprobs(mu), world.trained)[:, 0]


def _gradient(world: World, pi: Tensor) -> Tensor:
    return gradient_of(world.expected_reward, pi)


def _kl_gradient(world: World, pi: Tensor, ref: Tensor) -> Tensor:
    return gradient_of(lambda leaf: world.kl(leaf, ref), pi)


def _as_loss(world: World, pi: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """E_π of the gradient of a loss on every token, summed over an answer."""
    drawn = world.probabilities(pi).detach()[:, None]
    return gradient_of(lambda leaf: (drawn * loss(world.logprobs(leaf)).where(world.trained, 0.0)).sum(), pi)


def _of_answers(world: World, pi: Tensor, loss: Callable[[Tensor], Tensor], sampler: Tensor) -> Tensor:
    """E_sampler of the gradient of a loss on whole answers' log-probabilities."""
    drawn = world.probabilities(sampler).detach()
    return gradient_of(lambda leaf: (drawn * loss(world.sequence_logprobs(leaf))).sum(), pi)


def _corrected_gradient(world: World, pi: Tensor, mu: Tensor, *, sequence: bool = True, weighed: bool = True) -> Tensor:
    """E_μ of -∇(weights · the library's REINFORCE)."""
    weights = tis(world.logprobs(pi), world.logprobs(mu), cap=1e12)  # so high that nothing is truncated
    if sequence:
        weights = sequence_product(world.logprobs(pi), world.logprobs(mu), world.trained)
    held = world.probabilities(mu)[:, None] * (weights if weighed else torch.ones_like(weights))
    advantages = world.rewards[:, None].expand_as(weights)

    def loss(leaf: Tensor) -> Tensor:
        return (held * reinforce(world.logprobs(leaf), advantages).loss.where(world.trained, 0.0)).sum()

    return -gradient_of(loss, pi)


def _with_ratio(
    lab: Lab, made: Callable[[Tensor, Tensor, Tensor], Tensor], plain: Callable[[Tensor, Tensor], Tensor],
    *, detached: bool, ratio: bool,
) -> Verdict:  # fmt: skip
    world, pi, ref = _world(lab, "reference")
    old = lab.policy(world, "old")
    before, other = world.sequence_logprobs(old), world.sequence_logprobs(ref)

    def loss(lp: Tensor) -> Tensor:
        if detached:
            return token_ratio(lp.detach(), before) * plain(lp, other)
        return made(lp, other, before if ratio else lp.detach())

    value = (world.probabilities(old) * loss(world.sequence_logprobs(pi))).sum()
    return every(
        equal(_of_answers(world, pi, loss, old), _kl_gradient(world, pi, ref)), equal(value, world.kl(pi, ref))
    )


def _unbiased(lab: Lab, made: Callable[[Tensor, Tensor], Tensor], sampled_by: str) -> Verdict:
    world, pi, ref = _world(lab, "reference")
    drawn = {"policy": pi, "reference": ref, "old": lab.policy(world, "old")}[sampled_by]
    each = made(world.logprobs(pi), world.logprobs(ref)).where(world.trained, 0.0).sum(-1)
    return equal((world.probabilities(drawn) * each).sum(), world.kl(pi, ref))


def _pairs(lab: Lab, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probabilities of n policies, of their references from near to far, steps of another kind)."""
    logits, way, other = lab.normal("pairs", 3, n, lab.arms)
    scale = torch.logspace(-1.5, 0.3, n, dtype=torch.float64)[:, None]
    return logits.log_softmax(-1), (logits + scale * way).log_softmax(-1), other


def _variance(p: Tensor, values: Tensor) -> Tensor:
    centre = (p * values).sum(-1, keepdim=True)
    return (p * (values - centre).square()).sum(-1)


def _centred(values: Tensor) -> Tensor:
    """Without the part that no softmax sees, and of length 1."""
    values = values - values.mean()
    return values / values.norm()
