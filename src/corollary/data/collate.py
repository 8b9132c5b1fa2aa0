"""Rollouts and examples to tensors: the one place that aligns, pads and weighs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from corollary.config import Variant
from corollary.errors import DataError
from corollary.ops.reduce import PairMean, SequenceMean, TokenMean, token_weights
from corollary.types import Completion, Group, PolicyBatch, PreferenceBatch, Prompt, TokenBatch, UnpairedBatch

B = TypeVar("B", bound=TokenBatch)


def pad(rows: Sequence[Sequence[float]], dtype: torch.dtype) -> Tensor:
    """`[B, T]` with zeros behind the end of each row.

    >>> pad([[1, 2], [3]], torch.long).tolist()
    [[1, 2], [3, 0]]
    """
    out = torch.zeros(len(rows), max(map(len, rows), default=0), dtype=dtype)
    for row, values in enumerate(rows):
        out[row, : len(values)] = torch.tensor(values, dtype=dtype)
    return out


def filled(template: str, prompt: Prompt, key: str) -> str:
    """An answer made of a prompt's columns.

    Args:
        template: with columns in braces: "{equation} = {answer}".
        prompt: whose row it is.
        key: the setting that holds the template.

    Raises:
        DataError: a column is missing, or the answer comes out empty.

    >>> filled("{a} = {b}", Prompt(id="p", token_ids=(1,), columns={"a": "1 + 1", "b": 2}), "algorithm.answer")
    '1 + 1 = 2'
    """
    try:
        text = template.format_map(prompt.columns)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(
            f"example {prompt.id} cannot fill the answer {template!r}: {error}",
            where=key,
            hint=f"its columns are {', '.join(prompt.columns)}",
        ) from error
    if not text:
        raise DataError(f"example {prompt.id} has an empty answer", where=key, hint="drop such rows")
    return text


def token_batch(
    prompts: Sequence[Prompt],
    targets: Sequence[Sequence[int]],
    average: Variant = TokenMean(),
    *,
    trained: Sequence[Sequence[bool]] | None = None,
) -> TokenBatch:
    """Worked examples: prompt b is followed by `targets[b]`.

    Args:
        prompts, targets: token ids.
        average: the average of the step's loss.
        trained: of each target token, whether it is trained; None: all are.
    """
    lengths = torch.tensor([len(t) for t in targets])
    padded = pad(targets, torch.long)
    mask = pad(trained or [[True] * len(t) for t in targets], torch.bool)
    return TokenBatch(
        prompts=tuple(p.token_ids for p in prompts),
        prompt_of=torch.arange(len(prompts)),
        targets=padded,
        lengths=lengths,
        weights=token_weights(mask, average),
    )


def preference_batch(
    prompts: Sequence[Prompt],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    *,
    shares: Sequence[float] | None = None,
    margins: Sequence[float] | None = None,
    trained: Sequence[Sequence[bool]] | None = None,
) -> PreferenceBatch:
    """Pairs of answers to N prompts as `[2N, T]`: rows 2i and 2i + 1 are the chosen and the rejected answer to prompt i.

    Equal prompts are stored once.

    Args:
        prompts, chosen, rejected: token ids.
        shares: what each pair counts in the step's mean beside the others; None: all alike.
        margins: by how much each chosen answer is the better.
        trained: of each token of the 2N answers, whether it is trained; None: all are.
    """
    answers = [answer for pair in zip(chosen, rejected, strict=True) for answer in pair]
    mask = pad(trained or [[True] * len(answer) for answer in answers], torch.bool)
    share = torch.tensor(shares or [1.0] * len(prompts), dtype=torch.double)
    share = share / share.sum()
    distinct, prompt_of = _distinct(prompts)
    lengths = mask[0::2].sum(1)
    return PreferenceBatch(
        prompts=distinct,
        prompt_of=prompt_of.repeat_interleave(2),
        targets=pad(answers, torch.long),
        lengths=torch.tensor([len(a) for a in answers]),
        weights=token_weights(mask, PairMean()) * (share * len(share)).repeat_interleave(2)[:, None],
        margins=None if margins is None else torch.tensor(margins).repeat_interleave(2),
        mean_chosen_length=(share * lengths).sum(),
    )


def unpaired_batch(
    prompts: Sequence[Prompt], answers: Sequence[Sequence[int]], desirable: Sequence[bool]
) -> UnpairedBatch:
    """Answers that are each called desirable or not, every answer counting alike; equal prompts are stored once.

    Args:
        prompts, answers: token ids.
        desirable: of each answer.
    """
    distinct, prompt_of = _distinct(prompts)
    return UnpairedBatch(
        prompts=distinct,
        prompt_of=prompt_of,
        targets=pad(answers, torch.long),
        lengths=torch.tensor([len(a) for a in answers]),
        weights=token_weights(pad([[True] * len(a) for a in answers], torch.bool), SequenceMean()),
        desirable=torch.tensor(desirable),
    )


def _distinct(prompts: Sequence[Prompt]) -> tuple[tuple[tuple[int, ...], ...], Tensor]:
    """The different prompts' token ids in the order of their first, and of each prompt which one it is."""
    number = {ids: i for i, ids in enumerate(dict.fromkeys(p.token_ids for p in prompts))}
    return tuple(number), torch.tensor([number[p.token_ids] for p in prompts])


