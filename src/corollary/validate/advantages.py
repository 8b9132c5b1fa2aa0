"""Advantages computed again from the recorded rewards by the algorithm's own function, and what they must sum to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from corollary.algorithms.grpo import GRPOConfig
from corollary.algorithms.ppo import PPOConfig
from corollary.custom import is_reference
from corollary.declare import declaration_of
from corollary.losses.bind import values
from corollary.losses.policy import KLInReward
from corollary.losses.probe import per_token
from corollary.ops.advantage import overlong_penalty
from corollary.validate.findings import Finding, Theorem, number
from corollary.validate.integrity import reward_table, skipped
from corollary.validate.records import Entry, Group, Records, Update

BASELINE = {
    "group_mean": Theorem(label="B2.b", says="r_i - mean r sums to 0 over a group", page="docs/theory/estimators.md#group_mean"),
    "leave_one_out": Theorem(label="B2.c", says="n/(n-1)·(r_i - mean r): unbiased, and sums to 0 over a group", page="docs/theory/estimators.md#leave_one_out"),
    "group_std": Theorem(label="B13.a", says="(r_i - mean r)/(s + ε) sums to 0 over a group", page="docs/theory/estimators.md#group_std"),
    "leave_one_out_std": Theorem(label="B13.e", says="mean and deviation of the other answers know nothing of this one", page="docs/theory/estimators.md#leave_one_out_std"),
}  # fmt: skip
OTHER = Theorem(label="B2.a", says="an advantage is a function of the step's rewards alone", page="docs/theory/estimators.md#advantages-at-a-glance")  # fmt: skip
GAE = Theorem(label="B10", says="(1-λ)·ΣA + λ·A_0 = Σr - V_0, and at λ = 1 the return is the reward", page="docs/theory/estimators.md#gae")  # fmt: skip
WHITE = Theorem(label="B28", says="whitened advantages have mean 0 and variance 1 over the step's tokens", page="docs/theory/estimators.md#whiten")  # fmt: skip

SAME = 1e-4  # relative: of sums of float32
EXACT = 5e-7  # relative: the same function of the same float32 rewards; small enough to see the ε of a deviation


def advantages(records: Records) -> Iterator[Finding]:
    """The algebra of advantages, for algorithms that have them."""
    algorithm = records.recipe.algorithm
    if records.own:
        return
    if isinstance(algorithm, GRPOConfig):
        yield from compared(records, algorithm)
        yield reached(records, BASELINE.get(algorithm.advantage.type, OTHER))
    if isinstance(algorithm, PPOConfig):
        yield from critics(records, algorithm)
        yield reached(records, GAE)


@dataclass(frozen=True, slots=True)
class Compared:
    """One step's groups with what their advantages should be."""

    step: int
    rewards: Tensor  # [P, G] as they go into the advantage
    wanted: Tensor  # [P, G] computed again
    given: Tensor  # [P, G] as recorded

    @property
    def error(self) -> float:
        return float((self.wanted - self.given).abs().max() / self.wanted.abs().max().clamp(min=1))

    @property
    def off_centre(self) -> float:
        """The largest |mean A| of a group, in units of the largest advantage."""
        judged = ~self.rewards.isnan()
        means = self.given.where(judged, 0.0).sum(1) / judged.sum(1).clamp(min=1)
        return float(means.abs().max() / self.given.abs().max().clamp(min=1))


