"""What the logits of a batch say, token by token, without ever holding all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class TokenLogprobs(NamedTuple):
    """Of each target, `[N]` nats."""

    logprobs: Tensor  # log-probability, with gradient
    entropy: Tensor  # of the distribution that it was drawn from; with gradient where that was asked for
    mean_logprobs: Tensor | None = None  # mean over the vocabulary of log p, with gradient, where it was asked for


def logprobs_of(
    logits: Tensor, targets: Tensor, *, entropy_gradient: bool = False, mean_logprobs: bool = False
) -> TokenLogprobs:
    """Log-probability of each target and entropy of each row, in float32 at least.

        logπ(y) = z_y - LSE(z)        H = -Σ π·logπ        mean_v logπ(v) = mean z - LSE(z)

    Args:
        logits: `[N, V]`, already divided by the temperature.
        targets: `[N]` int64.
        entropy_gradient: whether the entropy carries gradient, as an entropy bonus needs.
        mean_logprobs: whether the mean over the vocabulary is computed, as label smoothing needs.

    Theory: docs/theory/estimators.md#logprobs_of

    >>> lp, h, _ = logprobs_of(torch.zeros(1, 4), torch.tensor([2]))
    >>> round(lp.item(), 4), round(h.item(), 4)
    (-1.3863, 1.3863)
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    norm = logits.logsumexp(-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        logp = logits - norm[:, None]
        # A token that is forbidden by a logit of -inf has p·log p = 0, not 0·inf.
        entropy = -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)
    mean = logits.mean(-1) - norm if mean_logprobs else None
    return TokenLogprobs(logits.gather(-1, targets[:, None])[:, 0] - norm, entropy, mean)


def over_logits(
    hidden: Tensor,
    head: Tensor,
    function: Callable[..., tuple[Tensor, ...]],
    *rows: Tensor,
    temperature: float = 1.0,
    chunk: int = 512,
) -> tuple[Tensor, ...]:
    """function(hidden·headᵀ / τ, *rows), `chunk` rows at a time: any loss on logits, with its memory bounded.

    Beyond one chunk the logits are formed again in the backward pass, so memory stays at chunk × V.

    Args:
        hidden: `[N, D]` final hidden states.
        head: `[V, D]` output embedding.
        function: takes logits `[n, V]` and the n rows of each of `rows`; gives tensors of n rows, each its own.
        rows: tensors of N rows: targets, a teacher's logits.
        temperature: τ > 0 of the sampling distribution.
        chunk: rows whose logits exist at one time.

    Returns:
        What the function gives, of N rows; with gradient towards `hidden`, `head` and `rows`.

    >>> h, w = torch.eye(3), torch.eye(3)
    >>> over_logits(h, w, lambda logits, y: (logits.sum(-1) + y,), torch.tensor([1, 2, 3]), chunk=2)
    (tensor([2., 3., 4.]),)
    """

    def part(h: Tensor, *some: Tensor) -> tuple[Tensor, ...]:
        logits = F.linear(h, head)
        return tuple(function(logits / temperature if temperature != 1 else logits, *some))

    if len(hidden) <= chunk:
        return part(hidden, *rows)
    again = torch.is_grad_enabled()
    chunks: Any = zip(hidden.split(chunk), *(r.split(chunk) for r in rows), strict=True)
    pieces = [checkpoint(part, *c, use_reentrant=False) if again else part(*c) for c in chunks]
    return tuple(torch.cat(column) for column in zip(*pieces, strict=True))


def token_logprobs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int = 512,
    entropy_gradient: bool = False,
    mean_logprobs: bool = False,
) -> TokenLogprobs:
    """log softmax(hidden·headᵀ / τ)[target] and its entropy, `chunk` rows at a time.

    Args:
        hidden: `[N, D]` final hidden states, each predicting one target.
        head: `[V, D]` output embedding.
        targets: `[N]` int64.
        temperature: τ > 0 of the sampling distribution.
        chunk: rows whose logits exist at one time; see `over_logits`.
        entropy_gradient: whether the entropy carries gradient.
        mean_logprobs: whether the mean over the vocabulary is computed.

    >>> h, w = torch.eye(3), torch.eye(3)
    >>> one = token_logprobs(h, w, torch.tensor([0, 1, 2]))
    >>> many = token_logprobs(h, w, torch.tensor([0, 1, 2]), chunk=1)
    >>> torch.equal(one.logprobs, many.logprobs)
    True
    """

    def described(logits: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        said = logprobs_of(logits, y, entropy_gradient=entropy_gradient, mean_logprobs=mean_logprobs)
        return tuple(column for column in said if column is not None)

    return TokenLogprobs(*over_logits(hidden, head, described, targets, temperature=temperature, chunk=chunk))
