"""The catalogue of formulas, and the contract on them, as the command line shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from corollary.config import Variant
from corollary.config.problems import nearest
from corollary.declare import entries
from corollary.errors import ConfigError
from corollary.theory import objective
from corollary.theory.contract import Report, check
from corollary.theory.contract.subject import INPUTS, subject_of


def rows(name: str = "") -> list[dict[str, Any]]:
    """The formulas of that name or family; all of them where it is empty.

    Raises:
        ConfigError: nothing is named so.

    >>> [row["name"] for row in rows("value")]
    ['squared', 'clipped']
    """
    everything = entries()
    found = [e for e in everything if name in ("", e.name, e.family)]
    if not found:
        known = [*{e.family: None for e in everything}, *(e.name for e in everything)]
        near = nearest(name, known)
        raise ConfigError(
            f"there is no formula {name!r}", hint=f"did you mean {near}?" if near else "see `corollary losses`"
        )
    return [e.row() for e in found]


def inputs_table() -> list[dict[str, Any]]:
    """What each family may take."""
    return [{"family": family, "inputs": sorted(names)} for family, names in INPUTS.items()]


def table(columns: Sequence[str], found: Sequence[Mapping[str, Any]]) -> str:
    """Rows as text, a line each; the last column runs on."""
    lines = [columns, *([_cell(row[column]) for column in columns] for row in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) - 1)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]]) for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(v if isinstance(v, str) else f"{v['name']}={v['default']}" for v in value)
    return str(value)


def one(row: Mapping[str, Any]) -> str:
    """Everything of one formula."""
    lines = [f"{row['name']}  ({row['family']})  {row['function']}", row["summary"], ""]
    lines += [f"    {line}" for line in row["formula"].splitlines()]
    lines += ["", f"inputs      {', '.join(row['inputs'])}"]
    if row["optional_inputs"]:
        lines.append(f"optional    {', '.join(row['optional_inputs'])}")
    for p in row["parameters"]:
        limits = f"  [{p['range']}]" if p["range"] else ""
        lines.append(f"parameter   {p['name']}: {p['type']} = {p['default']}{limits}  {p['meaning']}")
    lines += [f"source      {row['source']}", f"page        {row['page']}"]
    return "\n".join([*lines, *([f"theory      {row['theory']}"] if row["theory"] else [])])


def check_one(loss: str, parameters: Sequence[str], family: str | None) -> Report:
    """The contract on one formula; parameters are `name=value`, the value in YAML.

    Raises:
        ConfigError: an argument is no `name=value`, or the formula has no such parameter.
    """
    torch.set_num_threads(1)  # the samples are tiny, and threads would only wait for each other
    return check(with_parameters(loss, parameters), family=family)


def with_parameters(loss: str, parameters: Sequence[str]) -> Variant:
    """The formula of that name or file, with parameters given as `name=value`.

    Raises:
        ConfigError: an argument is no `name=value`, or the formula has no such parameter, or not of that value.
    """
    settings = {}
    for text in parameters:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"{text!r} is no parameter", hint="write name=value, such as beta=0.2")
        settings[name] = yaml.safe_load(value)
    try:
        return subject_of(loss, family="metric", **settings).formula
    except ValidationError as fault:
        cls = type(subject_of(loss, family="metric").formula)
        known = [n for n in cls.model_fields if n != "type"]
        wrong = fault.errors()[0]
        name = str(wrong["loc"][0])
        near = nearest(name, known)
        what = (
            f"{name} is no parameter of it"
            if wrong["type"] == "extra_forbidden"
            else f"{name}: {wrong['msg']}, got {wrong['input']!r}"
        )
        hint = (
            f"did you mean {near}?"
            if near and name not in known
            else f"its parameters are {', '.join(known) or 'none'}"
        )
        raise ConfigError(what, where=loss, hint=hint) from fault


def check_all(tell: Callable[[str], object]) -> tuple[list[Report], str]:
    """The contract on every formula; `tell` gets a line as each is done. Numbers of whole samples have no clauses of their own."""
    torch.set_num_threads(1)
    reports = []
    for entry in entries():
        report = check(entry.function)
        reports.append(report)
        held = sum(f.status == "holds" for f in report.findings)
        verdict = "FAILS " + ", ".join(f.clause for f in report.failures) if report.failed else f"{held} clauses hold"
        tell(f"{entry.family:14}{entry.name:26}{verdict}  ({report.seconds:.2f} s)")
    failed = [r.name for r in reports if r.failed]
    clauses = sum(f.status == "holds" for r in reports for f in r.findings)
    return reports, f"{len(reports)} formulas, {clauses} clauses hold, {len(failed)} formulas fail" + (
        f": {', '.join(failed)}" if failed else ""
    )


def examined(loss: str, parameters: Sequence[str] = (), **settings: Any) -> objective.Report:
    """What a loss really ascends.

    Raises:
        ConfigError: it cannot be enumerated.
    """
    try:
        return objective.report(with_parameters(loss, parameters), **settings)
    except ValueError as fault:
        if isinstance(fault, ConfigError) or type(fault).__module__.startswith("corollary"):
            raise
        raise ConfigError(str(fault)) from fault
