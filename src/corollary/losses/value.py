"""Losses of a critic: per-token terms to minimise."""

from __future__ import annotations

from torch import Tensor

from corollary.declare import Positive, declares
from corollary.types import Terms


@declares(family="value")
def squared(values: Tensor, returns: Tensor) -> Terms:
    """Half the squared error of a critic.

        L = ½(V - R)²

    Args:
        values: `[B, T]` reward units, the critic's; carries the gradient.
        returns: `[B, T]` reward units, what it should have said: advantage plus old value.

    Returns:
        Terms with metric `error`, V - R.

    Source: Schulman et al. 2017, eq. 9, https://arxiv.org/abs/1707.06347; the ½ makes the gradient V - R.
    Theory: docs/theory/losses-policy.md#squared

    >>> import torch
    >>> squared(torch.tensor([0.5]), torch.tensor([1.0])).loss
    tensor([0.1250])
    """
    error = values - returns
    return Terms(error.square() / 2, {"error": error.detach()})


@declares(family="value", tail=False)
def clipped(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: Positive = 0.2) -> Terms:
    """Half the larger of two squared errors, of the value and of the value clipped to a band around the old one.

        L = ½ max[(V - R)², (clip(V, V_old - ε, V_old + ε) - R)²]

    Args:
        values: `[B, T]` reward units, the critic's; carries the gradient.
        old_values: `[B, T]` reward units, the critic's before the update.
        returns: `[B, T]` reward units.
        clip: ε > 0, reward units; how far a value may move in one update before its gradient is cut.

    Returns:
        Terms with metrics `error`, V - R, and `clipped`, 1 where the gradient is cut.

    Raises:
        ValueError: a parameter is out of its range.

    Source: the code of Schulman et al. 2017, studied by Andrychowicz et al. 2020, https://arxiv.org/abs/2006.05990, who find
        that it helps little.
    Theory: docs/theory/losses-policy.md#clipped

    >>> import torch
    >>> new, old = torch.tensor([0.9, 0.6]), torch.tensor([0.5, 1.0])
    >>> clipped(new, old, torch.ones(2)).loss  # the first came nearer than the band allows: no gradient
    tensor([0.0450, 0.0800])
    """
    error = values - returns
    inside = values.maximum(old_values - clip).minimum(old_values + clip) - returns
    cut = (inside.square() > error.square()).to(values.dtype)
    return Terms(error.square().maximum(inside.square()) / 2, {"error": error.detach(), "clipped": cut})
