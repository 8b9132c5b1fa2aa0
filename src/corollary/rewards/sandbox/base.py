"""A sandbox judges a program by an exam; what that means, whatever does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from corollary.errors import ConfigError

GRACE = 0.4  # seconds after the deadline by which the verdict is there and everything is dead

_NONE = "unsafe_subprocess, which contains nothing"
OTHERS = {  # what else there is, for the hint of an error
    "monty": f"set sandbox: bubblewrap (apt-get install bubblewrap), or {_NONE}",
    "bubblewrap": f"set sandbox: monty (pip install 'corollary[code]'), or {_NONE}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Tests of one function."""

    entry_point: str  # the function's name
    tests: tuple[str, ...]  # statements; each holds if it raises nothing
    prelude: str = ""  # runs before them; they see what it defines


class Verdict(NamedTuple):
    """What became of the tests."""

    held: tuple[bool, ...]  # by test
    why: str = ""  # what was wrong first; text from inside, not to be trusted

    @property
    def passed(self) -> bool:
        """All of them held, and there was one."""
        return bool(self.held) and all(self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one judgement may take.

    Raises:
        ConfigError: a number out of its range.
    """

    seconds: float = 3.0  # wall clock, from the first process to the verdict
    memory_mib: int = 512  # of each of the two processes

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds <= 50.0:
            raise ConfigError(f"seconds must lie between 0.1 and 50, got {self.seconds}", where="sandbox")
        if not 32 <= self.memory_mib <= 1 << 20:
            raise ConfigError(f"memory_mib must be at least 32, got {self.memory_mib}", where="sandbox")


class Sandbox(Protocol):
    """Judges programs that nobody has read."""

    def judge(self, program: str, exam: Exam) -> Verdict:
        """Which tests hold for the program, in processes of its own, which are killed before this returns."""
        ...
