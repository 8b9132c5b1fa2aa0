"""From a mask and the average that a paper writes down to one tensor of weights, and the only sum there is.

A step's loss is Σ weights·terms. The weights are made once for the whole optimizer step, before any split, so that a slice of
the batch carries its slice of the weights and the sums of microbatches, ranks or packed rows add up to the same number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import Tensor

from corollary.config import Variant, choice, variant
from corollary.declare import declares


@declares(family="average")
def token_mean(trained: Tensor) -> Tensor:
    """Every trained token of the step counts alike.

        w[b,t] = m[b,t] / Σ m

    Args:
        trained: `[B, T]` bool, True where a token is trained on; of the whole optimizer step.

    Returns:
        `[B, T]` float64, summing to 1.

    Raises:
        ValueError: no token is trained on.

    Source: Yu et al. 2025 (DAPO), https://arxiv.org/abs/2503.14476; usual in supervised fine-tuning.
    Theory: docs/theory/estimators.md#token_mean

    >>> import torch
    >>> token_mean(torch.tensor([[True, True, True], [True, False, False]]))[0]
    tensor([0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    m, _ = _counted(trained)
    return m / m.sum()


@declares(family="average")
def sequence_mean(trained: Tensor) -> Tensor:
    """Every sequence counts alike, by the mean of its tokens.

        w[b,t] = m[b,t] / (N · Σₜ m[b,t])      N sequences with a trained token

    A token of a short answer weighs more than one of a long answer, which biases the gradient by length.

    Args:
        trained: `[B, T]` bool, True where a token is trained on; of the whole optimizer step.

    Returns:
        `[B, T]` float64, summing to 1.

    Raises:
        ValueError: no token is trained on.

    Source: Shao et al. 2024 (GRPO), https://arxiv.org/abs/2402.03300.
    Theory: docs/theory/estimators.md#sequence_mean

    >>> import torch
    >>> sequence_mean(torch.tensor([[True, True, True], [True, False, False]])).sum(dim=1)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    m, sequences = _counted(trained)
    return m / (sequences * m.sum(dim=1, keepdim=True).clamp(min=1))


@declares(family="average")
def sequence_sum(trained: Tensor) -> Tensor:
    """Every sequence counts by the sum of its tokens.

        w[b,t] = m[b,t] / N      N sequences with a trained token

    Args:
        trained: `[B, T]` bool, True where a token is trained on; of the whole optimizer step.

    Returns:
        `[B, T]` float64, summing to the mean number of trained tokens per sequence.

    Raises:
        ValueError: no token is trained on.

    Source: Williams 1992 (REINFORCE), https://doi.org/10.1007/BF00992696.
    Theory: docs/theory/estimators.md#sequence_sum

    >>> import torch
    >>> sequence_sum(torch.tensor([[True, True, True], [True, False, False]])).sum().item()
    2.0
    """
    m, sequences = _counted(trained)
    return m / sequences


@declares(family="average")
def constant(trained: Tensor, *, length: Annotated[int, Field(ge=1)]) -> Tensor:
    """Every sequence counts by the sum of its tokens, over one constant for the whole run.

        w[b,t] = m[b,t] / (N · L)      N sequences with a trained token

    Args:
        trained: `[B, T]` bool, True where a token is trained on; of the whole optimizer step.
        length: L, tokens; the most that an answer may have, never the padded width of a batch.

    Returns:
        `[B, T]` float64.

    Raises:
        ValueError: no token is trained on, or a parameter is out of its range.

    Source: Liu et al. 2025 (Dr. GRPO), https://arxiv.org/abs/2503.20783.
    Theory: docs/theory/estimators.md#constant

    >>> import torch
    >>> constant(torch.tensor([[True, True, True], [True, False, False]]), length=4)[1]
    tensor([0.1250, 0.0000, 0.0000], dtype=torch.float64)
    """
    m, sequences = _counted(trained)
    return m / (sequences * length)


@declares(family="average")
def pair_mean(trained: Tensor) -> Tensor:
    """Every pair counts alike, each of its tokens as much as any other of the pair; rows 2i and 2i+1 are pair i.

        w[b,t] = m[b,t] / (N · (n_2i + n_2i+1))      n tokens of a row, N pairs with a trained token in both rows

    A pair with one empty row teaches nothing and weighs 0.

    Args:
        trained: `[2N, T]` bool, True where a token is trained on; of the whole optimizer step.

    Returns:
        `[2N, T]` float64, summing to 1.

    Raises:
        ValueError: an odd number of rows, or no pair with a trained token in both.

    Source: Rafailov et al. 2023 (DPO: one mean over pairs), https://arxiv.org/abs/2305.18290.
    Theory: docs/theory/estimators.md#pair_mean

    >>> import torch
    >>> pair_mean(torch.tensor([[True, True, True], [True, False, False]])).sum(dim=1)
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    if len(trained) % 2:
        raise ValueError(f"rows 2i and 2i+1 are a pair, got {len(trained)} rows")
    m = trained.double()
    tokens = m.sum(dim=1).view(-1, 2)  # [N, 2]
    whole = (tokens > 0).all(dim=1)
    if not whole.any():
        raise ValueError(f"no pair to train on: in each of {len(whole)} pairs one row of the mask is all False")
    weight = whole.double() / (whole.sum() * tokens.sum(dim=1).clamp(min=1))
    return m * weight.repeat_interleave(2)[:, None]


TokenMean: Any = variant(token_mean)
SequenceMean: Any = variant(sequence_mean)
SequenceSum: Any = variant(sequence_sum)
Constant: Any = variant(constant)
PairMean: Any = variant(pair_mean)

if TYPE_CHECKING:
    Average = Variant
else:
    Average = choice([TokenMean, SequenceMean, SequenceSum, Constant], ["trained"])


def token_weights(trained: Tensor, average: Variant) -> Tensor:
    """What each token's term counts in the step's loss.

    Args:
        trained: `[B, T]` bool, True where a token is trained on; of the whole optimizer step.
        average: `TokenMean()`, `SequenceMean()`, `SequenceSum()`, `Constant(length=…)`, `PairMean()`, or the user's own.

    Returns:
        `[B, T]` float64 (the trainer casts it); rows that train nothing are all 0.

    Raises:
        ValueError: no token is trained on, so no average exists; or the average gave something else than `[B, T]` weights.

    Theory: docs/theory/estimators.md#averaging

    >>> import torch
    >>> trained = torch.tensor([[True, True, True], [True, False, False]])
    >>> token_weights(trained, TokenMean())[0]
    tensor([0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    _counted(trained)
    weights = average(trained=trained)
    if not isinstance(weights, Tensor) or weights.shape != trained.shape or not weights.isfinite().all():
        got = f"shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"{average.type} must give finite weights of shape {tuple(trained.shape)}, got {got}")
    return weights.double().where(trained, 0.0)


def _counted(trained: Tensor) -> tuple[Tensor, Tensor]:
    """(the mask as float64, number of sequences with at least one trained token)."""
    if not trained.any():
        raise ValueError(f"no token to train on: the {tuple(trained.shape)} mask is all False")
    return trained.double(), trained.any(dim=1).sum()


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
