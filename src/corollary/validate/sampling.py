"""Sampler and trainer are one policy: ratios of 1, surprise equal to entropy, weights that are worth all samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from corollary.algorithms.base import Algorithm, OnPolicy
from corollary.algorithms.distill import DistillConfig, StudentAnswers
from corollary.algorithms.grpo import GRPOConfig
from corollary.ops.estimate import log_effective_sample_size
from corollary.selection import NoReplay
from corollary.validate.findings import Finding, Theorem, number
from corollary.validate.integrity import skipped
from corollary.validate.records import Audit, Entry, Records, Update

FIRST_RATIO = Theorem(label="B4", says="sampler and trainer hold the same weights, so the first ratio of every token is 1", page="docs/theory/losses-policy.md#ppo_clip")  # fmt: skip
MEAN_RATIO = Theorem(label="B11.a", says="E_μ[π/μ] = 1 wherever μ can say all that π can; so k1 and k3 have one mean", page="docs/theory/losses-policy.md#k3")  # fmt: skip
SURPRISE = Theorem(label="B17", says="E[-logπ(y)] is the entropy of π if y is drawn from π", page="docs/theory/estimators.md#entropy_exact")  # fmt: skip
WORTH = Theorem(label="B11.d", says="N weighted samples are worth (Σw)²/Σw² equal ones", page="docs/theory/estimators.md#effective_sample_size")  # fmt: skip

ERROR = 1e-8  # how often one check may be red in a healthy run; all of them together stay below 1e-6
ROUNDING = {"float64": 1e-4, "float32": 2e-3}
"""nats per token by which two forward passes may differ; the sampler's log-probabilities are kept as float32"""
ROUGH = 0.1  # the same in bfloat16 and float16, whose logits have three digits or less
LOW_WORTH = 0.5  # amber below this share


def rounding(dtype: str) -> float:
    """Nats per token by which two forward passes of the same weights may differ."""
    return ROUNDING.get(dtype, ROUGH)


