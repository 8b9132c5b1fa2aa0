"""From a mask and the average that a paper writes down to one tensor of weights, and the only sum there is.

A step's loss is Σ weights·terms. The weights are made once for the whole optimizer step, before any split, so that a slice of
the batch carries its slice of the weights and the sums of microbatches, ranks or packed rows add up to the same number.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from torch import Tensor

from corollary.config import Config, by_name


class TokenMean(Config):
    """w[b,t] = m[b,t] / Σ m: every trained token of the step counts alike (DAPO, SFT)."""

    type: Literal["token_mean"] = "token_mean"


class SequenceMean(Config):
    """w[b,t] = m[b,t] / (N · Σₜ m[b,t]): every sequence counts alike, by the mean of its tokens (GRPO)."""

    type: Literal["sequence_mean"] = "sequence_mean"


class SequenceSum(Config):
    """w[b,t] = m[b,t] / N: every sequence counts by the sum of its tokens (REINFORCE, RLOO)."""

    type: Literal["sequence_sum"] = "sequence_sum"


class Constant(Config):
    """w[b,t] = m[b,t] / (N · L) with one constant L for the whole run (Dr. GRPO)."""

    type: Literal["constant"] = "constant"
    length: int = Field(ge=1)
    """L, tokens; the most that an answer may have, never the padded width of a batch."""


Average = Annotated[
    TokenMean | SequenceMean | SequenceSum | Constant, Field(discriminator="type"), BeforeValidator(by_name)
]


def token_weights(trained: Tensor, average: TokenMean | SequenceMean | SequenceSum | Constant) -> Tensor:
    """What each token's term counts in the step's loss.

        token_mean     w[b,t] = m[b,t] / Σ m
        sequence_mean  w[b,t] = m[b,t] / (N · Σₜ m[b,t])
        sequence_sum   w[b,t] = m[b,t] / N
        constant(L)    w[b,t] = m[b,t] / (N · L)

    N is the number of sequences with at least one trained token.

    Args:
        trained: `[B, T]` bool, True where a token is trained on; of the whole optimizer step.
        average: which of the four.

    Returns:
        `[B, T]` float64 (the trainer casts it); sums to 1 for the two means; rows that train nothing are all 0.

    Raises:
        ValueError: no token is trained on, so no average exists.

    Source: DeepSeekMath 2402.03300 (sequence mean), DAPO 2503.14476 (token mean), Dr. GRPO 2503.20783 (constant).

    >>> import torch
    >>> trained = torch.tensor([[True, True, True], [True, False, False]])
    >>> token_weights(trained, TokenMean())[0]
    tensor([0.2500, 0.2500, 0.2500], dtype=torch.float64)
    >>> token_weights(trained, SequenceMean()).sum(dim=1)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    if not trained.any():
        raise ValueError(f"no token to train on: the {tuple(trained.shape)} mask is all False")
    m = trained.double()
    sequences = trained.any(dim=1).sum()
    match average:
        case TokenMean():
            return m / m.sum()
        case SequenceMean():
            return m / (sequences * m.sum(dim=1, keepdim=True).clamp(min=1))
        case SequenceSum():
            return m / sequences
        case Constant(length=length):
            return m / (sequences * length)


def weighted_sum(terms: Tensor, weights: Tensor) -> Tensor:
    """Σ w·x, blind to whatever stands where the weight is 0, NaN included, in value and in gradient.

    >>> import torch
    >>> weighted_sum(torch.tensor([2.0, float("nan")]), torch.tensor([1.0, 0.0]))
    tensor(2.)
    """
    return terms.where(weights != 0, 0.0).mul(weights.to(terms.dtype)).sum()


def segment_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the last dimension of the entries that `mask` keeps; 0 where it keeps none.

    >>> import torch
    >>> segment_mean(torch.tensor([[1.0, 3.0, float("nan")]]), torch.tensor([[True, True, False]]))
    tensor([2.])
    """
    return values.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
