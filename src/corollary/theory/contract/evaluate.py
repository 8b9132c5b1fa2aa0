"""A loss on a sample: its terms, Σ w·terms, and the gradient of that; and the distances that checks measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from corollary.errors import CorollaryError, UserCodeError
from corollary.losses.bind import as_terms, called, inputs_of
from corollary.ops.reduce import weighted_sum
from corollary.theory.contract.frozen import wide
from corollary.theory.contract.samples import LEAVES, Sample
from corollary.theory.contract.subject import Subject
from corollary.types import Terms


class Outcome(NamedTuple):
    """What a loss gives on a sample."""

    terms: Terms  # [B, T]
    value: Tensor  # Σ w·terms
    gradient: dict[
        str, Tensor
    ]  # of the value, to what the model says: `output`, and `entropy`, `mean_logprobs` where taken

    @property
    def main(self) -> Tensor:
        """The gradient to the model's output."""
        return next(iter(self.gradient.values()))

    @property
    def norm(self) -> float:
        """The largest entry of the gradient."""
        return max((g.abs().max().item() for g in self.gradient.values() if g.numel()), default=0.0)


def leaves(subject: Subject, sample: Sample) -> dict[str, Tensor]:
    """What carries the gradient, by name."""
    found: dict[str, Tensor] = {"output": sample.output} if subject.reads_output else {}
    for name in LEAVES[1:]:
        value = getattr(sample.batch, name)
        if value is not None and subject.takes(name):
            found[name] = value
    return found


def with_leaves(sample: Sample, values: dict[str, Tensor]) -> Sample:
    """The sample with other values of what carries the gradient."""
    return sample.change(values.get("output"), **{n: v for n, v in values.items() if n != "output"})


def terms_of(subject: Subject, sample: Sample) -> Terms:
    """Terms `[B, T]`, with everything behind the mask shown to the formula."""
    return as_terms(raw(subject, inputs_of(sample.output, sample.batch)), sample.batch, subject.formula)


def raw(subject: Subject, inputs: Mapping[str, Any]) -> Any:
    """What the formula itself gives, measured in float64 where the inputs are."""
    with wide(any(isinstance(v, Tensor) and v.dtype == torch.double for n, v in inputs.items() if n != "weights")):
        return called(subject.formula, inputs)


def loss_of(subject: Subject, sample: Sample) -> Tensor:
    """The loss's terms `[B, T]`, without a gradient."""
    with torch.no_grad():
        return terms_of(subject, sample).loss


def evaluate(subject: Subject, sample: Sample) -> Outcome:
    """Terms, value and gradient.

    Raises:
        UserCodeError: what comes back is no terms.
    """
    free = {name: value.detach().clone().requires_grad_() for name, value in leaves(subject, sample).items()}
    terms = terms_of(subject, with_leaves(sample, free))
    value = weighted_sum(terms.loss, sample.batch.weights)
    return Outcome(Terms(terms.loss.detach(), terms.metrics), value.detach(), grads(value, free))


def grads(value: Tensor, free: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a number to each of the leaves; 0 where it does not depend on one."""
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in free.items()}
    found = torch.autograd.grad(value, list(free.values()), allow_unused=True)
    return {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(free.items(), found, strict=True)}


def value_of(subject: Subject, sample: Sample) -> float:
    """Σ w·terms, without a gradient."""
    return weighted_sum(loss_of(subject, sample), sample.batch.weights).item()


def gap(got: Tensor, expected: Tensor, *, scale: float | None = None) -> float:
    """max|got - expected| / max(1, max|expected|); infinite where either is no number.

    >>> gap(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    0.5
    """
    if got.shape != expected.shape:
        return float("inf")
    if not got.numel():
        return 0.0
    if not (got.isfinite().all() and expected.isfinite().all()):
        return 0.0 if torch.equal(got.nan_to_num(7e77), expected.nan_to_num(7e77)) else float("inf")
    got, expected = got.double(), expected.double()
    largest = expected.abs().max().item() if scale is None else scale
    return (got - expected).abs().max().item() / max(1.0, largest)


def apart(a: Outcome, b: Outcome) -> float:
    """The distance of value and gradient, relative to the larger of each."""
    parts = [gap(a.value, b.value), *(gap(a.gradient[n], b.gradient[n]) for n in b.gradient)]
    return max(parts)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a check found on one sample."""

    residual: float
    cause: str = ""  # likely, where it can be told
    sample: Sample | None = None  # the failing input, where it is another than the one given


def worst(*found: Measured) -> Measured:
    """The largest residual with its cause."""
    return max(found, key=lambda m: float("inf") if m.residual != m.residual else m.residual, default=Measured(0.0))


def fault_of(error: BaseException) -> str:
    """One line for what a loss raised."""
    if isinstance(error, UserCodeError):
        return f"{error.where}: {error.what}" if error.where else error.what
    if isinstance(error, CorollaryError):
        return error.what
    return f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def on_policy(subject: Subject, sample: Sample) -> Sample:
    """Old policy, sampler and reference are the policy itself, and what weighs tokens by entropy is silent."""
    same = {"old_logprobs": sample.output, "sampler_logprobs": sample.output, "ref_logprobs": sample.output}
    if sample.batch.entropy is not None:
        same["entropy"] = torch.zeros_like(sample.batch.entropy)
    return sample.change(**same)


Check = Callable[[Subject, Any], Measured]


def doubled(sample: Sample) -> Sample:
    """The same answers twice; every average halves the weight of each."""
    from corollary.theory.contract.samples import fields_of

    twice = {n: torch.cat([v, v]) for n, v in fields_of(sample.batch).items() if v.dim()}
    twice["weights"] = twice["weights"] / 2
    twice["prompt_of"] = torch.arange(len(twice["lengths"]))
    batch = replace(sample.batch, prompts=sample.batch.prompts * 2, **twice)
    return Sample(torch.cat([sample.output, sample.output]), batch, f"{sample.note}, twice")
