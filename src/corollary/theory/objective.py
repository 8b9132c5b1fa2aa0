"""Is this the objective that you think it is? The expected gradient of a loss, exactly, beside that of an objective.

found = report(loss, advantage="leave_one_out", average="constant", against="J", group_size=2)
found.text(), found.to_dict(), found.failed
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from corollary.config import Variant, variant
from corollary.config.variants import from_file
from corollary.custom import is_reference
from corollary.declare import declaration_of, entry
from corollary.errors import ConfigError
from corollary.losses.bind import POLICY, Bound
from corollary.theory.bandit import bandit, solve_rate_policy
from corollary.theory.columns import columns, cosine, number, plain, sentence
from corollary.theory.difficulty import GRID, EffectiveWeight, effective_weight, two_arms
from corollary.theory.expectation import Formula, GroupGradients, blocks, expected_gradient, named, takes, weights_of
from corollary.theory.penalty import NOISE, Direction, PenaltyFinding, Verdict, compared, examine_penalty, moved
from corollary.theory.tree import World, eos_tree, gradient_of, tree

Objective = Callable[[World, Tensor], Tensor]
"""(world, policy's logits `[N, V]` with gradient) → the scalar to be ascended."""

ADVANTAGE = frozenset({
    "rewards", "lengths", "trained", "greedy_rewards", "logprobs", "old_logprobs", "sampler_logprobs", "ref_logprobs", "entropy"
})  # fmt: skip
LARGEST_GROUP = 16
LENGTH = 8  # of an average that needs a constant length and was given none
DIFFICULTY = "0/1 rewards, prompts of p = .05 to .95"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One world: E[-∇loss] beside ∇objective."""

    world: str
    kind: str  # fixed, varying (lengths), graded (one token), difficulty (one token, many prompts)
    groups: int  # enumerated
    ordered: bool  # in every order
    direction: Direction
    zero: bool  # the expectation is 0
    variance: float  # trace of the covariance of one group's gradient
    second_moment: float  # E‖one group's gradient‖²


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a loss ascends, with its advantage and its average."""

    loss: str
    advantage: str
    average: str
    objective: str
    group_size: int
    length_free: bool  # the average gives every token the same weight, whatever the lengths
    rows: tuple[Row, ...]
    weight: (
        EffectiveWeight | None
    )  # for rewards of 0 and 1; None for a KL objective, off-policy, and without advantages
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """What it really ascends."""
        rows = {row.kind: row for row in self.rows}
        if any(math.isnan(row.variance) for row in self.rows):
            return "On some group its gradient is not finite, so that it has no expectation."
        if all(row.second_moment == 0 for row in self.rows):
            return "It moves nothing: no group has a gradient."
        if all(row.zero for row in self.rows):
            return "It moves nothing on average: its gradient is noise of expectation 0."
        if all(row.direction.holds for row in self.rows):
            ratios = [row.direction.norm_ratio for row in self.rows]
            if max(ratios) - min(ratios) <= 1e-9 * max(ratios):
                times = "" if abs(ratios[0] - 1) < 1e-9 else f"{number(ratios[0])}·"
                return f"It ascends {self.objective}: E[-∇loss] = {times}∇{self.objective} in every world."
            return f"It ascends {self.objective}, by a factor that differs from world to world."
        if all(row.direction.cosine <= -1 + 1e-9 for row in self.rows):
            return f"It descends {self.objective}: the sign is wrong."
        return " ".join([f"It does not ascend {self.objective}.", *self._reasons(rows), *self._binary()])

    def _reasons(self, rows: dict[str, Row]) -> list[str]:
        """Which worlds tell it apart."""
        wrong = {kind for kind, row in rows.items() if not row.direction.holds}
        found = []
        if "graded" in wrong:
            found.append("Even for answers of one token its direction is off.")
        elif "fixed" in wrong:
            found.append("Exact for answers of one token, off for longer ones.")
        elif "varying" in wrong:
            why = "lengths enter it" if self.length_free else "answers count by their length"
            found.append(f"Exact where all answers are equally long, off where they are not: {why}.")
        if found and "fixed" in wrong and not self.length_free:
            found.append("The average weighs a token by the lengths of the answers besides.")
        if wrong == {"difficulty"}:
            found.append("Its direction is right on each prompt, but prompts count by their difficulty.")
        return found

    def _binary(self) -> list[str]:
        w = self.weight
        if w is None:
            return []
        if w.name == "p" and w.exact:
            return (
                []
                if self.objective == "J"
                else ["For 0/1 rewards on answers of one token it ascends the success rate."]
            )
        span = f"w(p) from {number(min(w.weight))} to {number(max(w.weight))}"
        if not w.name:
            return [f"For 0/1 rewards a prompt counts by {span}, an objective without a name here."]
        word = "ascends" if w.scale > 0 else "descends"
        near = "" if w.exact else f", within {w.residual:.1%},"
        return [f"For 0/1 rewards it {word}{near} {w.name} ({span})."]

    def text(self) -> str:
        """The table, w(p), the sentence and the verdict."""
        head = ("world", "groups", "cosine", "norm ratio", "bias", "relative", "variance")
        lines = [head] + [
            (
                row.world, f"{row.groups}", cosine(row.direction.cosine), number(row.direction.norm_ratio),
                number(row.direction.bias), number(row.direction.relative_bias), number(row.variance),
            )
            for row in self.rows
        ]  # fmt: skip
        title = f"{self.loss} with {self.advantage} and {self.average}, groups of {self.group_size}, against {self.objective}"
        parts = [title, columns(lines)]
        if self.weight is not None:
            some = [i for i, p in enumerate(self.weight.p) if p in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)]
            parts.append(columns([
                ("p", *(f"{self.weight.p[i]:g}" for i in some)),
                ("w(p)", *(number(self.weight.weight[i]) for i in some)),
                ("∫ w", *(number(self.weight.objective[i]) for i in some)),
            ]))  # fmt: skip
        return "\n".join([*parts, sentence(self.sentence), f"  verdict: {self.verdict}"])

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        found = asdict(self) | {"kind": "policy", "sentence": self.sentence, "worlds": [asdict(r) for r in self.rows]}
        del found["rows"]
        return plain(found | {"weight": None if self.weight is None else self.weight.to_dict()})


