"""What is known of step 1, where nothing was learnt yet: the loss at π = ref, a critic that foresees 0."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from corollary.algorithms.ppo import PPOConfig, SeparateCritic, SharedCritic
from corollary.algorithms.preference import OnPairs
from corollary.algorithms.reward_model import RewardModelConfig
from corollary.algorithms.unpaired import UnpairedConfig
from corollary.config import Variant
from corollary.custom import is_reference
from corollary.declare import declaration_of
from corollary.validate.findings import Finding, Theorem, close, number
from corollary.validate.integrity import skipped
from corollary.validate.objectives import formula, lacking, weighed
from corollary.validate.records import Entry, Records

PAIRS = Theorem(label="B7.a", says="the implicit reward β·log(π/ref) is 0 where π = ref: DPO log 2, IPO 1/(4τ²), KTO λ/2", page="docs/theory/preference.md#from-a-reward-to-pairs")  # fmt: skip
RANKING = Theorem(label="B7.a", says="two answers of equal reward are each the better with probability ½: log 2", page="docs/theory/losses-preference.md#bradley_terry")  # fmt: skip
CRITIC = Theorem(
    label="B10",
    says="a head of zeros foresees 0, which explains no variance",
    page="docs/theory/losses-policy.md#squared",
)


def first_step(records: Records) -> Iterator[Finding]:
    """The value of the loss where nothing was learnt yet."""
    algorithm, first = records.recipe.algorithm, records.first
    if (
        records.own
        or not records.entries
        or not isinstance(algorithm, OnPairs | RewardModelConfig | UnpairedConfig | PPOConfig)
    ):
        return
    theorem = {RewardModelConfig: RANKING, PPOConfig: CRITIC}.get(type(algorithm), PAIRS)
    name = "first values of the critic" if isinstance(algorithm, PPOConfig) else "first loss"
    if first is None:
        yield skipped(name, theorem, "the ledger does not begin at step 1")
    elif isinstance(algorithm, PPOConfig):
        yield _critic(algorithm, first, name)
    elif not first.of("policy"):
        yield skipped(name, theorem, "step 1 had no pair to train on")
    else:
        yield _first_loss(records, first, theorem)


def _first_loss(records: Records, first: Entry, theorem: Theorem) -> Finding:
    loss, of, unit = formula(records)
    update, algorithm = first.of("policy")[0], records.recipe.algorithm
    name = f"first loss of {loss.type}"
    if isinstance(algorithm, OnPairs) and not algorithm.needs_reference:
        return skipped(name, theorem, f"{loss.type} compares with no reference, so nothing is known of its first value")
    if is_reference(loss.type):
        return skipped(name, theorem, "the loss is the user's own")
    if isinstance(algorithm, RewardModelConfig) and any(update.value or []):
        return skipped(name, theorem, "the model began with a scalar head of its own")
    inputs = of(update)
    same = {"sequence_logprobs": "sequence_ref_logprobs", "chosen": "ref_chosen", "rejected": "ref_rejected"}
    inputs |= {policy: inputs[ref] for policy, ref in same.items() if ref in inputs}
    inputs |= {name: torch.zeros((), dtype=torch.double) for name in ("baseline", "shift") if name in inputs}
    if missing := lacking(loss, inputs):
        return skipped(name, theorem, f"{loss.type} takes {missing} of every token, which are not recorded")
    wanted = weighed(loss, inputs, update, unit)
    if isinstance(algorithm, OnPairs) and algorithm.sft:
        wanted += algorithm.sft.weight * first.metrics.get("sft_nll", 0.0) * sum(update.weight)
    measured = number(update.loss)
    expected = f"{number(wanted)}{_in_words(loss, wanted)}"
    if close(update.loss, wanted, 1e-3, 1e-4):
        return Finding(name=name, level="green", theorem=theorem, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=theorem, measured=measured, expected=expected,
        fault="the policy is not the reference before the first update: other weights, other tokens, or a step that came before",
        hint="start both from one model; compare their log-probabilities of one answer",
    )  # fmt: skip


def _in_words(loss: Variant, value: float) -> str:
    declared = declaration_of(loss).value_at_reference
    if close(value, math.log(2), 1e-6):
        return " = log 2"
    return " = 1/(4τ²)" if loss.type.startswith("ipo") and declared is not None else ""


def _critic(config: PPOConfig, first: Entry, name: str) -> Finding:
    if isinstance(config.critic, SeparateCritic) and config.critic.model:
        return skipped(name, CRITIC, "the critic began as a model with weights of its own")
    values = [v for update in first.updates[:1] for v in update.value_first or []]
    if not values:
        return skipped(name, CRITIC, "step 1 asked no critic")
    if max(map(abs, values)) > 0 and isinstance(config.critic, SharedCritic):
        fault = "the policy's scalar head did not start at 0; a model that had one, or a step that came before"
    else:
        fault = "the critic's head did not start at 0: another model, or a step that came before"
    measured = f"{number(max(map(abs, values)))} at most"
    if max(map(abs, values)) <= 1e-6 and abs(first.metrics.get("explained_variance", 0.0)) <= 1e-6:
        return Finding(name=name, level="green", theorem=CRITIC, measured=measured, expected="0")
    return Finding(
        name=name, level="amber", theorem=CRITIC, measured=measured, expected="0", fault=fault,
        hint="start from a model without a head, unless this is meant",
    )  # fmt: skip
