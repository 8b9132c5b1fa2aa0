"""What the sandboxes let through, what they cost, and how many reference solutions they run.

    python benchmarks/sandbox.py [--data humaneval --data mbpp/test] [--sandbox monty --sandbox bubblewrap]

Data sets are catalogue names or JSON Lines files with the columns `tests`, `entry_point`, `setup` and `solution`. The probes are
those of tests/rewards/sandbox; hostile ones never run in `unsafe_subprocess`, which would let them do what they try.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from corollary.data.reading import Row, read_jsonl
from corollary.models import catalogue
from corollary.rewards.code import exam_of, extracted
from corollary.rewards.sandbox import NAMES, Exam, Limits, Sandbox, sandbox

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from rewards.sandbox import boxes, forgeries, probes

TRIVIAL = ("def f(x):\n    return x + 1\n", Exam(entry_point="f", tests=("assert f(1) == 2",)))


def share(results: Iterable[bool]) -> str:
    got = list(results)
    return f"{sum(got)} of {len(got)}"


def contained(box: Sandbox, attempt: str) -> bool:
    """Whether an attempt fails, in surroundings of its own."""
    with tempfile.TemporaryDirectory() as folder, boxes.surroundings(Path(folder)) as around:
        return not boxes.tried(box, attempt.format(**around)).passed


def probed(name: str) -> dict[str, str]:
    """Kind of probe → how many were contained."""
    box, patient = sandbox(name, Limits(seconds=0.5)), sandbox(name, Limits(seconds=5))
    kinds = {"read": probes.READS, "write": probes.WRITES, "connect": probes.NETWORK}
    result = {}
    for kind, attempts in kinds.items():
        chosen = [n for n in attempts if name != "unsafe_subprocess" or not n.endswith("*")]
        result[kind] = share(contained(box, attempts[n]) for n in chosen)
    exam = Exam(entry_point=forgeries.NAME, tests=tuple(forgeries.TESTS))
    if name != "unsafe_subprocess":
        seven = Exam(entry_point="f", tests=("assert f(1) == 7",))
        result["bombs"] = share(not box.judge(probes.exploding(n), seven).passed for n in probes.BOMBS)
        result["forgeries"] = share(not box.judge(p, exam).passed for p in forgeries.FORGERIES.values())
    if name == "bubblewrap":
        result["system calls"] = share(box.judge(probes.calling(n), probes.UNKNOWN).passed for n in probes.SYSCALLS)
    result["honest programs that pass"] = share(patient.judge(p, exam).passed for p in forgeries.HONEST.values())
    return result


def cost(box: Sandbox, count: int = 100) -> tuple[float, float]:
    """Milliseconds of one judgement of a trivial program, the median; and judgements a second on every core, by core."""
    took = []
    for _ in range(count):
        start = time.perf_counter()
        assert box.judge(*TRIVIAL).passed
        took.append(time.perf_counter() - start)
    cores = os.cpu_count() or 1
    start = time.perf_counter()
    with ThreadPoolExecutor(cores) as threads:
        assert all(verdict.passed for verdict in threads.map(lambda _: box.judge(*TRIVIAL), range(count)))
    return median(took) * 1e3, count / (time.perf_counter() - start) / cores


def solved(box: Sandbox, rows: list[Mapping[str, object]]) -> tuple[str, float, list[str]]:
    """How many reference solutions pass, milliseconds each, and those that do not with why."""
    failed, start = [], time.perf_counter()
    for row in rows:
        exam, stem = exam_of(row["tests"], row["entry_point"], row["setup"])
        verdict = box.judge(stem + extracted(str(row["solution"]), continues=bool(stem)), exam)
        failed += [] if verdict.passed else [f"{row['id']}: {verdict.why[:100]}"]
    return f"{len(rows) - len(failed)} of {len(rows)}", (time.perf_counter() - start) / len(rows) * 1e3, failed


def rows_of(name: str) -> list[Mapping[str, object]]:
    path = catalogue.fetch(name) if catalogue.is_entry(name) else Path(name)
    return [row.values for row in read_jsonl(path) if isinstance(row, Row)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append")
    parser.add_argument("--sandbox", action="append", choices=NAMES)
    chosen = parser.parse_args()
    names = chosen.sandbox or list(NAMES)
    sets = {name: rows_of(name) for name in chosen.data or ("humaneval", "mbpp/test")}
    table: dict[str, dict[str, str]] = {}
    failures = []
    for name in names:
        milliseconds, rate = cost(sandbox(name, Limits(seconds=10)))
        table[name] = {f"contained: {kind}" if " pass" not in kind else kind: got for kind, got in probed(name).items()}
        table[name] |= {
            "ms per judgement, median": f"{milliseconds:.1f}",
            "judgements per second and core": f"{rate:.0f}",
        }
        for data, rows in sets.items():
            got, each, failed = solved(sandbox(name, Limits(seconds=10)), rows)
            table[name][f"reference solutions of {data}"] = f"{got} ({each:.0f} ms each)"
            failures += [f"{name}: {data}: {line}" for line in failed]
    print("| |", " | ".join(names), "|\n|---|" + "---|" * len(names))
    for line in dict.fromkeys(line for column in table.values() for line in column):
        print(f"| {line} |", " | ".join(table[name].get(line, "") for name in names), "|")
    print(*failures, sep="\n")


if __name__ == "__main__":
    main()
