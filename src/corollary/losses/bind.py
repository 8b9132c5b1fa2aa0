"""A formula and a batch: gives each input by its name, puts the result on the batch's tokens, and holds users' code to the contract.

    (output of the model [B, T], batch) → inputs by name → formula → Terms [B, T]

A sequence's or a pair's value stands on each of its tokens, so that the one tensor of weights averages everything.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from corollary.config import Variant, variant
from corollary.config.variants import defined
from corollary.custom import is_reference, line_of, said
from corollary.declare import Declaration, declaration_of
from corollary.errors import UserCodeError
from corollary.types import (
    DistillBatch,
    Loss,
    PolicyBatch,
    PreferenceBatch,
    Terms,
    TokenBatch,
    UnpairedBatch,
    ValueBatch,
)

B = TypeVar("B", bound=TokenBatch)
Inputs = Mapping[str, Any]

TOKEN = frozenset({"logprobs", "trained", "lengths", "weights", "entropy", "mean_logprobs", "targets", "batch"})
POLICY = TOKEN | {"old_logprobs", "advantages", "ref_logprobs", "sampler_logprobs"}
_SIDES = ("", "_lengths", "_logprobs", "_trained")
PREFERENCE = TOKEN | {"ref_logprobs", "margins", "mean_chosen_length"} | {
    f"{side}{name}" for side in ("chosen", "rejected") for name in _SIDES
} | {f"ref_{side}{name}" for side in ("chosen", "rejected") for name in ("", "_logprobs")}  # fmt: skip
UNPAIRED = TOKEN | {
    "ref_logprobs", "sequence_logprobs", "sequence_ref_logprobs", "desirable", "baseline", "shift"
}  # fmt: skip
REWARD_MODEL = frozenset({"chosen_rewards", "rejected_rewards", "margins", "batch"})
VALUE = frozenset({"values", "old_values", "returns", "trained", "lengths", "weights", "batch"})
DISTILLATION = frozenset(
    {"logits", "teacher_logits", "teacher_logprobs", "teacher_ids", "trained", "lengths", "weights", "targets", "batch"}
)
LIKELIHOOD = TOKEN | {"logits"}


def token_inputs(logprobs: Tensor, batch: TokenBatch) -> dict[str, Any]:
    """What every loss on tokens may take; what a batch has not is left out.

    Args:
        logprobs: `[B, T]` nats, with gradient.
        batch: that they speak of. Without `old_logprobs` the policy's own stand in, so that the first ratio is exactly 1.
    """
    found: dict[str, Any] = {
        "logprobs": logprobs, "trained": batch.trained, "lengths": batch.lengths, "weights": batch.weights,
        "entropy": batch.entropy, "mean_logprobs": batch.mean_logprobs, "targets": batch.targets, "batch": batch,
    }  # fmt: skip
    if isinstance(batch, PolicyBatch):
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        if batch.old_logprobs is None:
            found["batch"] = replace(batch, old_logprobs=old)
        found |= {"old_logprobs": old, "advantages": batch.advantages, "sampler_logprobs": batch.sampler_logprobs}
    if isinstance(batch, PolicyBatch | PreferenceBatch | UnpairedBatch):
        found["ref_logprobs"] = batch.ref_logprobs
    return {name: value for name, value in found.items() if value is not None}


def summed(logprobs: Tensor, trained: Tensor) -> Tensor:
    """Σ over the trained tokens of each row: an answer's log-probability.

    >>> summed(torch.tensor([[-1.0, -2.0, torch.nan]]), torch.tensor([[True, True, False]]))
    tensor([-3.])
    """
    wide = logprobs if logprobs.dtype == torch.double else logprobs.float()  # hundreds of terms
    return wide.where(trained, 0.0).sum(-1)


def pair_inputs(logprobs: Tensor, batch: PreferenceBatch) -> dict[str, Any]:
    """What a loss on pairs may take: `[N]` sums and lengths, and the tokens `[N, T]` behind them.

    A reward model says a value per token, and of those the reward is the one that is trained: the last.
    """
    found = token_inputs(logprobs, batch)
    for row, side in enumerate(("chosen", "rejected")):
        trained = batch.trained[row::2]
        found |= {
            f"{side}_trained": trained,
            f"{side}_lengths": trained.sum(-1),
            f"{side}_logprobs": logprobs[row::2],
            side: summed(logprobs[row::2], trained),
        }
        if batch.ref_logprobs is not None:
            ref = batch.ref_logprobs[row::2]
            found |= {f"ref_{side}_logprobs": ref, f"ref_{side}": summed(ref, trained)}
    found |= {
        f"{side}_rewards": found[side] for side in ("chosen", "rejected")
    }  # where the model says values, not logprobs
    if batch.margins is not None:
        found["margins"] = batch.margins[0::2]
    if batch.mean_chosen_length is not None:
        found["mean_chosen_length"] = batch.mean_chosen_length
    return found


def inputs_of(output: Tensor, batch: TokenBatch) -> dict[str, Any]:
    """Every input that a formula may take of this batch, by name.

    Args:
        output: what the model says: `logprobs [B, T]`; `values [B, T]` for a critic; `rewards [B]` of a reward model's pairs;
            `logits [B, T, V]` for a student.
        batch: what it speaks of.
    """
    masks = {"trained": batch.trained, "lengths": batch.lengths, "weights": batch.weights, "batch": batch}
    match batch:
        case PreferenceBatch() if output.dim() == 1:
            margins = {} if batch.margins is None else {"margins": batch.margins[0::2]}
            return {"chosen_rewards": output[0::2], "rejected_rewards": output[1::2], "batch": batch} | margins
        case PreferenceBatch():
            return pair_inputs(output, batch)
        case UnpairedBatch():
            whole = {"sequence_logprobs": summed(output, batch.trained), "desirable": batch.desirable}
            if batch.ref_logprobs is not None:
                whole["sequence_ref_logprobs"] = summed(batch.ref_logprobs, batch.trained)
            step = {"baseline": batch.baseline, "shift": batch.shift}
            return token_inputs(output, batch) | whole | {n: v for n, v in step.items() if v is not None}
        case ValueBatch():
            return masks | {"values": output, "old_values": batch.old_values, "returns": batch.returns}
        case DistillBatch():
            teacher = {"teacher_logits": batch.teacher_logits, "teacher_logprobs": batch.teacher_logprobs}
            teacher |= {"teacher_ids": batch.teacher_ids, "targets": batch.targets, "logits": output}
            return masks | {n: v for n, v in teacher.items() if v is not None}
        case _ if output.dim() == 3:
            return masks | {"logits": output, "targets": batch.targets}
        case _:
            return token_inputs(output, batch)


@dataclass(frozen=True, slots=True)
class Bound:
    """A formula as the trainer calls it: `(output, batch) → Terms [B, T]`."""

    formula: Variant

    @property
    def declaration(self) -> Declaration:
        return declaration_of(self.formula)

    @property
    def needs(self) -> frozenset[str]:
        """The names of its inputs."""
        return frozenset(type(self.formula).inputs)

    @property
    def cross_sample(self) -> bool:
        """Whether a sample's term depends on the other samples of the step."""
        return self.declaration.cross_sample is not None

    def __call__(self, output: Tensor, batch: TokenBatch) -> Terms:
        """Terms `[B, T]`; the formula never sees what stands behind the mask."""
        return self.strictly(where_trained(output, batch.trained), blind(batch))

    def strictly(self, output: Tensor, batch: TokenBatch) -> Terms:
        """The same with everything shown to the formula, as the contract calls it: a formula must be blind by itself."""
        return as_terms(called(self.formula, inputs_of(output, batch)), batch, self.formula)


