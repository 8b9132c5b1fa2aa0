"""What a loss does in expectation, exactly: its gradient on every group of answers that can come, weighed by its probability.

    E[-∇Σ w·terms] = Σ_groups P(group) · Σ_{i,t} (-∂Σ w·terms/∂logπ(y_i,t)) · ∇logπ(y_i,t)

One group is one optimizer step: advantages, weights and the loss see that group and nothing else, as they would in a run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from corollary.config import Variant
from corollary.losses.bind import Bound, bind, inputs_of, spread
from corollary.ops.reduce import weighted_sum
from corollary.theory.tree import World
from corollary.types import PolicyBatch, Terms

Formula = Callable[..., Any]
Level = Literal["token", "sequence"]

ORDERED = 1000  # up to so many ordered groups are enumerated; beyond, the order within a group is taken not to matter
LARGEST = 5000  # groups


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGradients:
    """The ascent direction -∇loss of every group."""

    groups: Tensor  # [M, G] answers
    probabilities: Tensor  # [M] sums to 1
    gradients: Tensor  # [M, N, V] with respect to the policy's logits
    values: Tensor  # [M] the step's loss
    ordered: bool  # every order of a group was run; else one for all

    @property
    def mean(self) -> Tensor:
        """`[N, V]` what a step does on average."""
        return torch.einsum("m,mnv->nv", self.probabilities, self.gradients)

    @property
    def variance(self) -> float:
        """Trace of the covariance of one step's gradient."""
        return float((self.probabilities * (self.gradients - self.mean).square().sum((1, 2))).sum())

    @property
    def second_moment(self) -> float:
        """E‖gradient‖²."""
        return float((self.probabilities * self.gradients.square().sum((1, 2))).sum())

    @property
    def value(self) -> float:
        """E of the step's loss."""
        return float((self.probabilities * self.values).sum())

    @property
    def value_variance(self) -> float:
        """Of the step's loss."""
        return float((self.probabilities * (self.values - self.value).square()).sum())


def expected_gradient(
    loss: Formula,
    advantage: Formula | None,
    average: Formula,
    world: World,
    *,
    group_size: int = 2,
    policy: Tensor | None = None,
    sampler: Tensor | None = None,
    reference: Tensor | None = None,
    level: Level = "token",
    ordered: int = ORDERED,
) -> GroupGradients:
    """-∇ of the step's loss for every group, with its probability: `.mean` is the exact expected gradient.

    Args:
        loss: of the policy or penalty family: a function, its variant, or an object called with (logprobs, batch).
        advantage: rewards `[1, G]` to advantages `[1, G]` or `[G, T]`; None: all 0, for a loss that takes none.
        average: trained `[G, T]` to weights `[G, T]`.
        world: the answers and what they earn.
        group_size: G, answers of one step.
        policy: `[N, V]` logits being trained; `world.policy(1)` when left out.
        sampler: `[N, V]` logits that the answers are drawn from and that stand for the policy before the update; the policy
            itself when left out.
        reference: `[N, V]` logits; `world.policy(2)` when left out.
        level: `sequence` gives the loss each answer's log-probability as if it were one token.
        ordered: up to so many ordered groups are run one by one; with more, one order stands for all.

    Raises:
        ValueError: there are too many groups to enumerate, or a formula takes what no world has.
    """
    policy = world.policy(1) if policy is None else policy.detach()
    sampler = policy if sampler is None else sampler.detach()
    reference = world.policy(2) if reference is None else reference.detach()
    groups, ways = _groups(world, group_size, ordered)
    tables = {"logprobs": policy, "old_logprobs": sampler, "ref_logprobs": reference}
    seen = _Step(
        loss=_called(loss), advantage=_advantage(advantage), average=average, world=world, level=level,
        tables={name: _logprobs(world, theta, level) for name, theta in tables.items()}
        | {"entropy": _entropy(world, policy, level)}, greedy_reward=world.rewards[[world.greedy(sampler)]],
    )  # fmt: skip
    parts = [seen.derivatives(group) for group in groups]
    values, by_logprob, by_entropy = (torch.stack(column) for column in zip(*parts, strict=True))
    gradients = _chained(by_logprob, groups, lambda theta: _logprobs(world, theta, level), policy)
    if by_entropy.any():
        gradients = gradients + _chained(by_entropy, groups, lambda theta: _entropy(world, theta, level), policy)
    return GroupGradients(
        groups=groups,
        probabilities=ways * world.group_probabilities(sampler, groups),
        gradients=-gradients,
        values=values,
        ordered=len(groups) == len(world.rewards) ** group_size,
    )


