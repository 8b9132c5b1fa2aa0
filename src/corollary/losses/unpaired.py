"""Losses of answers that are each called desirable or not: one term per answer, to minimise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from corollary.declare import NonNegative, Positive, declares
from corollary.losses.pairs import log_ratio, sigmoid
from corollary.types import Terms


@declares(family="unpaired", bounds=(0.0, 1.0), tail=False, monotone=True)
def kto(
    sequence_logprobs: Tensor,
    sequence_ref_logprobs: Tensor,
    desirable: Tensor,
    baseline: Tensor,
    *,
    beta: Positive = 0.1,
    desirable_weight: NonNegative = 1.0,
    undesirable_weight: NonNegative = 1.0,
) -> Terms:
    """Kahneman-Tversky optimisation: a gain that saturates, and a loss that does.

        L = λ_D·(1 - σ(β·(Δ - z0)))   where desirable        Δ = logπ(y) - logref(y)
        L = λ_U·(1 - σ(β·(z0 - Δ)))   where not

    Bounded by λ; the gradient dies far out on either side.

    Args:
        sequence_logprobs: `[B]` nats, of each whole answer; carries the gradient.
        sequence_ref_logprobs: `[B]` nats, under the reference; constant.
        desirable: `[B]` bool.
        baseline: `[]` nats, z0 of `kto_baseline`, of the whole step; constant.
        beta: β, reward units per nat.
        desirable_weight: λ_D; λ_D·n_D / (λ_U·n_U) is kept between 1 and 1.5 as a rule.
        undesirable_weight: λ_U.

    Returns:
        Terms with metric `reward`, β·Δ.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
    Theory: docs/theory/losses-preference.md#kto

    >>> same = torch.tensor([-3.0, -3.0])
    >>> kto(same, same, torch.tensor([True, False]), torch.tensor(0.0), undesirable_weight=2.0).loss
    tensor([0.5000, 1.0000])
    """
    ratio = log_ratio(sequence_logprobs, sequence_ref_logprobs)
    short = beta * (baseline - ratio)
    # 1 - σ(x) is written σ(-x): the difference would be 0 long before the value is.
    loss = torch.where(desirable.bool(), desirable_weight * sigmoid(short), undesirable_weight * sigmoid(-short))
    return Terms(loss, {"reward": beta * ratio.detach()})


@declares(family="unpaired", bounds=(0.0, math.inf), monotone=True)
def bco(
    sequence_logprobs: Tensor,
    sequence_ref_logprobs: Tensor,
    desirable: Tensor,
    shift: Tensor,
    *,
    beta: Positive = 0.1,
) -> Terms:
    """Binary classifier optimisation: is the answer desirable, told from its implicit reward.

        L = -log σ(β·Δ - δ)   where desirable        Δ = logπ(y) - logref(y)
        L = -log σ(δ - β·Δ)   where not

    Args:
        sequence_logprobs: `[B]` nats, of each whole answer; carries the gradient.
        sequence_ref_logprobs: `[B]` nats, under the reference; constant.
        desirable: `[B]` bool.
        shift: `[]` reward units, δ: the mean of β·Δ over desirable and undesirable answers alike, running; constant.
        beta: β, reward units per nat.

    Returns:
        Terms with metric `reward`, β·Δ.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Jung et al. 2024, https://arxiv.org/abs/2404.04656.
    Theory: docs/theory/losses-preference.md#bco

    >>> same = torch.tensor([-3.0])
    >>> bco(same, same, torch.tensor([True]), torch.tensor(0.0)).loss
    tensor([0.6931])
    """
    reward = beta * log_ratio(sequence_logprobs, sequence_ref_logprobs)
    over = reward - shift
    return Terms(-F.logsigmoid(torch.where(desirable.bool(), over, -over)), {"reward": reward.detach()})


@declares(family="metric")
def kto_baseline(mismatched_logprobs: Tensor, mismatched_ref_logprobs: Tensor) -> Tensor:
    """KTO's reference point z0: how far the policy is from the reference, on answers to other prompts.

        z0 = sg[max(0, mean(logπ(y') - logref(y')))]        y' the answer to another prompt

    The mean is over the whole optimizer step: make it before the step is split, and give every part the same number.

    Args:
        mismatched_logprobs: `[B]` nats, of each prompt with the answer to another (`mismatched` says which).
        mismatched_ref_logprobs: `[B]` nats, of the same under the reference.

    Returns:
        `[]` nats, without gradient.

    Raises:
        ValueError: there are fewer than 2: a single prompt has no other's answer.

    Source: Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
    Theory: docs/theory/estimators.md#kto_baseline

    >>> kto_baseline(torch.tensor([-1.0, -2.0]), torch.tensor([-2.0, -2.0]))
    tensor(0.5000)
    """
    if mismatched_logprobs.numel() < 2:
        raise ValueError(f"z0 needs the answers to at least 2 prompts, got {mismatched_logprobs.numel()}")
    return log_ratio(mismatched_logprobs, mismatched_ref_logprobs).detach().mean().clamp(min=0)


def mismatched(n: int) -> Tensor:
    """For each of n prompts, another whose answer it is to be paired with: the next one, and the first for the last.

    Args:
        n: prompts of the step, all different.

    Returns:
        `[n]` int64, a permutation that leaves none where it is.

    Raises:
        ValueError: n < 2.

    >>> mismatched(3)
    tensor([1, 2, 0])
    """
    if n < 2:
        raise ValueError(f"a prompt is mismatched with another's answer, so there must be at least 2, got {n}")
    return (torch.arange(n) + 1) % n
