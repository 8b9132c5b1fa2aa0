"""How sure a reward model is against how often it is right, as one small SVG: a point per bin with its interval.

python benchmarks/calibration.py runs/judged-reward-model --out docs/algorithms/reward_model-calibration.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SIZE, LEFT, BOTTOM, TOP = 300, 46, 34, 14


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    told = json.loads((options.run / "evaluation.json").read_text())["after"]["calibration"]
    low = min(0.4, *(b["observed"]["low"] for b in told["bins"]))

    def x(share: float) -> float:
        return LEFT + (SIZE - LEFT - 10) * (share - 0.5) / 0.5

    def y(share: float) -> float:
        return TOP + (SIZE - TOP - BOTTOM) * (1 - share) / (1 - low)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{SIZE}" height="{SIZE}" fill="#ffffff"/>',
    ]
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        lines.append(f'<path d="M{LEFT} {y(tick):.1f}H{SIZE - 10}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#444">{tick:.1f}</text>')
        lines.append(
            f'<text x="{x(tick):.1f}" y="{SIZE - BOTTOM + 14}" text-anchor="middle" fill="#444">{tick:.1f}</text>'
        )
    lines.append(f'<path d="M{x(0.5):.1f} {y(0.5):.1f}L{x(1):.1f} {y(1):.1f}" stroke="#999" stroke-dasharray="4 3"/>')
    for b in told["bins"]:
        at, seen = x(b["predicted"]), b["observed"]
        lines.append(f'<path d="M{at:.1f} {y(seen["low"]):.1f}V{y(seen["high"]):.1f}" stroke="#2c6fbb"/>')
        lines.append(
            f'<circle cx="{at:.1f}" cy="{y(seen["estimate"]):.1f}" r="4" fill="#2c6fbb"><title>{b["pairs"]} pairs</title></circle>'
        )
    lines.append(
        f'<text x="{x(0.75):.1f}" y="{SIZE - 6}" text-anchor="middle" fill="#444">predicted: σ(|margin|)</text>'
    )
    lines.append(
        f'<text x="12" y="{y((1 + low) / 2):.1f}" text-anchor="middle" fill="#444" transform="rotate(-90 12 {y((1 + low) / 2):.1f})">'
        "observed: share that is right</text>"
    )
    options.out.write_text("\n".join([*lines, "</svg>"]) + "\n")


if __name__ == "__main__":
    main()