def compared(records: Records, config: GRPOConfig) -> Iterator[Finding]:
    """Group-relative advantages: that they are those of the recorded rewards, and that they sum to 0."""
    theorem = BASELINE.get(config.advantage.type, OTHER)
    name = f"advantages ({config.advantage.type}) of the recorded rewards"
    if why := _unknown(records, config):
        yield skipped(name, theorem, why)
        return
    steps = [found for step, groups in records.groups.items() if (found := _again(records, config, step, groups))]
    if not steps:
        yield skipped(name, theorem, "no step recorded groups with advantages")
        return
    zero_sum = declaration_of(config.advantage).zero_sum and not is_reference(config.advantage.type)
    uncentred = zero_sum and max(s.off_centre for s in steps) > SAME
    worst, limit = max(steps, key=lambda s: s.error), SAME if isinstance(config.kl, KLInReward) else EXACT
    measured = f"within {number(worst.error)} over {len(steps)} steps"
    if worst.error <= limit:
        yield Finding(name=name, level="green", theorem=theorem, measured=measured, expected=f"within {limit:g}")
    else:
        fault, hint = _diagnosis(config, worst, uncentred, limit)
        yield Finding(
            name=name, level="red", theorem=theorem, measured=f"{number(worst.error)} apart at step {worst.step}",
            expected=f"within {limit:g}", fault=fault, hint=hint,
        )  # fmt: skip
    if zero_sum:
        yield _centred(steps, theorem, uncentred)


def _centred(steps: Sequence[Compared], theorem: Theorem, uncentred: bool) -> Finding:
    name, worst = "advantages sum to 0 over each group", max(steps, key=lambda s: s.off_centre)
    measured, expected = f"mean {number(worst.off_centre)} at step {worst.step}, the largest", f"0, within {SAME:g}"
    if not uncentred:
        return Finding(name=name, level="green", theorem=theorem, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=theorem, measured=measured, expected=expected,
        fault="advantages are not centred: no baseline was subtracted, or another than the group's mean",
        hint="subtract the mean of the group's rewards before anything is scaled",
    )  # fmt: skip


def _unknown(records: Records, config: GRPOConfig) -> str:
    """Why the advantages cannot be computed again; empty: they can."""
    if per_token(config.advantage):
        return f"{config.advantage.type} needs the log-probabilities of every token"
    return records.own_code if is_reference(config.advantage.type) else ""


def _again(records: Records, config: GRPOConfig, step: int, groups: Sequence[Group]) -> Compared | None:
    """The step's advantages from its rewards, through the algorithm's own function; None where something is missing."""
    given = [[a.advantage for a in group.answers] for group in groups]
    if any(advantage is None for row in given for advantage in row):
        return None
    rewards = reward_table(list(groups))
    lengths = torch.tensor([[a.tokens for a in group.answers] for group in groups])
    if start := config.overlong.penalty_from:
        rewards = rewards + overlong_penalty(lengths, longest=config.max_tokens, buffer=config.max_tokens - start)
    if isinstance(config.kl, KLInReward):
        penalty = _kl_penalty(records, step, config.kl.coef)
        if penalty is None or penalty.shape != rewards.shape:
            return None
        rewards = rewards - penalty
    parts = torch.tensor(
        [[[math.nan if v is None else v for v in a.rewards.values()] for a in group.answers] for group in groups]
    )
    inputs = {"rewards": rewards, "lengths": lengths, "part_rewards": parts}
    wanted = values(config.advantage, inputs, shape=tuple(rewards.shape))
    return Compared(step, rewards, wanted.double(), torch.tensor(given, dtype=torch.double))


def _kl_penalty(records: Records, step: int, coef: float) -> Tensor | None:
    """`[P, G]` what KL took off each reward; None where an answer did not reach the trainer."""
    entry = next((e for e in records.entries if e.step == step), None)
    if entry is None:
        return None
    paid = {}
    for update in entry.of("policy"):
        columns = zip(update.answers, update.sampler or [], update.ref or [], strict=False)
        paid |= {answer: coef * (said - ref) for answer, said, ref in columns}
    if not all(answer in paid for group in entry.groups for answer in group):
        return None
    return torch.tensor([[paid[answer] for answer in group] for group in entry.groups])


