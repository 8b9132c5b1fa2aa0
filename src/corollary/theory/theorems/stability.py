"""docs/theory/stability.md: log-sum-exp, what overflows and what cancels, where bfloat16 breaks, sums, gradient clipping.

Each function states a fact in its docstring and measures it: `corollary.theory.theorem` says how one is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import torch
from torch import Tensor

from corollary.losses.pairs import sigmoid
from corollary.losses.preference import dpo
from corollary.ops.advantage import group_std
from corollary.ops.kl import k3
from corollary.ops.logprob import logprobs_of
from corollary.ops.ratio import token_ratio
from corollary.ops.reduce import weighted_sum
from corollary.theory.bandit import bandit
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.verdict import Curve, Verdict, apart, at_least, at_most, equal, every

LSE = "stability.md#log-sum-exp"
OVERFLOW = "stability.md#exponentials-that-overflow"
CANCEL = "stability.md#differences-that-cancel"
BF16 = "stability.md#where-bfloat16-breaks"
SUMS = "stability.md#sums"
CLIPPING = "stability.md#gradient-clipping"

BLANCHARD = "Blanchard, Higham and Higham 2021, https://doi.org/10.1093/imanum/draa038"
HIGHAM = "Higham 2002, Accuracy and stability of numerical algorithms"
MACHLER = "Mächler 2012, Accurately computing log(1 - exp(-|a|))"
PASCANU = "Pascanu et al. 2013, https://arxiv.org/abs/1211.5063"

INSTANCES = 400
DIGITS = 40
SINGLE, BRAIN = (
    2.0**-24,
    2.0**-8,
)  # unit roundoff u of float32 and of bfloat16: a result is rounded by at most u of itself


# Log-sum-exp


@theorem("B16.a", section=LSE, source=BLANCHARD, broken={"log(n-1)": {"others": 1}})
def logsumexp_lies_just_above_the_maximum(lab: Lab, *, others: int = 0) -> Verdict:
    """max x ≤ LSE(x) ≤ max x + log n      so the likeliest of n tokens has a log-probability between -log n and 0

    Proof: e^{max x} ≤ Σ e^x ≤ n·e^{max x}. Equal x attain the upper bound.
    Experiment: `logprobs_of`, 400 rows of logits of all sizes up to 1000, one with equal logits; the figure: over the size.
    """
    x = _logits(lab)
    top = x.amax(-1)
    found, limit = _logsumexp(x), top + math.log(x.shape[-1] - others)
    order = x.abs().amax(-1).argsort()[::10]
    drawn = Curve(
        x=tuple(x.abs().amax(-1)[order].tolist()), measured=tuple((found - top)[order].tolist()),
        bound=(math.log(x.shape[-1]),) * len(order), across="largest logit", up="LSE - max", log_x=True,
    )  # fmt: skip
    return every(at_least(found, top, where="below"), at_most(found, limit, where="above")).drawn(drawn)


@theorem("B16.b", section=LSE, source=BLANCHARD, broken={"half of it, as for the sigmoid": {"constant": 0.5}})
def logsumexp_passes_errors_on_unchanged(lab: Lab, *, constant: float = 1.0) -> Verdict:
    """|LSE(x) - LSE(y)| ≤ max_i |x_i - y_i|      logits that are wrong by ε make log-probabilities wrong by 2ε at most

    Proof: the derivative is softmax(x), whose entries are positive and sum to 1. x - y constant gives equality.
    Experiment: `logprobs_of`, 400 rows of logits and as many moves of 10^-6 to 10, one of them constant.
    """
    x = _logits(lab) / 100
    moves = 10 ** (7 * lab.uniform("size", INSTANCES, 1) - 6) * lab.normal("moves", *x.shape)
    moves[0] = 1.0
    return at_most((_logsumexp(x + moves) - _logsumexp(x)).abs(), constant * moves.abs().amax(-1))


@theorem("B16.c", section=LSE, source=BLANCHARD, broken={"a factor in the place of a shift": {"scaled": True}})
def logsumexp_moves_with_a_shift(lab: Lab, *, scaled: bool = False) -> Verdict:
    """LSE(x + c) = LSE(x) + c      so log-probabilities do not see a constant in the logits; a factor, the temperature, they do

    Proof: Σ e^{x+c} = e^c·Σ e^x.
    Experiment: `logprobs_of` of 400 rows of logits, c up to 10³.
    """
    x, c = _logits(lab), 1000 * lab.normal("c", INSTANCES, 1)
    first = torch.zeros(INSTANCES, dtype=torch.int64)
    moved = x * (1 + c.abs()) if scaled else x + c
    return equal(logprobs_of(moved, first).logprobs, logprobs_of(x, first).logprobs, 1e-11)


@theorem(
    "B16.d", section=LSE, source=BLANCHARD,
    broken={"log(Σ e^x) as it is written": {"naive": True}, "small logits overflow too": {"size": 1.0}},
)  # fmt: skip
def naive_logsumexp_overflows(lab: Lab, *, naive: bool = False, size: float = 1000.0) -> Verdict:
    """log Σ e^x computed as written is ∞ where an x is above 710 and -∞ where all are below -746; max x + log Σ e^{x - max x} is neither

    Proof: the largest float64 is e^709.8, the smallest positive one e^-745.1. After the shift one term is 1 and none is above it.
    Experiment: logits of ±1000 plus normal noise: log Σ e^x is infinite, `logprobs_of` is LSE of the noise, shifted.
    """
    noise = lab.normal("noise", INSTANCES, lab.vocabulary)
    found = []
    for shift in (size, -size):
        x = noise + shift
        written = x.exp().sum(-1).log()
        kept = written if naive else _logsumexp(x)
        found += [
            equal(kept, _logsumexp(noise) + shift, where=f"{shift:g}"),
            equal(written.isinf().double(), 1.0, where="as written"),
        ]
    return every(*found)


@theorem(
    section=LSE,
    source="Gao and Pavel 2017, https://arxiv.org/abs/1704.00805; the constant ½ derived here",
    broken={"¼, as for the sigmoid": {"constant": 0.25}},
)
def logsumexp_is_half_smooth(lab: Lab, *, constant: float = 0.5) -> Verdict:
    """0 ≤ λ(∇²LSE) ≤ ½      so a log-probability's gradient in the logits moves by at most half of what they move

    Proof: ∇²LSE = diag p - ppᵀ, and vᵀ(diag p - ppᵀ)v is the variance of v under p, at most (max v - min v)²/4 ≤ ‖v‖²/2.
    Two equal tokens attain it: v = (1, -1)/√2 has variance ½.
    Experiment: the Hessian by differentiation in 400 rows of logits, one of which has two tokens that share all of the probability.
    """
    x = _logits(lab) / 100
    x[0] = -60.0
    x[0, :2] = 0.0
    leaf = x.requires_grad_()
    slope = torch.autograd.grad(_logsumexp(leaf).sum(), leaf, create_graph=True)[0]
    rows = [torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in slope.unbind(-1)]
    curvature = torch.linalg.eigvalsh(torch.stack(rows, -1))
    return every(at_least(curvature, 0.0, where="below"), at_most(curvature, constant, where="above"))


@theorem(section=LSE, source="derived here", broken={"1 - π(y), one side alone": {"sides": 1.0}})
def a_tokens_pull_on_the_logits_is_bounded(lab: Lab, *, sides: float = 2.0) -> Verdict:
    """Σ_v |∂logπ(y)/∂z_v| = 2(1 - π(y))      at most 2, and 0 for a token that is certain

    A likely token pulls little, an unlikely one no harder than 2: a gradient that explodes comes from the ratio or the advantage.
    Proof: the derivative is 1[v = y] - π(v): 1 - π(y) at y, and the others sum to -(1 - π(y)).
    Experiment: `logprobs_of`, 400 rows of logits; the figure: over π(y).
    """
    x = _logits(lab) / 100
    leaf = x.clone().requires_grad_()
    logs = logprobs_of(leaf, torch.zeros(INSTANCES, dtype=torch.int64)).logprobs
    slope = torch.autograd.grad(logs.sum(), leaf)[0].abs().sum(-1)
    p = logs.detach().exp()
    order = p.argsort()[::10]
    drawn = Curve(
        x=tuple(p[order].tolist()), measured=tuple(slope[order].tolist()), bound=(2.0,) * len(order), across="π(y)", up="Σ|∂logπ/∂z|"
    )  # fmt: skip
    return equal(slope, sides * (1 - p)).drawn(drawn)


# Exponentials that overflow


@theorem(
    section=OVERFLOW,
    source="derived here: 0·∞ is no number",
    broken={"where, after the exponential": {"before": False}},
)
def zero_before_the_exponential(lab: Lab, *, before: bool = True) -> Verdict:
    """∂/∂x Σ m·e^x = m·e^x, exactly 0 where m is 0, if x is replaced by 0 there before e^x

    Replaced only afterwards, the value is right and the gradient NaN: the chain rule multiplies the 0 by e^x = ∞.
    Proof: what `where` does not choose gets the derivative 0, and 0·e^0 = 0; but 0·∞ = NaN.
    Experiment: `token_ratio` and `weighted_sum`, half of 400 log-ratios 10⁴ or ∞ and masked.
    """
    x = lab.normal("log-ratios", INSTANCES)
    mask = torch.arange(INSTANCES) % 2 == 0
    x[1::4], x[3::4] = 1e4, math.inf
    leaf = x.clone().requires_grad_()
    ratios = token_ratio(leaf.where(mask, 0.0), torch.zeros_like(x)) if before else leaf.exp().where(mask, 0.0)
    total = weighted_sum(ratios, mask.double())
    slope = torch.autograd.grad(total, leaf)[0]
    return equal(slope, x.where(mask, 0.0).exp() * mask)


@theorem(
    section=OVERFLOW,
    source="derived here",
    broken={"the exponential itself": {"plain": True}, "it changes ratios in use": {"changed": 0.01}},
)
def a_ratio_stays_finite(lab: Lab, *, plain: bool = False, changed: float = 0.0) -> Verdict:
    """The library's ratio is e^x for x ≤ 700 and finite beyond, with the slope of its value: 0·A is then 0 and not NaN

    Proof: beyond 700 the exponent is held, in value, while its derivative stays 1.
    Experiment: `token_ratio` in float64, log-ratios to ±650 and to 10⁶.
    """
    small, large = 650 * (2 * lab.uniform("small", INSTANCES) - 1), 10 ** (3 + 3 * lab.uniform("large", INSTANCES))
    leaf = large.clone().requires_grad_()
    ratio = leaf.exp() if plain else token_ratio(leaf, torch.zeros_like(large))
    slope = torch.autograd.grad(ratio.sum(), leaf)[0]
    return every(
        equal(token_ratio(small, torch.zeros_like(small)).log(), small + changed, where="in use"),
        equal(ratio.isfinite().double(), 1.0, where="beyond"), equal(slope.log(), ratio.log(), where="slope"),
    )  # fmt: skip


@theorem(section=OVERFLOW, source=MACHLER, broken={"log(σ(z)) as it is written": {"naive": True}})
def log_sigmoid_needs_no_sigmoid(lab: Lab, *, naive: bool = False) -> Verdict:
    """log σ(z) = -log(1 + e^{-z}) = min(z, 0) - log(1 + e^{-|z|}) to the last digits, |z| ≤ 700
    log(σ(z)) has none left from z = 37 on

    Proof: the exponent -|z| is never positive, and log1p keeps the digits of a small e^{-|z|}.
    Experiment: the loss of `dpo` at β = 1 beside decimal arithmetic with enough digits.
    """
    z = _both_signs(700.0, 30)
    nothing = torch.zeros_like(z)
    found = z.sigmoid().log() if naive else -dpo(z, nothing, nothing, nothing, beta=1.0).loss
    known = _exactly(lambda x: -(1 + (-x).exp()).ln(), z.tolist())
    return at_most(_relative(found, known), 4 * 2.0**-53, slack=0.0)


@theorem(section=OVERFLOW, source="derived here", broken={"σ·(1 - σ)": {"product": True}})
def a_sigmoids_slope_keeps_its_digits(lab: Lab, *, product: bool = False) -> Verdict:
    """dσ/dz = σ(z)·σ(-z), to a relative 10⁻¹³ at z = ±600; computed as σ·(1 - σ) it is 0 from z = 37 on

    Proof: 1 - σ(z) is rounded to a multiple of 2⁻⁵³, and σ(-z) is not: for z = 37 it is e⁻³⁷.
    Experiment: the derivative of the library's `sigmoid`, and of torch's, beside decimal arithmetic; the figure: the error.
    """
    z = _both_signs(600.0, 30)
    lines = []
    known = _exactly(lambda x: (-x).exp() / (1 + (-x).exp()) ** 2, z.tolist())
    for function in (sigmoid, torch.sigmoid):
        leaf = z.clone().requires_grad_()
        lines.append(_relative(torch.autograd.grad(function(leaf).sum(), leaf)[0], known))
    right = z > 0
    drawn = Curve(
        x=tuple(z[right].tolist()), measured=tuple(lines[0][right].tolist()), bound=tuple(lines[1][right].tolist()), across="z",
        up="relative error (bound: σ·(1 - σ))", log_x=True,
    )  # fmt: skip
    return at_most(lines[1 if product else 0], 1e-13, slack=0.0).drawn(drawn)


# Differences that cancel


@theorem(
    section=CANCEL, source=MACHLER,
    broken={
        "log(1 - e^x) as it is written": {"form": "plain"}, "log(-expm1(x)) everywhere": {"form": "near"},
        "log1p(-e^x) everywhere": {"form": "far"},
    },
)  # fmt: skip
def log_of_one_minus_exp_has_two_forms(lab: Lab, *, form: str = "both") -> Verdict:
    """log(1 - e^x), x < 0: log(-expm1(x)) above x = -log 2 and log1p(-e^x) below have all digits; each alone, on the other side, none

    Needed for the odds of an answer, log p - log(1 - p), as in ORPO.
    Proof: above -log 2, 1 - e^x loses the digits of x, which expm1 keeps; below, -expm1(x) is 1 - e^x, rounded before the logarithm, which
    log1p avoids.
    Experiment: x from -10⁻¹² to -200 beside decimal arithmetic with enough digits; the figure: the error of log(1 - e^x) as written.
    """
    x = -torch.logspace(-12, 2.3, 60, dtype=torch.float64)
    near, far, written = (-x.expm1()).log(), (-x.exp()).log1p(), (1 - x.exp()).log()
    both = torch.where(x > -math.log(2), near, far)
    known = _exactly(lambda v: (1 - v.exp()).ln(), x.tolist())
    found = _relative({"both": both, "near": near, "far": far, "plain": written}[form], known)
    drawn = Curve(
        x=tuple((-x).tolist()), measured=tuple(_relative(written, known).clamp(min=2.0**-54).tolist()), bound=(4 * 2.0**-53,) * len(x),
        across="-x", up="relative error of log(1 - e^x)", log_x=True, log_y=True,
    )  # fmt: skip
    return at_most(found, 4 * 2.0**-53, slack=0.0).drawn(drawn)


@theorem(section=CANCEL, source=HIGHAM, broken={"E[x²] - E[x]² in float32": {"two_passes": False}})
def a_deviation_needs_two_passes(lab: Lab, *, two_passes: bool = True) -> Verdict:
    """Standardised rewards do not see an offset, in float32: A(r + c) = A(r), r in steps of 1/16, c to 2¹⁶

    Conditions: r + c is exact in float32, as it is here.
    Proof: squares of deviations are as small as the deviations; E[x²] and E[x]² agree in their first 2·log₂(c/s) bits, of 24.
    Experiment: `group_std` of 400 groups of 8.
    """
    rewards = (16 * lab.normal("rewards", INSTANCES, 8)).round() / 16
    offsets = 2.0 ** (16 * lab.uniform("offsets", INSTANCES, 1)).round()
    moved = (rewards + offsets).float()
    if two_passes:
        found = group_std(moved)
    else:
        variance = moved.square().mean(-1, keepdim=True) - moved.mean(-1, keepdim=True).square()
        found = (moved - moved.mean(-1, keepdim=True)) / ((variance * 8 / 7).clamp(min=0).sqrt() + 1e-6)
    return equal(found, group_std(rewards), 1e-5)


@theorem(
    section=CANCEL,
    source=HIGHAM + ", problem 1.10",
    broken={"it grows with the mean, not with its square": {"power": 1.0}},
)
def one_pass_loses_the_square_of_the_offset(lab: Lab, *, power: float = 2.0) -> Verdict:
    """|E[x²] - E[x]² - s²| / s² ≤ 3(n+1)u·(1 + (m/s)²)      mean m, deviation s, n numbers, u = 2⁻²⁴ in float32

    At m/s = 4096 nothing is left of the variance.
    Proof: E[x²] is rounded by at most (n+1)u of m² + s², and E[x]² by (2n+1)u of m².
    Experiment: n = 8 normal numbers about means of 1 to 10⁴; the figure: the error over m/s.
    """
    means = 10 ** (4 * lab.uniform("means", INSTANCES, 1))
    x = (means + lab.normal("x", INSTANCES, 8)).float()
    exact = x.double()
    m, variance = exact.mean(-1), exact.var(-1, correction=0)
    found = ((x.square().mean(-1) - x.mean(-1).square()).double() - variance).abs() / variance
    ratio = m / variance.sqrt()
    limit = 27 * SINGLE * (1 + ratio.abs() ** power)
    order = [i for i in ratio.argsort().tolist()[::8] if found[i] > 0]
    drawn = Curve(
        x=tuple(ratio[order].tolist()), measured=tuple(found[order].tolist()), bound=tuple(limit[order].tolist()), across="m/s",
        up="relative error of the variance", log_x=True, log_y=True,
    )  # fmt: skip
    return at_most(found, limit, slack=0.0).drawn(drawn)


@theorem(section=CANCEL, source="derived here", broken={"e^{-x} - 1 + x as it is written": {"written": True}})
def k3_needs_expm1(lab: Lab, *, written: bool = False) -> Verdict:
    """k₃ = expm1(-x) + x has a relative error of 4u/|x| at most; written e^{-x} - 1 + x, of 2u/x²: nothing is left at x = 10⁻⁸

    Proof: expm1(-x) is rounded by u·|x|, e^{-x} by u·1, and k₃ ≈ x²/2. The additions are exact.
    Experiment: `k3` in float64, x = ±10⁻¹ to ±10⁻⁸, beside decimal arithmetic with enough digits; the figure: its error.
    """
    x = torch.logspace(-8, -1, 50, dtype=torch.float64)
    x = torch.cat([-x.flip(0), x])
    found = (-x).exp() - 1 + x if written else k3(x, torch.zeros_like(x))
    known = _exactly(lambda v: (-v).exp() - 1 + v, x.tolist())
    errors, limit = _relative(found, known), 4 * 2.0**-53 / x.abs()
    drawn = Curve(
        x=tuple(x[50:].tolist()), measured=tuple(errors[50:].clamp(min=1e-18).tolist()), bound=tuple(limit[50:].tolist()), across="x",
        up="relative error of k₃", log_x=True, log_y=True,
    )  # fmt: skip
    return at_most(errors, limit, slack=0.0).drawn(drawn)


# Where bfloat16 breaks


@theorem(
    section=BF16, source=HIGHAM, broken={"float16's 2⁻¹¹": {"unit": 2.0**-11}, "a bit more, 2⁻⁹": {"unit": 2.0**-9}}
)
def bfloat16_keeps_eight_bits(lab: Lab, *, unit: float = BRAIN) -> Verdict:
    """|bf16(x) - x| ≤ 2⁻⁸·|x|: between two and three decimal digits

    Proof: 8 bits, of which the first is 1: in [1, 2) the numbers lie 2⁻⁷ apart, and rounding moves by half of that.
    Experiment: 20 000 numbers from 2⁻²⁰ to 2²⁰.
    """
    x = 2.0 ** (40 * lab.uniform("x", 20_000) - 20)
    return at_most((x.bfloat16().double() - x).abs() / x, unit, slack=0.0)


@theorem(section=BF16, source="derived here", broken={"float16's 2⁻¹¹": {"unit": 2.0**-11}})
def logits_in_bfloat16_move_logprobs(lab: Lab, *, unit: float = BRAIN) -> Verdict:
    """|logπ(y) - logπ_bf16(y)| ≤ 2u·max|z|, u = 2⁻⁸      logits z rounded to bfloat16, everything else exact

    At logits of 30 that allows .23 nats for a token: the ratio of a policy to itself can leave the clip range.
    Proof: each logit moves by at most u·max|z|, and LSE by no more than the logits.
    Experiment: `logprobs_of` in float64 of 400 rows of 64 logits, and of the same rounded; the figure: the error over the largest logit.
    """
    z = 30 * lab.uniform("size", INSTANCES, 1) * lab.normal("z", INSTANCES, 64)
    chosen = (64 * lab.uniform("tokens", INSTANCES)).long()
    errors = (logprobs_of(z.bfloat16().double(), chosen).logprobs - logprobs_of(z, chosen).logprobs).abs()
    largest = z.abs().amax(-1)
    order = [i for i in largest.argsort().tolist()[::8] if errors[i] > 0]
    drawn = Curve(
        x=tuple(largest[order].tolist()), measured=tuple(errors[order].tolist()), bound=tuple((2 * BRAIN * largest[order]).tolist()),
        across="largest logit", up="error of logπ, nats", log_y=True,
    )  # fmt: skip
    return at_most(errors, 2 * unit * largest).drawn(drawn)


@theorem(section=BF16, source="derived here", broken={"log_softmax in bfloat16": {"upcast": False}})
def logprobs_are_computed_in_float32(lab: Lab, *, upcast: bool = True) -> Verdict:
    """|logπ - exact| ≤ 8u·(max|z| + log V), u = 2⁻²⁴, of logits that come in bfloat16

    A log-probability of -8 kept in bfloat16 is one of -8 ± 2⁻⁶.
    Proof: the logits are exact in float32; LSE and the subtraction round by a few u of their size.
    Experiment: `logprobs_of` of 400 rows of 64 bfloat16 logits, beside float64.
    """
    z = (5 * lab.normal("z", INSTANCES, 64)).bfloat16()
    chosen = (64 * lab.uniform("tokens", INSTANCES)).long()
    found = logprobs_of(z, chosen).logprobs if upcast else z.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
    exact = logprobs_of(z.double(), chosen).logprobs
    return at_most((found.double() - exact).abs(), 8 * SINGLE * (z.double().abs().amax(-1) + math.log(64)), slack=0.0)


@theorem(
    section=BF16,
    source="Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740",
    broken={"weights in float32": {"dtype": torch.float32}},
)
def bfloat16_weights_swallow_small_steps(lab: Lab, *, dtype: torch.dtype = torch.bfloat16) -> Verdict:
    """w + δ = w in bfloat16 for every |δ| < 2⁻⁹·|w|: a thousand such steps move a weight nowhere, and its float32 master by their sum

    Proof: the neighbours of w are at least 2⁻⁸·|w| away, so w + δ is nearer to w.
    Experiment: 400 normal weights, 1000 steps of a relative 2⁻¹⁰ of one sign; the figure: the master's way over the steps.
    """
    start = lab.normal("weights", INSTANCES).bfloat16()
    delta = (start.double() * 2.0**-10).abs()
    weight, master, way = start.to(dtype), start.float(), []
    for _ in range(1000):
        weight = (weight.double() + delta).to(dtype)
        master = (master.double() + delta).float()
        way.append(float(((master.double() - start.double()) / start.double().abs()).mean()))
    drawn = Curve(
        x=tuple(range(0, 1000, 25)), measured=tuple(way[::25]), bound=(0.0,) * 40, across="steps",
        up="way of the master (bound: bfloat16's)",
    )  # fmt: skip
    return every(
        equal(weight, start, where="bfloat16"),
        at_least((master.double() - start.double()) / delta, 999.0, where="steps that the master took"),
    ).drawn(drawn)


@theorem(section=BF16, source=HIGHAM, broken={"float16": {"dtype": torch.float16}, "float32": {"dtype": torch.float32}})
def a_bfloat16_count_stops_at_256(lab: Lab, *, dtype: torch.dtype = torch.bfloat16) -> Verdict:
    """1 + 1 + … in bfloat16 is min(n, 256)

    A mask summed in bfloat16 is no number of tokens.
    Proof: from 256 on the numbers lie 2 apart, and 257 is rounded to the even one, 256.
    Experiment: counted to 400; the figure.
    """
    total, counts = torch.zeros((), dtype=dtype), []
    for _ in range(400):
        total = total + 1
        counts.append(float(total))
    drawn = Curve(
        x=tuple(range(1, 401, 10)),
        measured=tuple(counts[::10]),
        bound=tuple(map(float, range(1, 401, 10))),
        across="n",
        up="count",
    )
    return equal(counts, [float(min(n, 256)) for n in range(1, 401)]).drawn(drawn)


# Sums


@theorem(
    section=SUMS, source=HIGHAM + ", section 4.2",
    broken={"one after the other as good as in pairs": {"depth_of_sequence": False}},
)  # fmt: skip
def errors_of_a_sum_grow_with_its_depth(lab: Lab, *, depth_of_sequence: bool = True) -> Verdict:
    """|fl(Σx) - Σx| ≤ d·u·Σ|x| + O(u²)      d additions at most that a term goes through: n-1 one after the other, ⌈log₂n⌉ in pairs

    Proof: each addition multiplies what it adds by 1 + ε, |ε| ≤ u.
    Experiment: float32, 50 rows of 1024 numbers, normal, positive, and all the same; the figure: both errors of equal numbers over n.
    """
    rows = torch.cat([lab.normal("x", 25, 1024), lab.uniform("positive", 24, 1024), torch.full((1, 1024), 0.1)]).float()
    exact, size = rows.double().sum(-1), rows.double().abs().sum(-1)
    one, pairs = _running(rows), rows
    while pairs.shape[-1] > 1:
        pairs = pairs[:, ::2] + pairs[:, 1::2]
    chain, tree = (one[:, -1].double() - exact).abs(), (pairs[:, 0].double() - exact).abs()
    n = torch.arange(1, 1025)
    shown = (one[-1].double() - rows[-1].double().cumsum(0)).abs()[15::16]
    drawn = Curve(
        x=tuple(n[15::16].tolist()), measured=tuple(shown.tolist()),
        bound=tuple(((n - 1) * SINGLE * rows[-1].double().cumsum(0))[15::16].tolist()), across="n",
        up="error of n equal numbers", log_y=True,
    )  # fmt: skip
    slack = 1 + 1e-3
    return every(
        at_most(
            chain, slack * (1023 if depth_of_sequence else 10) * SINGLE * size, slack=0.0, where="one after the other"
        ),
        at_most(tree, slack * 10 * SINGLE * size, slack=0.0, where="in pairs"),
    ).drawn(drawn)


@theorem(
    section=SUMS,
    source=HIGHAM + ", section 4.3, of Kahan 1965",
    broken={"without the compensation": {"compensated": False}},
)
def a_compensated_sum_does_not_grow(lab: Lab, *, compensated: bool = True) -> Verdict:
    """Kahan: |fl(Σx) - Σx| ≤ (2u + O(n·u²))·Σ|x|, whatever n

    Proof: (s + x) - s - x is computed without error and is what the addition lost; the next term takes it along.
    Experiment: float32, 50 rows of 1024 numbers, normal, positive, and all the same.
    """
    rows = torch.cat([lab.normal("x", 25, 1024), lab.uniform("positive", 24, 1024), torch.full((1, 1024), 0.1)]).float()
    total, lost = torch.zeros(50), torch.zeros(50)
    for column in rows.unbind(-1):
        term = column - lost if compensated else column
        raised = total + term
        lost = (raised - total) - term
        total = raised
    limit = (2 * SINGLE + 4 * 1024 * SINGLE**2) * rows.double().abs().sum(-1)
    return at_most((total.double() - rows.double().sum(-1)).abs(), limit, slack=0.0)


# Gradient clipping


@theorem("B15.a", section=CLIPPING, source=PASCANU, broken={"each entry on its own": {"by_value": True}})
def clipping_bounds_the_norm(lab: Lab, *, by_value: bool = False) -> Verdict:
    """‖g'‖ = min(‖g‖, c), within 10⁻⁶

    Proof: g' = g·min(1, c/‖g‖).
    Experiment: `clip_grad_norm_`, as the trainer calls it, on 200 pairs of tensors of all sizes, c = 1; the figure: ‖g'‖ over ‖g‖.
    """
    before, after = _clipped(lab, by_value=by_value)
    norms, found = before.norm(dim=-1), after.norm(dim=-1)
    order = norms.argsort()[::5]
    drawn = Curve(
        x=tuple(norms[order].tolist()), measured=tuple(found[order].tolist()), bound=(1.0,) * len(order), across="‖g‖", up="‖g'‖",
        log_x=True, log_y=True,
    )  # fmt: skip
    return equal(found, norms.clamp(max=1), 1e-6).drawn(drawn)


@theorem("B15.b", section=CLIPPING, source=PASCANU, broken={"each entry on its own": {"by_value": True}})
def clipping_keeps_the_direction(lab: Lab, *, by_value: bool = False) -> Verdict:
    """g' is parallel to g, all tensors together

    Proof: all entries are multiplied by one number.
    Experiment: `clip_grad_norm_` on 200 pairs of tensors of all sizes, c = 1.
    """
    before, after = _clipped(lab, by_value=by_value)
    unit, other = (x / x.norm(dim=-1, keepdim=True) for x in (before, after))
    return equal(other, unit)


@theorem(section=CLIPPING, source="PyTorch, torch.nn.utils.clip_grad_norm_", broken={"c/‖g‖ itself": {"eps": 0.0}})
def torch_adds_a_millionth(lab: Lab, *, eps: float = 1e-6) -> Verdict:
    """PyTorch's g' = g·min(1, c/(‖g‖ + 10⁻⁶)): a gradient of norm c comes out a millionth too short

    Proof: its code; the 10⁻⁶ keeps c/0 away.
    Experiment: `clip_grad_norm_` on 200 pairs of tensors of all sizes, c = 1.
    """
    before, after = _clipped(lab)
    return equal(after, before * (1 / (before.norm(dim=-1, keepdim=True) + eps)).clamp(max=1))


@theorem("B15.c", section=CLIPPING, source="derived here", broken={"a single microbatch": {"parts": 1}})
def microbatches_must_not_clip_on_their_own(lab: Lab, *, parts: int = 4) -> Verdict:
    """clip(Σ_m g_m) and Σ_m clip(g_m) have different directions

    Conditions: microbatches whose gradients have different norms above c.
    Proof: each g_m gets a factor of its own, so that large ones lose the weight that they had in the sum.
    Experiment: four normal gradients, each three times as large as the one before; c = 1. The trainer clips once a step.
    """
    gradients = lab.normal("gradients", parts, 50) * 3.0 ** torch.arange(parts)[:, None]
    once, each = _clip(gradients.sum(0)), torch.stack([_clip(g) for g in gradients]).sum(0)
    return apart(once / once.norm(), each / each.norm(), 0.05)


@theorem(section=CLIPPING, source="derived here", broken={"all in one tensor": {"tensors": 1}})
def tensors_must_not_clip_on_their_own(lab: Lab, *, tensors: int = 4) -> Verdict:
    """clip((g_1, …, g_n)) by the norm of all and (clip(g_1), …, clip(g_n)) by the norm of each have different directions

    Conditions: tensors whose gradients have different norms above c.
    Proof: as for microbatches; the norm of all is √Σ‖g_i‖², which no tensor knows.
    Experiment: four normal gradients, each three times as large as the one before; c = 1.
    """
    gradients = lab.normal("gradients", tensors, 50) * 3.0 ** torch.arange(1, tensors + 1)[:, None]
    together, each = _clip(gradients.flatten()), torch.cat([_clip(g) for g in gradients])
    return apart(together / together.norm(), each / each.norm(), 0.05)


@theorem(section=CLIPPING, source="derived here", broken={"a bound that is never reached": {"bound": 1e6}})
def clipping_biases_the_mean(lab: Lab, *, bound: float = 0.3) -> Verdict:
    """E[clip(r·∇logπ(y))] is not parallel to ∇J

    What is clipped is what is rare and large; in the mean its direction loses weight. Clipping the mean of many answers does so less.
    Proof: the factor c/‖r(y)·∇logπ(y)‖ depends on y.
    Experiment: a bandit with at least three arms and rewards from .5 to 1.5; every answer clipped on its own at c = .3.
    """
    arms = max(3, lab.arms)
    world = bandit((0.5 + lab.uniform("rewards", arms)).tolist())
    theta = lab.policy(world)
    each = (world.rewards[:, None, None] * world.scores(theta)).flatten(1)
    chances = world.probabilities(theta)
    factors = (bound / each.norm(dim=-1)).clamp(max=1)
    mean, cut = chances @ each, (chances * factors) @ each
    return apart(cut / cut.norm(), mean / mean.norm(), 1e-3)


@theorem(
    section=CLIPPING, source="Kingma and Ba 2015, https://arxiv.org/abs/1412.6980",
    broken={"one step clipped among others": {"all_alike": False}, "an ε that counts": {"eps": 0.1}},
)  # fmt: skip
def adam_does_not_see_a_constant_factor(lab: Lab, *, all_alike: bool = True, eps: float = 0.0) -> Verdict:
    """Adam's steps on c·g_1, c·g_2, … are its steps on g_1, g_2, …      ε = 0

    Clipping changes what Adam does only by treating steps differently.
    Proof: m and √v are both multiplied by c.
    Experiment: 30 steps of 50 normal gradients, c = 1/10.
    """
    gradients = lab.normal("gradients", 30, 50)
    factors = torch.full((30, 1), 0.1, dtype=torch.float64)
    if not all_alike:
        factors[1:] = 1.0
    return equal(_adam(factors * gradients, eps=eps), _adam(gradients, eps=eps))


@theorem(
    section=CLIPPING, source="derived here, by Cauchy-Schwarz; Kingma and Ba 2015, https://arxiv.org/abs/1412.6980, have the sparse case",
    broken={"the learning rate": {"bound": 1.0}, "the bound of a lone gradient": {"decaying": False}},
)  # fmt: skip
def a_step_of_adam_is_bounded(lab: Lab, *, bound: float | None = None, decaying: bool = True) -> Verdict:
    """|Δθ| ≤ lr·(1-β₁)/√((1-β₂)(1-β₁²/β₂)), whatever the gradients: 7.3·lr at β = (.9, .999), 3.2·lr after a lone gradient

    So a spike that is not clipped still moves each weight by a few learning rates at most.
    Conditions: β₁² < β₂; √(1-β₂ᵗ) ≤ 1-β₁ᵗ, as at these β.
    Proof: m = (1-β₁)Σ_i β₁^i g_i ≤ (1-β₁)·√Σ_i(β₁²/β₂)^i·√Σ_i β₂^i g_i², the last factor being √(v/(1-β₂)). g_i ∝ (β₁/β₂)^i attains it.
    Experiment: 400 streams of 60 gradients that come after thousands of zeros: normal, growing, lone, and the extreme one.
    """
    first, second = 0.9, 0.999
    ages = torch.arange(59, -1, -1, dtype=torch.float64)[:, None]
    streams = torch.cat([
        lab.normal("normal", 60, 200), lab.normal("growing", 60, 198) * 0.5 ** (ages * lab.uniform("rate", 1, 198)),
        (ages == 0).double(), (first / second) ** ages,
    ], -1)  # fmt: skip
    found = _adam(streams, before=20_000).abs().amax(0)
    limit = (1 - first) / math.sqrt((1 - second) * ((1 - first**2 / second) if decaying else 1.0))
    return every(at_most(found, bound or limit), at_least(found[-1], 0.99 * limit, where="the extreme stream"))


# What several experiments share


def _logits(lab: Lab) -> Tensor:
    """`[M, V]` rows of all sizes up to about 1000; the first has equal logits."""
    x = 10 ** (3 * lab.uniform("size", INSTANCES, 1)) * (2 * lab.uniform("logits", INSTANCES, lab.vocabulary) - 1)
    x[0] = 1.0
    return x


def _logsumexp(x: Tensor) -> Tensor:
    """`[M]` by the library: z_y - logπ(y)."""
    return x[:, 0] - logprobs_of(x, torch.zeros(len(x), dtype=torch.int64)).logprobs


def _both_signs(largest: float, number: int) -> Tensor:
    one = torch.logspace(-3, math.log10(largest), number, dtype=torch.float64)
    return torch.cat([-one.flip(0), one])


def _exactly(function: Callable[[Decimal], Decimal], x: Sequence[float]) -> list[Decimal]:
    """In decimal arithmetic, of exactly these floats, to 40 digits."""
    known = []
    for v in x:
        with localcontext() as context:
            context.prec = DIGITS + int(abs(v) / 2.3)  # 1 + e^{-|v|} keeps them
            known.append(function(Decimal(v)))
    return known


def _relative(found: Tensor, known: Sequence[Decimal]) -> Tensor:
    """|found - known| / |known|; ∞ where nothing finite was found."""
    with localcontext() as context:
        context.prec = DIGITS
        errors = [
            float(abs((Decimal(f) - k) / k)) if math.isfinite(f) else math.inf
            for f, k in zip(found.tolist(), known, strict=True)
        ]
    return torch.tensor(errors, dtype=torch.float64)


def _running(rows: Tensor) -> Tensor:
    """Sums from the left, each rounded."""
    total, out = torch.zeros_like(rows[:, 0]), []
    for column in rows.unbind(-1):
        total = total + column
        out.append(total)
    return torch.stack(out, -1)


def _clip(gradient: Tensor, *, by_value: bool = False) -> Tensor:
    """A gradient of one tensor after the trainer's clip at 1, or with each entry clipped there."""
    return _clip_all([gradient], by_value=by_value)


def _clip_all(gradients: Sequence[Tensor], *, by_value: bool = False) -> Tensor:
    weights = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    if by_value:
        torch.nn.utils.clip_grad_value_(weights, 1.0)
    else:
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
    return torch.cat([w.grad for w in weights if w.grad is not None])


def _clipped(lab: Lab, *, by_value: bool = False) -> tuple[Tensor, Tensor]:
    """(`[200, 30]` gradients of two tensors, norms from .01 to 100, the same after clipping at 1)."""
    before = lab.normal("gradients", 200, 30) * 10 ** (4 * lab.uniform("sizes", 200, 1) - 2) / math.sqrt(30)
    return before, torch.stack([_clip_all([g[:10], g[10:]], by_value=by_value) for g in before])


def _adam(gradients: Tensor, *, eps: float = 0.0, before: int = 0) -> Tensor:
    """`[T, D]` steps over the learning rate, β = (.9, .999), after `before` steps without a gradient."""
    m, v, steps = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0]), []
    for t, g in enumerate(gradients, before + 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
        steps.append((m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + eps))
    return torch.stack(steps).nan_to_num(0.0)  # 0/0 before the first gradient
