"""The ledger: what went into every optimizer step and what the model said of it before, one line a step in `ledger.jsonl`.

It is written from what reaches the engines and not from what an algorithm tells of itself, so the two can be held against each other:
`corollary validate`. Each line seals the step's lines of the other journals and the line before it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from corollary.engines.audit import audited
from corollary.engines.base import Partner, Sampler, Scorer, Trainer
from corollary.engines.trainer import EmbeddedScorer, EmbeddedTrainer, Outputs
from corollary.types import (
    ActorCriticBatch,
    Completion,
    Formula,
    Group,
    Metrics,
    PolicyBatch,
    PreferenceBatch,
    Prompt,
    Sampling,
    TokenBatch,
    UnpairedBatch,
    ValueBatch,
)

ROLLOUT = "rollout"
"""the first name of the random streams that answers to train on are drawn from"""
PROBED = 48
"""tokens of the text that frozen models are asked about at every step"""


def milestone(number: int) -> bool:
    """Whether what costs a forward pass is measured at the 0-based `number`: 0, 1, 3, 7, 15, …

    >>> [n for n in range(20) if milestone(n)]
    [0, 1, 3, 7, 15]
    """
    return number & (number + 1) == 0


def fingerprint(prompt: Sequence[int], answer: Sequence[int]) -> str:
    """An answer to a prompt by its tokens, short.

    >>> fingerprint([1, 2], [3]) == fingerprint([1], [2, 3])
    False
    """
    return hashlib.blake2b(repr((tuple(prompt), tuple(answer))).encode(), digest_size=6).hexdigest()


def probe_of(prompts: Sequence[Prompt]) -> TokenBatch | None:
    """The first training prompt as a text that frozen models are asked about; None where it is too short to ask about."""
    ids = prompts[0].token_ids[: PROBED + 1] if prompts else ()
    if len(ids) < 2:
        return None
    length = len(ids) - 1
    return TokenBatch(
        prompts=(ids[:1],), prompt_of=torch.tensor([0]), targets=torch.tensor([ids[1:]]), lengths=torch.tensor([length]),
        weights=torch.full((1, length), 1 / length, dtype=torch.double),
    )  # fmt: skip


@dataclass(slots=True)
class Ledger:
    """What the engines were given since the step before.

    Args:
        frozen: models that must not change, by name.
        probe: what they are asked about.
    """

    frozen: Mapping[str, Scorer] = field(default_factory=dict)
    probe: TokenBatch | None = None
    updates: list[dict[str, Any]] = field(default_factory=list)
    audits: list[dict[str, Any]] = field(default_factory=list)

    def take(self, groups: Sequence[Group], dtype: torch.dtype) -> dict[str, Any]:
        """The step's entry; the ledger is empty again."""
        text = self.probe
        asked = {} if text is None else {n: scorer.logprobs(text).double().sum() for n, scorer in self.frozen.items()}
        entry = {
            "dtype": str(dtype).removeprefix("torch."),
            "frozen": {name: _number(value) for name, value in asked.items()},
            "groups": [
                [fingerprint(r.prompt.token_ids, r.completion.token_ids) for r in group] for group in groups
            ],
            "updates": self.updates,
            "audits": self.audits,
        }  # fmt: skip
        self.updates, self.audits = [], []
        return entry


class WitnessedTrainer:
    """A trainer whose steps are told to the ledger; otherwise the trainer that it holds.

    Args:
        inner: does the work.
        ledger: is told.
        role: `policy` or `critic`.
    """

    def __init__(self, inner: EmbeddedTrainer, ledger: Ledger, role: str) -> None:
        self.inner, self.ledger, self.role = inner, ledger, role

    @property
    def version(self) -> int:
        return self.inner.version

    def logprobs(self, batch: TokenBatch) -> Tensor:
        return self.inner.logprobs(batch)

    def values(self, batch: TokenBatch) -> Tensor:
        return self.inner.values(batch)

    def step(self, batch: TokenBatch, loss: Formula) -> Metrics:
        predict = milestone(self.version)
        metrics = self.inner.step(batch, loss, predict=predict)
        said = self.inner.said
        entry = {"role": self.role, "loss": metrics["loss"], "temperature": batch.temperature} | columns(batch, said)
        if predict:
            entry["predicted"] = _number(self.inner.predicted)
            entry["loss_after"] = self._loss(_held(batch, said), loss)
        self.ledger.updates.append(entry)
        return metrics

    def _loss(self, batch: TokenBatch, loss: Formula) -> float | None:
        """The loss of the same batch after the step; None where it has none. Nothing that only records may end a run."""
        with suppress(Exception):  # a user's loss that the new weights break: the next step says so, this one saved
            found = self.inner.loss(batch, loss)
            return _number(found) if math.isfinite(found) else None
        return None


def _held(batch: TokenBatch, said: Outputs) -> TokenBatch:
    """The batch whose π_old stays the policy before the step, where the loss took its own forward pass for that."""
    if isinstance(batch, PolicyBatch) and batch.old_logprobs is None and said.logprobs is not None:
        return replace(batch, old_logprobs=said.logprobs.to(batch.sampler_logprobs))
    return batch


