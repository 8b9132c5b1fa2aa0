"""What the contract found, as a table and as data."""

from __future__ import annotations

import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from corollary.theory.contract.subject import Status


@dataclass(frozen=True, slots=True)
class Finding:
    """One clause on one formula."""

    clause: str
    row: str  # of the catalogue's table of checks
    status: Status
    residual: float  # the worst measured
    bound: float
    means: str  # what holding it means; where skipped, why
    cause: str = ""  # of a failure, likely
    input: str = ""  # the smallest failing one
    catches: str = ""  # public bugs of this kind


@dataclass(frozen=True, slots=True)
class Report:
    """The contract on one formula."""

    name: str
    family: str
    parameters: dict[str, Any]
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.status == "fails")

    @property
    def failed(self) -> bool:
        return bool(self.failures)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        findings = [{k: _number(v) for k, v in asdict(f).items()} for f in self.findings]
        return {"name": self.name, "family": self.family, "parameters": self.parameters, "failed": self.failed,
                "seconds": round(self.seconds, 2), "findings": findings}  # fmt: skip

    def text(self, *, width: int = 140) -> str:
        """The table, and below it each failure with its cause and the smallest input that shows it."""
        given = ", ".join(f"{k}={v}" for k, v in self.parameters.items())
        lines = [f"{self.name}  ({self.family}{'; ' + given if given else ''})", ""]
        lines.append(f"  {'clause':16}{'row':8}{'':8}{'residual':>10}{'bound':>9}  means")
        marks = {"holds": "holds", "fails": "FAILS", "skipped": "–"}
        for f in self.findings:
            numbers = f"{'':>10}{'':>9}" if f.status == "skipped" else f"{f.residual:>10.2g}{f.bound:>9.0e}"
            lines.append(f"  {f.clause:16}{f.row:8}{marks[f.status]:8}{numbers}  {f.means}")
        for f in self.failures:
            lines += ["", f"FAILS {f.clause}: {f.cause}"]
            if f.input:
                lines += textwrap.wrap(
                    f"smallest input: {f.input}", width, initial_indent="  ", subsequent_indent="    "
                )
            if f.catches:
                lines += textwrap.wrap(
                    f"seen before: {f.catches}", width, initial_indent="  ", subsequent_indent="    "
                )
        held = sum(f.status == "holds" for f in self.findings)
        skipped = sum(f.status == "skipped" for f in self.findings)
        lines += ["", f"{held} hold, {len(self.failures)} fail, {skipped} do not apply; {self.seconds:.1f} s"]
        return "\n".join(lines)


def _number(value: Any) -> Any:
    """A float that JSON can hold."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
