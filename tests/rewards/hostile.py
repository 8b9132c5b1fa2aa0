"""Judges hostile answers with every grader of numbers and formulas, and prints what that took, as JSON.

A program of its own, since an audit hook stays for good: it counts what the interpreter is asked to compile or execute.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time

from corollary.rewards import latex, math

SEEDS = [
    "__import__('os').system('touch /tmp/corollary-was-here')", "eval('1+1')", "exec('x=1')", "().__class__.__bases__[0].__subclasses__()",
    "9**9**9**9", "9^{9^{9^{9}}}", "\\boxed{9^{9^{9^9}}}", "10**10**10", "((((1))))", "(" * 100_000, "[" * 100_000 + "]" * 100_000, "{" * 100_000,
    "\\frac{" * 20_000, "\\boxed{" * 20_000, "\\boxed{" * 500 + "7" + "}" * 500, "\\sqrt{" * 3000 + "7" + "}" * 3000, "\\pi" * 30_000,
    "\\left(" * 5000, "\\begin{pmatrix}" * 2000, "\\begin{matrix}1&2\\\\3&4\\end{matrix}" * 200, "1" * 1_000_000, "7." * 300_000, "-" * 200_000 + "7",
    "1e999999999", "1e-999999999", "0x" + "f" * 100_000, "1/0", "\\frac{1}{0}", "0/0", "\\infty - \\infty", "nan", "inf", "1_000_000", "1,2,3,4," * 50_000,
    "7" + "\u200b" * 100_000, "\u0667", "\u00b2" * 10_000, "\ud800", "\x00" * 100_000, "\x1b[2J", "7\n" * 200_000, "= " * 200_000, "3 + 4 = 7 " * 50_000,
    "a" * 1_000_000, "$" * 200_000, "$x$" * 50_000, "####" * 100_000, "#### " + "9" * 100_000, "\\text{" * 20_000 + "7", "100!" * 20_000,
    "2^{1000000000}", "(1+x)^{100000}", "\\sum_{i=1}^{10^9} i", "\\int_0^\\infty e^{-x^2} dx", "x" + "^2" * 30_000, "1" + "+1" * 100_000,
    "\\newcommand{\\a}{\\a\\a}\\a", "\\def\\x{\\x\\x}\\x", "\\input{/etc/passwd}", "\\write18{ls}", "%s%s%n", "{0.__class__}", "lambda: 0", "import os",
    "(a+a)+" * 20_000, " " * 500_000 + "7", "7" + " " * 500_000, "\\" * 200_000, "\\\\" * 100_000, "&" * 100_000, "True", "None", "[]", "{}", "7;7", "7|7",
]  # fmt: skip
GOLDS = ["7", "\\frac{1}{2}", "x^2+1", "(1, 2)", "1000000"]


def answers(count: int) -> list[str]:
    """The seeds, then what can be made of them: joined, wrapped, cut and turned, the same every time."""
    draw = random.Random(0)
    made = list(SEEDS)
    while len(made) < count:
        one, other = draw.choice(SEEDS), draw.choice(SEEDS)
        at = draw.randrange(len(one) + 1)
        made.append(
            draw.choice(
                [
                    one[:at] + other,
                    f"\\boxed{{{one}}}",
                    f"${one}$",
                    f"#### {one}",
                    f"3 + 4 = {one}",
                    f"\\frac{{{one[:200]}}}{{{other[:200]}}}",
                    one[:150][::-1],
                    f"({one[:40]})^{{{other[:40]}}}",
                ]
            )[:1_000_000]
        )
    return made


def main() -> None:
    for gold in GOLDS:  # all that is loaded late is loaded now
        latex.math(
            ["\\boxed{\\frac{x+1}{2}}", "(1, 2)", "x^2 + 1", "\\sqrt{2}", "{1, 2}", "$1 < 2$"], answer=[gold] * 6
        )
    compiled: dict[str, list[str]] = {"number": [], "equation": [], "math": []}
    judging: list[str] = []

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if judging and event == "compile":
            compiled[judging[0]].append(bytes(arguments[0] or b"").decode())  # type: ignore[arg-type]

    sys.addaudithook(hear)
    memory, start, earned = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), 0.0
    hostile = answers(500)
    for index, answer in enumerate(hostile):
        gold = GOLDS[index % len(GOLDS)]
        for name, judge, right in (
            ("number", math.number, "1000000"),
            ("equation", math.equation, "7"),
            ("math", latex.math, gold),
        ):
            judging[:] = [name]
            earned += judge([answer], answer=[right])[0]
    judging.clear()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    took = time.monotonic() - start
    print(
        json.dumps(
            {"answers": len(hostile), "seconds": took, "grown_mib": grown, "earned": earned, "compiled": compiled}
        )
    )


if __name__ == "__main__":
    main()
