"""What is checked: a formula with its parameters, the family that its inputs show, and what it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from corollary.config import Variant, variant
from corollary.config.variants import from_file
from corollary.custom import is_reference
from corollary.declare import Declaration, Family, declaration_of, entry
from corollary.errors import ConfigError
from corollary.losses import bind
from corollary.types import PolicyBatch, PreferenceBatch, UnpairedBatch

LOSSES = ("likelihood", "preference", "unpaired", "reward_model", "policy", "value", "distillation", "penalty")
"""Families whose members give terms and a gradient."""

_ADVANTAGE = frozenset({
    "rewards", "part_rewards", "greedy_rewards", "lengths", "values", "trained", "bootstrap", "logprobs", "old_logprobs",
    "ref_logprobs", "teacher_logprobs",
})  # fmt: skip
_REWARD = frozenset({"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"})


@dataclass(frozen=True)
class Subject:
    """A formula under the contract."""

    formula: Variant
    family: Family
    declaration: Declaration

    @cached_property
    def loss(self) -> bind.Bound:
        return bind.Bound(self.formula)

    @property
    def name(self) -> str:
        return self.formula.type

    @property
    def needs(self) -> tuple[str, ...]:
        """The names of its inputs."""
        return type(self.formula).inputs

    @property
    def reads_output(self) -> bool:
        """Whether it takes what the model says of the tokens, and not just their entropy."""
        return bool(set(self.needs) - {"entropy", "mean_logprobs", "trained", "lengths", "weights", "targets"})

    def takes(self, *names: str) -> bool:
        """Whether any of these is an input; a formula that takes the batch takes all that is in it."""
        return bool({*names, "batch"} & set(self.needs))

    def with_parameters(self, **parameters: Any) -> Subject:
        """The same formula with other parameters."""
        return replace(self, formula=type(self.formula)(**(self.formula.parameters | parameters)))


def subject_of(target: Any, *, family: str | None = None, **parameters: Any) -> Subject:
    """A function, class, variant, catalogue name or `file.py:name`, as something to check.

    Args:
        target: what to check.
        family: where the inputs do not show it.
        parameters: other values than the defaults.

    Raises:
        ConfigError: there is no such thing, or nothing shows its family.
        UserCodeError: a file does not load.
    """
    if isinstance(target, str) and is_reference(target):
        made = _filled(from_file(target, None), parameters)
    elif isinstance(target, str):
        made = _filled(_named(target).variant, parameters)
    elif isinstance(target, Variant):
        made = target
    else:
        made = _filled(variant(target), parameters)
    declaration = declaration_of(made)
    found = family or declaration.family or family_of(made)
    if found is None:
        raise ConfigError(
            f"{made.type}: its inputs {', '.join(type(made).inputs) or '(none)'} show no family",
            hint='name them as `corollary losses --inputs` does, or declare a family: @declares(family="policy")',
        )
    return Subject(made, found, declaration)  # type: ignore[arg-type]


def _filled(cls: type[Variant], parameters: dict[str, Any]) -> Variant:
    """The variant, with a number for each parameter that has no default."""
    wanted = {n: f for n, f in cls.model_fields.items() if f.is_required() and n not in parameters}
    found: dict[str, Any] = parameters | {n: 8 if "int" in str(f.annotation) else 0.5 for n, f in wanted.items()}
    return cls(**found)


def _named(name: str) -> Any:
    found = entry(name)
    if found is None:
        from corollary.config.problems import nearest
        from corollary.declare import entries

        near = nearest(name, [e.name for e in entries()])
        raise ConfigError(
            f"there is no formula {name!r}",
            hint=f"did you mean {near}?" if near else "see `corollary losses`, or give path/to/file.py:name",
        )
    return found


_SIGNS: tuple[tuple[str, Iterable[str]], ...] = (
    ("reward", ("completions",)),
    ("reward_model", ("chosen_rewards", "rejected_rewards")),
    ("preference", ("chosen", "rejected", "chosen_logprobs", "rejected_logprobs")),
    ("unpaired", ("desirable",)),
    ("distillation", ("teacher_logits", "teacher_logprobs")),
    ("policy", ("advantages",)),
    ("advantage", ("rewards",)),
    ("value", ("values", "returns")),
)  # fmt: skip


def family_of(formula: Variant) -> str | None:
    """The family that the inputs' names show.

    >>> from corollary.losses.policy import ppo_clip
    >>> family_of(variant(ppo_clip)())
    'policy'
    """
    inputs = set(type(formula).inputs)
    for family, signs in _SIGNS:
        if inputs & set(signs):
            return family
    if "batch" in inputs and (annotated := _batch_of(formula)):
        return annotated
    if inputs and inputs <= {"old_logprobs", "sampler_logprobs", "trained"} and "sampler_logprobs" in inputs:
        return "correction"
    if inputs == {"trained"}:
        return "average"
    if inputs & {"ref_logprobs"} or inputs == {"entropy"}:
        return "penalty"
    if inputs & {"logprobs", "logits", "mean_logprobs"}:
        return "policy" if "old_logprobs" in inputs else "likelihood"
    return None


def _batch_of(formula: Variant) -> str | None:
    """The family of the annotated batch."""
    target = type(formula).target
    called: Callable[..., Any] = target.__call__ if isinstance(target, type) else target
    annotation = str(called.__annotations__.get("batch", ""))
    for kind, family in ((PreferenceBatch, "preference"), (UnpairedBatch, "unpaired"), (PolicyBatch, "policy")):
        if kind.__name__ in annotation:
            return family
    return "likelihood" if "TokenBatch" in annotation else None


INPUTS: dict[str, frozenset[str]] = {
    "likelihood": bind.LIKELIHOOD, "preference": bind.PREFERENCE, "unpaired": bind.UNPAIRED,
    "reward_model": bind.REWARD_MODEL, "policy": bind.POLICY, "value": bind.VALUE, "distillation": bind.DISTILLATION,
    "penalty": bind.POLICY, "advantage": _ADVANTAGE, "correction": frozenset({"old_logprobs", "sampler_logprobs", "trained"}),
    "average": frozenset({"trained"}), "reward": _REWARD,
}  # fmt: skip
"""What each family may take."""


def unknown_inputs(subject: Subject) -> list[str]:
    """Inputs that the family does not give; columns of the data are a reward's own."""
    if subject.family in ("metric", "reward"):
        return []
    known = INPUTS[subject.family]
    return [name for name in subject.needs if name not in known]


Status = Literal["holds", "fails", "skipped"]
