"""Losses computed again from what the model said, ratios of the first update, and what a step was to gain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from corollary.algorithms.base import OnPolicy
from corollary.algorithms.ppo import PPOConfig, SharedCritic
from corollary.algorithms.preference import OnlinePreferenceConfig, OnPairs
from corollary.algorithms.reward_model import RewardModelConfig
from corollary.algorithms.sft import SFTConfig
from corollary.algorithms.unpaired import UnpairedConfig
from corollary.config import Variant
from corollary.custom import is_reference
from corollary.declare import declaration_of
from corollary.losses.bind import called
from corollary.losses.policy import KLInLoss, NoCorrection
from corollary.types import Terms
from corollary.validate.findings import Finding, Theorem, number
from corollary.validate.integrity import skipped
from corollary.validate.records import Entry, Records, Update

SUM = Theorem(label="B14", says="a step's loss is one weighted sum of terms, however it was split", page="docs/theory/estimators.md#averaging")  # fmt: skip
ON_POLICY = Theorem(label="B4", says="where the ratio is 1 the surrogate is -A, and its ratio, KL and clipping are 1, 0 and 0", page="docs/theory/losses-policy.md#ppo_clip")  # fmt: skip
TAYLOR = Theorem(label="Taylor", says="L(θ + Δ) - L(θ) = ∇L·Δ + O(|Δ|²), and AdamW's first step goes down: ∇L·Δ ≤ 0", page="docs/guides/validate.md#the-checks")  # fmt: skip
RANGE = Theorem(
    label="bounds",
    says="the formula's terms have these bounds at any input",
    page="docs/theory/losses.md#how-to-read-a-section",
)

SAME = 1e-4  # relative, of sums of float32


def objectives(records: Records) -> Iterator[Finding]:
    """Losses and metrics against what the trainer said."""
    if not records.entries:
        yield skipped("losses computed again from the sequences", SUM)
        return
    if records.own:
        yield skipped("losses computed again from the sequences", SUM, records.own)
        yield descent(records)
        return
    yield from recomputed(records)
    if isinstance(records.recipe.algorithm, OnPolicy):
        yield from on_policy(records)
    if (found := bounded(records)) is not None:
        yield found
    yield descent(records)


# What the losses of one step come to, from the columns of its update.


def column(values: Sequence[float] | None) -> Tensor:
    return torch.tensor(values or [], dtype=torch.double)


def pair_inputs(update: Update) -> dict[str, Any]:
    """What a loss on pairs may take of whole answers, by name."""
    found: dict[str, Any] = {}
    for row, side in enumerate(("chosen", "rejected")):
        found[f"{side}_lengths"] = column(update.tokens)[row::2]
        if update.logprob:
            found[side] = column(update.logprob)[row::2]
        if update.ref:
            found[f"ref_{side}"] = column(update.ref)[row::2]
        if update.value:
            found[f"{side}_rewards"] = column(update.value)[row::2]
    if update.margin:
        found["margins"] = column(update.margin)[0::2]
    if update.mean_chosen_length is not None:
        found["mean_chosen_length"] = torch.tensor(update.mean_chosen_length, dtype=torch.double)
    return found


def answer_inputs(update: Update) -> dict[str, Any]:
    """What a loss on answers that are called desirable or not may take, by name."""
    found: dict[str, Any] = {
        "sequence_logprobs": column(update.logprob),
        "desirable": torch.tensor(update.desirable or []),
    }
    if update.ref:
        found["sequence_ref_logprobs"] = column(update.ref)
    for name, value in (("baseline", update.baseline), ("shift", update.shift)):
        if value is not None:
            found[name] = torch.tensor(value, dtype=torch.double)
    return found


def weighed(loss: Variant, inputs: Mapping[str, Any], update: Update, unit: int) -> float:
    """Σ w·terms of a loss whose terms are per pair or per answer."""
    result = called(loss, inputs)
    terms = result.loss if isinstance(result, Terms) else result
    weights = column(update.weight).view(-1, unit).sum(1)
    return float((weights * terms.double()).sum())


def lacking(loss: Variant, inputs: Mapping[str, Any]) -> str:
    """Which input the records have not; empty: none."""
    kind = type(loss)
    missing = [name for name in kind.inputs if name not in inputs and name not in kind.optional]
    return missing[0] if missing else ""


def recomputed(records: Records) -> Iterator[Finding]:
    """loss, entropy and sampler_gap of every step, as weighted sums over its sequences."""
    algorithm = records.recipe.algorithm
    name, theorem = "loss computed again from the sequences", SUM
    again, why = _loss_of(records)
    if again is not None:
        yield _agreed(name, theorem, records, "loss", again)
    elif why:
        yield skipped(name, theorem, why)
    told = [("entropy", _entropy)] + ([("sampler_gap", _gap)] if isinstance(algorithm, OnPolicy) else [])
    for key, of in told:
        if any(key in metrics for _, metrics in records.steps):
            yield _agreed(f"{key} computed again from the sequences", SUM, records, key, of)


Again = Callable[[Entry], float | None]


def _agreed(name: str, theorem: Theorem, records: Records, key: str, again: Again) -> Finding:
    """The metric `key` of every step against what the columns say."""
    logged = {line.row["step"]: line.row for line in records.metrics}
    worst, where, count = 0.0, "", 0
    for entry in records.entries:
        value = again(entry) if entry.of("policy") else None
        row = logged.get(entry.step, {})
        if value is None or not isinstance(row.get(key), int | float):
            continue
        count += 1
        apart = abs(value - row[key]) / max(1.0, abs(value))
        if not apart <= worst:
            worst, where = apart, f"step {entry.step}: {number(row[key])}, the sequences say {number(value)}"
    if not count:
        return skipped(name, theorem, "no step has what it takes")
    if worst <= SAME:
        measured = f"within {number(worst)} over {count} steps"
        return Finding(name=name, level="green", theorem=theorem, measured=measured, expected=f"within {SAME:g}")
    return Finding(
        name=name, level="red", theorem=theorem, measured=where, expected=f"within {SAME:g}",
        fault=f"{key} is not what the trainer's own numbers give: metrics.jsonl was edited, or the loss is averaged otherwise than it says",
        hint="see whether metrics.jsonl is what the run wrote; if so, hold the loss to its contract: corollary check",
    )  # fmt: skip


def _loss_of(records: Records) -> tuple[Again | None, str]:
    """How a step's loss follows from its columns; or why it does not."""
    algorithm = records.recipe.algorithm
    match algorithm:
        case SFTConfig() if algorithm.loss.type == "nll":
            return _nll, ""
        case OnPairs() | RewardModelConfig() | UnpairedConfig():
            return _preference(records)
        case OnPolicy():
            return _surrogate(records)
        case _:
            return None, f"{algorithm.type} has a loss of whole distributions or of tokens, which are not recorded"


