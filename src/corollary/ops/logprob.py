"""Log-probabilities of tokens from hidden states, without ever holding the logits of a whole batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def logprob_and_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each row, in float32 at least.

        logπ(y) = z_y - LSE(z)        H = LSE(z) - Σ softmax(z)·z

    Args:
        logits: `[N, V]`, already divided by the temperature.
        targets: `[N]` int64.

    Returns:
        (logprobs `[N]` nats with gradient, entropy `[N]` nats without).

    >>> lp, h = logprob_and_entropy(torch.zeros(1, 4), torch.tensor([2]))
    >>> round(lp.item(), 4), round(h.item(), 4)
    (-1.3863, 1.3863)
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    norm = logits.logsumexp(-1)
    with torch.no_grad():
        entropy = norm - ((logits - norm[:, None]).exp() * logits).sum(-1)
    return logits.gather(-1, targets[:, None])[:, 0] - norm, entropy


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, *, temperature: float = 1.0, chunk: int = 512
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden·headᵀ / τ)[target] and its entropy, `chunk` rows at a time.

    Beyond one chunk the logits are formed again in the backward pass, so memory stays at chunk × V.

    Args:
        hidden: `[N, D]` final hidden states, each predicting one target.
        head: `[V, D]` output embedding.
        targets: `[N]` int64.
        temperature: τ > 0 of the sampling distribution.
        chunk: rows whose logits exist at one time.

    Returns:
        (logprobs `[N]` nats with gradient, entropy `[N]` nats without).

    >>> h, w = torch.eye(3), torch.eye(3)
    >>> one, _ = token_logprobs(h, w, torch.tensor([0, 1, 2]))
    >>> many, _ = token_logprobs(h, w, torch.tensor([0, 1, 2]), chunk=1)
    >>> torch.equal(one, many)
    True
    """

    def part(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(h, head)
        return logprob_and_entropy(logits / temperature if temperature != 1 else logits, y)

    if len(targets) <= chunk:
        return part(hidden, targets)
    again = torch.is_grad_enabled()
    pieces = [
        checkpoint(part, h, y, use_reentrant=False) if again else part(h, y)
        for h, y in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    return torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces])
