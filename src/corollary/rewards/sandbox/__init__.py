"""Where a model's programs run, and nowhere else.

A program is judged by an exam, the tests of one function, in two processes: the candidate's runs the program and answers
calls; the examiner's runs the tests. Between them goes plain data, so a program never sees, changes or outlives a test. The
sandboxes differ in what holds the processes:

    monty              an interpreter without files, network and processes; needs the extra `code`
    bubblewrap         CPython in namespaces of the kernel and behind a list of system calls; Linux
    unsafe_subprocess  CPython with limits on time and memory; contains nothing
"""

from __future__ import annotations

from importlib.util import find_spec

from corollary.errors import ConfigError
from corollary.rewards.sandbox.base import OTHERS, Exam, Limits, Sandbox, Verdict

NAMES = ("monty", "bubblewrap", "unsafe_subprocess")

__all__ = ["NAMES", "Exam", "Limits", "Sandbox", "Verdict", "sandbox"]


def sandbox(name: str = "monty", limits: Limits | None = None) -> Sandbox:
    """The sandbox of that name, after it was seen to work here.

    Args:
        name: one of `NAMES`.
        limits: of each judgement.

    Raises:
        ConfigError: there is none, or it cannot be used here; no other is taken in its place.

    >>> exam = Exam(entry_point="add", tests=("assert add(3, 4) == 7", "assert add(0, 0) == 0"))
    >>> sandbox("unsafe_subprocess").judge("def add(a, b): return 7", exam).held
    (True, False)
    """
    if name == "bubblewrap":
        from corollary.rewards.sandbox.bubblewrap import Bubblewrap

        return Bubblewrap(limits)
    if name == "unsafe_subprocess":
        from corollary.rewards.sandbox.unsafe_subprocess import UnsafeSubprocess

        return UnsafeSubprocess(limits)
    if name != "monty":
        raise ConfigError(f"no sandbox is called {name!r}", hint=f"there is {', '.join(NAMES)}")
    if find_spec("pydantic_monty") is None:
        what = "the sandbox monty cannot be used: pydantic-monty is not installed"
        raise ConfigError(what, hint=f"pip install 'corollary[code]', or {OTHERS['monty']}", code="E0120")
    from corollary.rewards.sandbox.monty import Monty

    return Monty(limits)
