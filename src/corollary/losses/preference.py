"""Losses of preference pairs against a reference: one term per pair, to minimise.

An answer enters as its log-probability, summed over its tokens. Throughout

    Δ_w = logπ(y_w) - logref(y_w)        Δ_l = logπ(y_l) - logref(y_l)        z = β·(Δ_w - Δ_l)

with w the chosen answer of a pair and l the rejected one; n_w, n_l are their lengths in tokens.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from corollary.declare import FlipRate, NonNegative, Positive, declares
from corollary.losses.pairs import Reduction, log_ratio, per_token, reduced, reward_metrics, sigmoid
from corollary.types import Terms

_LOG2 = math.log(2)
_LOSS = (0.0, math.inf)


def _ipo_at_reference(tau: float = 0.1, **_: float) -> float:
    return 1 / (4 * tau**2)


def _exo_at_reference(smoothing: float = 1e-3, **_: float) -> float:
    return -_LOG2 - 0.5 * math.log(smoothing) - 0.5 * math.log1p(-smoothing)


def _bco_at_reference(shift: float = 0.0, **_: float) -> float:
    return math.log1p(math.exp(-shift)) + math.log1p(math.exp(shift))


def _sppo_at_reference(beta: float = 0.1, **_: float) -> float:
    return 1 / (2 * beta**2)


@declares(family="preference", bounds=_LOSS, value_at_reference=_LOG2, monotone=True)
def dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1) -> Terms:
    """Direct preference optimisation.

        L = -log σ(z)        z = β·(Δ_w - Δ_l)

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.
    Theory: docs/theory/losses-preference.md#dpo

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> dpo(*pair, beta=0.5).loss  # -log σ(1)
    tensor([0.3133])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    return Terms(-F.logsigmoid(won - lost), reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, value_at_reference=_LOG2, monotone=False)
def cdpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    flip_rate: FlipRate = 0.1,
) -> Terms:
    """DPO whose labels are wrong at a known rate, by smoothing them: conservative DPO.

        L = -(1-ε)·log σ(z) - ε·log σ(-z)

    Least at the finite margin z = log((1-ε)/ε), not at infinity.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        flip_rate: ε, share of pairs whose label is the wrong way round.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO.
    Theory: docs/theory/losses-preference.md#cdpo

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> cdpo(*pair, beta=0.5, flip_rate=0.25).loss
    tensor([0.5633])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    z = won - lost
    loss = -(1 - flip_rate) * F.logsigmoid(z) - flip_rate * F.logsigmoid(-z)
    return Terms(loss, reward_metrics(won, lost))


@declares(family="preference", bounds=(-math.inf, math.inf), value_at_reference=_LOG2, monotone=True)
def robust_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    flip_rate: FlipRate = 0.1,
) -> Terms:
    """DPO whose labels are wrong at a known rate, without bias: rDPO.

        L = [-(1-ε)·log σ(z) + ε·log σ(-z)] / (1-2ε)

    Its mean over flips is the DPO loss of clean labels. One pair's is unbounded below, so its value says little.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        flip_rate: ε, share of pairs whose label is the wrong way round.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409.
    Theory: docs/theory/losses-preference.md#robust_dpo

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> robust_dpo(*pair, beta=0.5, flip_rate=0.25).loss
    tensor([-0.1867])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    z = won - lost
    loss = (flip_rate * F.logsigmoid(-z) - (1 - flip_rate) * F.logsigmoid(z)) / (1 - 2 * flip_rate)
    return Terms(loss, reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, value_at_reference=_ipo_at_reference, monotone=False)
def ipo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, tau: Positive = 0.1) -> Terms:
    """Identity preference optimisation, on sums as in the paper.

        L = (Δ_w - Δ_l - 1/(2τ))²

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        tau: τ, 1 per nat; the margin aimed at is 1/(2τ) nats.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (τ·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Azar et al. 2023, eq. 17, https://arxiv.org/abs/2310.12036.
    Theory: docs/theory/losses-preference.md#ipo

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> ipo(*pair, tau=0.5).loss  # (2 - 1)²
    tensor([1.])
    """
    won, lost = log_ratio(chosen, ref_chosen), log_ratio(rejected, ref_rejected)
    loss = (won - lost - 1 / (2 * tau)).square()
    return Terms(loss, reward_metrics(tau * won, tau * lost))


@declares(
    family="preference", bounds=_LOSS, value_at_reference=_ipo_at_reference, monotone=False, length_invariant=True
)
def ipo_mean(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    tau: Positive = 0.1,
) -> Terms:
    """Identity preference optimisation, on means over tokens as in its authors' experiments.

        L = (Δ_w/n_w - Δ_l/n_l - 1/(2τ))²

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        chosen_lengths, rejected_lengths: `[N]` tokens.
        tau: τ, 1 per nat; the margin aimed at is 1/(2τ) nats per token.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (τ·Δ/n), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Azar et al. 2023, https://arxiv.org/abs/2310.12036; means: https://github.com/huggingface/trl/issues/1265.
    Theory: docs/theory/losses-preference.md#ipo_mean

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> ipo_mean(*pair, torch.tensor([2]), torch.tensor([4]), tau=0.5).loss  # (1/2 + 1/4 - 1)²
    tensor([0.0625])
    """
    won = per_token(log_ratio(chosen, ref_chosen), chosen_lengths)
    lost = per_token(log_ratio(rejected, ref_rejected), rejected_lengths)
    loss = (won - lost - 1 / (2 * tau)).square()
    return Terms(loss, reward_metrics(tau * won, tau * lost))