def as_kind(kind: type[B], batch: TokenBatch, **more: Any) -> B:
    """The batch as one of another kind: the fields that the two share, and `more`."""
    own = {f.name for f in fields(batch)}
    return kind(**{f.name: getattr(batch, f.name) for f in fields(kind) if f.name in own} | more)


def ended(batch: TokenBatch) -> TokenBatch:
    """The same sequences with one more token behind each, which alone is trained, every one alike.

    The state before that token is the one after the whole answer; the token itself is never read.
    """
    lengths = batch.lengths + 1
    targets = torch.nn.functional.pad(batch.targets, (0, 1))
    last = torch.arange(targets.shape[1]) == lengths[:, None] - 1
    return TokenBatch(
        prompts=batch.prompts,
        prompt_of=batch.prompt_of,
        targets=targets,
        lengths=lengths,
        weights=token_weights(last, TokenMean()),
        temperature=batch.temperature,
    )


def parts(batch: B, number: int, average: Variant) -> Iterator[B]:
    """The batch in `number` parts, each weighed as a step of its own; without those that train nothing."""
    for rows in torch.arange(len(batch.lengths)).tensor_split(number):
        part = batch.take(rows)
        if part.trained.any():
            yield replace(part, weights=token_weights(part.trained, average))


def policy_batch(
    groups: Sequence[Group], advantages: Tensor, average: Variant, *, train_truncated: bool = True
) -> PolicyBatch:
    """P groups of G rollouts as `[P·G, T]`; a group's prompt is stored once.

    Every sampled token is trained, end-of-sequence included, and no observation is. An answer that no reward could judge
    trains nothing.

    Args:
        groups: rollouts of one optimizer step.
        advantages: `[P, G]` reward units, the same for all tokens of an answer; what a critic gives per token comes later.
        average: the average of the step's loss.
        train_truncated: False leaves answers out that were cut at max_tokens (DAPO's overlong filtering).

    Raises:
        ValueError: the answers were sampled under different distributions, or under one that cuts the vocabulary.
    """
    rollouts = [rollout for group in groups for rollout in group]
    completions = [rollout.completion for rollout in rollouts]
    lengths = torch.tensor([len(c.token_ids) for c in completions])
    targets = pad([c.token_ids for c in completions], torch.long)
    counted = torch.tensor([r.reward is not None and (train_truncated or not r.completion.truncated) for r in rollouts])
    trained = sampled(groups) & counted[:, None]
    return PolicyBatch(
        prompts=tuple(group[0].prompt.token_ids for group in groups),
        prompt_of=torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups])),
        targets=targets,
        lengths=lengths,
        weights=token_weights(trained, average) if trained.any() else torch.zeros(targets.shape, dtype=torch.double),
        advantages=advantages.reshape(-1, 1).expand(-1, targets.shape[1]),
        sampler_logprobs=pad([c.logprobs for c in completions], torch.float),
        temperature=_temperature(completions),
    )


def sampled(groups: Sequence[Group]) -> Tensor:
    """`[P·G, T]` True where a token was sampled, and is neither an observation nor behind the end."""
    completions = [rollout.completion for group in groups for rollout in group]
    return pad([c.sampled or (True,) * len(c.token_ids) for c in completions], torch.bool)


def _temperature(completions: Sequence[Completion]) -> float:
    """The one temperature that all answers were sampled at."""
    distributions = {(c.sampling.temperature, c.sampling.top_p, c.sampling.top_k) for c in completions}
    if len(distributions) != 1:
        raise ValueError(f"answers of one step were sampled under different distributions: {sorted(distributions)}")
    temperature, top_p, top_k = distributions.pop()
    if temperature <= 0 or top_p < 1 or top_k:
        raise ValueError(
            f"answers to train on must come from the whole vocabulary at a temperature > 0, "
            f"got temperature={temperature}, top_p={top_p}, top_k={top_k}"
        )
    return temperature
