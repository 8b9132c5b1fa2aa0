"""A program that eats time, memory, processes or output: it fails, it is dead soon after the deadline, and the next is unharmed."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corollary.rewards.sandbox import NAMES, Exam
from rewards.sandbox.boxes import needed
from rewards.sandbox.probes import BOMBS, exploding

SECONDS = 0.3
EXAM = Exam(entry_point="f", tests=("assert list(f(1)) == 7", "assert f(1) == 7"))
HONEST = "def f(x): return x + 6"


@pytest.fixture
def orphans() -> Iterator[None]:
    """Adopts what is left behind, so that it can be counted."""
    prctl, subreaper = ctypes.CDLL(None).prctl, 36
    prctl(subreaper, 1, 0, 0, 0)
    yield
    prctl(subreaper, 0, 0, 0, 0)


def children() -> set[int]:
    """Processes of ours that live: neither dead nor waiting to be buried."""
    alive = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:  # it has just gone
                continue
            alive |= {int(folder.name)} if int(parent) == os.getpid() and state != "Z" else set()
    return alive


def dead_by(deadline: float, before: set[int]) -> bool:
    """Whether nothing lives by then that did not live before."""
    while (alive := children() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive


@pytest.mark.parametrize("sandbox", ["monty", "bubblewrap"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_goes_off_inside(sandbox, name, orphans):
    box, before, start = needed(sandbox, seconds=SECONDS, memory_mib=256), children(), time.monotonic()
    verdict = box.judge(exploding(name), EXAM)
    assert dead_by(start + SECONDS + 0.5, before)
    assert time.monotonic() - start < SECONDS + 0.5
    assert verdict.held == (False, False), verdict
    assert needed(sandbox, seconds=5).judge(HONEST, Exam(entry_point="f", tests=("assert f(1) == 7",))).passed


@pytest.mark.parametrize("sandbox", ["monty", "bubblewrap"])
def test_a_bomb_may_go_off_while_the_program_loads(sandbox, orphans):
    box, before, start = needed(sandbox, seconds=SECONDS), children(), time.monotonic()
    assert not box.judge("while True: pass\n" + HONEST, EXAM).passed
    assert dead_by(start + SECONDS + 0.5, before)
    assert time.monotonic() - start < SECONDS + 0.5


@pytest.mark.parametrize("sandbox", ["monty", "bubblewrap"])
def test_tests_that_never_end_fail_and_end(sandbox, orphans):
    box, before, start = needed(sandbox, seconds=SECONDS), children(), time.monotonic()
    exam = Exam(entry_point="f", tests=("assert f(1) == 7", "while True: pass"))
    assert not box.judge(HONEST, exam).passed
    assert dead_by(start + SECONDS + 0.5, before)
    assert time.monotonic() - start < SECONDS + 0.5


@pytest.mark.parametrize("sandbox", NAMES)
def test_many_short_calls_have_one_deadline(sandbox):
    start = time.monotonic()
    exam = Exam(entry_point="f", tests=("for _ in range(1000): f(20_000)",))
    verdict = needed(sandbox, seconds=SECONDS).judge("def f(n): return sum(i for i in range(n))", exam)
    assert not verdict.passed
    assert time.monotonic() - start < SECONDS + 0.5


@pytest.mark.parametrize("sandbox", ["bubblewrap", "unsafe_subprocess"])
def test_what_held_before_the_deadline_held(sandbox):
    program = "def f(x):\n    while x > 1: pass\n    return x"
    exam = Exam(entry_point="f", tests=("assert f(1) == 1", "assert f(2) == 2", "assert f(0) == 0"))
    assert needed(sandbox, seconds=1.5).judge(program, exam).held == (True, False, False)


def test_memory_counts_and_is_enough_where_it_is_asked_for():
    program = "def f(n): return len(bytearray(n << 20))"
    exam = Exam(entry_point="f", tests=("assert f(100) == 100 << 20",))
    for sandbox in ("bubblewrap", "unsafe_subprocess"):
        assert needed(sandbox, seconds=5, memory_mib=256).judge(program, exam).passed
        assert not needed(sandbox, memory_mib=64).judge(program, exam).passed


@pytest.mark.parametrize("sandbox", ["monty", "bubblewrap"])
def test_a_judge_that_is_killed_takes_its_processes_along(sandbox, orphans):
    needed(sandbox)
    before = children()
    code = f"""
from corollary.rewards.sandbox import Exam, Limits, sandbox
box = sandbox("{sandbox}", Limits(seconds=20))
print("ready", flush=True)
box.judge("def f(x):\\n    while True: pass", Exam(entry_point="f", tests=("f(1)",)))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as judge:
        assert judge.stdout is not None
        assert judge.stdout.readline() == b"ready\n"
        time.sleep(0.5)  # until it spins
        assert judge.poll() is None
        os.killpg(judge.pid, signal.SIGKILL)  # as the pool of workers does
    assert dead_by(time.monotonic() + 1.0, before)
