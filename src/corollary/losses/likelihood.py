"""Losses of supervised fine-tuning: per-token terms to minimise."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from corollary.config import Config
from corollary.declare import Fraction, declares
from corollary.losses.pairs import precise
from corollary.types import Terms, TokenBatch


@declares(family="likelihood", bounds=(0.0, math.inf))
def nll(logprobs: Tensor) -> Terms:
    """Negative log-likelihood.

        L = -logπ(y)

    Args:
        logprobs: `[B, T]` nats, of the target tokens; carries the gradient.

    Source: Shannon 1948; the loss of every supervised fine-tuning.
    Theory: docs/theory/losses-supervised.md#nll

    >>> import torch
    >>> nll(torch.tensor([-0.5])).loss
    tensor([0.5000])
    """
    return Terms(loss=-logprobs, metrics={})


@declares(family="likelihood", bounds=(0.0, math.inf))
def label_smoothing(logprobs: Tensor, mean_logprobs: Tensor, *, smoothing: Fraction = 0.1) -> Terms:
    """Cross-entropy to the target mixed with the uniform distribution.

        L = -(1-ε)·logπ(y) - ε·(1/V)·Σᵥ logπ(v)

    The target token keeps 1 - ε + ε/V of the mass.

    Args:
        logprobs: `[B, T]` nats, of the target tokens; carries the gradient.
        mean_logprobs: `[B, T]` nats, mean over the vocabulary of logπ(v) at the same position; carries the gradient.
        smoothing: ε, what the uniform distribution counts; 0 is `nll`.

    Returns:
        Terms with metric `nll`, the part that is not smoothed.

    Raises:
        ValueError: a parameter is out of its range.

    Source: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.
    Theory: docs/theory/losses-supervised.md#label_smoothing

    >>> import torch
    >>> label_smoothing(torch.tensor([-1.0]), torch.tensor([-3.0]), smoothing=0.5).loss
    tensor([2.])
    """
    logprobs, mean_logprobs = precise(logprobs), precise(mean_logprobs)
    loss = -(1 - smoothing) * logprobs - smoothing * mean_logprobs
    return Terms(loss, {"nll": -logprobs.detach()})


def _dft_gradient(logprobs: Tensor) -> Tensor:
    return -logprobs.detach().exp()


@declares(
    family="likelihood", stop_gradient=True, gradient=_dft_gradient, bounds=(0.0, math.exp(-1) * (1 + 1e-6)), tail=False
)
def dft(logprobs: Tensor) -> Terms:
    """Negative log-likelihood, each token weighted by its own probability: dynamic fine-tuning.

        L = -sg[π(y)]·logπ(y)        ∂L/∂logπ(y) = -π(y)

    Its gradient is that of -π(y), so a token that the policy finds impossible pulls least.

    Args:
        logprobs: `[B, T]` nats, of the target tokens; carries the gradient.

    Returns:
        Terms with metric `nll`, before the weight.

    Source: Wu et al. 2025, https://arxiv.org/abs/2508.05629.
    Theory: docs/theory/losses-supervised.md#dft

    >>> import torch
    >>> dft(torch.tensor([0.5, 1.0]).log()).loss
    tensor([0.3466, -0.0000])
    """
    logprobs = precise(logprobs)
    return Terms(-logprobs.detach().exp() * logprobs, {"nll": -logprobs.detach()})


class NLL(Config):
    """Negative log-likelihood of the target tokens."""

    type: Literal["nll"] = "nll"

    def __call__(self, logprobs: Tensor, batch: TokenBatch) -> Terms:
        return nll(logprobs)