@dataclass(frozen=True, slots=True)
class Around:
    """A loss with something done around it, which needs and couples what the loss does; a subclass is called as the loss is."""

    loss: Bound

    @property
    def needs(self) -> frozenset[str]:
        return self.loss.needs

    @property
    def cross_sample(self) -> bool:
        return self.loss.cross_sample


def where_trained(value: Tensor, trained: Tensor) -> Tensor:
    """The value with 0 where nothing is trained: `where`, since 0·NaN would be NaN in the gradient, too."""
    if value.dim() < 2 or tuple(value.shape[:2]) != tuple(trained.shape) or not value.is_floating_point():
        return value
    return value.where(trained.view(*trained.shape, *[1] * (value.dim() - 2)), 0.0)


def blind(batch: B) -> B:
    """The batch with 0 in every float field where nothing is trained."""
    tensors = {f.name: v for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)}
    return replace(batch, **{n: where_trained(v, batch.trained) for n, v in tensors.items() if n != "weights"})


def bind(formula: Callable[..., Any]) -> Loss:
    """A function, one with its parameters, or an object that is called, as a loss that a trainer takes; a loss as it is.

    >>> from corollary.losses.likelihood import nll
    >>> sorted(bind(nll).needs)
    ['logprobs']
    """
    if isinstance(formula, Variant):
        return Bound(formula)
    if isinstance(formula, partial):
        return Bound(variant(formula.func)(**formula.keywords))
    if isinstance(formula, type) or inspect.isroutine(formula):
        return Bound(variant(formula)())  # type: ignore[call-arg]
    if isinstance(formula, Loss):
        return formula
    return Bound(inspect.unwrap(variant)(formula.__call__, type(formula).__name__)())  # uncached: it holds the object


def called(formula: Variant, inputs: Inputs) -> Any:
    """The formula on its inputs.

    Raises:
        UserCodeError: a user's formula raises, edits an input in place, or takes what the batch has not.
    """
    blame = blamer(formula)
    taken = {name: inputs[name] for name in type(formula).inputs if name in inputs}
    missing = [n for n in type(formula).inputs if n not in taken and n not in type(formula).optional]
    if missing:
        blame("inputs", f"takes {missing[0]!r}, which this batch has not", None)
    watched = _tensors(taken)
    before = {name: value._version for name, value in watched.items()}
    try:
        result = formula(**taken)
    except (Exception, SystemExit) as cause:  # a user's exit would end a run as if it had gone well
        if not is_reference(formula.type):
            raise
        blame("runs", f"raised {said(cause)}", cause)
    edited = [name for name, version in before.items() if watched[name]._version != version]
    if edited:
        blame("pure", f"edits its input {edited[0]!r} in place", None)
    return result


