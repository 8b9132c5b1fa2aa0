"""What a formula says of itself: its family, the range of each parameter, and where it departs from the loss contract.

Its inputs are its positional parameters, by the names below; its parameters are keyword-only, and their annotations hold
their ranges. Name, formula, source and meaning are read from the docstring, so that nothing is said twice.

| family | inputs | gives |
|---|---|---|
| `likelihood` | `logprobs`, `mean_logprobs`, `entropy`; or `logits`, `targets` | `[B, T]` |
| `preference` | `chosen`, `rejected`, `ref_chosen`, `ref_rejected`, their `_lengths`, `mean_chosen_length`; or per token `chosen_logprobs`, `chosen_trained`, … | `[N]` |
| `unpaired` | `sequence_logprobs`, `sequence_ref_logprobs`, `desirable`, `baseline` | `[B]` |
| `reward_model` | `chosen_rewards`, `rejected_rewards`, `margins` | `[N]` |
| `policy` | `logprobs`, `old_logprobs`, `advantages`, `trained`, `ref_logprobs`, `sampler_logprobs`, `entropy` | `[B, T]` |
| `value` | `values`, `old_values`, `returns` | `[B, T]` |
| `distillation` | `logits`, `teacher_logits`; or `teacher_logprobs`, `teacher_ids` of the top k | `[B, T]` |
| `penalty` | `logprobs`, `ref_logprobs`, `old_logprobs`; or `entropy` | `[B, T]` |
| `advantage` | `rewards` `[P, G]`, `lengths`, `logprobs`, … | `[P, G]` or `[B, T]` |
| `correction` | `old_logprobs`, `sampler_logprobs`, `trained` | `[B, T]` |
| `average` | `trained` | `[B, T]` |
| `metric` | numbers or tensors | a number or an interval |
| `reward` | `completions`, … (TRL's convention) | a list |
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo
from torch import Tensor

from corollary.config import Variant, variant

F = TypeVar("F", bound=Callable[..., Any])

Family = Literal[
    "likelihood", "preference", "unpaired", "reward_model", "policy", "value", "distillation",
    "penalty", "advantage", "correction", "average", "metric", "reward",
]  # fmt: skip

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
FlipRate = Annotated[float, Field(ge=0, lt=0.5)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What cannot be read off a formula's signature. Every field is an exception; most formulas need none."""

    family: Family | None = None  # None: read off the names of the inputs
    stop_gradient: bool = False  # its gradient is on purpose not the derivative of its value
    gradient: Callable[..., Any] | None = None  # closed form of ∂Σloss/∂output; takes what the formula takes
    cross_sample: Literal["group", "batch"] | None = None  # its value for one sample depends on the others
    bounds: tuple[float, float] | None = None  # of a term, at any input and the default parameters
    value_at_reference: float | Callable[..., float] | None = (
        None  # of a preference loss at π = ref; may take parameters
    )
    shift_invariant: bool = (
        True  # preference: moving π and ref of an answer together changes nothing, but for an added NLL
    )
    prefers: bool = True  # preference: a step from π = ref widens the margin
    unimodal: bool = True  # preference: along the margin the loss has one minimum, at a margin above 0
    monotone: bool = False  # preference: falls with the margin everywhere, not just up to a finite optimum
    length_invariant: bool = False  # preference: repeating every token changes nothing
    on_policy: Literal["exact", "direction"] | None = "exact"  # policy: gradient at ratio 1 is -A·w, or has its sign
    on_policy_value: bool = False  # policy: value at ratio 1 is -A
    homogeneous: bool = True  # policy: loss(c·A) = c·loss(A); advantage: in reward units, or standardised
    pessimistic: bool = False  # policy: never below the unclipped surrogate -r·A
    off_policy: bool = True  # policy: the gradient depends on old_logprobs, where the formula takes them
    tail: bool = True  # the gradient stays alive where the policy is far on the wrong side
    scale: float = 1.0  # value: curvature of the loss at the target; 1 for ½(V-R)²
    zero_sum: bool = True  # advantage: sums to 0 over a group
    relative: bool = False  # advantage: of rewards that are not negative; their ratios count, not their differences
    probes: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict
    )  # values at which parameters show that they count
    objective: str | Callable[..., Any] | None = (
        None  # what it ascends: "J", "reverse_kl", "pass@k", or (world, theta) → scalar
    )
    estimates: str | Callable[..., Any] | None = (
        None  # metric: what its mean over samples is: "reverse_kl", "forward_kl", "entropy"
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """A formula of the catalogue."""

    function: Callable[..., Any]
    declaration: Declaration

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def family(self) -> str:
        return self.declaration.family or ""

    @property
    def variant(self) -> type[Variant]:
        """Its settings: `variant()` has the defaults."""
        return variant(self.function)

    @property
    def reference(self) -> str:
        """Where to import it from: `package.module:name`."""
        return f"{self.function.__module__}:{self.name}"

    @property
    def summary(self) -> str:
        return " ".join(self._doc.split("\n\n")[0].split())

    @property
    def formula(self) -> str:
        """The indented block behind the summary."""
        block = re.search(r"\n\n((?:(?: {4}).*\n?|\n(?= {4}))+)", self._doc)
        return inspect.cleandoc("\n" + block[1]) if block else ""

    @property
    def source(self) -> str:
        """Paper or page."""
        found = re.search(r"^Source: ((?:.*)(?:\n {4,}.*)*)", self._doc, re.MULTILINE)
        return " ".join(found[1].split()) if found else ""

    @property
    def page(self) -> str:
        """Its place in the reference."""
        return f"docs/losses/{self.family}.md#{self.name}"

    @property
    def theory(self) -> str:
        """Its section of the book, `docs/theory/PAGE.md#name`; empty where its docstring names none."""
        found = re.search(r"^Theory: (\S+)", self._doc, re.MULTILINE)
        return found[1] if found else ""

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Name, type, default, range and meaning of each."""
        fields = {name: f for name, f in self.variant.model_fields.items() if name != "type"}
        return [
            {
                "name": name,
                "type": _type_name(f),
                "default": None if f.is_required() else f.default,
                "range": range_of(f),
                "meaning": f.description or "",
            }
            for name, f in fields.items()
        ]

    @property
    def _doc(self) -> str:
        return inspect.getdoc(self.function) or ""

    def row(self) -> dict[str, Any]:
        """What `corollary losses --json` prints."""
        v = self.variant
        return {
            "name": self.name,
            "family": self.family,
            "function": self.reference,
            "summary": self.summary,
            "formula": self.formula,
            "inputs": [name for name in v.inputs if name not in v.optional],
            "optional_inputs": [name for name in v.inputs if name in v.optional],
            "parameters": self.parameters,
            "source": self.source,
            "page": self.page,
            "theory": self.theory,
        }


_DECLARED: dict[Callable[..., Any], Declaration] = {}


def declares(**exceptions: Any) -> Callable[[F], F]:
    """Marks a function or class as a formula and says where it departs from what its family promises.

    The function then refuses a parameter that is out of its annotated range, and sends no gradient to what is constant with
    respect to the policy (old and reference log-probabilities, advantages, returns, a teacher, margins), detached or not.

    Args:
        exceptions: fields of `Declaration`.

    >>> @declares(family="likelihood")
    ... def focal(logprobs, *, gamma: NonNegative = 2.0):
    ...     return -((1 - logprobs.exp()) ** gamma) * logprobs
    >>> focal(None, gamma=-1.0)
    Traceback (most recent call last):
    ValueError: focal: gamma must be >= 0, got -1.0
    """
    declaration = Declaration(**exceptions)

    def declare(target: F) -> F:
        made = target if isinstance(target, type) else _guarded(target)
        _DECLARED[made] = declaration
        return made  # type: ignore[return-value]

    return declare


def declaration_of(target: Callable[..., Any]) -> Declaration:
    """What was declared of a function, a class, or their variant; the family's promises where nothing was."""
    if isinstance(target, Variant):
        target = type(target).target
    return _DECLARED.get(target, Declaration())


CONSTANTS = frozenset({
    "old_logprobs", "ref_logprobs", "sampler_logprobs", "advantages", "returns", "old_values", "teacher_logits",
    "teacher_logprobs", "ref_chosen", "ref_rejected", "ref_chosen_logprobs", "ref_rejected_logprobs",
    "sequence_ref_logprobs", "margins", "baseline", "shift", "mean_chosen_length",
})  # fmt: skip
"""Inputs that no loss sends a gradient to."""


def _guarded(function: F) -> F:
    """The function, refusing keyword parameters out of their range and detaching what is constant."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # an annotation that exists for a type checker only
        return function
    keyword = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    limits = {name: bounds(hints[name]) for name in keyword if name in hints and bounds(hints[name])}
    options = {
        name: words for name in keyword if (words := [o for o in get_args(hints.get(name)) if isinstance(o, str)])
    }
    inputs = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    fixed = CONSTANTS & set(inputs)
    if not limits and not options and not fixed:
        return function

    @functools.wraps(function)
    def checked(*given: Any, **parameters: Any) -> Any:
        given = tuple(_still(v) if n in fixed else v for n, v in zip(inputs, given, strict=False))
        for name, value in parameters.items():
            if name in fixed:
                parameters[name] = _still(value)
            for sign, limit in limits.get(name, ()) if isinstance(value, int | float) else ():
                if not _COMPARE[sign](value, limit):
                    raise ValueError(f"{function.__name__}: {name} must be {sign} {limit:g}, got {value}")
            if name in options and value not in options[name]:
                raise ValueError(f"{function.__name__}: {name} must be {' or '.join(options[name])}, got {value!r}")
        return function(*given, **parameters)

    return checked  # type: ignore[return-value]


def _still(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b
}  # fmt: skip


def bounds(annotation: Any) -> list[tuple[str, float]]:
    """The limits that an annotation sets.

    >>> bounds(Fraction)
    [('>=', 0), ('<', 1)]
    >>> bounds(Positive | None)
    [('>', 0)]
    """
    if isinstance(annotation, FieldInfo):
        own = limits_of(annotation.metadata)
        return own or bounds(annotation.annotation)
    metadata = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, FieldInfo)]
    own = [limit for info in metadata for limit in limits_of(info.metadata)]
    return own or [limit for part in get_args(annotation) if part is not annotation for limit in bounds(part)]


def limits_of(metadata: Any) -> list[tuple[str, float]]:
    """(sign, limit) of each constraint of a pydantic field."""
    return [(_SIGNS[key], getattr(m, key)) for m in metadata for key in _SIGNS if hasattr(m, key)]


def range_of(info: FieldInfo) -> str:
    """A field's range as text: `> 0`, `>= 0, < 1`, or its options."""
    if options := [str(o) for o in get_args(info.annotation) if isinstance(o, str)]:
        return " | ".join(options)
    return ", ".join(dict.fromkeys(f"{sign} {limit:g}" for sign, limit in bounds(info)))


def _type_name(info: FieldInfo) -> str:
    """`float`, `int | none`, `str`."""
    kinds = [info.annotation, *get_args(info.annotation)]
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    if any(isinstance(kind, str) for kind in kinds):
        return "str"
    names = [kind.__name__ for kind in kinds if isinstance(kind, type) and get_origin(kind) is None]
    return (
        " | ".join(name.replace("NoneType", "none") for name in names if name != "UnionType") or "int"
    )  # Literal[0, 1]


MODULES = (
    "losses.likelihood", "losses.preference", "losses.preference_variants", "losses.unpaired", "losses.reward_model",
    "losses.policy", "losses.value", "losses.distillation", "ops.kl", "ops.advantage", "ops.returns", "ops.ratio", "ops.reduce", "ops.estimate",
    "ops.bounds",
)  # fmt: skip


def entries(family: str = "") -> list[Entry]:
    """Every formula of the library, by family in the order of the table above, then as they stand in their module."""
    for module in MODULES:
        import_module(f"corollary.{module}")
    order = get_args(Family)
    found = [
        Entry(function, declaration)
        for function, declaration in _DECLARED.items()
        if function.__module__.startswith("corollary.") and declaration.family and function.__module__ != __name__
    ]
    return sorted((e for e in found if family in ("", e.family)), key=lambda e: order.index(e.family))


def entry(name: str) -> Entry | None:
    """The formula of that name."""
    return next((e for e in entries() if e.name == name), None)
