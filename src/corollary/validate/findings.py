"""What a check found: green, amber or red, measured against expected, with the theorem that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from corollary.errors import printable

Level = Literal["green", "amber", "red", "skipped"]
"""red: what cannot happen in a healthy run; amber: legal and doubtful; skipped: the records do not suffice"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Theorem:
    """What says that a check must hold."""

    label: str  # of the catalogue, such as B2.c
    says: str  # in one line
    page: str = ""  # where it stands, unless the book has a section for the label

    @property
    def section(self) -> str:
        """`docs/theory/PAGE.md#section` where the book has the theorem, else the formula's page."""
        known = _sections()
        parts = (section for label, section in known.items() if label.startswith(f"{self.label}."))
        return known.get(self.label) or next(parts, self.page)

    @property
    def place(self) -> tuple[str, str]:
        """Label and section."""
        return self.label, self.section


@cache
def _sections() -> dict[str, str]:
    from corollary.theory.theorems import theorems

    return {theorem.label: f"docs/theory/{theorem.section}" for theorem in theorems()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check's outcome."""

    name: str  # what was checked
    level: Level
    theorem: Theorem
    measured: str = ""
    expected: str = ""
    fault: str = ""  # what is likely wrong; why it was skipped
    hint: str = ""  # what to do

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name, "level": self.level, "measured": self.measured, "expected": self.expected,
            "theorem": self.theorem.label, "says": self.theorem.says, "section": self.theorem.section,
            "fault": self.fault, "what_to_do": self.hint,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings of one run."""

    run: str
    algorithm: str
    steps: int
    findings: Sequence[Finding]

    @property
    def failed(self) -> bool:
        """Whether anything is red."""
        return any(f.level == "red" for f in self.findings)

    def count(self, level: Level) -> int:
        return sum(f.level == level for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        levels: tuple[Level, ...] = ("green", "amber", "red", "skipped")
        return {
            "run": self.run, "algorithm": self.algorithm, "steps": self.steps, "failed": self.failed,
            "counts": {level: self.count(level) for level in levels},
            "findings": [f.to_dict() for f in self.findings],
        }  # fmt: skip

    def text(self) -> str:
        """A line for each check, and behind amber and red what is likely wrong."""
        head = f"{self.run}: {self.algorithm}, {self.steps} steps"
        wide = max((len(f.name) for f in self.findings), default=0)
        lines = [head, ""]
        for f in self.findings:
            said = f.fault if f.level == "skipped" else f"{f.measured}; expected {f.expected}"
            lines.append(f"{f.level:<8}{f.name:<{wide}}  {said}  [{' '.join(filter(None, f.theorem.place))}]")
            if f.level in ("amber", "red"):
                lines += [f"{'':8}  {f.fault}", f"{'':8}  to do: {f.hint}", f"{'':8}  theorem: {f.theorem.says}"]
        counts = ", ".join(f"{self.count(level)} {level}" for level in ("green", "amber", "red", "skipped"))
        return "\n".join(printable(line) for line in [*lines, "", counts])


def number(value: float) -> str:
    """Four digits.

    >>> number(0.000123456), number(2.0)
    ('0.0001235', '2')
    """
    return f"{value:.4g}"


def close(a: float, b: float, relative: float, absolute: float = 0.0) -> bool:
    """Whether two numbers are the same up to rounding; two infinities or two NaN are."""
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or abs(a - b) <= max(absolute, relative * max(abs(a), abs(b)))
