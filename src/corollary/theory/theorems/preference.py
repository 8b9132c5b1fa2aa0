"""docs/theory/preference.md: DPO from the regularised optimum, its population optimum, noise, displacement, turns and rankings."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Protocol

import torch
from torch import Tensor

from corollary.losses.preference import cdpo, dpo, dpo_nll, hinge, ipo, robust_dpo
from corollary.losses.preference_variants import cpo, odds_ratio, simpo
from corollary.losses.unpaired import bco, kto
from corollary.ops.kl import kl_exact
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import World, gradient_of
from corollary.theory.verdict import Curve, Verdict, at_least, at_most, equal, every
from corollary.types import Terms

RAFAILOV = "Rafailov et al. 2023, https://arxiv.org/abs/2305.18290"
AZAR = "Azar et al. 2023, https://arxiv.org/abs/2310.12036"
RAZIN = "Razin et al. 2024, https://arxiv.org/abs/2410.08847"
RATES = (0.05, 0.1, 0.25, 0.4)  # shares of flipped labels
BETAS = torch.logspace(-2, 1, 30, dtype=torch.float64).tolist()


class Pairwise(Protocol):
    """A loss of pairs whose labels are wrong at a rate."""

    def __call__(
        self, chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, /, *, beta: float, flip_rate: float
    ) -> Terms: ...  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# From a reward to pairs


@theorem(
    "B7.a", section="preference.md#from-a-reward-to-pairs", source=RAFAILOV,
    broken={"without the normaliser": {"normalised": False}, "reference and policy swapped": {"sign": -1.0}, "β forgotten": {"price": 1.0}},
)  # fmt: skip
def the_optimum_states_its_reward(
    lab: Lab, *, normalised: bool = True, sign: float = 1.0, price: float = 0.5
) -> Verdict:
    """β·log(π*(y)/ref(y)) = r(y) - β·log Z, with π* = argmax E_π r - β·KL(π‖ref) and Z = E_ref[e^{r/β}]

    Proof: E_π r - β·KL(π‖ref) = β·log Z - β·KL(π‖ref·e^{r/β}/Z), so π* = ref·e^{r/β}/Z. Take logarithms.
    Experiment: a token tree, β = ½. π* token by token, from the soft values of its prefixes; its log-ratios by `dpo`'s metrics.
    """
    beta, world = 0.5, lab.tree()
    theta = lab.policy(world, "reference")
    ref, best = world.sequence_logprobs(theta), world.sequence_logprobs(_optimum(world, theta, beta))
    implicit = dpo(best, best, ref, ref, beta=price).metrics["reward_chosen"]
    log_z = (ref + world.rewards / beta).logsumexp(0) if normalised else 0.0
    return equal(sign * implicit, world.rewards - beta * log_z)


@theorem(
    section="preference.md#from-a-reward-to-pairs", source=RAFAILOV,
    broken={"a constant of each answer": {"by_answer": 1.0}},
)  # fmt: skip
def a_constant_of_the_prompt_is_invisible(lab: Lab, *, by_answer: float = 0.0) -> Verdict:
    """r and r + c have the same preferences σ(r(y) - r(y')) and the same optimum π*

    Proof: c drops out of every difference, and of e^{(r+c)/β}/Σ e^{(r+c)/β}.
    Experiment: a random constant; preferences of all pairs of a tree's answers, and π* token by token.
    """
    world, beta = lab.tree(), 0.5
    theta = lab.policy(world, "reference")
    shift = 3 * lab.normal("constant", 1) + by_answer * lab.normal("answers", len(world.rewards))
    other = world.earning(world.rewards + shift)
    won, lost = _pairs(len(world.rewards))
    laws = [world.probabilities(_optimum(w, theta, beta)) for w in (world, other)]
    stated = [(w.rewards[won] - w.rewards[lost]).sigmoid() for w in (world, other)]
    return every(equal(stated[0], stated[1], where="preferences"), equal(laws[0], laws[1], where="π*"))


# ---------------------------------------------------------------------------------------------------------------------
# The population optimum


@theorem(
    "B7.b", section="preference.md#the-population-optimum", source=RAFAILOV,
    broken={
        "an answer that is never compared": {"connected": False}, "labels by the better answer alone": {"sharpness": math.inf},
        "the optimum of half β": {"price": 0.25},
    },
)  # fmt: skip
def dpo_has_one_optimum(lab: Lab, *, connected: bool = True, sharpness: float = 1.0, price: float = 0.5) -> Verdict:
    """argmin_π E[-log σ(β·(Δ(y_w) - Δ(y_l)))] = π*, and no other policy, where y_w wins with σ(r(y_w) - r(y_l))

    Conditions: π ranges over all policies; comparisons connect all answers; the reference leaves none out.
    Proof: of a pair the loss is the cross-entropy of σ(r - r') and σ(z), least exactly at z = r - r'. By B7.a π* has that margin for
        all pairs at once. The loss is strictly convex in every margin, and if comparisons connect the answers the margins fix all Δ up to a
        constant, which Σ π = 1 fixes.
    Experiment: all pairs of a tree's answers; Newton's method on one logit per answer, from the reference; the smallest curvature of the loss
        across differences of logits must be positive.
    """
    beta, world = 0.5, lab.tree()
    theta = lab.policy(world, "reference")
    ref, best = world.sequence_logprobs(theta), world.probabilities(_optimum(world, theta, price))
    won, lost = _pairs(len(ref))
    if not connected:
        won, lost = won[(keep := (won > 0) & (lost > 0))], lost[keep]
    gap = world.rewards[won] - world.rewards[lost]
    chance = gap.sigmoid() if sharpness == 1 else (gap > 0).double()

    def terms(chosen: Tensor, rejected: Tensor) -> Tensor:
        return 2 * chance / len(won) * dpo(chosen, rejected, ref[won], ref[lost], beta=beta).loss

    found, curvature = _fitted(terms, won, lost, ref)
    least = torch.linalg.eigvalsh(curvature)[1]  # the smallest is 0: a constant in all logits
    return every(
        equal(found.softmax(-1), best, 1e-9, where="π*"), at_least(least * len(ref), 1e-6, slack=0.0, where="curvature")
    )


@theorem(
    "B7.c", section="preference.md#the-population-optimum", source=RAFAILOV,
    broken={"at the reference": {"optimal": False}, "in bits": {"unit": math.log(2)}},
)  # fmt: skip
def dpos_least_value_is_the_labels_entropy(lab: Lab, *, optimal: bool = True, unit: float = 1.0) -> Verdict:
    """min_π E[-log σ(z)] = mean over pairs of H(σ(r(y) - r(y'))), where H(p) = -p·log p - (1-p)·log(1-p)

    Proof: a cross-entropy is the entropy and a KL, which is 0 at π*.
    Experiment: all pairs of a tree's answers at π*; 100 other policies lie above.
    """
    beta, world = 0.5, lab.tree()
    theta = lab.policy(world, "reference")
    ref = world.sequence_logprobs(theta)
    best = world.sequence_logprobs(_optimum(world, theta, beta)) if optimal else ref
    won, lost = _pairs(len(ref))
    p = (world.rewards[won] - world.rewards[lost]).sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).mean() / unit
    others = best + lab.uniform("how far", 100, 1) * lab.normal("others", 100, len(ref))
    above = torch.stack([_population(o.log_softmax(-1), ref, won, lost, p, beta) for o in others])
    return every(
        equal(_population(best, ref, won, lost, p, beta), entropy, where="at π*"),
        at_least(above, entropy, where="others"),
    )


@theorem(
    section="preference.md#the-population-optimum", source=RAFAILOV,
    broken={"the references of the two answers swapped": {"swapped": True}, "no reference": {"counted": 0.0}},
)  # fmt: skip
def a_run_starts_at_log_2(lab: Lab, *, swapped: bool = False, counted: float = 1.0) -> Verdict:
    """π = ref  ⇒  DPO = cDPO = rDPO = log 2, hinge = 1, IPO = 1/(4τ²), whatever the pair and whatever β

    Proof: Δ = 0 for both answers, so z = 0, and -log σ(0) = log 2.
    Experiment: all pairs of a tree's answers, β from 0.01 to 10.
    """
    world, tau = lab.tree(), 0.3
    logs = world.sequence_logprobs(lab.policy(world))
    won, lost = _pairs(len(logs))
    refs = counted * logs[lost if swapped else won], counted * logs[won if swapped else lost]
    found = torch.stack([
        loss(logs[won], logs[lost], *refs, beta=beta).loss for loss in (dpo, cdpo, robust_dpo) for beta in BETAS
    ])  # fmt: skip
    return every(
        equal(found, math.log(2), where="log 2"),
        equal(hinge(logs[won], logs[lost], *refs, beta=0.1).loss, 1.0, where="hinge"),
        equal(ipo(logs[won], logs[lost], *refs, tau=tau).loss, 1 / (4 * tau**2), where="IPO"),
    )


# ---------------------------------------------------------------------------------------------------------------------
# The gradient


@theorem(
    "B7.d", section="preference.md#the-gradient-and-its-weight", source=RAFAILOV,
    broken={"σ(z) for σ(-z)": {"sign": 1.0}, "β forgotten": {"price": 1.0}, "both answers up": {"rejected": -1.0}},
)  # fmt: skip
def dpos_gradient_weighs_by_error(
    lab: Lab, *, sign: float = -1.0, price: float = 0.3, rejected: float = 1.0
) -> Verdict:
    """∇L = -β·σ(-z)·(∇logπ(y_w) - ∇logπ(y_l))

    Proof: d(-log σ(z))/dz = σ(z) - 1 = -σ(-z), and ∇z = β·(∇logπ(y_w) - ∇logπ(y_l)): the reference is constant.
    Experiment: every pair of a tree's answers, all logits of the table, by automatic differentiation of `dpo`.
    """
    beta, world = 0.3, lab.tree()
    theta, ref = lab.policy(world), world.sequence_logprobs(lab.policy(world, "reference"))
    won, lost = _some_pairs(len(ref))
    found = _pair_gradients(
        world, theta, lambda y, other: dpo(y, other, ref[won], ref[lost], beta=beta).loss, won, lost
    )
    scores, logs = world.scores(theta), world.sequence_logprobs(theta)
    z = beta * ((logs - ref)[won] - (logs - ref)[lost])
    weight = price * (sign * z).sigmoid()
    x = torch.linspace(-6, 6, 61, dtype=torch.float64)
    curve = Curve(x=tuple(x.tolist()), measured=tuple((-x).sigmoid().tolist()), across="z", up="weight of a pair, in β")
    return equal(found, -weight[:, None, None] * (scores[won] - rejected * scores[lost])).drawn(curve)


@theorem(
    section="preference.md#the-family-as-one-picture", source="Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306",
    broken={"the logistic loss on single answers": {"logistic": True}, "an eighth": {"most": 0.125}},
)  # fmt: skip
def kto_pulls_hardest_at_its_baseline(lab: Lab, *, logistic: bool = False, most: float = 0.25) -> Verdict:
    """|∂KTO/∂logπ(y)| = λβ·σ(u)·σ(-u) ≤ λβ/4, u = β·(Δ - z₀): an answer far on either side is let go

    Proof: σ' = σ(u)·σ(-u), a product of two positive numbers that add up to 1: at most ¼, where both are ½.
    Experiment: 401 log-ratios from -40 to 40 nats, desirable and not, β = 0.4, λ = 1.5. In the twin BCO, whose pull does not die.
    """
    beta, weight, baseline = 0.4, 1.5, torch.tensor(2.0, dtype=torch.float64)
    x = torch.linspace(-40, 40, 401, dtype=torch.float64)
    both = torch.cat([x, x])
    good = torch.arange(802) < 401

    def loss(logs: Tensor) -> Tensor:
        zero = torch.zeros_like(logs)
        if logistic:
            return weight * bco(logs, zero, good, beta * baseline, beta=beta).loss.sum()
        return kto(logs, zero, good, baseline, beta=beta, desirable_weight=weight, undesirable_weight=weight).loss.sum()

    pull = gradient_of(loss, both).abs()
    u = beta * (both - baseline)
    curve = Curve(x=tuple(x.tolist()), measured=tuple(pull[:401].tolist()), across="Δ (nats)", up="pull")
    return every(
        equal(pull, weight * beta * u.sigmoid() * (-u).sigmoid(), where="formula"),
        at_most(pull, weight * beta * most, where="most"),
        at_most(pull[[0, 400, 401, 801]], 1e-5, where="far out"),
    ).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# Without a reference


@theorem(
    section="preference.md#without-a-reference", source="derived here, for the loss of Xu et al. 2024, https://arxiv.org/abs/2401.08417",
    broken={"the policy it began at counts": {"kept": 1.0}, "β forgotten": {"price": 1.0}},
)  # fmt: skip
def without_a_reference_the_optimum_forgets_it(lab: Lab, *, kept: float = 0.0, price: float = 0.5) -> Verdict:
    """argmin_π E[-log σ(β·(logπ(y_w) - logπ(y_l)))] = e^{r/β}/Σ e^{r/β}: answers as likely as they are good, language or not

    Conditions: as B7.b, with the labels of all pairs.
    Proof: it is DPO with a reference that gives all answers the same probability, and B7.b.
    Experiment: all pairs of a tree's answers, `cpo` without its likelihood; Newton's method on one logit for each answer.
    """
    beta, world = 0.5, lab.tree()
    began = world.sequence_logprobs(lab.policy(world))
    won, lost = _pairs(len(began))
    chance = (world.rewards[won] - world.rewards[lost]).sigmoid()
    once = torch.ones_like(chance)

    def terms(chosen: Tensor, rejected: Tensor) -> Tensor:
        return 2 * chance / len(won) * cpo(chosen, rejected, once, once[0], beta=beta, nll_weight=0.0).loss

    found, _ = _fitted(terms, won, lost, torch.zeros_like(began))
    return equal(found.softmax(-1), (kept * began + world.rewards / price).softmax(-1), 1e-9)


@theorem(
    section="preference.md#without-a-reference", source="derived here, for the loss of Meng et al. 2024, https://arxiv.org/abs/2405.14734",
    broken={"the log-odds, as for DPO": {"added": 0.0}, "the log-odds and γ": {"added": 1.0}},
)  # fmt: skip
def a_target_margin_exaggerates_preferences(lab: Lab, *, added: float | None = None) -> Verdict:
    """argmin_u p·ℓ(u - γ) + (1-p)·ℓ(-u - γ) = log x, ℓ = -log σ, is further from 0 than logit p if γ > 0, and 0 at p = ½

    x = (2p - 1 + √((2p-1)² + 4p(1-p)·c²)) / (2(1-p)·c), c = e^{-γ}; u = β times the difference of mean log-probabilities.
    Proof: at rest p·σ(γ-u) = (1-p)·σ(γ+u), which is (1-p)·c·x² - (2p-1)·x - p·c = 0 for x = e^u. The left side at u = logit p > 0 is the
        larger, as p/(1-p) = e^u > σ(γ+u)/σ(γ-u).
    Experiment: 41 p, γ from 0.3 to 3: the derivative of `simpo` at that u, and |u| against |logit p|; the figure: γ = 1.
    """
    p, once = torch.linspace(0.02, 0.98, 41, dtype=torch.float64), torch.ones(41, dtype=torch.float64)
    slopes, beyond = [], []
    for gamma in (0.3, 1.0, 3.0):
        u = _simpo_rest(p, gamma) if added is None else torch.logit(p) + added * gamma * (p - 0.5).sign()
        slopes.append(gradient_of(lambda u, g=gamma: _mixed(
            lambda won, lost, *_, g=g: simpo(won, lost, once, once, beta=1.0, gamma=g), u, p
        ).sum(), u))  # fmt: skip
        beyond.append(u.abs() - torch.logit(p).abs())
    curve = Curve(
        x=tuple(p.tolist()), measured=tuple(_simpo_rest(p, 1.0).tolist()), bound=tuple(torch.logit(p).tolist()),
        across="p", up="margin of SimPO, γ = 1; dashed: log-odds",
    )  # fmt: skip
    return every(
        equal(torch.cat(slopes), 0.0, where="at rest"), at_least(torch.cat(beyond), 0.0, where="beyond the log-odds")
    ).drawn(curve)


@theorem(
    section="preference.md#without-a-reference", source="derived here",
    broken={"by sums": {"mean": False}},
)  # fmt: skip
def a_likely_token_more_is_a_better_answer(lab: Lab, *, mean: bool = True) -> Verdict:
    """SimPO(y·a ≻ y) = -log σ(β·(logπ(a|y) - x̄(y))/(t+1)): one token more wins if it is likelier than y's t tokens are on average

    Conditions: γ = 0; x̄ is the mean log-probability of a token.
    Proof: x̄(y·a) - x̄(y) = (logπ(y) + logπ(a|y))/(t+1) - x̄(y), and logπ(y) = t·x̄(y). By sums the difference is logπ(a|y) ≤ 0: no token wins.
    Experiment: every prefix of a tree's answers with its next token, `simpo`.
    """
    beta, world = 0.7, lab.eos_tree()
    logs = world.logprobs(lab.policy(world))
    inside = world.trained[:, 1:]
    sums, more = logs.cumsum(-1)[:, :-1][inside], logs[:, 1:][inside]
    t = torch.arange(1, logs.shape[1]).expand_as(inside)[inside]
    if mean:
        found = simpo(sums + more, sums, t + 1, t, beta=beta, gamma=0.0).loss
    else:
        found = cpo(sums + more, sums, t, t[0], beta=beta, nll_weight=0.0).loss
    return equal(found, -torch.nn.functional.logsigmoid(beta * (more - sums / t) / (t + 1)))


@theorem(
    section="preference.md#without-a-reference", source="derived here, for the odds of Hong et al. 2024, https://arxiv.org/abs/2403.07691",
    broken={"the chosen one is the less likely": {"ordered": False}},
)  # fmt: skip
def odds_stretch_what_is_likely(lab: Lab, *, ordered: bool = True) -> Verdict:
    """x̄_w ≥ x̄_l  ⇒  o_w - o_l ≥ x̄_w - x̄_l for the log-odds o = x̄ - log(1 - e^x̄); both differences are one for unlikely answers

    Proof: do/dx̄ = 1/(1 - e^x̄) ≥ 1, and it is 1 + e^x̄ + … for small e^x̄.
    Experiment: 500 pairs of mean log-probabilities from -6 to 0, `odds_ratio` against `simpo` with β = 1 and γ = 0; and from -46 to -40.
    """
    lows, highs = (-6 * lab.uniform("means", 2, 500)).clamp(max=-1e-3).sort(0).values
    won, lost = (highs, lows) if ordered else (lows, highs)
    once = torch.ones_like(won)
    odds, plain = odds_ratio(won, lost, once, once).loss, simpo(won, lost, once, once, beta=1.0, gamma=0.0).loss
    far = odds_ratio(won - 40, lost - 40, once, once).loss
    return every(at_most(odds, plain, where="likely"), equal(far, plain, where="unlikely"))


# ---------------------------------------------------------------------------------------------------------------------
# IPO


@theorem(
    "B8.a", section="preference.md#identity-preferences", source=AZAR,
    broken={"as if no label disagreed": {"certain": True}, "half of it": {"share": 0.5}, "DPO's log-odds": {"odds": True}},
)  # fmt: skip
def ipos_margin_is_linear_in_the_preference(
    lab: Lab, *, certain: bool = False, share: float = 1.0, odds: bool = False
) -> Verdict:
    """argmin_Δ p·(Δ - 1/(2τ))² + (1-p)·(-Δ - 1/(2τ))² = (p - ½)/τ

    Proof: the derivative is 2Δ - (2p-1)/τ, and the loss is convex.
    Experiment: the derivative of `ipo` at that margin must vanish, for 41 p and τ from 0.01 to 1; DPO's margin is drawn beside it.
    """
    p = torch.linspace(0.02, 0.98, 41, dtype=torch.float64)
    slopes = []
    for tau in (0.01, 0.1, 0.3, 1.0):
        target = torch.logit(p) / tau if odds else (torch.ones_like(p) if certain else p) - 0.5
        target = target * (1 if odds else share / tau)
        slopes.append(gradient_of(lambda d, tau=tau: _mixed(lambda *a: ipo(*a, tau=tau), d, p).sum(), target) * tau)
    curve = Curve(
        x=tuple(p.tolist()), measured=tuple(((p - 0.5) / 0.1).tolist()), bound=tuple((torch.logit(p) / 0.1).tolist()),
        across="p", up="margin of IPO; dashed: of DPO, τ = β = 0.1",
    )  # fmt: skip
    return equal(torch.cat(slopes), 0.0).drawn(curve)


@theorem(
    "B8.b", section="preference.md#identity-preferences", source=AZAR,
    broken={"one label in ten disagrees": {"p": 0.9}},
)  # fmt: skip
def certain_labels_stop_ipo_and_not_dpo(lab: Lab, *, p: float = 1.0) -> Verdict:
    """p = 1: IPO is at rest at Δ = 1/(2τ); DPO nowhere, as -dL/dΔ ≥ β·e^{-z}/2 at every z = βΔ ≥ 0, so that Δ grows without end

    Proof: IPO: B8.a with p = 1. DPO: -dL/dΔ = β·σ(-z) = β·e^{-z}/(1+e^{-z}) ≥ β·e^{-z}/2. Along z' = c·e^{-z}, z = log(1 + c·t) → ∞.
    Experiment: the derivative of `ipo` at 1/(2τ) for τ from 0.01 to 1; that of `dpo` for margins z from 0 to 600.
    """
    beta, zero = 0.1, torch.zeros(1, dtype=torch.float64)
    at_rest = torch.cat([
        gradient_of(lambda d, tau=tau: _mixed(lambda *a: ipo(*a, tau=tau), d, p).sum(), zero + 1 / (2 * tau)) * tau
        for tau in (0.01, 0.1, 0.3, 1.0)
    ])  # fmt: skip
    z = torch.linspace(0, 600, 301, dtype=torch.float64)
    pull = -gradient_of(lambda d: _mixed(lambda *a: dpo(*a, beta=beta), d, p).sum(), z / beta)
    near = slice(0, 11)
    curve = Curve(
        x=tuple(z[near].tolist()), measured=tuple(pull[near].tolist()), bound=tuple((beta * (-z[near]).exp() / 2).tolist()),
        across="z", up="pull of DPO", log_y=True,
    )  # fmt: skip
    return every(equal(at_rest, 0.0, where="IPO"), at_least(pull.log(), math.log(beta / 2) - z, where="DPO")).drawn(
        curve
    )


@theorem(
    "B8.c", section="preference.md#identity-preferences", source=AZAR,
    broken={
        "preference over the reference's answers": {"over_ref": True}, "log-odds of preference": {"odds": True},
        "KL at half price": {"price": 0.5},
    },
)  # fmt: skip
def ipo_maximises_the_preference_itself(
    lab: Lab, *, over_ref: bool = False, odds: bool = False, price: float = 1.0
) -> Verdict:
    """argmin_π E_{y,y'~μ} IPO = argmax_π P(π ≻ μ) - τ·KL(π‖ref) ∝ ref(y)·exp(P(y ≻ μ)/τ)

    Conditions: both answers of a pair are drawn by μ, independently; preferences need not be transitive.
    Proof: by B8.a a pair's loss is 1·(Δ(y) - Δ(y') - (p(y,y')-½)/τ)² and a constant. Least squares: s(y) = Σ_{y'} μ(y')·(p(y,y')-½)/τ
        solves the normal equations, since p(y,y') + p(y',y) = 1. The right side is the regularised optimum for the reward P(y ≻ μ).
    Experiment: arms + 2 answers, random preferences, μ and ref; Newton's method on `ipo`.
    """
    k, tau = lab.arms + 2, 0.4
    ref, mu = lab.simplex("reference", k), lab.simplex("sampler", k)
    upper = lab.uniform("preferences", k, k).triu(1)
    p = upper + (1 - upper.T).tril(-1) + 0.5 * torch.eye(k, dtype=torch.float64)
    won, lost = _pairs(k)
    weight = 2 * mu[won] * mu[lost]  # a pair comes in two orders

    def terms(chosen: Tensor, rejected: Tensor) -> Tensor:
        return weight * p[won, lost] * ipo(chosen, rejected, ref.log()[won], ref.log()[lost], tau=tau).loss

    found, _ = _fitted(terms, won, lost, ref.log(), steps=2)
    reward = (torch.logit(p) if odds else p) @ (ref if over_ref else mu)
    best = (ref.log() + reward / (price * tau)).softmax(-1)
    return equal(found.softmax(-1), best, 1e-10)


# ---------------------------------------------------------------------------------------------------------------------
# What β does


@theorem(
    section="preference.md#what-beta-does", source=RAFAILOV,
    broken={"times β": {"power": 1.0}, "the log of p for its log-odds": {"odds": False}},
)  # fmt: skip
def dpos_margin_is_the_log_odds_over_beta(lab: Lab, *, power: float = -1.0, odds: bool = True) -> Verdict:
    """argmin_Δ p·DPO(Δ) + (1-p)·DPO(-Δ) = logit(p)/β nats: ten times β is a tenth of the way from the reference

    Proof: the derivative is β·(σ(βΔ) - p), and rises.
    Experiment: 41 p, β from 0.01 to 10, the derivative of `dpo` at that margin; the figure: p = 0.8.
    """
    p = torch.linspace(0.02, 0.98, 41, dtype=torch.float64)
    wanted = torch.logit(p) if odds else p.log()
    slopes = [
        gradient_of(lambda d, b=b: _mixed(lambda *a: dpo(*a, beta=b), d, p).sum(), wanted * b**power) / b for b in BETAS
    ]
    curve = Curve(
        x=tuple(BETAS), measured=tuple(math.log(4) / b for b in BETAS), across="β", up="margin (nats)", log_x=True, log_y=True
    )  # fmt: skip
    return equal(torch.cat(slopes), 0.0).drawn(curve)


@theorem(
    section="preference.md#what-beta-does", source="derived here",
    broken={"β forgotten": {"counted": 0.0}, "a sixteenth": {"constant": 1 / 16}},
)  # fmt: skip
def beta_squares_the_kl_away(lab: Lab, *, counted: float = 2.0, constant: float = 0.125) -> Verdict:
    """KL(π*‖ref) ≤ R²/(8β²), with R the range of r: a larger β holds every optimum of DPO nearer to the reference

    Proof: with λ = 1/β, ψ(λ) = log E_ref[e^{λr}] has KL(π*‖ref) = λψ'(λ) - ψ(λ), whose derivative in λ is λψ''(λ), λ times the
        variance of r under a tilt, at most λR²/4 (Popoviciu). Integrate from 0.
    Experiment: 200 references and rewards over 8 answers, and fair coins, where it is nearly tight, β from 0.01 to 10.
    """
    ref, r = lab.simplex("reference", 200, 8), lab.uniform("rewards", 200, 8)
    coin = torch.tensor([[0.5, 0.5, *[1e-300] * 6]], dtype=torch.float64)
    ref, r = torch.cat([ref, coin]), torch.cat([r, torch.tensor([[1.0, *[0.0] * 7]], dtype=torch.float64)])
    span = (r.max(-1).values - r.min(-1).values) ** 2
    found = [kl_exact((ref.log() + r / b).log_softmax(-1), ref.log()) for b in BETAS]
    stated = [constant * span / b**counted for b in BETAS]
    curve = Curve(
        x=tuple(BETAS), measured=tuple(float(v[-1]) for v in found), bound=tuple(float(v[-1]) for v in stated),
        across="β", up="KL, fair coin", log_x=True, log_y=True,
    )  # fmt: skip
    falls = at_most(torch.stack(found[1:]), torch.stack(found[:-1]), where="larger β")
    return every(falls, at_most(torch.stack(found), torch.stack(stated), where="bound")).drawn(curve)


# ---------------------------------------------------------------------------------------------------------------------
# Noisy labels


@theorem(
    "B7.e", section="preference.md#noisy-labels", source="Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409",
    broken={"smoothed labels": {"loss": cdpo}, "half the rate assumed": {"assumed": 0.5}},
)  # fmt: skip
def robust_dpo_is_unbiased(lab: Lab, *, loss: Pairwise = robust_dpo, assumed: float = 1.0) -> Verdict:
    """(1-ε)·rDPO(y_w, y_l) + ε·rDPO(y_l, y_w) = DPO(y_w, y_l)

    Conditions: a label is flipped with probability ε < ½, whatever the pair.
    Proof: with a = -log σ(z), b = -log σ(-z): [(1-ε)·((1-ε)a - εb) + ε·((1-ε)b - εa)]/(1-2ε) = a·((1-ε)² - ε²)/(1-2ε) = a.
    Experiment: 200 pairs, four rates.
    """
    won, lost, ref_won, ref_lost = 8 * lab.normal("pairs", 4, 200)
    clean = dpo(won, lost, ref_won, ref_lost, beta=0.3).loss
    seen = []
    for eps in RATES:
        right = loss(won, lost, ref_won, ref_lost, beta=0.3, flip_rate=assumed * eps).loss
        wrong = loss(lost, won, ref_lost, ref_won, beta=0.3, flip_rate=assumed * eps).loss
        seen.append((1 - eps) * right + eps * wrong)
    return equal(torch.stack(seen), clean)


@theorem(
    "B7.f", section="preference.md#noisy-labels", source="Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO",
    broken={"the log of 1-ε for its log-odds": {"odds": False}, "β forgotten": {"counted": 0.0}},
)  # fmt: skip
def conservative_dpo_stops_at_the_labels_log_odds(lab: Lab, *, odds: bool = True, counted: float = 1.0) -> Verdict:
    """argmin_z cDPO = log((1-ε)/ε), which is Δ = logit(1-ε)/β nats

    Proof: d/dz[-(1-ε)·log σ(z) - ε·log σ(-z)] = σ(z) - (1-ε), which rises and is 0 there.
    Experiment: four rates, β from 0.01 to 10, the derivative of `cdpo` at that margin; the figure: the loss of ε = 0.1.
    """
    slopes, zero = [], torch.zeros(1, dtype=torch.float64)
    for eps in RATES:
        target = math.log((1 - eps) / eps) if odds else -math.log(1 - eps)
        for beta in BETAS:
            at = zero + target / beta**counted
            slopes.append(
                gradient_of(lambda d, e=eps, b=beta: cdpo(d, zero, zero, zero, beta=b, flip_rate=e).loss.sum(), at) / beta
            )  # fmt: skip
    z = torch.linspace(-4, 8, 61, dtype=torch.float64)
    loss = cdpo(z, 0 * z, 0 * z, 0 * z, beta=1.0, flip_rate=0.1).loss
    curve = Curve(x=tuple(z.tolist()), measured=tuple(loss.tolist()), across="z", up="cDPO, ε = 0.1")
    return equal(torch.cat(slopes), 0.0).drawn(curve)


@theorem(
    section="preference.md#noisy-labels", source="derived here",
    broken={"of the clean preference": {"flips": 0.0}, "β forgotten": {"price": 1.0}},
)  # fmt: skip
def flips_shrink_what_dpo_believes(lab: Lab, *, flips: float = 1.0, price: float = 0.5) -> Verdict:
    """DPO on labels a share ε of which is flipped ends at the margin logit((1-ε)p + ε(1-p))/β, nearer to 0 than logit(p)/β

    Proof: the flipped label prefers the first answer with q = (1-ε)p + ε(1-p), and DPO's margin is q's log-odds over β. q lies between p and ½.
    Experiment: 41 p, four rates, β = ½: the derivative of DPO's mean over labels at that margin, and |margin| against the clean one.
    """
    beta, p = 0.5, torch.linspace(0.02, 0.98, 41, dtype=torch.float64)
    slopes, shrunk = [], []
    for eps in RATES:
        q = (1 - eps) * p + eps * (1 - p)
        margin = torch.logit((1 - flips) * p + flips * q) / price
        right = _mixed(lambda *a: dpo(*a, beta=beta), margin.requires_grad_(), p)
        wrong = _mixed(lambda *a: dpo(*a, beta=beta), -margin, p)
        slopes.append(torch.autograd.grad(((1 - eps) * right + eps * wrong).sum(), margin)[0])
        shrunk.append(margin.detach().abs() - (torch.logit(p) / beta).abs())
    return every(equal(torch.cat(slopes), 0.0, where="at rest"), at_most(torch.cat(shrunk), 0.0, where="shrunk"))


# ---------------------------------------------------------------------------------------------------------------------
# Displacement, and likelihood against it


@theorem(
    section="preference.md#likelihood-displacement", source=RAZIN,
    broken={"without the mean": {"centred": 0.0}, "σ(z) for σ(-z)": {"sign": 1.0}},
)  # fmt: skip
def where_a_step_of_dpo_moves_the_answers(lab: Lab, *, centred: float = 1.0, sign: float = -1.0) -> Verdict:
    """π(y) ∝ e^{θ·h(y)}:  along -∇L, dlogπ(y)/dt = β·σ(-z)·(h(y) - E_π h)·(h(y_w) - h(y_l)), for every y

    Proof: ∇logπ(y) = h(y) - E_π h; E_π h drops out of ∇logπ(y_w) - ∇logπ(y_l); B7.d.
    Experiment: 6 answers with 3 random features each, all pairs.
    """
    beta, k, f = 0.7, 6, 3
    features, theta, ref = lab.normal("features", k, f), lab.normal("theta", f), lab.simplex("reference", k).log()

    def law(leaf: Tensor) -> Tensor:
        return (features @ leaf).log_softmax(-1)

    scores = torch.func.jacrev(law)(theta)  # [K, F]
    won, lost = _pairs(k)
    pull = -torch.func.jacrev(lambda leaf: dpo(law(leaf)[won], law(leaf)[lost], ref[won], ref[lost], beta=beta).loss)(
        theta
    )
    logs = law(theta)
    z = beta * ((logs - ref)[won] - (logs - ref)[lost])
    mean = centred * logs.exp() @ features
    stated = beta * (sign * z).sigmoid()[:, None] * ((features[won] - features[lost]) @ (features - mean).T)
    return equal(pull @ scores.T, stated)


@theorem(
    section="preference.md#likelihood-displacement", source=RAZIN,
    broken={"a logit for each answer": {"shared": False}},
)  # fmt: skip
def a_step_can_lower_both_answers(lab: Lab, *, shared: bool = True) -> Verdict:
    """E_π[h·d] > h(y_w)·d, d = h(y_w) - h(y_l)  ⇒  a small step of DPO lowers logπ(y_w) and logπ(y_l) while the margin grows

    Conditions: π(y) ∝ e^{θ·h(y)}, the model's features are shared between answers.
    Proof: (h(y_w) - E_π h)·d < 0, and (h(y_l) - E_π h)·d is smaller by |d|²: both answers lose to ones that lie further along d.
    Experiment: the pair h = 1 and 0, three answers with h from 2 to 4, θ = 0: the mean is above 1. Twenty steps on `dpo`; the
        figure: logπ(y_w).
    """
    beta, rest = 1.0, 2 + 2 * lab.uniform("others", 3, 1)
    pair = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    features = torch.cat([pair, rest]) if shared else torch.eye(5, dtype=torch.float64)
    theta = torch.zeros(features.shape[1], dtype=torch.float64)
    ref = (features @ theta).log_softmax(-1)

    def loss(leaf: Tensor) -> Tensor:
        logs = (features @ leaf).log_softmax(-1)
        return dpo(logs[0], logs[1], ref[0], ref[1], beta=beta).loss

    path = []
    for _ in range(20):
        path.append((features @ theta).log_softmax(-1))
        theta = theta - 0.1 * gradient_of(loss, theta)
    logs = torch.stack(path)
    margin = logs[:, 0] - logs[:, 1]
    curve = Curve(x=tuple(range(20)), measured=tuple(logs[:, 0].tolist()), across="steps", up="log π(y_w)")
    return every(
        at_least(margin[1:] - margin[:-1], 1e-3, where="margin"),
        at_most(logs[1:, 1] - logs[:-1, 1], -1e-3, where="rejected"),
        at_most(logs[1:, 0] - logs[:-1, 0], -1e-3, where="chosen"),
    ).drawn(curve)


@theorem(
    section="preference.md#likelihood-displacement", source="derived here",
    broken={"without the rejected answer's mass": {"freed": 0.0}, "features that answers share": {"tabular": False}},
)  # fmt: skip
def free_logits_never_displace(lab: Lab, *, freed: float = 1.0, tabular: bool = True) -> Verdict:
    """One logit for each answer: along -∇L, dlogπ(y_w)/dt = β·σ(-z)·(1 - π(y_w) + π(y_l)) > 0

    Proof: ∇logπ(y_w) = e_w - π, ∇logπ(y_w) - ∇logπ(y_l) = e_w - e_l, and (e_w - π)·(e_w - e_l) = 1 - π(y_w) + π(y_l).
    Experiment: all pairs of 6 answers, `dpo`.
    """
    beta, k = 0.7, 6
    features = torch.eye(k, dtype=torch.float64) if tabular else lab.normal("features", k, k)
    theta, ref = lab.normal("theta", k), lab.simplex("reference", k).log()

    def law(leaf: Tensor) -> Tensor:
        return (features @ leaf).log_softmax(-1)

    logs, scores = law(theta), torch.func.jacrev(law)(theta)
    won, lost = _pairs(k)
    pull = -torch.func.jacrev(lambda leaf: dpo(law(leaf)[won], law(leaf)[lost], ref[won], ref[lost], beta=beta).loss)(
        theta
    )
    moved = (pull * scores[won]).sum(-1)
    z = beta * ((logs - ref)[won] - (logs - ref)[lost])
    stated = beta * (-z).sigmoid() * (1 - logs[won].exp() + freed * logs[lost].exp())
    return every(equal(moved, stated), at_least(moved, 0.0, slack=0.0))


@theorem(
    section="preference.md#preference-with-likelihood", source="derived here, for the loss of Pang et al. 2024, https://arxiv.org/abs/2404.19733",
    broken={"half of it": {"share": 0.5}, "the scores the wrong way round": {"inverted": True}},
)  # fmt: skip
def enough_likelihood_holds_the_chosen_answer_up(lab: Lab, *, share: float = 1.0, inverted: bool = False) -> Verdict:
    """b ≥ β·σ(-z)·(‖∇logπ(y_l)‖/‖∇logπ(y_w)‖ - 1)  ⇒  a small step on DPO - b·logπ(y_w) does not lower logπ(y_w)

    Proof: with g the scores, dlogπ(y_w)/dt = β·σ(-z)·g_w·(g_w - g_l) + b·|g_w|², and g_w·g_l ≤ |g_w|·|g_l| (Cauchy and Schwarz).
    Experiment: all pairs of 100 worlds of 5 answers with 3 features each, and of 100 with one, where it is tight; b is the least of it.
    """
    beta, moved, k = 0.7, [], 5
    won, lost = _pairs(k)
    for f in (1, 3):
        features, theta = lab.normal(f"features {f}", 100, k, f), lab.normal(f"theta {f}", 100, f)
        ref = lab.simplex("reference", 100, k).log()
        logs = torch.einsum("wkf,wf->wk", features, theta).log_softmax(-1)
        scores = features - (logs.exp()[..., None] * features).sum(1, keepdim=True)  # [W, K, F]
        leaf = logs.clone().requires_grad_()
        pair = leaf[:, won].flatten(), leaf[:, lost].flatten(), ref[:, won].flatten(), ref[:, lost].flatten()
        z = beta * (pair[0] - pair[2] - pair[1] + pair[3]).detach()
        size = scores.norm(dim=-1)
        ratio = (size[:, lost] / size[:, won]).flatten()
        b = share * (beta * (-z).sigmoid() * ((1 / ratio if inverted else ratio) - 1)).clamp(min=0)
        once = torch.ones_like(b)
        down = dpo_nll(*pair, once, once, once[0], beta=beta, nll_weight=0.0, nll="sum").loss
        up = dpo_nll(*pair, once, once, once[0], beta=beta, preference_weight=0.0, nll="sum").loss
        by_won, by_lost = torch.autograd.grad((down + b * up).sum(), pair[:2])
        g_w, g_l = (scores[:, side].reshape(-1, f) for side in (won, lost))
        moved.append(
            ((-by_won[:, None] * g_w - by_lost[:, None] * g_l) * g_w).sum(-1) / (g_w.norm(dim=-1) * g_l.norm(dim=-1))
        )
    return at_least(torch.cat(moved), 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Prefixes and turns


@theorem(
    "B29", section="preference.md#prefixes-and-turns", source="derived here",
    broken={"the token where they part, too": {"beyond": True}, "with the chosen answer's likelihood": {"nll": 1.0}},
)  # fmt: skip
def a_shared_prefix_is_not_trained(lab: Lab, *, beyond: bool = False, nll: float = 0.0) -> Verdict:
    """∂DPO/∂θ(s, ·) = 0 for every prefix s after which y_w and y_l go on alike

    Conditions: a table, with logits of its own for every prefix.
    Proof: logπ(y_w) - logπ(y_l) = Σ over tokens, in which the terms logπ(a|s) of shared s and a cancel; so they do in the gradient.
    Experiment: all pairs of a tree's answers of different lengths, `dpo_nll` with no likelihood.
    """
    world = lab.eos_tree()
    theta, ref = lab.policy(world), world.sequence_logprobs(lab.policy(world, "reference"))
    won, lost = _some_pairs(len(ref))
    n_w, n_l = world.lengths[won], world.lengths[lost]
    mean = n_w.double().mean()

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return dpo_nll(chosen, rejected, ref[won], ref[lost], n_w, n_l, mean, beta=0.3, nll_weight=nll, nll="sum").loss

    found = _pair_gradients(world, theta, loss, won, lost)
    together = (world.states[won] == world.states[lost]) & world.trained[won] & world.trained[lost]
    alike = together if beyond else together & (world.tokens[won] == world.tokens[lost])
    rows = found[torch.arange(len(won))[:, None], world.states[won]]  # [P, T, V]
    return equal(rows[alike], 0.0)


@theorem(
    section="preference.md#prefixes-and-turns", source="derived here",
    broken={"observations are summed up with the rest": {"trained": True}},
)  # fmt: skip
def observations_cancel(lab: Lab, *, trained: bool = False) -> Verdict:
    """log(P_π(y)/P_ref(y)) = Σ over the policy's own tokens of log π/ref: what the environment wrote drops out, whatever it is

    Proof: P_π(y) = Π π(a|h)·Π P(o|h) over the policy's tokens and the environment's; P(o|h) is the same under both.
    Experiment: a tree whose second tokens are written by an environment of random transitions; z of `dpo` from the laws of whole conversations,
        and from masked sums.
    """
    world, beta = lab.eos_tree(), 0.3
    theta, theta_ref, environment = (lab.policy(world, name) for name in ("policy", "reference", "environment"))
    written = torch.arange(world.tokens.shape[1]) == 1
    own = world.trained & ~written
    conversations, sums = [], []
    for table in (theta, theta_ref):
        logs = world.logprobs(table)
        law = torch.where(written, world.logprobs(environment), logs).sum(-1)
        assert abs(float(law.exp().sum()) - 1) < 1e-9, "conversations are a law"
        conversations.append(law)
        sums.append((logs * (world.trained if trained else own)).sum(-1))
    won, lost = _pairs(len(world.rewards))
    left, right = (
        dpo(pi[won], pi[lost], ref[won], ref[lost], beta=beta).metrics["margin"] for pi, ref in (conversations, sums)
    )
    return equal(left, right)


@theorem(
    section="preference.md#prefixes-and-turns", source="derived here, from soft values",
    broken={"as if the policy chose the observations": {"luck": 0.0}, "luck against the reward": {"luck": -1.0}},
)  # fmt: skip
def an_implicit_reward_leaves_luck_out(lab: Lab, *, luck: float = 1.0) -> Verdict:
    """β·Σ log(π*/ref) = r - V(s₀) - Σ (U(h, o) - E_o[U(h, o)]):  the reward without what the environment happened to answer

    Conditions: U is the soft value of what follows an observation o; the sum is over observations. Without chance it is B7.a.
    Proof: π*(a|h) = ref(a|h)·e^{(Q(h,a) - U(h))/β}, so β·log(π*/ref) = Q(h,a) - U(h) at each turn. Q(h,a) = E_o[U(h,a,o)] before an
        observation and r at the end; the sum telescopes but for U(h,a,o) - E_o[U(h,a,o)].
    Experiment: action, observation, action; 3 of each, random rewards. π* from soft values: E r - β·KL has no slope there, and 200 other
        policies have less of it.
    """
    beta, k = 0.5, 3
    r, noise = lab.normal("rewards", k, k, k), lab.simplex("environment", k, k)
    ref_a, ref_b = lab.simplex("first", k), lab.simplex("second", k, k, k)

    def earned(flat: Tensor) -> Tensor:
        first, second = flat[..., :k].log_softmax(-1), flat[..., k:].unflatten(-1, (k, k, k)).log_softmax(-1)
        chance = first[..., None, None].exp() * noise[..., None] * second.exp()
        ratio = (first - ref_a.log())[..., None, None] + second - ref_b.log()
        return (chance * (r - beta * ratio)).sum((-3, -2, -1))

    soft = beta * (ref_b.log() + r / beta).logsumexp(-1)  # U(a, o)
    q = (noise * soft).sum(-1)
    log_a, log_b = (ref_a.log() + q / beta).log_softmax(-1), (ref_b.log() + r / beta).log_softmax(-1)
    best = torch.cat([log_a, log_b.flatten()])
    others = best + lab.normal("others", 200, len(best))
    implicit = beta * ((log_a - ref_a.log())[:, None, None] + log_b - ref_b.log())
    value = beta * (ref_a.log() + q / beta).logsumexp(0)
    chance = soft - q[:, None]
    return every(
        equal(gradient_of(earned, best), 0.0, where="slope at the optimum"),
        at_least(earned(best), earned(others), where="other policies"),
        equal(implicit, r - value - luck * chance[..., None], where="implicit reward"),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Rankings


@theorem(
    section="preference.md#rankings-of-a-group", source="Plackett 1975, https://doi.org/10.2307/2346567; Luce 1959",
    broken={"every choice among all": {"remaining": False}},
)  # fmt: skip
def a_ranking_of_two_is_a_pair(lab: Lab, *, remaining: bool = True) -> Verdict:
    """-log P(y_1 ≻ … ≻ y_K) = Σ_k [log Σ_{j≥k} e^{v_j} - v_k] is DPO for K = 2 and v = β·Δ; its probabilities add up to 1

    Proof: log(e^{v_1} + e^{v_2}) - v_1 = -log σ(v_1 - v_2), and the last choice is certain. The best is one of K, the next
        one is one of K-1, …
    Experiment: 200 pairs, `dpo`; rankings of 2 to 5 answers.
    """
    beta = 0.4
    won, lost, ref_won, ref_lost = 3 * lab.normal("pairs", 4, 200)
    values = beta * torch.stack([won - ref_won, lost - ref_lost], -1)
    totals = []
    for k in range(2, 6):
        orders = torch.tensor(list(permutations(range(k))))
        totals.append((-_ranking_loss(lab.normal("values", k)[orders], remaining)).exp().sum())
    return every(
        equal(_ranking_loss(values, remaining), dpo(won, lost, ref_won, ref_lost, beta=beta).loss, where="K = 2"),
        equal(torch.stack(totals), 1.0, where="all rankings"),
    )


@theorem(
    section="preference.md#rankings-of-a-group", source=RAFAILOV,
    broken={"every choice among all": {"remaining": False}, "the optimum of half β": {"price": 0.25}},
)  # fmt: skip
def rankings_have_dpos_optimum(lab: Lab, *, remaining: bool = True, price: float = 0.5) -> Verdict:
    """argmin_π E[-log P_{βΔ}(ranking)] = π*, where rankings of K answers come from the reward by Plackett and Luce

    Proof: a cross-entropy, least where v = r up to a constant; by B7.a β·Δ of π* is that.
    Experiment: all rankings of arms + 1 answers, at most 5; Newton's method from the reference.
    """
    beta, k = 0.5, min(lab.arms, 4) + 1
    ref, r = lab.simplex("reference", k).log(), lab.normal("rewards", k)
    orders = torch.tensor(list(permutations(range(k))))
    chance = (-_ranking_loss(r[orders], True)).exp()

    def population(logits: Tensor) -> Tensor:
        return (chance * _ranking_loss((beta * (logits.log_softmax(-1) - ref))[orders], remaining)).sum()

    found = ref
    for _ in range(7):
        step = torch.linalg.pinv(torch.func.hessian(population)(found), rtol=1e-10, hermitian=True)
        found = found - step @ gradient_of(population, found)
    return equal(found.softmax(-1), (ref + r / price).softmax(-1), 1e-9)


@theorem(
    section="preference.md#rankings-of-a-group", source="Luce 1959",
    broken={"the two next to each other in the ranking": {"adjacent": True}},
)  # fmt: skip
def pairs_of_a_ranking_are_bradley_terry(lab: Lab, *, adjacent: bool = False) -> Verdict:
    """P(y stands before y' in the ranking) = σ(r(y) - r(y')): cutting rankings into all their pairs leaves DPO's optimum where it is

    Proof: rank by r + Gumbel noise, independent for each answer: that is Plackett and Luce's law, and the difference of two Gumbels is logistic.
    Experiment: all rankings of arms + 1 answers, at most 5, all pairs. In the twin the share among rankings in which the two are neighbours.
    """
    k = min(lab.arms, 4) + 1
    r = lab.normal("rewards", k)
    orders = torch.tensor(list(permutations(range(k))))
    chance, place = (-_ranking_loss(r[orders], True)).exp(), orders.argsort(-1)
    won, lost = _pairs(k)
    ahead = place[:, won] < place[:, lost]
    counts = (place[:, won] - place[:, lost]).abs() == 1 if adjacent else torch.ones_like(ahead)
    share = (chance[:, None] * (ahead & counts)).sum(0) / (chance[:, None] * counts).sum(0)
    return equal(share, (r[won] - r[lost]).sigmoid())


# ---------------------------------------------------------------------------------------------------------------------


def _pairs(n: int) -> tuple[Tensor, Tensor]:
    """All ordered pairs of n answers: (first, second), `[n·(n-1)]` each."""
    first, second = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    return first[first != second], second[first != second]


def _some_pairs(n: int, most: int = 300) -> tuple[Tensor, Tensor]:
    """All ordered pairs, or every so-and-so-many-th."""
    won, lost = _pairs(n)
    step = -(-len(won) // most)
    return won[::step], lost[::step]


def _optimum(world: World, theta: Tensor, beta: float) -> Tensor:
    """`[N, V]` logits of ref·e^{r/β}/Z, token by token: log Σ of ref·e^{r/β} over the answers through each prefix and next token."""
    weight = world.sequence_logprobs(theta) + world.rewards / beta
    through = (weight - weight.max()).exp()[:, None].expand_as(world.tokens)[world.trained]
    places = (world.states[world.trained], world.tokens[world.trained])
    return torch.zeros_like(theta).index_put(places, through, accumulate=True).log()


def _population(logs: Tensor, ref: Tensor, won: Tensor, lost: Tensor, chance: Tensor, beta: float) -> Tensor:
    """DPO's mean over pairs, drawn uniformly, and over who wins: the first with `chance`."""
    loss = dpo(logs[won], logs[lost], ref[won], ref[lost], beta=beta).loss
    return 2 * (chance * loss).mean()  # every pair comes in two orders


def _fitted(
    terms: Callable[[Tensor, Tensor], Tensor], won: Tensor, lost: Tensor, start: Tensor, steps: int = 12
) -> tuple[Tensor, Tensor]:
    """(logits that Newton's method comes to, curvature there) of a sum over pairs that sees margins alone; a logit per answer."""
    place = torch.arange(len(won))
    margins = torch.zeros(len(won), len(start), dtype=torch.float64)  # [P, K] from logits to the margins of pairs
    margins[place, won], margins[place, lost] = 1.0, -1.0
    at, curvature = start, torch.zeros(len(start), len(start), dtype=torch.float64)
    for _ in range(steps):
        chosen = at[won].requires_grad_()
        slope = torch.autograd.grad(terms(chosen, at[lost]).sum(), chosen, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), chosen)[0]
        curvature = margins.T @ (bend[:, None] * margins)
        if not curvature.isfinite().all():
            break
        at = at - torch.linalg.pinv(curvature, rtol=1e-10, hermitian=True) @ (margins.T @ slope.detach())
    return at, curvature


def _mixed(loss: Callable[..., Terms], margin: Tensor, p: Tensor | float) -> Tensor:
    """A pair's mean loss over its label, the first preferred with p: `margin` nats between the log-ratios."""
    zero = torch.zeros_like(margin)
    return p * loss(margin, zero, zero, zero).loss + (1 - p) * loss(zero, margin, zero, zero).loss


def _simpo_rest(p: Tensor, gamma: float) -> Tensor:
    """The margin at which SimPO's pull on pairs that the first answer wins with p is 0; β = 1."""
    c, tilt = math.exp(-gamma), 2 * p - 1
    root = (tilt**2 + 4 * p * (1 - p) * c**2).sqrt()
    return (
        (root + tilt.abs()) / (2 * torch.minimum(p, 1 - p) * c)
    ).log() * tilt.sign()  # no difference of near numbers


def _pair_gradients(
    world: World, theta: Tensor, loss: Callable[[Tensor, Tensor], Tensor], won: Tensor, lost: Tensor
) -> Tensor:
    """`[P, N, V]` of each pair's loss."""

    def each(leaf: Tensor) -> Tensor:
        logs = world.sequence_logprobs(leaf)
        return loss(logs[won], logs[lost])

    return torch.func.jacrev(each)(theta)


def _ranking_loss(values: Tensor, remaining: bool) -> Tensor:
    """`[M]` -log of Plackett and Luce's probability of rankings, given the values `[M, K]` in their order."""
    among = values.flip(-1).logcumsumexp(-1).flip(-1) if remaining else values.logsumexp(-1, keepdim=True)
    return (among - values).sum(-1)
