"""Sampled answers, seen by the trainer: what `corollary validate` needs to tell a sampler that is another policy.

A step trains on some answers only, those whose rewards differ for instance, and what holds on average of all answers need not hold of
a selection. So now and then all of them are scored, before anything is selected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from corollary.data.collate import pad
from corollary.engines.microbatches import microbatches
from corollary.engines.trainer import EmbeddedScorer
from corollary.types import Completion, Prompt, TokenBatch

POLICY = ("logprob", "sampler", "entropy", "varentropy", "surprise_square", "gap", "gap_square", "tilt", "excess", "excess_square", "sampler_k3")  # fmt: skip
REFERENCE = ("ref", "k2", "k3", "kl", "ref_excess", "ref_excess_square", "ref_chi2")
"""columns of an audit, each a sum over an answer's sampled tokens; `_of_policy` and `_of_reference` say of what"""


@torch.no_grad()
def audited(
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Completion]],
    policy: EmbeddedScorer,
    reference: EmbeddedScorer | None = None,
    *,
    most: int = 64,
) -> dict[str, Tensor]:
    """Of each answer `[B]`: `tokens`, the columns of POLICY and, where there is a reference, those of REFERENCE.

    Args:
        prompts, groups: answers as they were sampled; all under one temperature.
        policy: the trainer's weights, which are those that sampled.
        reference: the frozen policy.
        most: answers that are scored: the first ones, so that the choice knows nothing of what they say.
    """
    pairs = [(p, answer) for p, answers in enumerate(groups) for answer in answers][:most]
    answers = [answer for _, answer in pairs]
    mine = pad([a.sampled or (True,) * len(a.token_ids) for a in answers], torch.bool)
    batch = TokenBatch(
        prompts=tuple(prompt.token_ids for prompt in prompts),
        prompt_of=torch.tensor([p for p, _ in pairs]),
        targets=pad([a.token_ids for a in answers], torch.long),
        lengths=torch.tensor([len(a.token_ids) for a in answers]),
        weights=mine.double(),
        temperature=answers[0].sampling.temperature,
    )
    said = pad([a.logprobs for a in answers], torch.float)
    found = {"tokens": mine.sum(1).double()}
    for rows in microbatches(batch, policy.config.tokens_per_microbatch, policy.config.layout):
        part = batch.take(rows)
        for name, sums in _part(part, said[rows, : part.targets.shape[1]], policy, reference).items():
            found.setdefault(name, torch.zeros(len(answers), dtype=torch.double))[rows] = sums
    return found


def _part(
    part: TokenBatch, said: Tensor, policy: EmbeddedScorer, reference: EmbeddedScorer | None
) -> dict[str, Tensor]:
    """The columns of one microbatch."""
    mask = part.trained
    chunk, scorers = policy.config.head_chunk, [policy] + ([reference] if reference else [])
    states = [scorer.states(part)[mask] for scorer in scorers]  # [n, D] each
    heads, targets, sampler = [scorer.head() for scorer in scorers], part.targets[mask], said[mask].double()
    columns: list[dict[str, Tensor]] = []
    for start in range(0, len(targets), chunk):
        piece = slice(start, start + chunk)
        logs = [_log_softmax(s[piece], head, part.temperature) for s, head in zip(states, heads, strict=True)]
        y = targets[piece].to(logs[0].device)
        told = _of_policy(logs[0], y, sampler[piece])
        columns.append(told | (_of_reference(logs[0], logs[1], y) if reference else {}))
    names = columns[0] if columns else {}
    rows = mask.nonzero()[:, 0]
    zero = torch.zeros(len(part.lengths), dtype=torch.double)
    return {name: zero.index_add(0, rows, torch.cat([c[name] for c in columns])) for name in names}


def _of_policy(logp: Tensor, y: Tensor, sampler: Tensor) -> dict[str, Tensor]:
    """`[n]` each. `tilt` is (logπ + H)·(logπ - logμ): how far the sampler μ is the policy at another temperature."""
    own, p = _at(logp, y), logp.exp()
    surprises = p * logp.clamp(min=torch.finfo(logp.dtype).min)
    entropy = -surprises.sum(-1).double().cpu()
    second = (surprises * logp.clamp(min=-1e4)).sum(-1).double().cpu()
    gap, surprise = own - sampler, own + entropy
    excess = gap.expm1()
    return {
        "logprob": own,
        "sampler": sampler,
        "entropy": entropy,
        "varentropy": (second - entropy.square()).clamp(min=0),  # Var of logπ(y) over y
        "surprise_square": surprise.square(),
        "gap": gap.abs(),
        "gap_square": gap.square(),
        "tilt": surprise * gap,
        "excess": excess,  # π/μ - 1
        "excess_square": excess.square(),
        "sampler_k3": excess - gap,  # of KL(μ‖π)
    }


def _of_reference(logp: Tensor, logq: Tensor, y: Tensor) -> dict[str, Tensor]:
    """`[n]` each: estimators of KL(π‖ref) at the sampled token, its exact value, and ref/π - 1 with its exact variance."""
    x = _at(logp, y) - _at(logq, y)
    excess = (-x).expm1()
    exact = (logp.exp() * (logp - logq)).sum(-1).double().cpu()
    square = (2 * logq.double() - logp.double()).clamp(max=200).exp().sum(-1).cpu() - 1  # E_π[(ref/π)²] - 1
    return {
        "ref": _at(logq, y),
        "k2": x.square() / 2,
        "k3": excess + x,
        "kl": exact,
        "ref_excess": excess,
        "ref_excess_square": excess.square(),
        "ref_chi2": square.clamp(min=0),
    }


def _log_softmax(states: Tensor, head: Tensor, temperature: float) -> Tensor:
    z = F.linear(states.to(head.device), head) / temperature
    return z.log_softmax(-1, dtype=torch.promote_types(z.dtype, torch.float32))


def _at(logp: Tensor, y: Tensor) -> Tensor:
    return logp.gather(-1, y[:, None])[:, 0].double().cpu()