def _nll(entry: Entry) -> float:
    update = entry.of("policy")[0]
    each = zip(update.weight, update.tokens, update.logprob or [], strict=True)
    return -sum(w * logprob / n for w, n, logprob in each if n)


def _entropy(entry: Entry) -> float | None:
    return _mean(entry, lambda update: update.entropy)


def _gap(entry: Entry) -> float | None:
    """The metric is of π_old, which the record is of where the two are one."""
    if any(update.old is not None for update in entry.of("policy")):
        return None
    return _mean(entry, lambda update: update.gap)


def _mean(entry: Entry, of: Callable[[Update], Sequence[float] | None]) -> float | None:
    """A metric of tokens as the trainer averages it, and over the step's updates."""
    found = []
    for update in entry.of("policy"):
        sums = of(update)
        if sums is None or not any(update.weight):
            return None
        each = zip(update.weight, update.tokens, sums, strict=True)
        found.append(sum(w * x / n for w, n, x in each if n) / sum(update.weight))
    return sum(found) / len(found)


def _preference(records: Records) -> tuple[Again | None, str]:
    loss, of, unit = formula(records)
    if is_reference(loss.type) and records.own_code:
        return None, records.own_code
    update = next((u for e in records.entries for u in e.of("policy")), None)
    if update is None:
        return None, "no step had a pair to train on"
    if missing := lacking(loss, of(update)):
        return None, f"{loss.type} takes {missing} of every token, which are not recorded"
    algorithm = records.recipe.algorithm
    weight = algorithm.sft.weight if isinstance(algorithm, OnPairs) and algorithm.sft else 0.0

    def again(entry: Entry) -> float:
        update = entry.of("policy")[0]
        extra = weight * entry.metrics.get("sft_nll", 0.0) * sum(update.weight)
        return weighed(loss, of(update), update, unit) + extra

    return again, ""


