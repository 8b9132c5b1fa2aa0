"""Which reward functions there are and what each counts: settings, functions at hand, and the registry.

A user's function is named by its file and nothing else: no dotted path from a configuration is ever imported.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from corollary.config import Config
from corollary.errors import ConfigError
from corollary.rewards import code
from corollary.rewards.calling import RewardFunction, described, load
from corollary.rewards.faults import Blame, error

_SECONDS = 60.0  # deadline of a call, where nothing else is said

Span = Literal["batch", "group", "sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """A reward that comes with the library."""

    reference: str  # "package.module:function"
    description: str  # one line
    per: Span = "batch"
    seconds: float = _SECONDS  # deadline of a call
    late: float | None = None  # reward of an answer that makes it hang or crash; None: that is a fault, like any other
    ready: Callable[[Mapping[str, Any]], None] | None = (
        None  # raises ConfigError where it cannot work with its parameters
    )
    lent: bool = False  # it is an engine of the run, called in this process: see `run.assembly`


REGISTRY: dict[str, BuiltIn] = {
    "equation": BuiltIn(
        reference="corollary.rewards.math:equation",
        description="1 if the answer is one true line `A op B = R` and R the gold answer",
    ),
    "number": BuiltIn(
        reference="corollary.rewards.math:number",
        description="1 if the last number in the answer is the gold one",
    ),
    "math": BuiltIn(
        reference="corollary.rewards.latex:math",
        description="1 if the final answer (boxed, after ####, LaTeX or a number) equals the gold one as mathematics",
        per="sample",
        seconds=5.0,
        late=0.0,
    ),
    "code": BuiltIn(
        reference="corollary.rewards.code:code",
        description="1 if the tests of the program in the answer hold, in a sandbox",
        per="sample",
        ready=code.ready,
    ),
    "instructions": BuiltIn(
        reference="corollary.rewards.instructions.following:instructions",
        description="1 if the answer follows the instructions of its prompt that rules can check",
    ),
    "reward_model": BuiltIn(
        reference="",
        description="what a reward model says of the answer; its folder, name or hub id is `params.model`",
        lent=True,
    ),
}


class RewardSpec(Config):
    """One reward function and what it counts."""

    type: str
    """A registered name (code, equation, instructions, math, number, reward_model) or path/to/file.py:function, seen from the working directory."""
    weight: float = 1.0
    """What its value is multiplied by in the sum; 0 logs it only."""
    name: str = ""
    """In logs and metrics; the function's own when left out."""
    params: dict[str, Any] = Field(default_factory=dict)
    """More keywords for the function."""
    on_error: Literal["stop", "mask"] = "stop"
    """When it fails on a sample: end the run, or leave the sample out of its group (never: score it 0)."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds that one call may take; 60 when left out, 5 for math."""
    per: Span | None = None
    """What one call is given: the step's whole batch (as TRL does; the default), one prompt's group, or one sample."""
    isolated: bool = True
    """Run it in a process of its own, with a deadline; false: in this process, without."""

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in REGISTRY or ".py:" in value:
            return value
        close = difflib.get_close_matches(value, REGISTRY, n=1)
        hint = f"did you mean {close[0]}?" if close else f"give one of {', '.join(sorted(REGISTRY))}"
        raise ValueError(f"unknown reward {value!r}; {hint} (your own is path/to/file.py:function)")

    @property
    def lent(self) -> bool:
        """Whether the function is an engine of the run."""
        return self.type in REGISTRY and REGISTRY[self.type].lent

    @model_validator(mode="after")
    def _deadline_kept(self) -> Self:
        if self.lent and (self.timeout is not None or not self.isolated):
            raise ValueError(
                f"reward {self.type!r} runs in this process, without a deadline; leave out isolated and timeout"
            )
        if self.lent and (set(self.params) != {"model"} or not isinstance(self.params["model"], str)):
            raise ValueError(
                f"reward {self.type!r} takes one parameter, a model's folder, name or hub id: {{model: …}}"
            )
        if (
            self.type in REGISTRY
            and REGISTRY[self.type].late is not None
            and not (self.isolated and self.per in (None, "sample"))
        ):
            raise ValueError(
                f"reward {self.type!r} judges one sample per call in a process of its own; leave out isolated and per"
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One reward function, ready to be called; from a `RewardSpec` or from a function."""

    name: str
    reference: str  # "package.module:function" or "/folder/file.py:function"; "" where nobody knows
    function: RewardFunction | None = None  # called in this process where it is given
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)
    on_error: Literal["stop", "mask"] = "stop"
    seconds: float = _SECONDS
    per: Span = "batch"
    late: float | None = None

    @property
    def of_ours(self) -> bool:
        """It comes with the library."""
        return self.reference.startswith("corollary.")

    @classmethod
    def of(cls, spec: RewardSpec, lent: RewardFunction | None = None) -> Self:
        """The part that a setting describes.

        Args:
            spec: the setting.
            lent: the function, where it is an engine that somebody lends.

        Raises:
            ConfigError: there is no such file, or nobody lends the engine.
            UserCodeError: a file that is to run in this process cannot be loaded.
        """
        known = REGISTRY.get(spec.type)
        place, _, function = spec.type.rpartition(":")
        file = Path(place).expanduser().absolute()
        if known is None and not file.is_file():
            raise ConfigError(f"reward {spec.type!r}: there is no file {file}")
        if known and known.ready:
            known.ready(spec.params)
        if known and known.lent and lent is None:
            raise ConfigError(f"reward {spec.type!r} is an engine, and only a run lends one")
        reference = known.reference if known else f"{file}:{function}"
        name = spec.name or (spec.type if known else function)
        return cls(
            name=name,
            reference=reference,
            function=lent or (None if spec.isolated else _loaded(reference, name)),
            weight=spec.weight,
            params={} if lent else spec.params,
            on_error=spec.on_error,
            seconds=spec.timeout or (known.seconds if known else _SECONDS),
            per=spec.per or (known.per if known else "batch"),
            late=known.late if known else None,
        )

    @classmethod
    def given(cls, function: RewardFunction, *, isolated: bool = True, name: str = "", **settings: Any) -> Self:
        """The part for a function at hand; `settings` are this class's other fields.

        Args:
            function: importable by file and name; any callable where `isolated` is false.
            isolated: run it in a process of its own, with a deadline.
            name: in logs and metrics; the function's own when left out.

        Raises:
            ConfigError: a process of its own cannot find the function.

        >>> Part.given(lambda completions: [0.0 for _ in completions], isolated=False, name="nothing").name
        'nothing'
        """
        routine = inspect.isfunction(function)
        name = name or (function.__name__ if routine else type(function).__name__)
        file = inspect.getsourcefile(function) if routine else None
        qualified = function.__qualname__ if routine else ""
        if not isolated:
            return cls(name=name, reference=f"{file}:{qualified}" if file else "", function=function, **settings)
        if file is None or "<" in qualified or not Path(file).is_file():
            raise ConfigError(
                f"reward {name!r} has no file and name by which a process of its own could find it",
                hint="define it at the top level of a file, or pass isolated=False",
            )
        return cls(name=name, reference=f"{Path(file).absolute()}:{qualified}", **settings)


def _loaded(reference: str, name: str) -> RewardFunction:
    try:
        return load(reference)
    except (Exception, SystemExit) as cause:  # noqa: BLE001 - whatever a user's file raises
        raise error(Blame(described(cause, reference, "unloadable"), ()), name, ()) from None