def _diagnosis(config: GRPOConfig, worst: Compared, uncentred: bool, limit: float) -> tuple[str, str]:
    """What is likely wrong with advantages that are not those of the recorded rewards, and what to do."""
    if uncentred:
        return (
            "advantages are not centred: no baseline was subtracted, or another than the group's mean",
            "subtract the mean of the group's rewards before anything is scaled",
        )
    if (clip := _clip(config, worst, limit)) is not None:
        return (
            f"the reward was changed after it was recorded: {clip} explains the advantages",
            "record what goes into the advantage: clip in the reward function, or take the clip away",
        )
    shifted = (worst.given - worst.wanted).std(1).max() <= limit
    scale = (worst.given * worst.wanted).sum() / worst.wanted.square().sum().clamp(min=1e-12)
    if shifted:
        return "advantages are shifted by a constant: not centred", "subtract the baseline that the algorithm names"
    if (worst.given - scale * worst.wanted).abs().max() <= limit:
        return (
            f"advantages are {number(float(scale))} times what they should be",
            "look for a scale that is applied twice",
        )
    return (
        "the reward or the advantage was changed after the reward was recorded",
        "record what goes into the advantage, and compute both in one place",
    )


def _clip(config: GRPOConfig, worst: Compared, limit: float) -> str | None:
    """The bound that explains the advantages when rewards are clipped to it, in words; None: none does."""
    known = sorted(set(worst.rewards[~worst.rewards.isnan()].tolist()))
    for word, sign in (("at most", 1.0), ("at least", -1.0)):
        for low, high in pairwise(known):
            bound = _best(config, worst, low, high, sign)
            if _missed(config, worst, bound, sign) <= limit:
                return f"clipping it to {word} {bound:.3g}"
    return None


def _best(config: GRPOConfig, worst: Compared, low: float, high: float, sign: float) -> float:
    """The bound between two neighbouring rewards that misses least, by thirds."""
    for _ in range(60):
        third = (high - low) / 3
        left, right = low + third, high - third
        if _missed(config, worst, left, sign) <= _missed(config, worst, right, sign):
            high = right
        else:
            low = left
    return (low + high) / 2


def _missed(config: GRPOConfig, worst: Compared, bound: float, sign: float) -> float:
    clipped = worst.rewards.clamp(max=bound) if sign > 0 else worst.rewards.clamp(min=bound)
    if "rewards" not in type(config.advantage).inputs:
        return math.inf
    lengths = torch.ones_like(clipped)
    found = values(config.advantage, {"rewards": clipped, "lengths": lengths}, shape=tuple(clipped.shape))
    return float((found.double() - worst.given).abs().max() / worst.given.abs().max().clamp(min=1))


def reached(records: Records, theorem: Theorem) -> Finding:
    """The advantages in the trainer's batch against those that were recorded, answer by answer."""
    name = "the trainer was given the recorded advantages"
    if not records.entries:
        return skipped(name, theorem)
    apart = [found for entry in records.entries if (found := _apart(entry, records.groups.get(entry.step, [])))]
    if not apart:
        return skipped(name, theorem, "no step trained on recorded answers")
    worst, step, count = max(a[0] for a in apart), max(apart)[1], sum(a[2] for a in apart)
    measured, expected = f"{number(worst)} apart at most, over {count} answers", f"within {SAME:g}"
    if worst <= SAME:
        return Finding(name=name, level="green", theorem=theorem, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=theorem, measured=f"{measured}, at step {step}", expected=expected,
        fault="advantages were changed, permuted or joined to other answers between their record and the step",
        hint="build the batch and the record from one tensor",
    )  # fmt: skip


def _apart(entry: Entry, groups: Sequence[Group]) -> tuple[float, int, int] | None:
    """(largest difference, step, answers) of one step; None where nothing can be compared."""
    told: dict[str, list[float]] = {}
    for names, group in zip(entry.groups, groups, strict=False):
        for answer, said in zip(names, group.answers, strict=False):
            if said.advantage is not None:
                told.setdefault(answer, []).append(said.advantage)
    found = [
        min(abs(given - said) for said in told[answer]) / max(1.0, abs(given))
        for update in entry.of("policy")
        for answer, tokens, given in zip(update.answers, update.tokens, update.advantage or [], strict=False)
        if answer in told and tokens
    ]
    return (max(found), entry.step, len(found)) if found else None


