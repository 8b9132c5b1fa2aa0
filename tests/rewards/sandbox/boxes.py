"""The sandboxes that this machine has, for tests and the benchmark."""

from __future__ import annotations

import os
import site
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def surroundings(folder: Path) -> Iterator[dict[str, object]]:
    """What there is to reach: a folder with a secret, this process, and sockets that somebody listens on; for the probes' braces."""
    (folder / "secret").write_text("canary")
    path, abstract = f"/tmp/corollary-{os.getpid()}.sock", f"corollary-{os.getpid()}"
    Path(path).unlink(missing_ok=True)
    listeners = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    listeners[1].bind(path)
    listeners[2].bind(f"\0{abstract}")
    for listener in listeners[1:]:
        listener.listen()
    yield {
        "folder": folder,
        "home": Path.home(),
        "project": Path(__file__).parents[3],
        "packages": site.getsitepackages()[0],
        "pid": os.getpid(),
        "port": listeners[0].getsockname()[1],
        "socket": path,
        "abstract": abstract,
    }
    for listener in listeners:
        listener.close()
    Path(path).unlink()