def deviations() -> float:
    """How many times √([M] + ⟨M⟩) a martingale M may be from 0, at ERROR, whatever its increments are.

    P(|M| ≥ x, [M] + ⟨M⟩ ≤ y) ≤ 2·exp(-x²/2y), Bercu and Touati 2008; over a grid of 300 values of y a factor of 1.1 apart.
    """
    return math.sqrt(2.2 * math.log(2 * 300 / ERROR))


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far the sampler's log-probabilities are from the trainer's."""

    mean: float  # nats per token, of |logπ - logμ|
    slope: float  # of logπ - logμ along logπ + H: 1 - τ_trainer/τ_sampler to first order
    error: float  # standard error of the slope
    share: float  # of the squared differences that a temperature explains
    trainer: float  # temperature of the trainer

    @property
    def sampler(self) -> float:
        """The temperature of the sampler that explains it, to first order."""
        return self.trainer / (1 - self.slope) if self.slope < 1 else math.inf

    @property
    def is_temperature(self) -> bool:
        return abs(self.slope) > max(0.02, 8 * self.error) and self.share > 0.5


def sampling(records: Records) -> Iterator[Finding]:
    """Sampler against trainer."""
    audits = [audit for entry in records.entries for audit in entry.audits if sum(audit.tokens) > 0]
    if not records.groups and not audits:
        return
    if not records.entries:
        yield skipped("sampler and trainer are one policy", FIRST_RATIO)
        return
    yield one_policy(records, audits)
    if audits:
        yield mean_ratio(audits)
        yield surprise(audits)
    if isinstance(records.recipe.algorithm, OnPolicy):
        yield worth(records)


def mismatched(records: Records) -> bool:
    """Whether sampler and trainer are not one policy, which other checks build on."""
    return any(f.level == "red" for f in sampling(records))


def one_policy(records: Records, audits: Sequence[Audit]) -> Finding:
    """|logπ - logμ| of every audited answer and of the first update of each step."""
    dtype = records.entries[0].dtype
    limit, found = rounding(dtype), [*map(of_audit, audits), *of_updates(records)]
    name = "sampler and trainer are one policy"
    if not found:
        return skipped(name, FIRST_RATIO, "no answer was scored by the trainer yet")
    worst = max(found, key=lambda m: (m.is_temperature, m.mean))
    measured = f"|logπ - logμ| {number(max(m.mean for m in found))} nats per token"
    expected = f"below {limit:g}, rounding in {dtype}"
    said = None if records.own else drawn_at(records.recipe.algorithm)
    others = {m.trainer for m in found} - {said}
    if worst.mean <= limit and not worst.is_temperature and not (said and others):
        return Finding(name=name, level="green", theorem=FIRST_RATIO, measured=measured, expected=expected)
    if worst.is_temperature:
        fault = (
            f"the sampler's temperature is not the trainer's: about {worst.sampler:.2f} against {worst.trainer:g}, which explains "
            f"{worst.share:.0%} of the difference"
        )
        hint = "give the sampler and the trainer one temperature, and let log-probabilities be those of the distribution drawn from"
    elif worst.mean > limit:
        fault = (
            "the sampler says other probabilities than the trainer, and no temperature explains it: older weights, another dtype or "
            "kernel, top-p or top-k, or tokens that are not those that were sampled"
        )
        hint = "sync the sampler after every step; compare both on one sequence; or weigh the difference: algorithm.correction=tis"
    else:
        fault = f"the temperature is not the recipe's: {max(others):g} against {said:g}, in sampler and trainer alike"
        hint = "look for what changes the sampling settings on the way to the sampler"
    return Finding(
        name=name, level="red", theorem=FIRST_RATIO, measured=measured, expected=expected, fault=fault, hint=hint
    )  # fmt: skip


def drawn_at(algorithm: Algorithm) -> float | None:
    """The temperature that a recipe's answers are drawn and trained at; None where it names none or two."""
    if isinstance(algorithm, OnPolicy):
        return algorithm.temperature
    if isinstance(algorithm, DistillConfig) and isinstance(algorithm.answers, StudentAnswers):
        return algorithm.answers.temperature
    return None


def of_audit(audit: Audit) -> Mismatch:
    """All sampled tokens of an audit; the regression of logπ - logμ on logπ + H goes through 0."""
    tokens, squares, gaps = sum(audit.tokens), sum(audit.surprise_square), sum(audit.gap_square)
    return _fitted(sum(audit.gap) / tokens, sum(audit.tilt), squares, gaps, tokens, audit.temperature)


def of_updates(records: Records) -> Iterator[Mismatch]:
    """The first update of each step, answer by answer, unless it trains on older answers or on who knows what."""
    algorithm = records.recipe.algorithm
    if records.own or (isinstance(algorithm, GRPOConfig) and not isinstance(algorithm.replay, NoReplay)):
        return
    for entry in records.entries:
        if (update := first_update(entry)) is None or update.gap is None or not sum(update.tokens):
            continue
        logprob, sampler, entropy = update.logprob or [], update.sampler or [], update.entropy or []
        gaps = [a - b for a, b in zip(logprob, sampler, strict=True)]
        surprises = [a + h for a, h in zip(logprob, entropy, strict=False)] or [0.0] * len(gaps)
        tilt = sum(g * s for g, s in zip(gaps, surprises, strict=True))
        squares, total = sum(s * s for s in surprises), sum(g * g for g in gaps)
        yield _fitted(sum(update.gap) / sum(update.tokens), tilt, squares, total, len(gaps), update.temperature)


def first_update(entry: Entry) -> Update | None:
    """The policy's first, before which it is what it was when it sampled."""
    return next(iter(entry.of("policy")), None)


