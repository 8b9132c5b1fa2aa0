"""`corollary prove`: which theorems, in which lab, and what is printed of them."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from corollary.custom import is_reference, line_of, load, said
from corollary.errors import ConfigError, UserCodeError
from corollary.theory.columns import number
from corollary.theory.figure import drawn
from corollary.theory.lab import Lab, sized
from corollary.theory.theorem import Proof, Theorem, prove_one
from corollary.theory.theorems import select, theorems
from corollary.theory.tree import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every theorem that was asked for, tried out in every lab that was asked for."""

    proofs: tuple[tuple[Proof, ...], ...]  # of each theorem, one for each seed
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether some theorem does not hold, or some broken twin does."""
        return not all(p.sound for row in self.proofs for p in row)

    def text(self) -> str:
        """The last line."""
        held = sum(all(p.verdict.holds for p in row) for row in self.proofs)
        twins = [p for row in self.proofs for p in row]
        planted = sum(len(p.twins) for p in twins)
        fail = planted - sum(len(p.alive) for p in twins)
        labs = f" in each of {len(self.proofs[0])} labs" if len(self.proofs[0]) > 1 else ""
        return f"{held} of {len(self.proofs)} theorems hold{labs}, {fail} of {planted} broken twins fail; {self.seconds:.0f} s"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "failed": self.failed, "seconds": round(self.seconds, 1),
            "theorems": [p.to_dict() for row in self.proofs for p in row],
        }  # fmt: skip


def carry_out(names: Sequence[str], labs: Sequence[Lab], tell: Callable[[str], object]) -> Outcome:
    """Try the theorems out; `tell` gets a line as each is done.

    Raises:
        ConfigError: nothing is named so.
        UserCodeError: a theorem of the user's raises.
    """
    torch.set_num_threads(1)  # the worlds are tiny, and threads would only wait for each other
    started, asked = time.perf_counter(), chosen(names)
    tell(_row("theorem", "", "measured", "", "bound", "twins", "where"))
    rows = []
    for found in asked:
        row = tuple(_tried(found, lab) for lab in labs)
        tell(line(row))
        rows.append(row)
    return Outcome(tuple(rows), time.perf_counter() - started)


def chosen(names: Sequence[str]) -> list[Theorem]:
    """Theorems by name, label or page, and `FILE.py:NAME` of the user's own; all of the library's where none is named.

    Raises:
        ConfigError: nothing is named so, or it is no theorem.
        UserCodeError: the user's file raises.
    """
    if not names:
        return select([])
    found: list[Theorem] = []
    for name in names:
        if name.endswith(".py"):
            raise ConfigError(f"{name} may hold several theorems", hint=f"write {name}:NAME")
        found += [_own(name)] if is_reference(name) else select([name])
    return list({id(t): t for t in found}.values())


def labs(settings: Sequence[str], *, seed: int = 0, seeds: int = 1) -> list[Lab]:
    """The labs that the options ask for.

    Args:
        settings: `depth=2` and the like, or `FILE.py:NAME` of a function (lab) → World.
        seed: of the first.
        seeds: how many.

    Raises:
        ConfigError: no such size.

    >>> labs(["depth=2", "arms=4"], seed=7)[0].arms
    4
    """
    own = [text for text in settings if is_reference(text)]
    sizes = dict(_setting(text) for text in settings if not is_reference(text))
    world = _own_world(own[-1]) if own else None
    return [Lab(seed=seed + i, own=world, **sized(sizes)) for i in range(seeds)]


def line(row: Sequence[Proof]) -> str:
    """One theorem: where several labs tried it, the one that it does worst in."""
    worst = next((p for p in row if not p.sound), None) or min(row, key=lambda p: _room(p))
    verdict, found = worst.verdict, worst.theorem
    twins = sum(len(p.twins) for p in row)
    fail = twins - sum(len(p.alive) for p in row)
    name = found.label if found.label == found.name else f"{found.label} {found.name}"
    sign = "≥" if verdict.least else "≤"
    where = f"{verdict.where} (seed {worst.seed})" if len(row) > 1 else verdict.where
    alive = f" HOLDS: {worst.alive[0]}" if worst.alive else ""
    return _row(
        name, "holds" if all(p.verdict.holds for p in row) else "FAILS", _digits(verdict.measured), sign,
        _digits(verdict.bound), f"{fail}/{twins}{alive}", where,
    ).rstrip()  # fmt: skip


def listed(names: Sequence[str]) -> str:
    """A line each: label, name, section."""
    found = chosen(names)
    width = max(len(t.label) for t in found)
    return "\n".join(
        f"{t.label:{width}}  {t.name if t.name != t.label else '':44}  {t.section}".rstrip() for t in found
    )


def explained(found: Theorem, lab: Lab) -> str:
    """Statement, conditions, proof, experiment, figure, and what the twins do."""
    proof = _tried(found, lab)
    verdict = proof.verdict
    parts = [f"{found.label}  {found.name}", textwrap.indent(found.statement, "  ")]
    for title, text in (("Conditions", found.conditions), ("Proof", found.proof), ("Experiment", found.setup)):
        if text:
            parts.append(f"{title}\n{_wrapped(text)}")
    sign = "≥" if verdict.least else "≤"
    word = "holds" if verdict.holds else "does not hold"
    at = f", {verdict.where}" if verdict.where else ""
    parts.append(f"Measured\n  {_digits(verdict.measured)} {sign} {_digits(verdict.bound)}{at}: it {word}")
    twins = [
        f"  {phrase}: {_digits(v.measured)} {'≥' if v.least else '≤'} {_digits(v.bound)}: "
        + ("HOLDS, so that the experiment shows nothing of it" if v.holds else "fails, as it should")
        for phrase, v in proof.twins
    ]
    parts.append("\n".join(["Broken twins", *twins]))
    if verdict.curve:
        parts.append("Figure\n" + drawn(verdict.curve))
    parts.append(f"Source   {found.source}\nSection  docs/theory/{found.section}")
    return "\n\n".join(parts)


def _tried(found: Theorem, lab: Lab) -> Proof:
    try:
        return prove_one(found, lab)
    except ConfigError:
        raise
    except Exception as fault:
        if found in theorems() and lab.own is None:
            raise
        file = found.experiment.__code__.co_filename if found not in theorems() else ""
        raise UserCodeError(f"theorem {found.name}: {said(fault)}", where=line_of(fault, file)) from fault


def _own(name: str) -> Theorem:
    found = _loaded(name)
    if not isinstance(found, Theorem):
        raise ConfigError(f"{name} is no theorem", hint="decorate it with corollary.theory.theorem.theorem(…)")
    return found


def _own_world(name: str) -> Callable[[Lab], World]:
    made = _loaded(name)
    if not callable(made):
        raise ConfigError(f"{name} is no function", hint="write def name(lab) -> World")

    def world(lab: Lab) -> World:
        found = made(lab)
        if not isinstance(found, World):
            raise TypeError(f"{name} returned {type(found).__name__}, not a World")
        if int(found.lengths.max()) < 2 or len(found.rewards.unique()) < 2:
            raise ConfigError(
                f"{name}: all its answers have one token, or earn the same",
                hint="give it an answer of two tokens and rewards that differ: much that is false of tokens is true of one",
            )
        return found

    return world


def _loaded(name: str) -> Any:
    try:
        return load(name)
    except (ImportError, FileNotFoundError, AttributeError) as fault:
        raise ConfigError(f"{name}: {fault}") from fault
    except Exception as fault:
        raise UserCodeError(f"{name}: {said(fault)}", where=line_of(fault, name.rpartition(":")[0])) from fault


def _setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(
            f"{text!r} is no size of a world", hint="write depth=2, or FILE.py:NAME for a world of your own"
        )
    return name, value


def _room(proof: Proof) -> float:
    v = proof.verdict
    return (v.measured - v.bound if v.least else v.bound - v.measured) / max(abs(v.bound), 1e-300)


def _row(name: str, holds: str, measured: str, sign: str, bound: str, twins: str, where: str) -> str:
    return f"{name:58} {holds:6} {measured:>10} {sign:1} {bound:>10}  {twins:6} {where}"


def _digits(value: float) -> str:
    return f"{value:.2e}" if value and abs(value) < 1e-3 else number(value)


def _wrapped(text: str) -> str:
    """One paragraph: a docstring's own line breaks say nothing."""
    return textwrap.fill(" ".join(text.split()), 110, initial_indent="  ", subsequent_indent="  ")