def formula(records: Records) -> tuple[Variant, Callable[[Update], dict[str, Any]], int]:
    """The loss of an algorithm on pairs or answers, how it gets its inputs, and rows of one term."""
    algorithm = records.recipe.algorithm
    if isinstance(algorithm, UnpairedConfig):
        return algorithm.loss, answer_inputs, 1
    assert isinstance(algorithm, OnPairs | RewardModelConfig), "asked for where there are pairs or answers"
    return algorithm.loss, pair_inputs, 2


def _surrogate(records: Records) -> tuple[Again | None, str]:
    """-Σ w·A, with the penalty, of steps with one update; where the formula's value at ratio 1 is -A."""
    algorithm = records.recipe.algorithm
    assert isinstance(algorithm, OnPolicy), "asked for where there is a surrogate"
    if not declaration_of(algorithm.loss).on_policy_value or is_reference(algorithm.loss.type):
        return None, f"{algorithm.loss.type} is another number than -A where the ratio is 1"
    if not isinstance(algorithm.correction, NoCorrection):
        return None, "a correction weighs every token on its own"
    if isinstance(algorithm.kl, KLInLoss) and algorithm.kl.estimator not in ("k3", "k3_reverse"):
        return None, f"the penalty {algorithm.kl.estimator} is logged under another name"
    penalty = algorithm.kl.coef if isinstance(algorithm.kl, KLInLoss) else 0.0
    critic = algorithm.critic.coef if isinstance(algorithm, PPOConfig) and isinstance(algorithm.critic, SharedCritic) else 0.0  # fmt: skip

    def again(entry: Entry) -> float | None:
        updates = entry.of("policy")
        if len(updates) != 1 or (updates[0].old is not None and not _on_policy(updates[0])):
            return None
        mass = sum(updates[0].weight)
        surrogate = -sum(w * a for w, a in zip(updates[0].weight, updates[0].advantage or [], strict=True))
        more = penalty * entry.metrics.get("kl", 0.0) + critic * entry.metrics.get("critic/loss", 0.0)
        return surrogate + more * mass

    return again, ""


def _on_policy(update: Update) -> bool:
    """Whether π_old is the policy itself, answer by answer."""
    pairs = zip(update.logprob or [], update.old or [], update.tokens, strict=True)
    return all(abs(p - q) <= 1e-4 * max(1.0, n) for p, q, n in pairs)


# What holds at every step.


def on_policy(records: Records) -> Iterator[Finding]:
    """ratio 1, approx_kl 0 and nothing clipped in steps with one update on fresh answers."""
    name, worst, where, count = "ratio, KL and clipping of the first update", 0.0, "", 0
    for entry in records.entries:
        updates = entry.of("policy")
        if len(updates) != 1 or (updates[0].old is not None and not _on_policy(updates[0])):
            continue
        count += 1
        for key, value in (("ratio", 1.0), ("approx_kl", 0.0), ("clipped", 0.0)):
            apart = abs(entry.metrics.get(key, value) - value)
            if apart > worst:
                worst, where = apart, f"{key} {number(entry.metrics[key])} at step {entry.step}"
    if not count:
        yield skipped(name, ON_POLICY, "every step took several updates or trained on older answers")
    elif worst <= SAME:
        yield Finding(
            name=name,
            level="green",
            theorem=ON_POLICY,
            measured=f"1, 0 and 0 in {count} steps",
            expected="1, 0 and 0",
        )
    else:
        yield Finding(
            name=name, level="red", theorem=ON_POLICY, measured=where, expected="1, 0 and 0",
            fault="π_old is not the policy before the update: stale log-probabilities, another temperature, or shifted tokens",
            hint="take old_logprobs from the trainer's own forward pass before the update",
        )  # fmt: skip


