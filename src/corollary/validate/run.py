"""All checks on one run."""

from __future__ import annotations

from pathlib import Path

from corollary.validate.advantages import advantages
from corollary.validate.evaluations import evaluations
from corollary.validate.findings import Report
from corollary.validate.first import first_step
from corollary.validate.integrity import integrity
from corollary.validate.objectives import objectives
from corollary.validate.records import read
from corollary.validate.reference import reference
from corollary.validate.sampling import sampling

CHECKS = (integrity, sampling, reference, advantages, objectives, first_step, evaluations)


def validate(folder: Path) -> Report:
    """The theory held against a run that is finished, under way or interrupted.

    Args:
        folder: of the run.

    Raises:
        DataError: it is no run, holds no records yet, or a line of them cannot be read.
        ConfigError: its configuration cannot be read any more.
    """
    records = read(folder)
    return Report(
        run=str(folder),
        algorithm=records.recipe.algorithm.type,
        steps=len(records.metrics),
        findings=[finding for check in CHECKS for finding in check(records)],
    )
