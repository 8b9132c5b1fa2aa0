"""The reference stays where it is, the policy starts from it, and a gain costs KL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from corollary.algorithms.base import OnPolicy
from corollary.algorithms.grpo import GRPOConfig
from corollary.ops.bounds import reward_gap
from corollary.selection import EveryPrompt, KeepAll, NoReplay
from corollary.validate.findings import Finding, Theorem, number
from corollary.validate.integrity import skipped
from corollary.validate.records import Audit, Entry, Records
from corollary.validate.sampling import deviations, mismatched, rounding

FROZEN = Theorem(label="B6.a", says="a penalty or an implicit reward is against one fixed reference", page="docs/theory/losses-policy.md#k3")  # fmt: skip
AT_START = Theorem(label="B21", says="KL(π‖ref) = 0 where π = ref, token by token and in every estimator", page="docs/theory/losses-policy.md#k1")  # fmt: skip
ESTIMATORS = Theorem(label="B21", says="on samples of π, k1 and k3 have the mean KL(π‖ref), and k3 is never below 0", page="docs/theory/losses-policy.md#k3")  # fmt: skip
BUDGET = Theorem(label="B19.c", says="E_π r - E_ref r ≤ range·min(√(KL/2), √(1 - e^{-KL}))", page="docs/theory/estimators.md#reward_gap")  # fmt: skip
TRUST = Theorem(label="B5.e", says="TV ≤ √(KL/2): beyond 2 nats of a whole answer that says nothing", page="docs/theory/estimators.md#total_variation_bound")  # fmt: skip

FORWARD = {"float64": 1e-7, "float32": 1e-5}
"""relative: what one text's log-probability may differ by from one forward pass to the next, which is the same computation"""
FORWARD_ROUGH = 5e-3  # the same in bfloat16 and float16, where another machine rounds otherwise
VACUOUS = 2.0  # nats of a whole answer at which √(KL/2) is 1
CERTAIN = 1e-8  # error probability of a red gain
LIKELY = 0.05  # of an amber one


def reference(records: Records) -> Iterator[Finding]:
    """Frozen models, KL at the start, KL estimators, gain within its KL, drift of one step."""
    algorithm = records.recipe.algorithm
    frozen = algorithm.needs_reference or bool(algorithm.teacher_path)
    if frozen:
        yield unmoved(records)
    if algorithm.needs_reference and (found := at_start(records)) is not None:
        yield found
    audits = [(entry, audit) for entry in records.entries for audit in entry.audits if audit.kl and sum(audit.tokens)]
    if audits:
        yield estimators(records, [audit for _, audit in audits])
    if isinstance(algorithm, OnPolicy) and not records.own:
        yield gain(records, audits)
        yield drift(records)


def unmoved(records: Records) -> Finding:
    """What frozen models say of one text at every step, and of any answer that comes again."""
    name = "reference and teacher do not change"
    if not records.entries:
        return skipped(name, FROZEN)
    dtype = records.entries[0].dtype
    limit, apart = FORWARD.get(dtype, FORWARD_ROUGH), rounding(dtype)
    asked = {n: [(e.step, e.frozen[n]) for e in records.entries if n in e.frozen] for n in records.entries[0].frozen}
    found = [
        (abs(value - told[0][1]) / max(1.0, abs(told[0][1])) / limit, f"the {model} on one text, by step {step}")
        for model, told in asked.items()
        for step, value in told[1:]
    ]
    found += [
        (moved / apart, f"the reference on an answer that came again at step {s}") for moved, s in _repeated(records)
    ]
    if not found:
        return skipped(name, FROZEN, "one step alone, or no text to ask about")
    worst, where = max(found)
    measured, expected = f"log-probabilities moved by {number(worst)} of what rounding allows", "less than 1 of it"
    if worst <= 1:
        return Finding(name=name, level="green", theorem=FROZEN, measured=measured, expected=expected)
    model = "teacher" if "teacher" in where else "reference"
    return Finding(
        name=name, level="red", theorem=FROZEN, measured=f"{measured}: {where}", expected=expected,
        fault=f"the {model} model drifts: it is trained along, or shares weights with the policy",
        hint="freeze it: a deep copy without gradients, or the same weights with the adapters off; KL and margins of this run mean nothing",
    )  # fmt: skip