def critics(records: Records, config: PPOConfig) -> Iterator[Finding]:
    """PPO's: returns that are the rewards, GAE that telescopes, advantages that are white."""
    if not records.entries:
        yield skipped("returns and advantages of the recorded rewards", GAE)
        return
    returns = _returns(records, config)
    yield returns
    if config.scale == "whiten":
        yield _white(records)
    if returns.level == "red":
        yield skipped("GAE telescopes to reward less value", GAE, "the rewards are not the recorded ones, see above")
    else:
        yield _telescope(records, config)


@dataclass(frozen=True, slots=True)
class Episode:
    """An answer as PPO's algebra sees it."""

    reward: float  # less its KL penalty
    tokens: float
    value: float  # V_0
    returned: float  # R_0
    advantage: float  # ΣA
    first: float  # A_0


def _episodes(entry: Entry, groups: Sequence[Group], config: PPOConfig) -> list[Episode]:
    """Judged answers of one step that ended by themselves, or whose end counts as one; each once."""
    told = {
        answer: said
        for names, group in zip(entry.groups, groups, strict=False)
        for answer, said in zip(names, group.answers, strict=False)
    }
    policy = {a: (u, i) for u in reversed(entry.of("policy")) for i, a in enumerate(u.answers)}
    critic = {a: (u, i) for u in reversed(entry.of("critic") or entry.of("policy")) for i, a in enumerate(u.answers)}
    found = []
    for answer, said in told.items():
        if said.reward is None or answer not in critic or (config.truncated == "bootstrap" and said.truncated):
            continue
        judged = _episode(said.reward, config, critic[answer], policy.get(answer))
        found += [judged] if judged is not None else []
    return found


def _episode(
    reward: float, config: PPOConfig, critic: tuple[Update, int], policy: tuple[Update, int] | None
) -> Episode | None:
    update, i = critic
    if update.value_first is None or update.return_first is None or not update.tokens[i]:
        return None
    total, first = math.nan, math.nan
    if policy is not None:
        said, j = policy
        total = (said.advantage or [math.nan] * len(said.answers))[j] * said.tokens[j]
        first = (said.advantage_first or [math.nan] * len(said.answers))[j]
    if isinstance(config.kl, KLInReward):
        if policy is None or policy[0].ref is None or policy[0].sampler is None:
            return None
        said, j = policy
        reward -= config.kl.coef * ((said.sampler or [])[j] - (said.ref or [])[j])
    return Episode(reward, update.tokens[i], update.value_first[i], update.return_first[i], total, first)


def _returns(records: Records, config: PPOConfig) -> Finding:
    """At λ = γ = 1 the return of the first token is the answer's whole reward."""
    name, settings = "returns are the recorded rewards", dict(config.returns)
    if config.returns.type != "lambda_returns" or settings.get("lam") != 1 or settings.get("gamma") != 1:
        return skipped(name, GAE, "returns of λ or γ below 1 need the critic's value at every token")
    pairs = [
        (e, entry.step)
        for entry in records.entries
        for e in _episodes(entry, records.groups.get(entry.step, []), config)
    ]
    if not pairs:
        return skipped(name, GAE, "no answer ended by itself")
    worst, step = max(pairs, key=lambda pair: abs(pair[0].reward - pair[0].returned))
    measured = f"{number(abs(worst.reward - worst.returned))} apart at step {step}, the most of {len(pairs)} answers"
    if abs(worst.reward - worst.returned) <= SAME * max(1.0, abs(worst.reward)):
        return Finding(name=name, level="green", theorem=GAE, measured=measured, expected=f"within {SAME:g}")
    most, least = max(e.returned for e, _ in pairs), min(e.returned for e, _ in pairs)
    return Finding(
        name=name, level="red", theorem=GAE, measured=measured, expected=f"within {SAME:g}",
        fault=f"the reward was changed after it was recorded: recorded {number(worst.reward)}, trained on {number(worst.returned)} "
        f"(all between {number(least)} and {number(most)})",
        hint="record what goes into the advantage: clip in the reward function, or take the clip away",
    )  # fmt: skip


