"""Losses of preference pairs, further ones: without a reference, with a penalty, of another divergence, on distributions.

An answer enters as its log-probability, summed over its tokens. Throughout

    Δ_w = logπ(y_w) - logref(y_w)        Δ_l = logπ(y_l) - logref(y_l)        z = β·(Δ_w - Δ_l)

with w the chosen answer of a pair and l the rejected one; n_w, n_l are their lengths in tokens.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from corollary.declare import NonNegative, Positive, declares
from corollary.losses.pairs import Reduction, log_ratio, per_token, precise, reduced, reward_metrics, sigmoid
from corollary.types import Terms

_LOG2 = math.log(2)
_LOSS = (0.0, math.inf)
_LINEAR_BEYOND = 60.0  # nats; e⁶⁰ times any margin is finite in float32


@declares(family="preference", bounds=_LOSS, shift_invariant=False, monotone=True)
def slic_hf(chosen: Tensor, rejected: Tensor, *, margin: NonNegative = 1.0, nll_weight: NonNegative = 0.1) -> Terms:
    """Sequence likelihood calibration: a hinge on the answers' likelihoods, and the likelihood of the chosen one.

        L = max(0, δ - logπ(y_w) + logπ(y_l)) - λ·logπ(y_w)

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        margin: δ, nats, by how much the chosen answer should be the likelier.
        nll_weight: λ.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (here logπ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Zhao et al. 2023, https://arxiv.org/abs/2305.10425.
    Theory: docs/theory/losses-preference.md#slic_hf

    >>> chosen, rejected = torch.tensor([-4.0]), torch.tensor([-6.0])
    >>> slic_hf(chosen, rejected, margin=3.0, nll_weight=0.5).loss  # 1 + 2
    tensor([3.])
    """
    chosen, rejected = precise(chosen), precise(rejected)
    loss = (margin - chosen + rejected).relu() - nll_weight * chosen
    return Terms(loss, reward_metrics(chosen, rejected))


@declares(family="preference", bounds=_LOSS, shift_invariant=False, length_invariant=True, monotone=True)
def simpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: Positive = 2.0,
    gamma: NonNegative = 1.0,
) -> Terms:
    """Simple preference optimisation: mean log-probabilities without a reference, and a margin.

        L = -log σ(β·(logπ(y_w)/n_w - logπ(y_l)/n_l) - γ)

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        chosen_lengths, rejected_lengths: `[N]` tokens.
        beta: β, reward units per nat of a token.
        gamma: γ, reward units, the margin; a quarter to a half of β as a rule.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·logπ/n), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Meng et al. 2024, https://arxiv.org/abs/2405.14734.
    Theory: docs/theory/losses-preference.md#simpo

    >>> chosen, rejected = torch.tensor([-4.0]), torch.tensor([-6.0])
    >>> simpo(chosen, rejected, torch.tensor([2]), torch.tensor([4]), beta=2.0, gamma=0.0).loss  # -log σ(2·(-2 + 1.5))
    tensor([1.3133])
    """
    won, lost = beta * per_token(chosen, chosen_lengths), beta * per_token(rejected, rejected_lengths)
    return Terms(-F.logsigmoid(won - lost - gamma), reward_metrics(won, lost))


def log_odds(mean_logprobs: Tensor) -> Tensor:
    """Log-odds of a mean log-probability x̄.

        log odds = x̄ - log(1 - e^x̄)

    At x̄ = 0, a probability that rounds to 1, they are infinite. Above -eps of the dtype the value is the one at -eps, with
    the slope there, so that both stay finite and neither is lost.

    Args:
        mean_logprobs: nats, at most 0.

    >>> log_odds(torch.tensor([0.5]).log())
    tensor([0.])
    """
    x = precise(mean_logprobs)
    x = x + (x.clamp(max=-torch.finfo(x.dtype).eps) - x).detach()
    return x - (-x.expm1()).log()


@declares(family="preference", bounds=_LOSS, shift_invariant=False, length_invariant=True, monotone=True)
def odds_ratio(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor) -> Terms:
    """The preference part of ORPO alone: log-odds of the mean token probabilities.

        L = -log σ(o_w - o_l)        o = x̄ - log(1 - e^x̄), x̄ = logπ(y)/n

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        chosen_lengths, rejected_lengths: `[N]` tokens.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (the log-odds), `margin` and `accuracy`.

    Source: Hong et al. 2024, https://arxiv.org/abs/2403.07691.
    Theory: docs/theory/losses-preference.md#odds_ratio

    >>> half, fifth = torch.tensor([0.5]).log(), torch.tensor([0.2]).log()
    >>> odds_ratio(half, fifth, torch.tensor([1]), torch.tensor([1])).loss  # odds 1 and 1/4: -log(4/5)
    tensor([0.2231])
    """
    won = log_odds(per_token(chosen, chosen_lengths))
    lost = log_odds(per_token(rejected, rejected_lengths))
    return Terms(-F.logsigmoid(won - lost), reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, shift_invariant=False, length_invariant=True, monotone=True)
def orpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    mean_chosen_length: Tensor,
    *,
    odds_weight: NonNegative = 0.1,
    nll: Reduction = "mean",
) -> Terms:
    """Odds ratio preference optimisation: likelihood of the chosen answer, and its odds against the rejected one's.

        L = NLL + λ·(-log σ(o_w - o_l))        o = x̄ - log(1 - e^x̄), x̄ = logπ(y)/n

    The likelihood is that of the answer alone, not of the prompt before it.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        chosen_lengths, rejected_lengths: `[N]` tokens.
        mean_chosen_length: `[]` tokens of all chosen answers of the whole step / number of its pairs.
        odds_weight: λ.
        nll: what the chosen answer's log-probability is divided by; `sum` gives up the invariance to length.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (the log-odds), `margin`, `accuracy`, and `nll`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Hong et al. 2024, https://arxiv.org/abs/2403.07691.
    Theory: docs/theory/losses-preference.md#orpo

    >>> half, fifth, one = torch.tensor([0.5]).log(), torch.tensor([0.2]).log(), torch.tensor([1])
    >>> orpo(half, fifth, one, one, torch.tensor(1.0), odds_weight=1.0).loss  # -log(1/2) - log(4/5)
    tensor([0.9163])
    """
    odds = odds_ratio(chosen, rejected, chosen_lengths, rejected_lengths)
    likelihood = -reduced(chosen, chosen_lengths, mean_chosen_length, nll)
    return Terms(likelihood + odds_weight * odds.loss, odds.metrics | {"nll": likelihood.detach()})


@declares(family="preference", bounds=_LOSS, shift_invariant=False, monotone=True)
def cpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_lengths: Tensor,
    mean_chosen_length: Tensor,
    *,
    beta: Positive = 0.1,
    nll_weight: NonNegative = 1.0,
    nll: Reduction = "token_mean",
) -> Terms:
    """Contrastive preference optimisation: DPO against a uniform reference, with the chosen answer's likelihood.

        L = -log σ(β·(logπ(y_w) - logπ(y_l))) + α·NLL

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        chosen_lengths: `[N]` tokens.
        mean_chosen_length: `[]` tokens of all chosen answers of the whole step / number of its pairs.
        beta: β, reward units per nat.
        nll_weight: α.
        nll: what the chosen answer's log-probability is divided by; see `dpo_nll`.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·logπ), `margin`, `accuracy`, and `nll`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Xu et al. 2024, https://arxiv.org/abs/2401.08417.
    Theory: docs/theory/losses-preference.md#cpo

    >>> chosen, rejected = torch.tensor([-4.0]), torch.tensor([-6.0])
    >>> cpo(chosen, rejected, torch.tensor([2]), torch.tensor(2.0), beta=0.5).loss  # -log σ(1) + 4/2
    tensor([2.3133])
    """
    won, lost = beta * precise(chosen), beta * precise(rejected)
    likelihood = -reduced(chosen, chosen_lengths, mean_chosen_length, nll)
    loss = nll_weight * likelihood - F.logsigmoid(won - lost)
    return Terms(loss, reward_metrics(won, lost) | {"nll": likelihood.detach()})


@declares(family="preference", bounds=_LOSS, value_at_reference=_LOG2, monotone=True)
def dpop(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    penalty: NonNegative = 5.0,
) -> Terms:
    """DPO-positive: DPO with a penalty where the chosen answer falls below the reference.

        L = -log σ(z - β·λ·max(0, -Δ_w))

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        penalty: λ, how much a fall of the chosen answer counts against a margin.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Pal et al. 2024, https://arxiv.org/abs/2402.13228.
    Theory: docs/theory/losses-preference.md#dpop

    >>> pair = torch.tensor([[-6.0], [-8.0], [-5.0], [-5.0]])  # Δ_w = -1, Δ_l = -3
    >>> dpop(*pair, beta=0.5, penalty=2.0).loss  # -log σ(1 - 2·0.5)
    tensor([0.6931])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    z = won - lost - penalty * (-won).relu()
    return Terms(-F.logsigmoid(z), reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, monotone=True)
