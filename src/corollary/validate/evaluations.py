"""Held-out results computed again from every kept answer: means, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from corollary.evaluate import compared, summary
from corollary.run.report_data import flat
from corollary.validate.findings import Finding, Theorem, close
from corollary.validate.integrity import skipped
from corollary.validate.records import Records

INTERVALS = Theorem(label="B20.c", says="Clopper-Pearson, Korn-Graubard, Student and Tango are functions of the sample", page="docs/theory/estimators.md#clopper_pearson")  # fmt: skip
NAME = "evaluation.json computed again from its answers"


def evaluations(records: Records) -> Iterator[Finding]:
    """evaluation.json against `evaluations/`."""
    if records.recipe.evaluation is None:
        return
    if records.evaluation is None or not records.evaluations:
        yield skipped(NAME, INTERVALS, "nothing was measured yet")
        return
    faults, numbers = [], 0
    for part, again in _again(records).items():
        kept = dict(flat(records.evaluation.get(part, {})))
        for key, value in flat(again):
            numbers += 1
            if not _same(kept.get(key), value):
                faults.append(f"{part}.{key} is {kept.get(key)}, the answers say {value}")
    if faults:
        yield Finding(
            name=NAME, level="red", theorem=INTERVALS, measured="; ".join(faults[:3]), expected="the same to 1e-9",
            fault="evaluation.json and the answers that it is computed from disagree: one of them was edited",
            hint="run `corollary evaluate` on the run's model again",
        )  # fmt: skip
        return
    yield Finding(
        name=NAME, level="green", theorem=INTERVALS, measured=f"{numbers} numbers", expected="the same to 1e-9"
    )


def _again(records: Records) -> Mapping[str, Mapping[str, Any]]:
    """before, after and difference, from the kept rows."""
    last = max(records.evaluations)
    kept = records.evaluation or {}
    steps = {"before": 0, "after": kept.get("after", {}).get("step", last)}
    found: dict[str, Mapping[str, Any]] = {}
    for part, step in steps.items():
        rows = records.evaluations.get(step)
        if part in kept and rows:
            said = [row["measures"] for row in rows if "measures" in row]
            overall = dict(records.recipe.algorithm.overall(said)) if said else {}
            found[part] = summary(rows, step) | overall
    first, after = records.evaluations.get(0), records.evaluations.get(steps["after"])
    if "difference" in kept and first and after:
        found["difference"] = {name: dict(value) for name, value in compared(first, after).items()}
    return found


def _same(kept: object, again: object) -> bool:
    if isinstance(kept, int | float) and isinstance(again, int | float):
        return close(float(kept), float(again), 1e-9, 1e-12)
    return kept == again or (isinstance(kept, list) and isinstance(again, list | tuple) and _lists(kept, list(again)))


def _lists(kept: list[object], again: list[object]) -> bool:
    return len(kept) == len(again) and all(_same(a, b) for a, b in zip(kept, again, strict=True))
