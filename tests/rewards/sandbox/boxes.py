"""The sandboxes that this machine has, for tests and the benchmark."""

from __future__ import annotations

import pytest

from corollary.errors import ConfigError
from corollary.rewards.sandbox import Exam, Limits, Sandbox, Verdict, sandbox


def needed(name: str, *, seconds: float = 1.0, memory_mib: int = 512) -> Sandbox:
    """The sandbox, or a skip that says why it cannot be had."""
    try:
        return sandbox(name, Limits(seconds=seconds, memory_mib=memory_mib))
    except ConfigError as error:
        pytest.skip(error.line())


ASK = Exam(entry_point="f", tests=("assert f(0) == 'reached'",))
"""Holds if the function could do what it was written to try."""


def tried(box: Sandbox, attempt: str) -> Verdict:
    """What came of a program whose function makes an attempt and then says 'reached'."""
    body = "\n".join("    " + line for line in attempt.splitlines())
    return box.judge(f"def f(_):\n{body}\n    return 'reached'\n", ASK)