def _white(records: Records) -> Finding:
    """Mean 0 and variance 1 of what was trained on, over the tokens of each step."""
    name, steps = "advantages are white over each step", []
    for entry in records.entries:
        rows = {a: (u, i) for u in entry.of("policy") for i, a in enumerate(u.answers)}
        tokens = sum(u.tokens[i] for u, i in rows.values())
        if tokens < 2 or len(rows) < sum(map(len, entry.groups)):
            continue  # the critic alone was trained, or two answers are the same
        mean = sum((u.advantage or [])[i] * u.tokens[i] for u, i in rows.values()) / tokens
        square = sum((u.advantage_square or [])[i] for u, i in rows.values())
        steps.append((abs(mean), (square - tokens * mean**2) / (tokens - 1), entry.step))
    if not steps:
        return skipped(name, WHITE, "no step trained the policy on all of its answers")
    mean, _, step = max(steps)
    largest = max(variance for _, variance, _ in steps)
    measured, expected = f"mean {number(mean)} at step {step}, variance {number(largest)} at most", "0 and 1"
    if mean <= 1e-3 and largest <= 1 + 1e-3:
        return Finding(name=name, level="green", theorem=WHITE, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=WHITE, measured=measured, expected=expected,
        fault="advantages are not centred over the step" if mean > 1e-3 else "advantages are not scaled to variance 1",
        hint="whiten once, over all trained tokens of the step, before it is split into minibatches",
    )  # fmt: skip


def _telescope(records: Records, config: PPOConfig) -> Finding:
    """(1-λ)·ΣA + λ·A_0 = Σr - V_0 with γ = 1, where A was shifted and scaled by one pair of numbers if it was whitened."""
    name, settings = "GAE telescopes to reward less value", dict(config.advantage)
    if config.advantage.type != "gae" or settings.get("gamma") != 1:
        return skipped(name, GAE, "the identity is one of gae at γ = 1")
    lam, apart = float(settings["lam"]), []
    for entry in records.entries:
        found = [e for e in _episodes(entry, records.groups.get(entry.step, []), config) if not math.isnan(e.advantage)]
        if len(found) < (4 if config.scale == "whiten" else 1):
            continue
        n, ends = torch.tensor([[e.tokens, e.reward - e.value] for e in found], dtype=torch.double).unbind(1)
        sums = torch.tensor([(1 - lam) * e.advantage + lam * e.first for e in found], dtype=torch.double)
        if config.scale == "whiten":  # ends = s·sums + m·((1-λ)·n + λ)
            design = torch.stack([sums, (1 - lam) * n + lam], 1)
            sums = design @ torch.linalg.lstsq(design, ends[:, None], driver="gelsd").solution[:, 0]
        apart.append((float((sums - ends).abs().max() / ends.abs().max().clamp(min=1)), entry.step))
    if not apart:
        return skipped(name, GAE, "no step trained the policy on enough answers that ended by themselves")
    worst, step = max(apart)
    measured, expected = (
        f"{number(worst)} apart at step {step}, the most of {len(apart)} steps",
        f"within {10 * SAME:g}",
    )
    if worst <= 10 * SAME:
        return Finding(name=name, level="green", theorem=GAE, measured=measured, expected=expected)
    return Finding(
        name=name, level="red", theorem=GAE, measured=measured, expected=expected,
        fault="advantages are not GAE of the recorded rewards and the critic's values: another λ, a reward at another token, or a reward "
        "that was changed after it was recorded",
        hint="check where the reward is placed, and that rewards and values are those of the record",
    )  # fmt: skip
