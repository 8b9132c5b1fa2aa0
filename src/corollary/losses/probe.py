"""A user's formula tried on a little made-up data: what is broken is told before a model is loaded.

It finds what breaks a run. Whether the mathematics is right is the contract's business: `corollary check`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from corollary.config import Variant
from corollary.custom import is_reference, said
from corollary.losses.bind import Blame, Bound, blamer, token_inputs, values
from corollary.ops.reduce import PairMean, TokenMean, token_weights, weighted_sum
from corollary.types import PolicyBatch, PreferenceBatch, TokenBatch, ValueBatch

_LENGTHS = (5, 3, 4, 1)


def made_up(kind: type[TokenBatch]) -> tuple[Tensor, Any]:
    """Log-probabilities `[4, 5]` and a batch of four answers to two prompts; the same ones at each call."""
    random = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    rows, width = len(_LENGTHS), max(_LENGTHS)
    lengths = torch.tensor(_LENGTHS)
    trained = torch.arange(width) < lengths[:, None]
    logprobs = -numbers(rows, width) - 0.1
    average = PairMean() if kind is PreferenceBatch else TokenMean()
    more: dict[str, Any] = {}
    if kind is PolicyBatch:
        near = [logprobs + 0.2 * (numbers(rows, width) - 0.5) for _ in range(3)]
        more = dict(zip(("sampler_logprobs", "old_logprobs", "ref_logprobs"), near, strict=True))
        more["advantages"] = torch.tensor([1.0, -1.0, 0.5, -0.5])[:, None].expand(rows, width)
    elif kind is PreferenceBatch:
        more = {"ref_logprobs": logprobs + 0.2 * (numbers(rows, width) - 0.5), "mean_chosen_length": torch.tensor(4.5)}
    elif kind is ValueBatch:
        more = {"returns": numbers(rows, width), "old_values": numbers(rows, width)}
    batch = kind(
        prompts=((1, 2), (1,)), prompt_of=torch.tensor([0, 0, 1, 1]), targets=torch.ones(rows, width, dtype=torch.long),
        lengths=lengths, weights=token_weights(trained, average).float(), **more,
    )  # fmt: skip
    return logprobs, batch


def probe(formula: Variant, kind: type[TokenBatch]) -> None:
    """Try a user's loss on a made-up batch; one of ours is known and passes.

    Args:
        formula: with its parameters.
        kind: of the batch that the algorithm will train on.

    Raises:
        UserCodeError: it names the clause of the contract that the loss breaks, and the line in the user's file.
    """
    if not is_reference(formula.type):
        return
    blame, loss = blamer(formula), Bound(formula)
    logprobs, batch = made_up(kind)
    leaves = {"logprobs": logprobs, "entropy": logprobs.abs(), "mean_logprobs": 2 * logprobs}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    batch = replace(batch, entropy=leaves["entropy"], mean_logprobs=leaves["mean_logprobs"])
    with warnings.catch_warnings():  # what it warns of comes again in the run; here, one line says what is broken
        warnings.simplefilter("ignore")
        first, second = (loss(leaves["logprobs"], batch).loss for _ in range(2))
    if not torch.equal(first.where(batch.trained, 0.0), second.where(batch.trained, 0.0)):
        blame("pure", "gives another value when called again: it draws random numbers or keeps a state", None)
    try:
        weighted_sum(first, batch.weights).backward()
    except RuntimeError as cause:
        blame("gradient", f"cannot be differentiated: {said(cause)}", None)
    _gradient([leaf.grad for leaf in leaves.values() if leaf.grad is not None], blame)


def _gradient(gradients: list[Tensor], blame: Blame) -> None:
    if any(not gradient.isfinite().all() for gradient in gradients):
        blame("finite", "has a gradient that is not finite on ordinary log-probabilities", None)
    if not any(gradient.any() for gradient in gradients):
        blame("gradient", "has a gradient of 0 on ordinary log-probabilities: something is detached", None)


def probe_advantage(formula: Variant) -> None:
    """Try a user's advantage on two groups of four answers, each with two rewards and up to five tokens.

    Raises:
        UserCodeError: it breaks the contract.
    """
    if is_reference(formula.type):
        rewards = torch.tensor([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 1.0, 0.25]])
        lengths = torch.tensor([[3, 5, 2, 4], [1, 2, 3, 4]])
        trained = torch.arange(5) < lengths.view(-1, 1)
        tokens = {"trained": trained, "logprobs": -0.5 * trained, "ref_logprobs": -0.6 * trained}
        inputs = {
            "rewards": rewards,
            "lengths": lengths,
            "part_rewards": torch.stack([rewards, 1 - rewards], -1),
            **tokens,
        }
        values(formula, inputs, shape=tuple(trained.shape if per_token(formula) else rewards.shape))


def per_token(advantage: Variant) -> bool:
    """Whether an advantage is one of each token `[B, T]`: if it takes anything of tokens. Else it is one of each answer."""
    return not {"trained", "logprobs", "ref_logprobs"}.isdisjoint(type(advantage).inputs)


def probe_average(formula: Variant) -> None:
    """Try a user's average on a mask of four rows.

    Raises:
        UserCodeError: it breaks the contract.
    """
    if is_reference(formula.type):
        trained = made_up(TokenBatch)[1].trained
        values(formula, {"trained": trained}, shape=tuple(trained.shape))


def probe_correction(formula: Variant) -> None:
    """Try a user's weights for a sampler of other precision.

    Raises:
        UserCodeError: it breaks the contract.
    """
    if is_reference(formula.type):
        logprobs, batch = made_up(PolicyBatch)
        values(formula, token_inputs(logprobs, batch), shape=tuple(logprobs.shape))