def length_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: Positive = 0.1,
    length_penalty: NonNegative = 0.02,
) -> Terms:
    """DPO with a margin against the longer answer: R-DPO.

        L = -log σ(z - α·(n_w - n_l))

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        chosen_lengths, rejected_lengths: `[N]` tokens.
        beta: β, reward units per nat.
        length_penalty: α, reward units per token.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Park et al. 2024, https://arxiv.org/abs/2403.19159.
    Theory: docs/theory/losses-preference.md#length_dpo

    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> length_dpo(*pair, torch.tensor([2]), torch.tensor([4]), beta=0.5, length_penalty=0.5).loss  # -log σ(1 + 0.5·2)
    tensor([0.1269])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    longer = (chosen_lengths - rejected_lengths).to(won.dtype)
    z = won - lost - length_penalty * longer
    return Terms(-F.logsigmoid(z), reward_metrics(won, lost))


def _divergence_slope(ratio: Tensor, divergence: str) -> Tensor:
    """f'(e^Δ) without its constants, which a difference does not see."""
    match divergence:
        case "reverse_kl":
            return ratio
        case "forward_kl":
            # Past e⁶⁰ it goes on as a straight line: finite, and the gradient is not lost.
            near = (-ratio).clamp(max=_LINEAR_BEYOND)
            return -near.exp() * (1 + (-ratio - near))
        case "js":
            return F.logsigmoid(ratio)
        case _:
            raise ValueError(f"f_dpo: divergence must be reverse_kl, forward_kl or js, got {divergence!r}")