def values(formula: Variant, inputs: Inputs, *, shape: tuple[int, ...]) -> Tensor:
    """What a formula that is no loss gives (an advantage, an average, a correction), held to its shape.

    Raises:
        UserCodeError: it gives something else; the line in the user's file is named.
    """
    blame, result = blamer(formula), called(formula, inputs)
    if not isinstance(result, Tensor):
        blame("terms", f"returned a {type(result).__name__}, not a tensor of shape {[*shape]}", None)
    if tuple(result.shape) != shape:
        blame("terms", f"returned shape {[*result.shape]}, expected {[*shape]}", None)
    if not result.isfinite().all():
        blame("finite", "returned a value that is not finite", None)
    return result


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors that a formula is given, those inside a batch too."""
    found = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    if isinstance(batch := inputs.get("batch"), TokenBatch):
        found |= {f"batch.{f.name}": v for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)}
    return found


Blame = Callable[[str, str, BaseException | None], NoReturn]
"""(clause of the contract, what is wrong, the exception behind it) raises."""


def blamer(formula: Variant) -> Blame:
    """Raises the error that names the clause and, for a user's formula, the line in the user's file."""

    def blame(clause: str, what: str, cause: BaseException | None) -> NoReturn:
        file, line = defined(type(formula).target)
        at = line_of(cause, file) if cause else ""
        if ":" not in at.removeprefix(file):  # raised elsewhere, or nothing was raised
            at = f"{file}:{line}"
        name = formula.type.rpartition(":")[2]
        raise UserCodeError(
            f"{name} {what}", where=at, hint=f"contract clause: {clause}; see corollary check {formula.type}"
        ) from cause

    return blame


def spread(result: Any, batch: TokenBatch, *, blame: Blame) -> Terms:
    """What a formula returned, on each token `[B, T]`.

    Args:
        result: `Terms`, or the loss alone; of shape `[B, T]`, `[B]`, or `[B / unit]`.
        batch: that it speaks of.
        blame: raises for a result that breaks the contract.
    """
    terms = result if isinstance(result, Terms) else Terms(result, {})
    loss, shape = terms.loss, tuple(batch.targets.shape)
    if not isinstance(loss, Tensor):
        blame("terms", f"returned a {type(loss).__name__}, not a tensor of terms", None)
    if not loss.requires_grad and torch.is_grad_enabled():
        blame("gradient", "returned terms that carry no gradient: something is detached or under no_grad", None)
    metrics = {}
    for name, value in terms.metrics.items():
        if not isinstance(value, Tensor):
            blame("terms", f"returned metric {name!r} as a {type(value).__name__}, not a tensor of values", None)
        metrics[name] = _on_tokens(value.detach(), shape, f"metric {name!r}", batch.unit, blame)
    return Terms(_on_tokens(loss, shape, "its loss", batch.unit, blame), metrics)


def _on_tokens(value: Tensor, shape: tuple[int, ...], name: str, unit: int, blame: Blame) -> Tensor:
    rows = shape[0]
    if tuple(value.shape) == shape:
        return value
    if unit > 1 and tuple(value.shape) == (rows // unit,):
        value = value.repeat_interleave(unit)
    if tuple(value.shape) == (rows,):
        return value[:, None].expand(*shape)
    wanted = f"[{shape[0]}, {shape[1]}] (a value per token)" + (
        f" or [{rows // unit}] (per pair)" if unit > 1 else f" or [{rows}] (per sequence)"
    )
    scalar = "; return terms and leave averaging to the weights" if value.dim() == 0 else ""
    blame("terms", f"returned {name} of shape {list(value.shape)}, expected {wanted}{scalar}", None)


def finite(loss: Tensor, batch: TokenBatch, blame: Blame) -> Tensor:
    """The loss, if every trained term of it is a number."""
    bad = batch.trained & ~loss.detach().isfinite()
    if bad.any():
        row, column = (int(i) for i in bad.nonzero()[0])
        value = loss.detach()[row, column].item()
        word = "NaN" if math.isnan(value) else f"{value}"
        blame("finite", f"returned {word} for token {column} of answer {row}, which is trained", None)
    return loss


def as_terms(result: Any, batch: TokenBatch, formula: Variant) -> Terms:
    """`spread`, blaming `formula`; a user's must also be finite where it is trained, and the trainer sees to ours."""
    blame = blamer(formula)
    terms = spread(result, batch, blame=blame)
    return Terms(finite(terms.loss, batch, blame), terms.metrics) if is_reference(formula.type) else terms
