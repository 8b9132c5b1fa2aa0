"""The sandbox `unsafe_subprocess`: a process with limits on time and memory, and no sandbox.

The program can read and write whatever you can, reach the network, and leave a process behind that detached itself. The tests
are as safe from it as elsewhere: they run in another process. For programs that you would run by hand.
"""

from __future__ import annotations

from corollary.rewards.sandbox.base import Exam, Limits, Verdict
from corollary.rewards.sandbox.processes import Launch, judged


class UnsafeSubprocess:
    """Judges with CPython and contains nothing."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()

    def judge(self, program: str, exam: Exam) -> Verdict:
        return judged(program, exam, self._limits, Launch)