def bounded(records: Records) -> Finding | None:
    """Every step's loss within the formula's own bounds; None where it has none."""
    algorithm = records.recipe.algorithm
    if isinstance(algorithm, OnPolicy | OnlinePreferenceConfig) or not isinstance(
        loss := _term(records), Variant
    ):  # fmt: skip
        return None
    bounds = declaration_of(loss).bounds
    if bounds is None or is_reference(loss.type) or loss != type(loss)(type=loss.type):
        return None
    losses = [(entry.of("policy")[0].loss, entry.step) for entry in records.entries if entry.of("policy")]
    if not losses:
        return None
    (least, low), (most, high) = min(losses), max(losses)
    name, measured = f"loss within the bounds of {loss.type}", f"{number(least)} to {number(most)}"
    expected = f"{bounds[0]:g} to {bounds[1]:g}"
    if bounds[0] - 1e-5 <= least and most <= bounds[1] + 1e-5:
        return Finding(name=name, level="green", theorem=RANGE, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=RANGE, measured=f"{measured}, steps {low} and {high}", expected=expected,
        fault="a sum of terms that each lie within bounds left them: the weights do not sum to 1, or the sign is wrong",
        hint="hold the loss to its contract: corollary check",
    )  # fmt: skip


def _term(records: Records) -> Variant | None:
    """The one formula that a step's loss is the mean of; None where something is added to it."""
    algorithm = records.recipe.algorithm
    if isinstance(algorithm, OnPairs):
        return None if algorithm.sft else algorithm.loss
    return algorithm.loss if isinstance(algorithm, UnpairedConfig | RewardModelConfig) else None


def descent(records: Records) -> Finding:
    """What a few steps changed the loss of their own batch by, against ∇L·Δ."""
    name = "loss decrease against the first-order prediction"
    found = [
        (entry.step, update.predicted, update.loss_after - update.loss)
        for entry in records.entries
        for update in entry.of("policy")
        if update.predicted is not None and update.loss_after is not None
    ]
    if not found:
        return skipped(name, TAYLOR, "no step measured it")
    step, slope, change = found[0]
    rose = [s for s, p, c in found if p < 0 < c and c > 1e-6 * max(1.0, abs(p))]
    measured = f"{change:+.3g} at step {step}, predicted {slope:+.3g}; {len(found) - len(rose)} of {len(found)} fell"
    expected = "∇L·Δ ≤ 0 at the first step, and a loss that falls with it"
    plain = records.recipe.optimizer.weight_decay == 0
    if step == 1 and plain and slope > 1e-6 * max(1.0, abs(change)):
        return Finding(
            name=name, level="red", theorem=TAYLOR, measured=measured, expected=expected,
            fault="the first step went up its own gradient: a sign is wrong between the loss and the optimizer",
            hint="hold the loss to its contract: corollary check; and look at what changes the gradient before the step",
        )  # fmt: skip
    if 2 * len(rose) > len(found):
        return Finding(
            name=name, level="amber", theorem=TAYLOR, measured=measured, expected=expected,
            fault="steps are so long that the loss of their own batch rises where its gradient says that it falls",
            hint="a smaller learning rate, or a longer warm-up",
        )  # fmt: skip
    return Finding(name=name, level="green", theorem=TAYLOR, measured=measured, expected=expected)