def _repeated(records: Records) -> Iterator[tuple[float, int]]:
    """(nats per token by which the reference changed its mind on an answer, step)."""
    seen: dict[tuple[str, float], float] = {}
    for entry in records.entries:
        for update in [] if records.own else entry.of("policy"):
            if update.ref is None:
                continue
            for answer, tokens, value in zip(update.answers, update.tokens, update.ref, strict=True):
                if tokens:
                    first = seen.setdefault((answer, tokens), value)
                    if first != value:
                        yield abs(first - value) / tokens, entry.step


def at_start(records: Records) -> Finding | None:
    """logπ - logref per token before the first update, from the records of step 1; None where step 1 compares with none."""
    name = "KL to the reference is 0 before the first update"
    if records.first is None:
        return skipped(name, AT_START, "" if not records.entries else "the ledger does not begin at step 1")
    gaps = list(_gaps(records.first, ours=not records.own))
    if not records.own and "kl" in records.first.metrics and len(records.first.of("policy")) < 2:
        gaps.append(abs(records.first.metrics["kl"]))
    if not gaps:
        return skipped(name, AT_START, "step 1 compared no answer with the reference")
    limit = rounding(records.first.dtype)
    measured, expected = f"{number(max(gaps))} nats per token at most", f"0, within {limit:g}"
    if max(gaps) <= limit:
        return Finding(name=name, level="green", theorem=AT_START, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=AT_START, measured=measured, expected=expected,
        fault="the policy does not start from the reference: other weights, another temperature on one side, or shifted tokens",
        hint="start both from one model, and compare their log-probabilities of one text",
    )  # fmt: skip


def _gaps(entry: Entry, *, ours: bool) -> Iterator[float]:
    for audit in (a for a in entry.audits if a.ref):
        yield from (abs(p - r) / n for p, r, n in zip(audit.logprob, audit.ref, audit.tokens, strict=True) if n)
    update = next((u for u in entry.of("policy") if u.ref is not None and u.logprob is not None), None)
    if ours and update is not None:
        columns = zip(update.logprob or [], update.ref or [], update.tokens, strict=True)
        yield from (abs(p - r) / n for p, r, n in columns if n)


