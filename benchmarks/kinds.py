"""How far a run told wanted answers from unwanted ones: what it moved each kind by, and the difference with a 95 % interval.

python benchmarks/kinds.py runs/judged-kto

An answer's `margin` on the right side grows by itself where one kind is more frequent and both fall. The difference between the kinds
does not. Its interval is that of two independent means, by the normal distribution.
"""

from __future__ import annotations

import argparse
import json
from math import hypot
from pathlib import Path
from statistics import fmean, stdev

Z = 1.96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    print("| run | desirable | undesirable | difference | ranked rightly |\n|---|---|---|---|---|")
    for run in parser.parse_args().runs:
        last = max((run / "evaluations").glob("step-*.jsonl"))
        rows = [json.loads(line) for line in last.read_text().splitlines()]
        moved = {
            kind: [
                row["measures"]["margin"] * (1 if kind else -1) for row in rows if row["columns"]["desirable"] == kind
            ]
            for kind in (True, False)
        }
        (up, up_error), (down, down_error) = ((fmean(v), stdev(v) / len(v) ** 0.5) for v in moved.values())
        gap, error = up - down, Z * hypot(up_error, down_error)
        ranked = fmean((a > b) + (a == b) / 2 for a in moved[True] for b in moved[False])
        print(
            f"| {run.name} | {up:+.3f} | {down:+.3f} | {gap:+.3f} [{gap - error:+.3f}, {gap + error:+.3f}] | {ranked:.1%} |"
        )


if __name__ == "__main__":
    main()