@declares(family="preference", bounds=_LOSS, value_at_reference=_LOG2, tail=False, monotone=True)
def f_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    divergence: Literal["reverse_kl", "forward_kl", "js"] = "js",
) -> Terms:
    """DPO whose policy is held to the reference by another divergence.

        L = -log σ(β·(g(Δ_w) - g(Δ_l)))

        g(Δ) = Δ           divergence=reverse_kl: DPO
             = -e^-Δ       divergence=forward_kl
             = log σ(Δ)    divergence=js: Jensen-Shannon

    But for reverse KL, the gradient of a rejected answer dies as it rises above the reference.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        divergence: which f; g(Δ) is f'(e^Δ) without its constants.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·g(Δ)), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Wang et al. 2023, https://arxiv.org/abs/2309.16240.
    Theory: docs/theory/losses-preference.md#f_dpo

    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> f_dpo(*pair, beta=0.5, divergence="forward_kl").loss
    tensor([0.2691])
    """
    won, lost = log_ratio(chosen, ref_chosen), log_ratio(rejected, ref_rejected)
    won, lost = beta * _divergence_slope(won, divergence), beta * _divergence_slope(lost, divergence)
    return Terms(-F.logsigmoid(won - lost), reward_metrics(won, lost))


@declares(
    family="preference",
    prefers=False,
    unimodal=False,
    bounds=_LOSS,
    value_at_reference=0.5 * (_LOG2 + 1),
    monotone=False,
)
def discopop(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    tau: Annotated[float, Field(gt=0, le=1)] = 0.05,
) -> Terms:
    """Discovered preference optimisation: logistic and exponential loss, mixed by the margin itself.

        L = -log σ(z)·(1 - s) + e^-z·s        s = σ(z/τ)

    Has a local minimum at a negative margin.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        tau: τ ≤ 1, reward units, the width of the mix; beyond 1 the exponential would outgrow it on the wrong side.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Lu et al. 2024, https://arxiv.org/abs/2406.08414.
    Theory: docs/theory/losses-preference.md#discopop

    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> discopop(*pair, beta=0.5).loss
    tensor([0.3679])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    z = won - lost
    # e^-z alone overflows where s is 0; their product in one exponent does not.
    loss = -F.logsigmoid(z) * sigmoid(-z / tau) + (F.logsigmoid(z / tau) - z).exp()
    return Terms(loss, reward_metrics(won, lost))


@declares(
    family="preference",
    bounds=_LOSS,
    value_at_reference=_LOG2,
    shift_invariant=False,
    cross_sample="batch",
    monotone=True,
)
def aot(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1) -> Terms:
    """Alignment by optimal transport: the policy's margins dominate the reference's, as distributions over the batch.

        L_i = -log σ(β·(d_i - r_(i)))        d = logπ(y_w) - logπ(y_l), r = logref(y_w) - logref(y_l)

        r_(i) is the margin of the reference at the rank that d_i has among the policy's.

    Every pair's term depends on the others, so it takes all pairs of the step at once.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.

    Returns:
        Terms with metrics `reward_chosen` (β·d), `reward_rejected` (β·r of the same rank), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Melnyk et al. 2024, https://arxiv.org/abs/2406.05882.
    Theory: docs/theory/losses-preference.md#aot

    >>> pair = torch.tensor([[-4.0, -6.0], [-5.0, -5.0], [-4.0, -6.0], [-7.0, -5.0]])
    >>> aot(*pair, beta=0.5).loss  # d = -1, 1 against -1, 3
    tensor([1.3133, 0.6931])
    """
    own = precise(chosen) - precise(rejected)
    ref = precise(ref_chosen.detach()) - precise(ref_rejected.detach())
    ranks = own.detach().argsort(stable=True).argsort()
    won, lost = beta * own, beta * ref.sort().values[ranks]
    return Terms(-F.logsigmoid(won - lost), reward_metrics(won, lost))