def estimators(records: Records, audits: Sequence[Audit]) -> Finding:
    """k3 - k1 = ref/π - 1, a martingale on samples of π; and no k3 below 0."""
    name = "KL estimators k1, k2 and k3 on the same answers"
    if mismatched(records):
        return skipped(name, ESTIMATORS, "the answers are not samples of the policy, see above")
    tokens = sum(sum(a.tokens) for a in audits)
    k1 = sum(sum(a.logprob) - sum(a.ref) for a in audits)
    k2, k3, kl = (sum(sum(column) for column in columns) for columns in zip(*((a.k2, a.k3, a.kl) for a in audits), strict=True))  # fmt: skip
    squares = sum(sum(a.ref_excess_square) + sum(a.ref_chi2) for a in audits)
    room = deviations() * math.sqrt(squares) + 1e-5 * tokens
    least = min(min(a.k3, default=0.0) for a in audits)
    measured = (
        f"k1 {k1 / tokens:.3g}, k2 {k2 / tokens:.3g}, k3 {k3 / tokens:.3g}, exact {kl / tokens:.3g} nats per token"
    )
    expected = f"k1 = k3 ± {room / tokens:.2g}, k3 ≥ 0"
    if abs(k3 - k1) <= room and least >= -1e-6 * tokens:
        return Finding(name=name, level="green", theorem=ESTIMATORS, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=ESTIMATORS, measured=measured, expected=expected,
        fault="the answers are not samples of the policy whose KL this is, or the reference's log-probabilities are of other tokens",
        hint="score the tokens that were sampled, under both models at the sampler's temperature",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gain:
    """Training rewards at the last audited step against those at step 1."""

    gained: float  # reward units
    prompts: int  # the fewer of the two steps'
    kl: float  # nats of a whole answer, mean over the audited ones
    error: float  # its standard error
    spread: float  # largest reward of the run less the smallest
    step: int

    def within(self, error: float, sigmas: float) -> float:
        """The most that the gain may be, with the room that a sample leaves."""
        noise = self.spread * math.sqrt(math.log(2 / error) / (2 * self.prompts)) * math.sqrt(2)
        return reward_gap(max(self.kl, 0.0) + sigmas * self.error, reward_range=self.spread) + noise


def gain(records: Records, audits: Sequence[tuple[Entry, Audit]]) -> Finding:
    """How much more the policy earns than the reference, against the most that its KL allows."""
    name = "gain within what its KL allows"
    algorithm = records.recipe.algorithm
    picky = isinstance(algorithm, GRPOConfig) and not (
        isinstance(algorithm.filter, KeepAll)
        and isinstance(algorithm.curriculum, EveryPrompt)
        and isinstance(algorithm.replay, NoReplay)
    )
    if picky:
        return skipped(name, BUDGET, "the recorded groups are a selection, so their mean reward is not the policy's")
    if not audits:
        return skipped(name, BUDGET, "no reference was kept: set algorithm.kl.measure to know what a gain costs")
    found = _gain(records, audits)
    if found is None:
        return skipped(name, BUDGET, "the first and a later scored step are needed, with rewards that differ")
    measured = f"{found.gained:+.3g} at step {found.step}, for {number(found.kl)} nats of an answer"
    amber, red = found.within(LIKELY, 2.0), found.within(CERTAIN, 8.0)
    expected = f"at most {number(amber)} at 95 %"
    if found.gained <= amber:
        return Finding(name=name, level="green", theorem=BUDGET, measured=measured, expected=expected)
    return Finding(
        name=name, level="red" if found.gained > red else "amber", theorem=BUDGET, measured=measured, expected=expected,
        fault="rewards rose by more than a policy so near to the reference can earn: the reward or the prompts changed on the way, or "
        "the KL is not that of the policy that sampled",
        hint="judge the first and the last answers again with one reward; compare on the same prompts (evaluation)",
    )  # fmt: skip


def _gain(records: Records, audits: Sequence[tuple[Entry, Audit]]) -> Gain | None:
    (first, _), (last, audit) = audits[0], audits[-1]
    rewards = [
        a.reward for groups in records.groups.values() for g in groups for a in g.answers if a.reward is not None
    ]
    spread = max(rewards, default=0.0) - min(rewards, default=0.0)
    if first.step != 1 or last.step == 1 or spread == 0:
        return None
    means = [_prompt_means(records, entry.step) for entry in (first, last)]
    if not all(means):
        return None
    each = [kl for kl, n in zip(audit.kl, audit.tokens, strict=True) if n]
    error = stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.inf
    return Gain(
        fmean(means[1]) - fmean(means[0]), min(map(len, means)), fmean(each), error, spread, last.step
    )  # fmt: skip


def _prompt_means(records: Records, step: int) -> list[float]:
    earned = [[a.reward for a in g.answers if a.reward is not None] for g in records.groups.get(step, [])]
    return [fmean(group) for group in earned if group]


def drift(records: Records) -> Finding:
    """KL(π_old‖π) of whole answers within one step's updates."""
    name = "drift of the policy within one step"
    moved = [
        (metrics["approx_kl"] * metrics.get("length", 1.0), step)
        for step, metrics in records.steps
        if "approx_kl" in metrics
    ]
    if not moved:
        return skipped(name, TRUST, "no step measured approx_kl")
    most, step = max(moved)
    measured, expected = f"{number(most)} nats of an answer at step {step}, the most", f"below {VACUOUS:g}"
    if most < VACUOUS:
        return Finding(name=name, level="green", theorem=TRUST, measured=measured, expected=expected)
    return Finding(
        name=name, level="amber", theorem=TRUST, measured=measured, expected=expected,
        fault="one step moves whole answers so far that no trust region says anything of what it gains",
        hint="fewer minibatches or epochs, or a smaller learning rate",
    )  # fmt: skip