@dataclass(frozen=True, slots=True)
class Report:
    """What `corollary check --objective` prints."""

    findings: tuple[Finding | PenaltyFinding, ...]

    @property
    def failed(self) -> bool:
        """Whether a declared objective is violated."""
        return any(found.verdict == "violated" for found in self.findings)

    def text(self) -> str:
        return "\n\n".join(found.text() for found in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {"failed": self.failed, "findings": [found.to_dict() for found in self.findings]}


def report(
    loss: Formula | str,
    *,
    advantage: Formula | str = "leave_one_out",
    average: Formula | str = "constant",
    against: Objective | str | None = None,
    group_size: int = 2,
) -> Report:
    """Everything that enumeration can say of a loss.

    Args:
        loss: a function, a variant, an object; or a name of the catalogue, or `FILE.py:NAME`.
        advantage: likewise.
        average: likewise.
        against: `J`, `reverse_kl`, `forward_kl`, `pass@k` (`pass@4`), `FILE.py:NAME` or a function (world, theta) → scalar;
            None: what the advantage declares, else what the loss does, else J; a verdict only where the loss declares one.
        group_size: G, answers of one step.

    Raises:
        ConfigError: a name that nothing has.
        ValueError: a loss or an advantage takes what no world has, or the group is too large to enumerate.
    """
    loss = _resolved(loss, POLICY)
    against = (
        _resolved(against, frozenset({"world", "theta"}))
        if isinstance(against, str) and is_reference(against)
        else against
    )
    if _is_penalty(loss):
        if against is not None and not isinstance(against, str):
            raise ValueError("a KL penalty is held against reverse_kl or forward_kl, not against a function")
        return Report((examine_penalty(loss, objective=against),))
    found = examine(
        loss,
        advantage=_resolved(advantage, ADVANTAGE),
        average=_resolved(average, frozenset({"trained"})),
        objective=against,
        group_size=group_size,
    )
    return Report((found,))


def examine(
    loss: Formula,
    *,
    advantage: Formula | None,
    average: Formula,
    objective: Objective | str | None = None,
    group_size: int = 2,
    step: float = 0.0,
) -> Finding:
    """E[-∇loss] beside ∇objective in every world that a group of this size can be enumerated in.

    Args:
        loss: of the policy family.
        advantage: rewards `[1, G]` to advantages.
        average: trained `[G, T]` to weights `[G, T]`.
        objective: as `against` of `report`.
        group_size: G from 1 to 16.
        step: how far the policy is from the one that the answers were drawn from, standard deviations of a logit.

    Raises:
        ValueError: a formula takes what no world has, or the group is too large to enumerate.
    """
    if not 1 <= group_size <= LARGEST_GROUP:
        raise ValueError(f"groups of 1 to {LARGEST_GROUP} answers can be enumerated, got {group_size}")
    promised = declaration_of(loss.formula if isinstance(loss, Bound) else loss).objective
    of_advantage = declaration_of(advantage).objective if advantage else None
    wanted = objective or (of_advantage if of_advantage != "J" else None) or promised or "J"
    if isinstance(wanted, str) and "kl" not in wanted and not {"advantages", "batch"} & _inputs(loss):
        raise ValueError(
            f"{named(loss)} takes no advantages, so it ascends no reward; hold it against a function (world, theta) → scalar"
        )
    name, ascended, binary = _objective(wanted, advantage, group_size)
    rows = []
    for kind, world in worlds(group_size):
        world = world.binary() if binary else world
        sampler = world.policy(1)
        policy = moved(world, sampler, step)
        found = expected_gradient(
            loss, advantage, average, world, group_size=group_size, policy=policy, sampler=sampler
        )
        rows.append(_row(world.name, kind, found, gradient_of(lambda theta, w=world: ascended(w, theta), policy)))
    weight = None
    if step == 0 and "kl" not in name and {"advantages", "batch"} & _inputs(loss):
        rows.append(_difficulty_row(loss, advantage, average, ascended, group_size))
        weight = effective_weight(loss, advantage, average, group_size=group_size)
    right = all(row.direction.holds for row in rows)
    verdict: Verdict = "reported" if objective is None and promised is None else "holds" if right else "violated"
    return Finding(
        loss=named(loss), advantage="none" if advantage is None else named(advantage), average=named(average),
        objective=name, group_size=group_size, length_free=_length_free(average, group_size), rows=tuple(rows), weight=weight, verdict=verdict,
    )  # fmt: skip


def worlds(group_size: int) -> tuple[tuple[str, World], ...]:
    """(kind, world) of those that all groups of this size can be enumerated in: answers of equal length, of different lengths,
    and of one token with graded rewards."""
    graded = ("graded", bandit([1.5, -2.0, 0.25]))  # wide enough for a cap on advantages to show
    if group_size <= 2:
        return ("fixed", tree()), ("varying", eos_tree()), graded
    short, ending = tree(vocabulary=2, depth=2), tree(vocabulary=2, depth=3, end=1)
    return ("fixed", short), ("varying", ending), graded


def _row(name: str, kind: str, found: GroupGradients, meant: Tensor) -> Row:
    zero = float(found.mean.norm()) <= NOISE * math.sqrt(found.second_moment)
    return Row(
        world=name, kind=kind, groups=len(found.groups), ordered=found.ordered, zero=zero, variance=found.variance,
        second_moment=found.second_moment, direction=compared(found.mean, meant, zero=zero),
    )  # fmt: skip


def _difficulty_row(
    loss: Formula, advantage: Formula | None, average: Formula, ascended: Objective, group_size: int
) -> Row:
    """Prompts of every difficulty, each with a policy of its own: right on each is not yet right on their mean."""
    world, share = bandit([1.0, 0.0]), 1 / len(GRID)
    found = blocks([(share, two_arms(loss, advantage, average, p, group_size=group_size)) for p in GRID])
    meant = [share * gradient_of(lambda theta: ascended(world, theta), solve_rate_policy(p)) for p in GRID]
    return _row(DIFFICULTY, "difficulty", found, _stacked(meant))


def _length_free(average: Formula, group_size: int) -> bool:
    lengths = torch.tensor([[1] * group_size, [1] * (group_size - 1) + [4], [4] * group_size])
    weights = [weights_of(average, torch.arange(4) < row[:, None]) for row in lengths]
    kept = torch.cat([w[w != 0].flatten() for w in weights])
    return bool(len(kept)) and bool((kept - kept[0]).abs().max() <= 1e-12 * kept[0].abs())


def _stacked(parts: list[Tensor]) -> Tensor:
    return parts[0].new_tensor([part.flatten().tolist() for part in parts])


def _objective(wanted: Objective | str, advantage: Formula | None, group_size: int) -> tuple[str, Objective, bool]:
    """(name, what is ascended, whether rewards are 0 or 1)."""
    if isinstance(wanted, Variant):
        return named(wanted), lambda world, theta: wanted(world=world, theta=theta), False
    if not isinstance(wanted, str):
        return named(wanted), wanted, False
    if found := re.fullmatch(r"pass@(k|[1-9]\d*)", wanted):
        k = _k(advantage, group_size) if found[1] == "k" else int(found[1])
        return f"pass@{k}", lambda world, theta: world.pass_at_k(theta, k), True
    match wanted:
        case "J":
            return "J", lambda world, theta: world.expected_reward(theta), False
        case "reverse_kl":
            return "-reverse_kl", lambda world, theta: -world.kl(theta, world.policy(2)), False
        case "forward_kl":
            return "-forward_kl", lambda world, theta: -world.kl(world.policy(2), theta), False
        case _:
            raise ConfigError(f"no objective {wanted!r}", hint="J, reverse_kl, forward_kl, pass@k or FILE.py:NAME")


def _k(advantage: Formula | None, group_size: int) -> int:
    """k of pass@k: the advantage's own where it has one."""
    if inspect.isfunction(advantage):
        advantage = variant(advantage).model_validate({"type": advantage.__name__})
    own = advantage.parameters.get("k") if isinstance(advantage, Variant) else None
    return group_size if own is None else int(own)


def _inputs(formula: Formula) -> set[str]:
    needed, optional = takes(formula)
    return {*needed, *optional}


def _is_penalty(loss: Formula) -> bool:
    inputs = _inputs(loss)
    return "ref_logprobs" in inputs and not {"advantages", "batch"} & inputs


def _resolved(formula: Formula | str, inputs: frozenset[str]) -> Formula:
    """A name of the catalogue or of a user's file, as its variant with default parameters."""
    if not isinstance(formula, str):
        return formula
    if is_reference(formula):
        made = from_file(formula, inputs)
    elif found := entry(formula):
        made = found.variant
    else:
        raise ConfigError(
            f"no formula {formula!r} in the catalogue", hint="corollary losses lists them; or FILE.py:NAME"
        )
    needs_length = "length" in made.model_fields and made.model_fields["length"].is_required()
    settings = {"type": made.model_fields["type"].default} | ({"length": LENGTH} if needs_length else {})
    return made.model_validate(settings)
