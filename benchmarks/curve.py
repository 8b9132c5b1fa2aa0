"""The learning curves of runs as one small SVG: a metric by step, thin line as it was, thick line smoothed.

python benchmarks/curve.py runs/demo-grpo-0 runs/demo-grpo-1 --metric reward --out docs/algorithms/grpo.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 260, 46, 34, 14
COLOURS = ("#2c6fbb", "#c0562f", "#3a8f55", "#7d55a8")


def smoothed(values: list[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average, corrected for its start.

    >>> smoothed([1.0, 1.0])
    [1.0, 1.0]
    """
    out, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(total / norm)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--metric", default="reward")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    curves = {}
    for run in options.runs:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves[run.name] = [row[options.metric] for row in rows if options.metric in row]
    steps = max(map(len, curves.values()))
    low, high = 0.0, max(max(c) for c in curves.values()) * 1.05

    def points(values: list[float]) -> str:
        x = [LEFT + i * (WIDTH - LEFT - 10) / max(1, steps - 1) for i in range(len(values))]
        y = [TOP + (HEIGHT - TOP - BOTTOM) * (high - v) / (high - low) for v in values]
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in range(6):
        value = high * tick / 5
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - tick / 5)
        lines.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{value:.2f}</text>')
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        lines.append(f'<polyline points="{points(values)}" fill="none" stroke="{colour}" stroke-opacity=".25"/>')
        lines.append(
            f'<polyline points="{points(smoothed(values))}" fill="none" stroke="{colour}" stroke-width="2"><title>{name}</title></polyline>'
        )
    for i, (name, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        lines.append(f'<text x="{LEFT + 8}" y="{TOP + 12 + 14 * i}" fill="{colour}">{name}</text>')
    lines.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 10}" text-anchor="end" fill="#444">step (of {steps})</text>')
    lines.append(f'<text x="{LEFT}" y="{HEIGHT - 10}" fill="#444">{options.metric}</text></svg>')
    options.out.write_text("\n".join(lines) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
