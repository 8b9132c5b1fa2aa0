"""How far the signs of the two equations get a judge who reads no question: the baseline of word-problems-reward-model.

python benchmarks/blind.py
"""

from __future__ import annotations

from collections import Counter

from corollary.data.reading import Row
from corollary.data.sources import DataConfig, rows
from corollary.ops.estimate import clopper_pearson


def signs(part: str) -> list[tuple[str, str]]:
    """Of each pair: the sign of the chosen equation, that of the rejected one."""
    return [
        (row.values["chosen"].split()[1], row.values["rejected"].split()[1])
        for row in rows(DataConfig(path=f"small-problems/{part}"), None)
        if isinstance(row, Row)
    ]


def main() -> None:
    seen, held_out = Counter(signs("pairs")), signs("test-pairs")
    right = sum(seen[chosen, rejected] > seen[rejected, chosen] for chosen, rejected in held_out)
    found = clopper_pearson(right, len(held_out))
    print(f"{right} of {len(held_out)} pairs: {found.estimate:.1%} [{found.low:.1%}, {found.high:.1%}]")


if __name__ == "__main__":
    main()
