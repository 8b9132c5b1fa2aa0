"""Batches to check a loss on: small first, so that the first that fails is the smallest; float64; each made from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from corollary.ops.reduce import SequenceMean, TokenMean, token_weights
from corollary.theory.contract.subject import Subject
from corollary.types import DistillBatch, PolicyBatch, PreferenceBatch, TokenBatch, UnpairedBatch, ValueBatch

VOCABULARY = 5
SHAPES: tuple[tuple[int, ...], ...] = (
    (1,),
    (2,),
    (1, 2),
    (3, 2),
    (4, 1, 3),
    (7, 3, 5, 1, 6, 2),
    (2, 6, 4, 5),
    (5, 5, 1, 7, 2, 3),
)
"""Lengths of the answers; of the pairs' chosen ones, with rejected ones of other lengths."""
LEAVES = ("output", "entropy", "mean_logprobs")


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model says, and the batch that it speaks of."""

    output: Tensor  # [B, T] logprobs or values; [B, T, V] logits; [B] rewards
    batch: TokenBatch
    note: str = ""  # how it was made

    def change(self, output: Tensor | None = None, **batch: Any) -> Sample:
        return Sample(self.output if output is None else output, replace(self.batch, **batch), self.note)

    def take(self, rows: Sequence[int]) -> Sample:
        """Some rows with the weights that they carry; of none, the width stays."""
        if not len(rows):
            none = {n: v[:0] for n, v in fields_of(self.batch).items() if v.dim()}
            return Sample(self.output[:0], replace(self.batch, prompts=(), **none), self.note)
        part = self.batch.take(list(rows))
        cut = self.output[list(rows)]
        return Sample(cut[:, : part.targets.shape[1]] if cut.dim() > 1 else cut, part, self.note)

    @property
    def units(self) -> list[list[int]]:
        """Rows that must stay together."""
        unit = self.batch.unit
        return [list(range(i, i + unit)) for i in range(0, len(self.batch.lengths), unit)]

    def to(self, dtype: torch.dtype) -> Sample:
        """In another precision; the weights stay."""
        return self.every(lambda t: t.to(dtype))

    def every(self, change: Any) -> Sample:
        """With `change` done to every floating tensor but the weights."""
        tensors = {n: v for n, v in fields_of(self.batch).items() if n != "weights" and v.is_floating_point()}
        return self.change(change(self.output), **{n: change(v) for n, v in tensors.items()})


def fields_of(batch: TokenBatch) -> dict[str, Tensor]:
    """The tensors of a batch by name."""
    return {f.name: v for f in fields(batch) if isinstance(v := getattr(batch, f.name), Tensor)}


def samples(subject: Subject, *, most: int = len(SHAPES)) -> Iterator[Sample]:
    """Samples of a subject's family, from small to large."""
    for seed, lengths in enumerate(SHAPES[:most]):
        if subject.declaration.cross_sample and len(lengths) < 3:
            continue  # a statistic of one sample is no statistic
        yield sample(subject, lengths, seed)


