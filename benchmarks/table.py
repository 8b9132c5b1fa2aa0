"""What runs measured, as a Markdown table: a row per run and metric.

python benchmarks/table.py runs/demo-sft-0 runs/demo-grpo-0 runs/demo-grpo-1 [--metrics greedy/strict accuracy]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def shown(value: float, metric: dict[str, Any], sign: str = "") -> str:
    """A share as a percentage, another number as it is.

    >>> shown(0.125, {}), shown(0.125, {"unit": "number"}, "+")
    ('12.5%', '+0.1250')
    """
    return format(value, f"{sign}.4f" if metric.get("unit") == "number" else f"{sign}.1%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--metrics", nargs="*", default=[], help="all when left out")
    options = parser.parse_args()
    print("| run | metric | before | after | difference, paired 95 % interval |\n|---|---|---|---|---|")
    for run in options.runs:
        result = json.loads((run / "evaluation.json").read_text())
        for metric, change in result["difference"].items():
            if options.metrics and metric not in options.metrics:
                continue
            before, after = (result[part]["metrics"][metric] for part in ("before", "after"))
            low, high = (shown(change[end], after, "+") for end in ("low", "high"))
            cells = (
                shown(before["value"], before),
                shown(after["value"], after),
                shown(change["estimate"], after, "+"),
            )
            print(f"| {run.name} | {metric} | {cells[0]} | {cells[1]} | {cells[2]} [{low}, {high}] |")
        timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
        seconds = sorted(row["seconds"] for row in timing)[len(timing) // 2]
        peak = max(row["peak_memory_gib"] for row in timing)
        print(f"| {run.name} | {len(timing)} steps | | | median {seconds:.1f} s per step, peak {peak:.1f} GiB |")


if __name__ == "__main__":
    main()
