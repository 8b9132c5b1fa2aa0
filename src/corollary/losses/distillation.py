"""Losses of a student against a teacher's distributions: per-token terms to minimise.

P is the teacher's distribution, constant; Q is the student's. Everything is computed in float32 at least: as Q nears P the
error of a bfloat16 softmax outgrows the gradient.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from corollary.declare import declares
from corollary.types import Terms

Mixture = Annotated[float, Field(gt=0, lt=1)]
Tail = Literal["bucket", "renormalise"]


@declares(family="distillation", bounds=(0.0, math.inf))
def forward_kl(logits: Tensor, teacher_logits: Tensor) -> Terms:
    """Forward KL: the student must cover all that the teacher may say.

        L = KL(P‖Q) = Σ_v P(v)·[log P(v) - log Q(v)]      ∂L/∂z = Q - P

    Args:
        logits: `[..., V]`, the student's; carries the gradient.
        teacher_logits: `[..., V]`, constant, at the same temperature.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, up to the teacher's entropy.
    Theory: docs/theory/losses-supervised.md#forward_kl

    >>> forward_kl(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()).loss  # log 2
    tensor([0.6931])
    """
    return Terms(_kl(_log_softmax(teacher_logits).detach(), _log_softmax(logits)), {})


@declares(family="distillation", bounds=(0.0, math.inf), tail=False)
def reverse_kl(logits: Tensor, teacher_logits: Tensor) -> Terms:
    """Reverse KL: the student must not say what the teacher would not.

        L = KL(Q‖P) = Σ_v Q(v)·[log Q(v) - log P(v)]      ∂L/∂z = Q·(log Q - log P - L)

    Args:
        logits: `[..., V]`, the student's; carries the gradient.
        teacher_logits: `[..., V]`, constant, at the same temperature.

    Source: Gu et al. 2023 (MiniLLM), https://arxiv.org/abs/2306.08543.
    Theory: docs/theory/losses-supervised.md#reverse_kl

    >>> reverse_kl(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.5, 0.5]]).log()).loss  # log 2
    tensor([0.6931])
    """
    return Terms(_kl(_log_softmax(logits), _log_softmax(teacher_logits).detach()), {})


@declares(family="distillation", bounds=(0.0, math.log(2)), tail=False)
def jsd(logits: Tensor, teacher_logits: Tensor, *, beta: Mixture = 0.5) -> Terms:
    """Generalised Jensen–Shannon divergence, between the two KLs.

        L = β·KL(P‖M) + (1 - β)·KL(Q‖M)      M = βP + (1 - β)Q
        ∂L/∂z = (1 - β)·Q·[log(Q/M) - KL(Q‖M)]

    At both ends the limit is 0, not a KL: libraries that give the forward KL at β = 0 and the reverse at 1 have made another
    family, which jumps there. L/(β(1 - β)) is the one that has the KLs as limits.

    Args:
        logits: `[..., V]`, the student's; carries the gradient.
        teacher_logits: `[..., V]`, constant, at the same temperature.
        beta: β in (0, 1), the teacher's share of the mixture.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Agarwal et al. 2023 (GKD), https://arxiv.org/abs/2306.13649.
    Theory: docs/theory/losses-supervised.md#jsd

    >>> jsd(torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()).loss  # disjoint: log 2
    tensor([0.6931])
    """
    return Terms(_jsd(_log_softmax(logits), _log_softmax(teacher_logits).detach(), beta), {})


@declares(family="distillation", bounds=(0.0, math.inf))
def forward_kl_top_k(logits: Tensor, teacher_logprobs: Tensor, teacher_ids: Tensor, *, tail: Tail = "bucket") -> Terms:
    """Forward KL on the teacher's k likeliest tokens.

        L = Σ_i P_i·[log P_i - log Q_i]

    over the k tokens and, with `bucket`, one more that holds all the others: P_0 = 1 - Σ P_k and Q_0 = 1 - Σ Q_k. With
    `renormalise` both are divided by their sum over the k, and how much the student says elsewhere does not count.

    Args:
        logits: `[..., V]`, the student's; carries the gradient.
        teacher_logprobs: `[..., K]` nats, of the whole vocabulary's distribution: their sum may be less than 1.
        teacher_ids: `[..., K]` int64, which tokens those are.
        tail: what stands for the rest of the vocabulary.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531, by the chain rule of KL: the bucket is a lower bound of the
        whole, and the whole at K = V.
    Theory: docs/theory/losses-supervised.md#forward_kl_top_k

    >>> ids, teacher = torch.tensor([[0]]), torch.tensor([[0.5]]).log()
    >>> forward_kl_top_k(torch.zeros(1, 4), teacher, ids).loss  # KL of (½, ½) and (¼, ¾)
    tensor([0.1438])
    """
    student, teacher = _buckets(logits, teacher_logprobs, teacher_ids, tail)
    return Terms(_kl(teacher, student), {})


@declares(family="distillation", bounds=(0.0, math.inf), tail=False)
def reverse_kl_top_k(logits: Tensor, teacher_logprobs: Tensor, teacher_ids: Tensor, *, tail: Tail = "bucket") -> Terms:
    """Reverse KL on the teacher's k likeliest tokens.

        L = Σ_i Q_i·[log Q_i - log P_i]

    over the k tokens and, with `bucket`, one more that holds all the others; see `forward_kl_top_k`.

    Args:
        logits: `[..., V]`, the student's; carries the gradient.
        teacher_logprobs: `[..., K]` nats, of the whole vocabulary's distribution.
        teacher_ids: `[..., K]` int64, which tokens those are.
        tail: what stands for the rest of the vocabulary.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Gu et al. 2023 (MiniLLM), https://arxiv.org/abs/2306.08543, on buckets.
    Theory: docs/theory/losses-supervised.md#reverse_kl_top_k

    >>> ids, teacher = torch.tensor([[0]]), torch.tensor([[0.25]]).log()
    >>> reverse_kl_top_k(torch.zeros(1, 2), teacher, ids).loss  # KL of (½, ½) and (¼, ¾)
    tensor([0.1438])
    """
    student, teacher = _buckets(logits, teacher_logprobs, teacher_ids, tail)
    return Terms(_kl(student, teacher), {})


@declares(family="distillation", bounds=(0.0, math.log(2)), tail=False)
def jsd_top_k(
    logits: Tensor, teacher_logprobs: Tensor, teacher_ids: Tensor, *, beta: Mixture = 0.5, tail: Tail = "bucket"
) -> Terms:
    """Generalised Jensen–Shannon divergence on the teacher's k likeliest tokens.

        L = β·Σ_i P_i·log(P_i/M_i) + (1 - β)·Σ_i Q_i·log(Q_i/M_i)      M = βP + (1 - β)Q

    over the k tokens and, with `bucket`, one more that holds all the others; see `forward_kl_top_k` and `jsd`.

    Args:
        logits: `[..., V]`, the student's; carries the gradient.
        teacher_logprobs: `[..., K]` nats, of the whole vocabulary's distribution.
        teacher_ids: `[..., K]` int64, which tokens those are.
        beta: β in (0, 1), the teacher's share of the mixture.
        tail: what stands for the rest of the vocabulary.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Agarwal et al. 2023 (GKD), https://arxiv.org/abs/2306.13649, on buckets.
    Theory: docs/theory/losses-supervised.md#jsd_top_k

    >>> ids, teacher = torch.tensor([[0]]), torch.tensor([[0.5]]).log()
    >>> jsd_top_k(torch.zeros(1, 4), teacher, ids).loss  # between (½, ½) and (¼, ¾)
    tensor([0.0338])
    """
    student, teacher = _buckets(logits, teacher_logprobs, teacher_ids, tail)
    return Terms(_jsd(student, teacher, beta), {})


@declares(family="advantage", zero_sum=False)
def teacher_advantage(teacher_logprobs: Tensor, logprobs: Tensor) -> Tensor:
    """On-policy distillation: how much likelier the teacher finds a token that the student sampled.

        A = sg[log P(y) - log Q(y)]

    As the advantage of `reinforce` it descends the reverse KL of the next token, averaged over the states that the student
    visits; that today's token changes tomorrow's states is left out (γ = 0).

    Args:
        teacher_logprobs: `[B, T]` nats, the teacher's, of the tokens that the student sampled.
        logprobs: `[B, T]` nats, the student's, of the same tokens.

    Returns:
        `[B, T]` nats, constant in the student.

    Source: Thinking Machines 2025, "On-policy distillation"; https://arxiv.org/abs/2601.02780.
    Theory: docs/theory/estimators.md#teacher_advantage

    >>> teacher_advantage(torch.tensor([[-1.0]]), torch.tensor([[-3.0]]))
    tensor([[2.]])
    """
    return (teacher_logprobs - logprobs).detach()


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def _kl(logp: Tensor, logq: Tensor) -> Tensor:
    """Σ p·(log p - log q); where p is 0 the term is 0, also where q is."""
    p = logp.exp()
    return (p * (logp - logq).where(p > 0, 0.0)).sum(-1)


def _jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    # A token that both forbid has two logs of 0, whose logaddexp has no gradient; a very small number has one, and it is 0.
    kept = student.clamp(min=torch.finfo(student.dtype).min / 2)
    mixture = torch.logaddexp(teacher + math.log(beta), kept + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _buckets(logits: Tensor, teacher_logprobs: Tensor, teacher_ids: Tensor, tail: Tail) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the student and the teacher on the k tokens `[..., K]`, with the tail `[..., K + 1]`."""
    logq = _log_softmax(logits)
    known, teacher = logq.gather(-1, teacher_ids), teacher_logprobs.detach().to(logq.dtype)
    if tail == "renormalise":
        return known.log_softmax(-1), teacher.log_softmax(-1)
    if teacher_ids.shape[-1] == logits.shape[-1]:  # nothing is left for a tail
        return known, teacher
    # The student's tail is summed, not taken from 1, which would leave rounding of what may be tiny.
    rest = logq.scatter(-1, teacher_ids, -torch.inf).logsumexp(-1, keepdim=True)
    said = teacher.logsumexp(-1, keepdim=True).clamp(max=-torch.finfo(logq.dtype).eps)
    return torch.cat([known, rest], -1), torch.cat([teacher, (-said.expm1()).log()], -1)