def expected_penalty_gradient(
    penalty: Formula,
    world: World,
    *,
    policy: Tensor | None = None,
    sampler: Tensor | None = None,
    reference: Tensor | None = None,
    level: Level = "token",
) -> GroupGradients:
    """-∇ of a penalty on each answer, summed over its tokens; `.value` is the estimate of KL that it makes on average.

    Args:
        penalty: of the penalty family.
        world: the answers.
        policy: `[N, V]` logits; as in `expected_gradient`, with `sampler`, `reference` and `level`.
        sampler: that the answers are drawn from.
        reference: that the policy is kept near to.
        level: whether it sees tokens or whole answers.
    """
    return expected_gradient(
        penalty, None, lambda trained: trained.double(), world,
        group_size=1, policy=policy, sampler=sampler, reference=reference, level=level,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Step:
    loss: Callable[[Tensor, PolicyBatch], Terms]
    advantage: Formula
    average: Formula
    world: World
    tables: Mapping[str, Tensor]  # [S, T] each
    level: Level
    greedy_reward: Tensor  # [1]

    def derivatives(self, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(the step's loss, its derivative by each logprob `[G, T]`, by each entropy `[G, T]`)."""
        world, size = self.world, len(group)
        lengths = world.lengths[group] if self.level == "token" else torch.ones_like(group)
        rows = {name: table[group] for name, table in self.tables.items()}
        trained = torch.arange(rows["logprobs"].shape[1]) < lengths[:, None]
        logprobs, entropy = (rows[name].detach().requires_grad_() for name in ("logprobs", "entropy"))
        weights = weights_of(self.average, trained)
        known = rows | {"sampler_logprobs": rows["old_logprobs"], "trained": trained, "lengths": lengths[None]}
        known["greedy_rewards"] = self.greedy_reward
        advantages = self.advantage(world.rewards[group][None], known)
        if advantages.shape != trained.shape:
            advantages = advantages.reshape(size, 1).expand_as(trained)
        batch = PolicyBatch(
            prompts=((0,),), prompt_of=torch.zeros(size, dtype=torch.int64), lengths=lengths, weights=weights,
            targets=world.tokens[group][:, : trained.shape[1]], advantages=advantages, entropy=entropy,
            sampler_logprobs=rows["old_logprobs"], old_logprobs=rows["old_logprobs"], ref_logprobs=rows["ref_logprobs"],
        )  # fmt: skip
        total = weighted_sum(self.loss(logprobs, batch).loss, weights)
        found = torch.autograd.grad(total, (logprobs, entropy), allow_unused=True)
        by_logprob, by_entropy = (torch.zeros_like(logprobs) if part is None else part for part in found)
        return total.detach(), by_logprob, by_entropy


def takes(function: Formula) -> tuple[list[str], list[str]]:
    """(inputs that a formula must be given, inputs that it may be given), by name."""
    if isinstance(function, Bound):
        function = function.formula
    if isinstance(function, Variant):
        cls = type(function)
        return [n for n in cls.inputs if n not in cls.optional], [n for n in cls.inputs if n in cls.optional]
    signature = inspect.signature(function).parameters.values()
    inputs = [p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
    return [p.name for p in inputs if p.default is p.empty], [p.name for p in inputs if p.default is not p.empty]


def _called(loss: Formula) -> Callable[[Tensor, PolicyBatch], Terms]:
    if isinstance(loss, Bound | Variant) or inspect.isfunction(loss) or inspect.isclass(loss):
        return bind(loss)
    needed, optional = takes(loss)

    def of_object(logprobs: Tensor, batch: PolicyBatch) -> Terms:
        inputs = _given(loss, needed, optional, inputs_of(logprobs, batch))
        return spread(loss(**inputs), batch, blame=_refuse)

    return of_object


def _refuse(clause: str, what: str, cause: BaseException | None) -> NoReturn:
    raise ValueError(f"the loss {what}") from cause


def _advantage(advantage: Formula | None) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
    if advantage is None:
        return lambda rewards, known: torch.zeros_like(rewards)
    needed, optional = takes(advantage)
    if len(needed) == 1 and not isinstance(advantage, Variant):
        return lambda rewards, known: advantage(rewards)
    return lambda rewards, known: advantage(**_given(advantage, needed, optional, {"rewards": rewards} | dict(known)))


def weights_of(average: Formula, trained: Tensor) -> Tensor:
    """`[G, T]` what the average gives each token of one step."""
    return average(trained=trained) if isinstance(average, Variant) else average(trained)


def _given(function: Formula, needed: list[str], optional: list[str], known: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in needed if name not in known]
    if missing:
        raise ValueError(f"{named(function)} takes {missing[0]!r}; a world has {', '.join(sorted(known))}")
    return {name: known[name] for name in (*needed, *optional) if name in known}


def named(formula: Formula) -> str:
    """What to call a formula: its name, with the parameters of a variant.

    >>> named(torch.relu), named(lambda x: x)
    ('relu', '<lambda>')
    """
    if isinstance(formula, Bound):
        formula = formula.formula
    if isinstance(formula, Variant):
        inside = ", ".join(f"{name}={value}" for name, value in formula.parameters.items())
        return f"{formula.type}({inside})" if inside else formula.type
    return str(vars(formula).get("__name__", "")) if inspect.isclass(formula) else _name_of(formula)


def _name_of(formula: Formula) -> str:
    return formula.__name__ if inspect.isroutine(formula) else type(formula).__name__


def _groups(world: World, size: int, ordered: int) -> tuple[Tensor, Tensor]:
    answers = len(world.rewards)
    if answers**size <= ordered:
        groups = world.groups(size)
        return groups, torch.ones(len(groups), dtype=torch.float64)
    if (count := _count(answers, size)) > LARGEST:
        raise ValueError(
            f"{count} groups of {size} out of {answers} answers are too many to enumerate (at most {LARGEST}); "
            "take a smaller group or a smaller world"
        )
    return world.multisets(size)


def _count(answers: int, size: int) -> int:
    return math.comb(answers + size - 1, size)


def _logprobs(world: World, theta: Tensor, level: Level) -> Tensor:
    return world.logprobs(theta) if level == "token" else world.sequence_logprobs(theta)[:, None]


def _entropy(world: World, theta: Tensor, level: Level) -> Tensor:
    each = world.entropy(theta)
    return each if level == "token" else each.sum(-1, keepdim=True)


def _chained(derivatives: Tensor, groups: Tensor, table: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """`[M, N, V]`: the derivatives by each entry of the table, times the table's own."""
    jacobian = torch.func.jacrev(table)(theta)  # [S, T, N, V]
    by_answer = torch.zeros(len(groups), *jacobian.shape[:2], dtype=torch.float64)
    rows = torch.arange(len(groups))[:, None].expand_as(groups)
    by_answer.index_put_((rows, groups), derivatives, accumulate=True)
    return torch.einsum("mst,stnv->mnv", by_answer, jacobian)


def blocks(parts: Iterator[tuple[float, GroupGradients]] | list[tuple[float, GroupGradients]]) -> GroupGradients:
    """Several prompts, each with a policy of its own, as one world: a step draws a prompt, then a group of its answers.

    Args:
        parts: (probability of the prompt, its groups); the same tables' shape for all.
    """
    parts = list(parts)
    spots = torch.eye(len(parts), dtype=torch.float64)
    return GroupGradients(
        groups=torch.cat([g.groups for _, g in parts]),
        probabilities=torch.cat([q * g.probabilities for q, g in parts]),
        gradients=torch.cat([
            torch.einsum("k,mnv->mknv", spots[i], g.gradients).flatten(1, 2) for i, (_, g) in enumerate(parts)
        ]),
        values=torch.cat([g.values for _, g in parts]),
        ordered=all(g.ordered for _, g in parts),
    )  # fmt: skip