@declares(family="preference", bounds=_LOSS, value_at_reference=1.0, monotone=True)
def hinge(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1) -> Terms:
    """Hinge on the implicit reward margin.

        L = max(0, 1 - z)        z = β·(Δ_w - Δ_l)

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Zhao et al. 2023, https://arxiv.org/abs/2305.10425; Liu et al. 2023, https://arxiv.org/abs/2309.06657.
    Theory: docs/theory/losses-preference.md#hinge

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> hinge(*pair, beta=0.25).loss  # 1 - 1/2
    tensor([0.5000])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    return Terms((1 - won + lost).relu(), reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, value_at_reference=_LOG2, length_invariant=True, monotone=True)
def ln_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    beta: Positive = 5.0,
) -> Terms:
    """Length-normalised DPO, as in Tülu 3.

        L = -log σ(β·(Δ_w/n_w - Δ_l/n_l))

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        chosen_lengths, rejected_lengths: `[N]` tokens.
        beta: β, reward units per nat of a token; some fifty times that of `dpo`.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ/n), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Lambert et al. 2024, https://arxiv.org/abs/2411.15124.
    Theory: docs/theory/losses-preference.md#ln_dpo

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> ln_dpo(*pair, torch.tensor([2]), torch.tensor([4]), beta=4.0).loss  # -log σ(3)
    tensor([0.0486])
    """
    won = per_token(log_ratio(chosen, ref_chosen), chosen_lengths)
    lost = per_token(log_ratio(rejected, ref_rejected), rejected_lengths)
    won, lost = beta * won, beta * lost
    return Terms(-F.logsigmoid(won - lost), reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, shift_invariant=False, monotone=True)
def dpo_nll(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    mean_chosen_length: Tensor,
    *,
    beta: Positive = 0.1,
    preference_weight: NonNegative = 1.0,
    nll_weight: NonNegative = 1.0,
    nll: Reduction = "mean",
    preference: Literal["sum", "mean"] = "sum",
) -> Terms:
    """DPO with the negative log-likelihood of the chosen answer.

        L = a·(-log σ(z)) + b·NLL

        NLL = -logπ(y_w)          nll=sum: NeMo RL's default
            = -logπ(y_w) / n_w    nll=mean: the paper's
            = -logπ(y_w) / n̄_w    nll=token_mean: TRL's; over the pairs, the mean over all chosen tokens

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        chosen_lengths, rejected_lengths: `[N]` tokens.
        mean_chosen_length: `[]` tokens of all chosen answers of the whole step / number of its pairs.
        beta: β, reward units per nat.
        preference_weight: a.
        nll_weight: b.
        nll: what the chosen answer's log-probability is divided by.
        preference: `mean` divides Δ_w and Δ_l by their lengths, as `ln_dpo` does.

    Returns:
        Terms with the metrics of `dpo`, and `nll`, before its weight.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Pang et al. 2024, https://arxiv.org/abs/2404.19733; Liu et al. 2024, https://arxiv.org/abs/2405.16436.
    Theory: docs/theory/losses-preference.md#dpo_nll

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> dpo_nll(*pair, torch.tensor([2]), torch.tensor([4]), torch.tensor(2.0), beta=0.5, nll="mean").loss  # -log σ(1) + 4/2
    tensor([2.3133])
    """
    won = beta * reduced(log_ratio(chosen, ref_chosen), chosen_lengths, 1.0, preference)
    lost = beta * reduced(log_ratio(rejected, ref_rejected), rejected_lengths, 1.0, preference)
    likelihood = -reduced(chosen, chosen_lengths, mean_chosen_length, nll)
    loss = -preference_weight * F.logsigmoid(won - lost) + nll_weight * likelihood
    return Terms(loss, reward_metrics(won, lost) | {"nll": likelihood.detach()})


@declares(
    family="preference",
    bounds=(0.0, math.log(1e3) * (1 + 1e-6)),
    value_at_reference=_exo_at_reference,
    monotone=False,
    tail=False,
)
def exo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    smoothing: Annotated[float, Field(gt=0, lt=0.5)] = 1e-3,
) -> Terms:
    """Exact optimisation on pairs: reverse KL from the model's preference to the smoothed label.

        L = σ(z)·[log σ(z) - log(1-ε)] + σ(-z)·[log σ(-z) - log ε]

    Least at the finite margin z = log((1-ε)/ε); the gradient dies far out on either side, the wrong one included.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        smoothing: ε, what the label leaves to the rejected answer.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Ji et al. 2024, https://arxiv.org/abs/2402.00856.
    Theory: docs/theory/losses-preference.md#exo

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> exo(*pair, beta=0.5).loss
    tensor([1.2763])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    z = won - lost
    loss = sigmoid(z) * (F.logsigmoid(z) - math.log1p(-smoothing))
    loss = loss + sigmoid(-z) * (F.logsigmoid(-z) - math.log(smoothing))
    return Terms(loss, reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, value_at_reference=2 * _LOG2, monotone=False)
