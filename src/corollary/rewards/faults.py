"""Whose fault it was: from a call that failed to the samples that are to blame, and to the line that the user reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from corollary.errors import CorollaryError, DataError, UserCodeError
from corollary.rewards.calling import Fault, Values

_PATIENCE = 3  # hanging samples that are looked for one by one, before the whole call is given up


class Blame(NamedTuple):
    """A fault with the samples that share it."""

    fault: Fault
    rows: tuple[int, ...]


Verdict = float | None | Blame
Run = Callable[[Sequence[int]], Values | Fault]
"""Calls the reward on these samples."""


def settle(rows: Sequence[int], outcome: Values | Fault, run: Run, *, first_only: bool) -> dict[int, Verdict]:
    """A verdict for each sample of a call.

    A call that fails as a whole is repeated sample by sample to find the culprits, and then once without them, so that what
    the others get is what they would have got had the culprits not been there.

    Args:
        rows: the samples of the call.
        outcome: what came of it.
        run: repeats the call on some of its samples.
        first_only: one culprit is enough; the samples after it may be left out.
    """
    verdicts: dict[int, Verdict] = {}
    while isinstance(outcome, Fault):
        culprits = _culprits(rows, outcome, run, first_only=first_only)
        verdicts |= culprits
        rows = [row for row in rows if row not in culprits]
        if first_only or not rows:
            return verdicts
        outcome = run(rows)
    return verdicts | _values(rows, outcome)


def _values(rows: Sequence[int], outcome: Values) -> dict[int, Verdict]:
    return {
        row: Blame(Fault("returned", f"expected a finite number or None, got {outcome.bad[i]}"), (row,))
        if i in outcome.bad
        else outcome.values[i]
        for i, row in enumerate(rows)
    }


def _culprits(rows: Sequence[int], fault: Fault, run: Run, *, first_only: bool) -> dict[int, Blame]:
    """The samples on which the reward fails by themselves; all of them if none does."""
    everyone = dict.fromkeys(rows, Blame(fault, tuple(rows)))
    if fault.sample is not None and fault.sample < len(rows):
        return {rows[fault.sample]: Blame(fault, (rows[fault.sample],))}
    if len(rows) == 1 or fault.kind not in ("raised", "hung", "died"):
        return everyone
    culprits: dict[int, Blame] = {}
    for row in rows:
        outcome = run([row])
        if isinstance(outcome, Fault):
            culprits[row] = Blame(outcome, (row,))
        hung = sum(blame.fault.kind == "hung" for blame in culprits.values())
        if hung == _PATIENCE:
            return everyone
        if first_only and culprits:
            break
    return culprits or everyone


def error(blame: Blame, reward: str, names: Sequence[str]) -> CorollaryError:
    """What the user reads.

    Args:
        blame: the fault.
        reward: its name.
        names: of all samples, by row.

    >>> error(Blame(Fault("raised", "KeyError: 'x'", "/me/acc.py:3"), (1,)), "acc", ["p7#0", "p7#1"]).line()
    "error[E0701] /me/acc.py:3: reward 'acc' failed on sample p7#1: KeyError: 'x'; mend it, or set on_error: mask to leave such samples out"
    """
    fault, rows = blame
    if fault.kind in ("unloadable", "parameters"):
        what = "cannot be loaded" if fault.kind == "unloadable" else "does not fit the data"
        code = "E0704" if fault.kind == "unloadable" else "E0705"
        return UserCodeError(f"reward {reward!r} {what}: {fault.what}", where=_near(fault.where), code=code)
    samples = f"sample {names[rows[0]]}" if len(rows) == 1 else f"samples {names[rows[0]]} … {names[rows[-1]]}"
    if fault.kind == "sample":
        return DataError(f"reward {reward!r} cannot judge {samples}: {fault.what}", code="E0220")
    verb = {"raised": "failed", "hung": "hung", "returned": "returned nonsense", "died": "crashed"}[fault.kind]
    code = {"raised": "E0701", "hung": "E0702", "returned": "E0703", "died": "E0706"}[fault.kind]
    hint = "mend it, or set on_error: mask to leave such samples out"
    what = f"reward {reward!r} {verb} on {samples}: {fault.what}"
    return UserCodeError(what, where=_near(fault.where), hint=hint, code=code)


def _near(where: str) -> str:
    """A path as seen from here, if that is shorter."""
    path, colon, line = where.rpartition(":") if where.rpartition(":")[2].isdigit() else (where, "", "")
    if not path.startswith("/"):
        return where
    return min(path, os.path.relpath(path), key=len) + colon + line
