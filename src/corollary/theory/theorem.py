"""A theorem is a function: its docstring says what is true and why, its body measures it.

    @theorem("B2.a", section="foundations.md#baselines", source="Williams 1992", broken={"b sees the action": {"sees": True}})
    def baselines_cost_nothing(lab: Lab, *, sees: bool = False) -> Verdict:
        \"\"\"E[b(s) ∇logπ(a|s)] = 0 for every b of the prefix alone.

        Proof: Σ_a π(a|s) ∇logπ(a|s) = ∇Σ_a π(a|s) = ∇1 = 0, and b(s) is a constant in that sum.
        Experiment: a token tree, b normal for each prefix, the expectation by enumeration.
        \"\"\"
        ...
        return equal(mean, 0.0)

The keywords of the function are the statement's own constants and conditions. Each of `broken` changes them into a statement that
is false; an experiment that holds all the same shows nothing, and `corollary prove` says so.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from corollary.theory.lab import Lab
from corollary.theory.verdict import Verdict

Experiment = Callable[..., Verdict]
_PARTS = ("Conditions", "Proof", "Experiment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Theorem:
    """A statement, and the experiment that it must survive."""

    name: str  # of the function
    label: str  # of the catalogue, such as B2.a; the name where it has none
    statement: str
    conditions: str  # empty: none but the experiment's own
    proof: str  # a sketch
    setup: str  # what the experiment does
    source: str
    section: str  # of docs/theory, such as foundations.md#baselines
    experiment: Experiment
    broken: Mapping[str, Mapping[str, Any]]  # what was broken → keywords of the experiment

    def __call__(self, lab: Lab | None = None, **changes: Any) -> Verdict:
        """The verdict in this lab; `changes` are the experiment's keywords."""
        return self.experiment(lab or Lab(), **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A theorem tried out: what was measured, and what its broken twins did."""

    theorem: Theorem
    verdict: Verdict
    twins: tuple[tuple[str, Verdict], ...]
    seed: int

    @property
    def alive(self) -> tuple[str, ...]:
        """Twins that hold although they are false: the experiment does not test what they break."""
        return tuple(phrase for phrase, verdict in self.twins if verdict.holds)

    @property
    def sound(self) -> bool:
        """It holds, and no twin does."""
        return self.verdict.holds and not self.alive

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        t = self.theorem
        return {
            "name": t.name, "label": t.label, "statement": t.statement, "source": t.source, "section": t.section,
            "seed": self.seed, "sound": self.sound, **self.verdict.to_dict(),
            "twins": [{"broken": phrase} | verdict.to_dict() for phrase, verdict in self.twins],
        }  # fmt: skip


def theorem(
    label: str = "", *, section: str, source: str, broken: Mapping[str, Mapping[str, Any]]
) -> Callable[[Experiment], Theorem]:
    """Make a theorem of a function (lab, *, constants and conditions) → Verdict.

    Args:
        label: of the catalogue; the function's name when left out.
        section: of docs/theory where it stands, `page.md#section`.
        source: who showed it, or `derived here`.
        broken: what is broken → the keywords that break it; at least one.

    Raises:
        ValueError: there is no broken twin, or the docstring has no statement, `Proof:` or `Experiment:`.
    """

    def made(function: Experiment) -> Theorem:
        parts = _parts(inspect.getdoc(function) or "")
        missing = [part for part in ("statement", "Proof", "Experiment") if not parts.get(part)]
        if missing:
            raise ValueError(f"the docstring of theorem {function.__name__} has no {missing[0]}")
        if not broken:
            raise ValueError(
                f"theorem {function.__name__} has no broken twin; give broken={{'what is wrong': {{...}}}}"
            )
        known = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for phrase, changes in broken.items():
            if not changes or set(changes) - known:
                raise ValueError(f"twin {phrase!r} of {function.__name__} must change some of {sorted(known)}")
        return Theorem(
            name=function.__name__, label=label or function.__name__, statement=parts["statement"],
            conditions=parts.get("Conditions", ""), proof=parts["Proof"], setup=parts["Experiment"],
            source=source, section=section, experiment=function, broken=broken,
        )  # fmt: skip

    return made


def prove_one(found: Theorem, lab: Lab) -> Proof:
    """One theorem and its twins in one lab.

    >>> from corollary.theory.theorems import theorems
    >>> prove_one(theorems()[0], Lab()).sound
    True
    """
    verdict = found(lab)
    twins = tuple((phrase, found(lab, **changes)) for phrase, changes in found.broken.items())
    return Proof(theorem=found, verdict=verdict, twins=twins, seed=lab.seed)


def _parts(doc: str) -> dict[str, str]:
    """The docstring's statement, and its named parts; each goes to the next."""
    pieces = re.split(rf"^({'|'.join(_PARTS)}):", doc, flags=re.MULTILINE)
    named = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return {"statement": pieces[0].strip()} | {name: inspect.cleandoc(text.strip()) for name, text in named.items()}