def nca(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1) -> Terms:
    """Noise contrastive alignment on pairs: the chosen answer's own log-ratio counts, not the margin alone.

        L = -log σ(c) - ½·log σ(-c) - ½·log σ(-r)        c = β·Δ_w, r = β·Δ_l

    Least at c = log 2 for the chosen answer.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Chen et al. 2024, https://arxiv.org/abs/2402.05369.
    Theory: docs/theory/losses-preference.md#nca

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> nca(*pair, beta=0.5).loss
    tensor([1.1982])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    loss = -F.logsigmoid(won) - 0.5 * F.logsigmoid(-won) - 0.5 * F.logsigmoid(-lost)
    return Terms(loss, reward_metrics(won, lost))


@declares(family="preference", bounds=(0.0, 2.0), value_at_reference=1.0, tail=False, monotone=True)
def apo_zero(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1
) -> Terms:
    """Anchored preference optimisation: chosen answers up, rejected ones down.

        L = 1 - σ(c) + σ(r)        c = β·Δ_w, r = β·Δ_l

    For chosen answers that are better than the policy's own.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266.
    Theory: docs/theory/losses-preference.md#apo_zero

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> apo_zero(*pair, beta=0.5).loss
    tensor([0.7551])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    # 1 - σ(c) is written σ(-c): the difference would be 0 long before the value is.
    return Terms(sigmoid(-won) + sigmoid(lost), reward_metrics(won, lost))


@declares(family="preference", unimodal=False, bounds=(0.0, 2.0), value_at_reference=1.0, monotone=False, tail=False)
def apo_down(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1
) -> Terms:
    """Anchored preference optimisation: both answers down, the rejected one further.

        L = σ(c) + 1 - σ(c - r)        c = β·Δ_w, r = β·Δ_l

    For chosen answers that are worse than the policy's own.

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266.
    Theory: docs/theory/losses-preference.md#apo_down

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> apo_down(*pair, beta=0.5).loss
    tensor([0.8914])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    return Terms(sigmoid(won) + sigmoid(lost - won), reward_metrics(won, lost))


@declares(
    family="preference", bounds=_LOSS, value_at_reference=_bco_at_reference, probes={"shift": (0.0, 0.5)}, monotone=True
)
def bco_pair(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: Positive = 0.1,
    shift: float = 0.0,
) -> Terms:
    """Binary classifier optimisation on pairs: each answer is judged by itself, against a shift.

        L = -log σ(c - δ) - log σ(δ - r)        c = β·Δ_w, r = β·Δ_l

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat.
        shift: δ, reward units; in the paper a running mean of c and r, which is the caller's to keep.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Jung et al. 2024, https://arxiv.org/abs/2404.04656.
    Theory: docs/theory/losses-preference.md#bco_pair

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> bco_pair(*pair, beta=0.5).loss
    tensor([0.9482])
    """
    won, lost = beta * log_ratio(chosen, ref_chosen), beta * log_ratio(rejected, ref_rejected)
    loss = -F.logsigmoid(won - shift) - F.logsigmoid(shift - lost)
    return Terms(loss, reward_metrics(won, lost))


@declares(family="preference", bounds=_LOSS, value_at_reference=_sppo_at_reference, monotone=False)
def sppo_hard(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: Positive = 0.1
) -> Terms:
    """Self-play preference optimisation with hard labels: each log-ratio is drawn to its own target.

        L = (Δ_w - 1/(2β))² + (Δ_l + 1/(2β))²

    Args:
        chosen, rejected: `[N]` nats, of each whole answer; carry the gradient.
        ref_chosen, ref_rejected: `[N]` nats, of the same under the reference; constants.
        beta: β, reward units per nat; the targets are ±1/(2β) nats.

    Returns:
        Terms with metrics `reward_chosen`, `reward_rejected` (β·Δ), `margin` and `accuracy`.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Wu et al. 2024, https://arxiv.org/abs/2405.00675.
    Theory: docs/theory/losses-preference.md#sppo_hard

    >>> import torch
    >>> pair = torch.tensor([[-4.0], [-6.0], [-5.0], [-5.0]])  # Δ_w = 1, Δ_l = -1
    >>> sppo_hard(*pair, beta=0.25).loss  # 1 + 1
    tensor([2.])
    """
    won, lost = log_ratio(chosen, ref_chosen), log_ratio(rejected, ref_rejected)
    loss = (won - 0.5 / beta).square() + (lost + 0.5 / beta).square()
    return Terms(loss, reward_metrics(beta * won, beta * lost))
