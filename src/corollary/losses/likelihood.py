"""Losses of supervised fine-tuning: per-token terms to minimise."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from corollary.config import Config
from corollary.types import Terms, TokenBatch


def nll(logprobs: Tensor) -> Terms:
    """Negative log-likelihood.

        L = -logπ(y)

    Args:
        logprobs: nats, of the target tokens; carries the gradient.

    >>> import torch
    >>> nll(torch.tensor([-0.5])).loss
    tensor([0.5000])
    """
    return Terms(loss=-logprobs, metrics={})


class NLL(Config):
    """Negative log-likelihood of the target tokens."""

    type: Literal["nll"] = "nll"

    def __call__(self, logprobs: Tensor, batch: TokenBatch) -> Terms:
        return nll(logprobs)
