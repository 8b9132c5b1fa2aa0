"""The loss contract: what any loss of its family must hold, measured in float64 on generated batches.

    >>> from corollary.losses.policy import ppo_clip
    >>> check(ppo_clip, model=False).failed
    False

A loss declares little (`corollary.declare.declares`); what can be inferred from its inputs and its behaviour is. Each clause
has a residual and a bound, says what it means, and for a failure the smallest input that shows it and the likely cause.
In a test of your own, one line: `assert_contract(my_loss)`.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import Any

import torch

from corollary.errors import CorollaryError
from corollary.theory.contract import (
    advantage,
    between,
    corrections,
    gradient,
    invariance,
    jumps,
    metric,
    model,
    named,
    policy,
    preference,
    regression,
    returns,
    rewarding,
    shape,
    unreduced,
    weighing,
)
from corollary.theory.contract.evaluate import fault_of
from corollary.theory.contract.gradient import switches
from corollary.theory.contract.report import Finding, Report
from corollary.theory.contract.samples import Sample, shown
from corollary.theory.contract.subject import Subject, subject_of, unknown_inputs
from corollary.theory.contract.table import Clause

__all__ = ["CLAUSES", "Finding", "Report", "assert_contract", "check"]

CLAUSES: tuple[Clause, ...] = (
    *shape.CLAUSES, *invariance.CLAUSES, *gradient.CLAUSES, *jumps.CLAUSES, *named.CLAUSES, *unreduced.CLAUSES, *policy.CLAUSES, *corrections.CLAUSES,
    *preference.CLAUSES, *between.CLAUSES, *regression.CLAUSES,
    *advantage.CLAUSES, *returns.CLAUSES, *weighing.CLAUSES, *metric.CLAUSES, *rewarding.CLAUSES, *model.CLAUSES,
)  # fmt: skip


def check(target: Any, *, family: str | None = None, model: bool = True, **parameters: Any) -> Report:
    """The contract on one formula.

    Args:
        target: a function, a class whose instances are called, a `Variant`, a name of the catalogue, or `path/to/file.py:name`.
        family: where neither a declaration nor the inputs show it.
        model: run the clauses that need a tiny transformer, too.
        parameters: other values than the formula's defaults.

    Raises:
        ConfigError: there is no such formula, or nothing shows its family.
        UserCodeError: the file does not load.
    """
    started = time.perf_counter()
    subject = subject_of(target, family=family, **parameters)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what extreme inputs make a formula say
        findings = tuple(_findings(subject, model=model))
    name = subject.name
    return Report(name, subject.family, subject.formula.parameters, findings, time.perf_counter() - started)


def assert_contract(target: Any, **settings: Any) -> None:
    """Fails a test with the contract's table where a clause fails; takes what `check` takes.

    >>> from corollary.losses.likelihood import nll
    >>> assert_contract(nll, model=False)
    """
    report = check(target, **settings)
    assert not report.failed, "\n" + report.text()


_AT_DEFAULTS = (
    "model",
    "parameters",
    "inputs",
    "length",
    "units",
    "whitened",
)  # slow, or declared of the default parameters
_FIRST = (
    "terms",
    "gradient",
    "shape",
    "tokens",
    "values",
)  # what gives nothing of the right shape cannot be measured any further
_REFUSED = "raised ValueError"  # an option may refuse inputs that others take


def _findings(subject: Subject, *, model: bool) -> list[Finding]:
    if unknown := unknown_inputs(subject):
        known = "family `" + subject.family + "` does not give"
        return [
            Finding(
                "inputs",
                "23",
                "fails",
                1.0,
                0,
                "every input is known",
                f"takes {unknown[0]!r}, which the {known}; see `corollary losses --inputs`",
            )
        ]
    clauses = [c for c in CLAUSES if subject.family in c.families and (model or c.name != "model")]
    found = []
    for clause in clauses:
        found.append(_measure(subject, clause))
        if clause.name in _FIRST and found[-1].status == "fails":
            return found
    return [*found, *_elsewhere(subject, [c for c in clauses if c.name not in _AT_DEFAULTS])]


def _elsewhere(subject: Subject, clauses: list[Clause]) -> list[Finding]:
    """What fails with another option of the formula's, or with a term switched on that is off by default."""
    found = []
    for name, other in switches(subject):
        changed = subject.with_parameters(**{name: other})
        failing = [
            f for c in clauses if (f := _measure(changed, c)).status == "fails" and not f.cause.startswith(_REFUSED)
        ]
        found += [replace(f, cause=f"with {name}={other}: {f.cause}") for f in failing]
    return found


def _measure(subject: Subject, clause: Clause) -> Finding:
    """The worst residual over the clause's samples; the first sample that fails ends it."""
    if reason := clause.skip(subject):
        return Finding(clause.name, clause.row, "skipped", 0.0, clause.bound, reason)
    most = 0.0
    for sample in clause.samples(subject):
        try:
            found = clause.check(subject, sample)
        except (
            CorollaryError,
            ArithmeticError,
            ValueError,
            RuntimeError,
            TypeError,
            LookupError,
            AttributeError,
            AssertionError,
        ) as error:
            return _fails(subject, clause, float("inf"), fault_of(error), sample)
        if not found.residual <= clause.bound:
            return _fails(subject, clause, found.residual, found.cause, found.sample or sample)
        most = max(most, found.residual)
    return Finding(clause.name, clause.row, "holds", most, clause.bound, clause.means, catches=clause.catches)


def _fails(subject: Subject, clause: Clause, residual: float, cause: str, sample: Any) -> Finding:
    """The failure, with the input that shows it."""
    try:
        at = shown(subject, sample) if isinstance(sample, Sample) else str(sample or "")
    except Exception:  # noqa: BLE001 - an input that cannot be shown must not hide the failure
        at = ""
    return Finding(
        clause.name,
        clause.row,
        "fails",
        residual,
        clause.bound,
        clause.means,
        cause or clause.cause,
        at,
        clause.catches,
    )