class WitnessedSampler:
    """A sampler whose answers are now and then scored by the trainer; otherwise the sampler that it holds.

    Args:
        inner: does the work.
        ledger: is told.
        policy: the trainer's weights.
        reference: the frozen policy, where there is one.
    """

    def __init__(
        self, inner: Sampler, ledger: Ledger, policy: EmbeddedScorer, reference: EmbeddedScorer | None
    ) -> None:
        self.inner, self.ledger, self.policy, self.reference = inner, ledger, policy, reference

    def generate(
        self,
        prompts: Sequence[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        names: Iterable[str | int],
        partner: Partner | None = None,
    ) -> list[list[Completion]]:
        names = tuple(names)
        groups = self.inner.generate(prompts, group_size, sampling, names=names, partner=partner)
        if names[0] == ROLLOUT and milestone(int(names[-1])) and sampling.temperature > 0:
            found = audited(prompts, groups, self.policy, self.reference)
            answers = [
                fingerprint(p.token_ids, a.token_ids) for p, group in zip(prompts, groups, strict=True) for a in group
            ]
            told = {name: _numbers(column) for name, column in found.items()}
            batch = {"batch": int(names[-1]), "temperature": groups[0][0].sampling.temperature}
            self.ledger.audits.append(batch | {"answers": answers[: len(found["tokens"])]} | told)
        return groups

    def sync(self, trainer: Trainer) -> None:
        self.inner.sync(trainer)


def columns(batch: TokenBatch, said: Outputs) -> dict[str, Any]:
    """What a step was given and said, a value for each of its sequences `[B]`; sums are over the trained tokens.

    Args:
        batch: of the step.
        said: by the model before the update, `[B, T]`.
    """
    mask = batch.trained
    n = mask.sum(1)
    found: dict[str, Tensor] = {"tokens": n, "weight": batch.weights.sum(1)}
    for name, of in (("logprob", said.logprobs), ("entropy", said.entropy), ("value", said.values)):
        if of is not None:
            found[name] = _sum(of, mask)
    found |= _of_policy(batch, said, mask)
    if isinstance(batch, PolicyBatch | PreferenceBatch | UnpairedBatch) and batch.ref_logprobs is not None:
        found["ref"] = _sum(batch.ref_logprobs, mask)
    if isinstance(batch, ActorCriticBatch | ValueBatch):
        found |= {"value_first": _first(batch.old_values, mask), "return_first": _first(batch.returns, mask)}
    if isinstance(batch, PreferenceBatch) and batch.margins is not None:
        found["margin"] = batch.margins
    told: dict[str, Any] = {"answers": _fingerprints(batch)} | {name: _numbers(x) for name, x in found.items()}
    if isinstance(batch, UnpairedBatch):
        told["desirable"] = [bool(yes) for yes in batch.desirable.tolist()]
        told |= {n: _number(x) for n, x in (("baseline", batch.baseline), ("shift", batch.shift)) if x is not None}
    if isinstance(batch, PreferenceBatch) and batch.mean_chosen_length is not None:
        told["mean_chosen_length"] = _number(batch.mean_chosen_length)
    return told


def _of_policy(batch: TokenBatch, said: Outputs, mask: Tensor) -> dict[str, Tensor]:
    """A policy's advantages, and what sampler and trainer say of the same tokens."""
    if not isinstance(batch, PolicyBatch):
        return {}
    found = {
        "advantage": _sum(batch.advantages, mask) / mask.sum(1).clamp(min=1),
        "advantage_first": _first(batch.advantages, mask),
        "advantage_square": _sum(batch.advantages.double().square(), mask),
        "sampler": _sum(batch.sampler_logprobs, mask),
    }
    if batch.old_logprobs is not None:
        found["old"] = _sum(batch.old_logprobs, mask)
    if said.logprobs is not None:
        found["gap"] = _sum((said.logprobs.double() - batch.sampler_logprobs.double()).abs(), mask)
    return found


def _sum(of: Tensor, mask: Tensor) -> Tensor:
    """`[B]` over the tokens that the mask keeps."""
    return of.detach().double().cpu().where(mask, 0.0).sum(1)


def _first(of: Tensor, mask: Tensor) -> Tensor:
    """`[B]` at the first token that the mask keeps; 0 where it keeps none."""
    first = mask.int().argmax(1, keepdim=True)
    return of.detach().double().cpu().where(mask, 0.0).gather(1, first)[:, 0]


def _fingerprints(batch: TokenBatch) -> list[str]:
    rows = zip(batch.targets.tolist(), batch.lengths.tolist(), batch.prompt_of.tolist(), strict=True)
    return [fingerprint(batch.prompts[p], target[:length]) for target, length, p in rows]


def _number(value: Tensor | float | None) -> float | None:
    """Nine significant digits: all that a float32 has."""
    if value is None:
        return None
    return float(f"{float(value):.9g}")


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{x:.9g}") for x in values.tolist()]


def digest(text: str) -> bytes:
    """sha256."""
    return hashlib.sha256(text.encode()).digest()


def seal(before: str, line: str, journals: Iterable[bytes]) -> str:
    """What a line ends with: a digest of the line before it, of itself and of the step's text in other journals.

    Args:
        before: the seal of the line before; empty for the first.
        line: its own JSON, without the seal.
        journals: `digest` of what the step appended to each of the others.
    """
    found = hashlib.sha256()
    for part in (digest(before), digest(line), *journals):
        found.update(part)
    return found.hexdigest()
