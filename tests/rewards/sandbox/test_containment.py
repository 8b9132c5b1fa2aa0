"""What a program in a sandbox can reach: nothing of ours. Each probe is first seen to work where nothing is contained."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corollary.rewards.sandbox import Exam
from rewards.sandbox.boxes import needed, surroundings, tried
from rewards.sandbox.probes import NETWORK, READS, SYSCALLS, UNKNOWN, WRITES, calling

PROBES = {f"{kind}: {name}": body for kind, of in (("read", READS), ("write", WRITES), ("reach", NETWORK)) for name, body in of.items()}  # fmt: skip


@pytest.fixture
def around(tmp_path) -> Iterator[dict[str, object]]:
    (tmp_path / "folder").mkdir()
    with surroundings(tmp_path / "folder") as reachable:
        yield reachable


def seen(folder: Path) -> list[tuple[object, ...]]:
    """All that can be told of a folder and what is in it."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return [(p, s.st_mode, s.st_size, s.st_mtime_ns, s.st_nlink, s.st_ino) for p in paths for s in [p.lstat()]]


@pytest.mark.parametrize("name", PROBES)
def test_a_program_in_a_sandbox_reaches_nothing(around, name):
    probe = PROBES[name].format(**around)
    folder = Path(str(around["folder"]))
    before = seen(folder)
    for sandbox in ("monty", "bubblewrap"):
        verdict = tried(needed(sandbox), probe)
        assert not verdict.passed, f"{sandbox} lets it through"
        assert seen(folder) == before
    if not name.endswith("*"):
        verdict = tried(needed("unsafe_subprocess", seconds=3), probe)
        assert verdict.passed, f"the probe itself does not work: {verdict.why}"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
@pytest.mark.parametrize("name", SYSCALLS)
def test_the_kernel_answers_no_call_that_is_not_on_the_list(name):
    verdict = needed("bubblewrap").judge(calling(name), UNKNOWN)
    assert verdict.passed, verdict.why  # 38 is ENOSYS


def test_a_program_sees_an_empty_world():
    look = """
import os, sys
def f(_):
    found = sorted(os.listdir("/"))
    ids = os.getuid(), os.getgid()
    return found, ids, os.getcwd(), sorted(set(os.environ) - {"LC_CTYPE"}), os.uname().nodename
"""
    tests = (
        "assert set(f(0)[0]) <= {'etc', 'lib', 'lib64', 'python', 'usr'}, f(0)",
        "assert set(os.listdir('/usr')) <= {'lib', 'lib64'} and os.listdir('/etc') in ([], ['ld.so.cache'])",
        "assert f(0)[1:3] == ((65534, 65534), '/')",
        "assert f(0)[3:] == (['LC_ALL', 'LD_LIBRARY_PATH', 'PWD', 'PYTHONHASHSEED'], 'sandbox'), f(0)[3:]",
    )
    verdict = needed("bubblewrap").judge(look, Exam(entry_point="f", tests=tests, prelude="import os"))
    assert verdict.passed, verdict.why


def test_the_tests_are_in_a_sandbox_too(around):
    """Data that somebody publishes as tests reaches no more than a program does."""
    probe = f"open('{around['folder']}/secret').read()"
    for sandbox in ("monty", "bubblewrap"):
        verdict = needed(sandbox).judge("def f(x): return x", Exam(entry_point="f", tests=("assert f(1) == 1", probe)))
        assert verdict.held == (True, False)


def test_judgements_in_threads_do_not_mix():
    box, verdicts = needed("bubblewrap", seconds=10), {}

    def judge(n: int) -> None:
        exam = Exam(entry_point="f", tests=(f"assert f(0) == {n}", "assert f(0) == 1"))
        verdicts[n] = box.judge(f"def f(_): return {n}", exam).held

    threads = [threading.Thread(target=judge, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {n: (True, n == 1) for n in range(8)}
