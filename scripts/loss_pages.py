"""Writes docs/losses/FAMILY.md from the docstrings, so that a page cannot say other than the code; `--check` compares instead."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from corollary.declare import Entry, entries
from corollary.theory.contract import CLAUSES
from corollary.theory.contract.subject import LOSSES

PAGES = Path(__file__).parents[1] / "docs" / "losses"
BOOK = "docs/theory/"
ABOUT = {
    "likelihood": "Supervised losses: one term per answer token.",
    "preference": "Losses of pairs, one answer chosen over another: one term per pair. Inputs are summed log-probabilities of whole answers.",
    "unpaired": "Losses of answers that are each called desirable or not: one term per answer.",
    "reward_model": "Losses of a reward model's scores of pairs: one term per pair.",
    "policy": "Policy-gradient losses: one term per token; a sequence-level loss puts the answer's value on each of its tokens.",
    "value": "Losses of a critic: one term per token.",
    "distillation": "Losses of a student against a teacher's distribution: one term per token.",
    "penalty": "Estimates of the distance from a reference, added to a loss or taken off a reward: one term per token.",
    "advantage": "What an answer or a token is compared with. `[P, G]`: P prompts, G answers to each.",
    "correction": "Weights for samples that another distribution drew than the trainer's. Constant in the policy.",
    "average": "From a mask to the one tensor of weights that averages a step.",
    "metric": "Evaluation estimates, intervals, and bounds on performance.",
}


def page(family: str) -> str:
    """The page of one family."""
    found = entries(family)
    lines = [f"# {family.replace('_', ' ').capitalize()}", "", ABOUT[family], "",
             "Written from the docstrings by `scripts/loss_pages.py`. Each formula is held to the contract: `corollary check NAME`.", "",
             "| name | summary | source |", "|---|---|---|"]  # fmt: skip
    lines += [f"| [`{e.name}`](#{e.name}) | {_cell(e.summary)} | {_cell(e.source)} |" for e in found]
    for e in found:
        lines += ["", *section(e)]
    return "\n".join(lines) + "\n"


def section(e: Entry) -> list[str]:
    """One formula: what it is, its formula, inputs, parameters, and an example."""
    doc, v = inspect.getdoc(e.function) or "", e.variant
    inputs = ", ".join(f"`{n}`" + (" (optional)" if n in v.optional else "") for n in v.inputs)
    lines = [f"## {e.name}", "", e.summary, "", "```text", e.formula, "```", "", f"`{e.reference}`", ""]
    if inputs:
        lines.append(f"Inputs: {inputs}")
    if e.parameters:
        lines += ["", "| parameter | default | range | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{p['name']}` | {p['default']} | {_cell(p['range'])} | {_cell(p['meaning'])} |" for p in e.parameters
        ]
    if said := _prose(doc, e):
        lines += ["", said]
    if example := re.search(r"^>>> (?:.*\n?)+?(?=\n\n|\Z)", doc, re.MULTILINE):
        lines += ["", "```python", example[0].rstrip(), "```"]
    lines += ["", f"Source: {e.source}" if e.source else ""]
    if e.theory.startswith(BOOK):
        place = e.theory.removeprefix(BOOK)
        lines.append(f"Theory: [{place.partition('.md')[0]}](../theory/{place})")
    return [*lines, f"Declared: {declared(e)}"]


def _prose(doc: str, e: Entry) -> str:
    """What stands between the formula and `Args:`."""
    body = re.split(r"\n(?:Args|Returns|Raises|Source|Theory):", doc)[0]
    parts = [part for part in body.split("\n\n")[1:] if not part.startswith("    ") and not part.startswith(">>>")]
    return "\n\n".join(" ".join(part.split()) for part in parts)


def declared(e: Entry) -> str:
    """Where the formula departs from what its family promises."""
    plain = type(e.declaration)()
    values = {n: getattr(e.declaration, n) for n in e.declaration.__dataclass_fields__ if n not in ("family", "probes")}
    said = {n: v for n, v in values.items() if v != getattr(plain, n)}
    return ", ".join(f"`{n}`" if callable(v) else f"`{n}={v}`" for n, v in said.items()) or "nothing"


def _cell(text: str) -> str:
    return str(text).replace("|", r"\|")


def clauses() -> str:
    """The page of the contract's clauses."""
    lines = ["# Clauses of the contract", "",
             "Written from the code by `scripts/loss_pages.py`. How to use it: [the loss contract](../guides/contract.md). `row` counts the",
             "checks as the project's catalogue does; a residual above the bound fails.", "",
             "| clause | families | row | bound | what holding it means | would have caught |", "|---|---|---|---|---|---|"]  # fmt: skip
    for c in CLAUSES:
        families = "all losses" if set(c.families) == set(LOSSES) else ", ".join(c.families)
        lines.append(f"| {c.name} | {families} | {c.row} | {c.bound:.0e} | {_cell(c.means)} | {_cell(c.catches)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the pages, or say which are out of date."""
    stale = []
    for name, text in {**{family: page(family) for family in ABOUT}, "contract": clauses()}.items():
        path = PAGES / f"{name}.md"
        if "--check" in sys.argv:
            stale += [path.name] if not path.exists() or path.read_text() != text else []
        else:
            path.write_text(text)
    if stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python scripts/loss_pages.py\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