def sample(subject: Subject, lengths: Sequence[int], seed: int, *, spread: float = 1.0) -> Sample:
    """One sample.

    Args:
        subject: says the family, and what else the model must give.
        lengths: response tokens of each answer.
        seed: of the numbers.
        spread: how far policy, reference and sampler are apart, in units of the usual.
    """
    draw = Draw(seed)
    family = subject.family
    note = f"seed {seed}, answers of {', '.join(map(str, lengths))} tokens"
    if family in ("preference", "reward_model"):
        lengths = [n for i, a in enumerate(lengths) for n in (a, (a + 2 * i + 1) % 5 + 1)]
    base = tokens(lengths, draw, average=TokenMean() if seed % 2 else SequenceMean(), hole=family != "reward_model")
    shape = tuple(base["targets"].shape)
    logprobs = -3 * draw.uniform(*shape) - 0.05
    near = logprobs + 0.2 * spread * draw.normal(*shape)
    extra: dict[str, Any] = {}
    if subject.takes("entropy"):
        extra["entropy"] = 0.2 + draw.uniform(*shape)
    if subject.takes("mean_logprobs"):
        extra["mean_logprobs"] = -1.5 - 2 * draw.uniform(*shape)
    match family:
        case "preference" | "reward_model":
            base["weights"] = pair_weights(base["weights"] != 0)
            chosen = (base["weights"] != 0)[0::2].sum().double() / (shape[0] // 2)
            margins = draw.uniform(shape[0] // 2).repeat_interleave(2)
            batch: TokenBatch = PreferenceBatch(
                **base, **extra, ref_logprobs=near, margins=margins, mean_chosen_length=chosen
            )
            return Sample(draw.normal(shape[0]) if family == "reward_model" else logprobs, batch, note)
        case "unpaired":
            base["weights"] = token_weights(base["weights"] != 0, SequenceMean())
            labels = torch.arange(shape[0]) % 2 == 0
            step: dict[str, Any] = {
                "baseline": torch.tensor(0.2, dtype=torch.double),
                "shift": torch.tensor(0.05, dtype=torch.double),
            }
            return Sample(logprobs, UnpairedBatch(**base, **extra, desirable=labels, ref_logprobs=near, **step), note)
        case "value":
            old = draw.normal(*shape)
            values = old + 0.3 * spread * draw.normal(*shape)
            return Sample(values, ValueBatch(**base, old_values=old, returns=draw.normal(*shape)), note)
        case "distillation":
            return _distillation(subject, base, draw, note)
        case "policy" | "penalty":
            extra |= {
                "advantages": draw.normal(shape[0], 1).expand(*shape).clone(),
                "old_logprobs": logprobs + 0.3 * spread * draw.normal(*shape),
                "ref_logprobs": near,
                "sampler_logprobs": logprobs + 0.1 * spread * draw.normal(*shape),
            }
            return Sample(logprobs, PolicyBatch(**base, **extra), note)
        case _:
            logits = subject.takes("logits") and not subject.takes("logprobs")
            output = 2 * draw.normal(*shape, VOCABULARY) if logits else logprobs
            return Sample(output, TokenBatch(**base, **extra), note)


def _distillation(subject: Subject, base: dict[str, Any], draw: Draw, note: str) -> Sample:
    shape = tuple(base["targets"].shape)
    teacher = draw.normal(*shape, VOCABULARY)
    top = teacher.log_softmax(-1).topk(3, dim=-1)
    if not subject.takes("logits"):  # log-probabilities of the sampled tokens under both
        batch = DistillBatch(**base, teacher_logprobs=-3 * draw.uniform(*shape))
        return Sample(-3 * draw.uniform(*shape), batch, note)
    batch = DistillBatch(**base, teacher_logits=teacher, teacher_logprobs=top.values, teacher_ids=top.indices)
    return Sample(draw.normal(*shape, VOCABULARY), batch, note)


def tokens(lengths: Sequence[int], draw: Draw, *, average: Any, hole: bool = True) -> dict[str, Any]:
    """The fields of a `TokenBatch`: the second token of the longest answer is another party's, where there is room."""
    size = torch.tensor(list(lengths))
    width = max(lengths, default=0)
    trained = torch.arange(width) < size[:, None]
    if hole and width > 2:
        trained[int(size.argmax()), 1] = False
    return {
        "prompts": tuple((1,) for _ in lengths),
        "prompt_of": torch.arange(len(lengths)),
        "targets": torch.randint(0, VOCABULARY, (len(lengths), width), generator=draw.generator),
        "lengths": size,
        "weights": token_weights(trained, average),
    }


def pair_weights(trained: Tensor) -> Tensor:
    """Every pair weighs alike, spread over the tokens of both of its answers."""
    n = trained.sum(-1).view(-1, 2).sum(-1).repeat_interleave(2).clamp(min=1).double()
    return trained / (n[:, None] * (len(trained) / 2))


class Draw:
    """Random numbers from a seed, float64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(1000 + seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.double)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.double)


def shown(subject: Subject, at: Sample) -> str:
    """A failing input, as a user can type it in."""
    from corollary.losses.bind import inputs_of

    found = inputs_of(at.output, at.batch)
    named = {n: found[n] for n in subject.needs if n in found and isinstance(found[n], Tensor)}
    if "batch" in subject.needs:
        named |= {n: v for n, v in fields_of(at.batch).items() if n not in ("prompt_of", "targets")}
    return "; ".join(f"{name}={_short(value)}" for name, value in named.items()) + f"  ({at.note})"


def _short(value: Tensor) -> str:
    rounded = value.detach().double()
    digits = [[round(x, 4) for x in row] for row in rounded.reshape(len(rounded), -1).tolist()] if value.dim() else []
    text = str(digits if value.dim() > 1 else [row[0] for row in digits] if value.dim() else round(rounded.item(), 4))
    return text.replace(".0,", ",").replace(".0]", "]") if len(text) < 400 else f"{text[:400]}…"