def _fitted(mean: float, tilt: float, squares: float, gaps: float, count: float, trainer: float) -> Mismatch:
    if squares <= 0 or gaps <= 0 or count < 2:
        return Mismatch(mean, 0.0, math.inf, 0.0, trainer)
    slope = tilt / squares
    left = max(gaps - slope * tilt, 0.0)
    return Mismatch(mean, slope, math.sqrt(left / count / squares), 1 - left / gaps, trainer)


def mean_ratio(audits: Sequence[Audit]) -> Finding:
    """Σ (π/μ - 1) over all sampled tokens of all audits, a martingale; with it k3 - k1 of KL(μ‖π).

    Rounding of logπ by d makes it d²/2 in the mean, so twice that is left to it.
    """
    tokens = sum(sum(a.tokens) for a in audits)
    total = sum(sum(a.excess) for a in audits)
    spread = math.sqrt(2 * sum(sum(a.excess_square) for a in audits))
    room = deviations() * spread + sum(sum(a.gap_square) for a in audits) + 1e-4 * tokens
    name, measured = "mean importance ratio, sampler to trainer", f"1 {total / tokens:+.3g} over {tokens:.0f} tokens"
    expected = f"1 ± {room / tokens:.2g}"
    if abs(total) <= room:
        return Finding(name=name, level="green", theorem=MEAN_RATIO, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=MEAN_RATIO, measured=measured, expected=expected,
        fault="the sampler cannot say all that the trainer can (top-p, top-k), or its log-probabilities are not normalised",
        hint="draw from the whole vocabulary, and take the log-probabilities of the distribution drawn from",
    )  # fmt: skip


def surprise(audits: Sequence[Audit]) -> Finding:
    """Σ (logπ(y) + H) over all sampled tokens, a martingale if they are drawn from π."""
    tokens = sum(sum(a.tokens) for a in audits)
    total = sum(sum(a.logprob) + sum(a.entropy) for a in audits)
    squares, variances = sum(sum(a.surprise_square) for a in audits), sum(sum(a.varentropy) for a in audits)
    room = deviations() * math.sqrt(squares + variances) + 1e-4 * tokens
    name, measured = (
        "answers are as surprising as the entropy says",
        f"{total / tokens:+.3g} nats per token over {tokens:.0f}",
    )
    expected = f"0 ± {room / tokens:.2g}"
    if abs(total) <= room:
        return Finding(name=name, level="green", theorem=SURPRISE, measured=measured, expected=expected)
    temperature = variances / (variances + total) if variances + total > 0 else math.inf
    return Finding(
        name=name, level="red", theorem=SURPRISE, measured=measured, expected=expected,
        fault=f"the answers are not drawn from the policy that is trained: a temperature of about {temperature:.2f} times the trainer's "
        "would look like this, and so would top-p or top-k",
        hint="draw from the whole vocabulary at the trainer's temperature, and check the sampler's random numbers",
    )  # fmt: skip


def worth(records: Records) -> Finding:
    """The least effective sample size of any update, of whole answers weighed by π/μ."""
    name, shares = "effective sample size of the answers' weights", []
    for entry in records.entries:
        for update in entry.of("policy"):
            logs = [
                a - b
                for a, b, n in zip(update.logprob or [], update.sampler or [], update.tokens, strict=False)
                if n > 0
            ]
            if len(logs) > 1:
                share = log_effective_sample_size(torch.tensor(logs, dtype=torch.double)).item() / len(logs)
                shares.append((share, entry.step))
    if not shares:
        return skipped(name, WORTH, "no step trained on more than one answer")
    share, step = min(shares)
    measured, expected = f"{share:.0%} of the answers at step {step}, the least", f"{LOW_WORTH:.0%} or more"
    if share >= LOW_WORTH:
        return Finding(name=name, level="green", theorem=WORTH, measured=measured, expected=expected)
    return Finding(
        name=name, level="amber", theorem=WORTH, measured=measured, expected=expected,
        fault="the policy has left the one that sampled so far behind that few answers speak for it",
        hint="fewer updates for each batch of rollouts, a smaller learning rate, or a younger replay",
    )  # fmt: skip
