"""What the demo's runs measured, as a Markdown table: a row per run and metric.

python benchmarks/demo_table.py runs/demo-sft-0 runs/demo-grpo-0 runs/demo-grpo-1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

METRICS = (
    "sampled/strict/pass@1",
    "sampled/lenient/pass@1",
    "sampled/strict/pass@4",
    "greedy/strict",
    "greedy/lenient",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    print("| run | metric | before | after | difference, paired 95 % interval |\n|---|---|---|---|---|")
    for run in parser.parse_args().runs:
        result = json.loads((run / "evaluation.json").read_text())
        for metric in METRICS:
            if metric not in result["difference"]:
                continue
            before, after = (result[part]["metrics"][metric]["value"] for part in ("before", "after"))
            change = result["difference"][metric]
            interval = f"{change['estimate']:+.1%} [{change['low']:+.1%}, {change['high']:+.1%}]"
            print(f"| {run.name} | {metric} | {before:.1%} | {after:.1%} | {interval} |")
        timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
        seconds = sorted(row["seconds"] for row in timing)[len(timing) // 2]
        peak = max(row["peak_memory_gib"] for row in timing)
        print(f"| {run.name} | {len(timing)} steps | | | median {seconds:.1f} s per step, peak {peak:.1f} GiB |")


if __name__ == "__main__":
    main()
