"""A judgement by two fresh Python processes, the candidate's and the examiner's. This process carries frames from one to the
other and reads none but the verdict.

What a candidate prints, its exit status and whatever it sends unasked count for nothing: an answer is the next frame after a
question, and begins with the question's own 8 random bytes.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from corollary.rewards.sandbox import inside
from corollary.rewards.sandbox.base import GRACE, Exam, Limits, Verdict

Wrap = Callable[[Sequence[str]], "Launch"]
"""A sandbox: from the command that is to run in it to the one that starts it."""

INTERPRETER = (os.path.realpath(sys.executable), "-s", "-S", "-P", "-B")  # no packages, no working folder, no bytecode
_GONE = b"!" + inside.encode(("TimeoutError", "the program gave no answer"))
_SOURCE = Path(inside.__file__).read_text() + "\nmain(*sys.argv[1:])\n"


class Launch:
    """A command, and the descriptors that it inherits beside its channel's; they are closed here once it runs."""

    def __init__(self, command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        self.command, self.descriptors = tuple(command), tuple(descriptors)

    def start(self, *channels: int, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(*channels, *self.descriptors),
                start_new_session=True,
                cwd="/",
                env={
                    "PYTHONHASHSEED": "0",
                    "LC_ALL": "C.UTF-8",
                },  # the same order of a set every time; no secret of ours
            )
        finally:
            for descriptor in self.descriptors:
                os.close(descriptor)


def python(role: str, channel: int, limits: Limits) -> tuple[str, ...]:
    """The command that does a role: the interpreter of this process, without its environment, packages or paths."""
    numbers = int(limits.seconds) + 2, limits.memory_mib << 20
    return (*INTERPRETER, "-c", _SOURCE, role, str(channel), *map(str, numbers))


class Process:
    """One side of a judgement."""

    def __init__(self, role: str, limits: Limits, wrap: Wrap) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = wrap(python(role, theirs.fileno(), limits)).start(theirs.fileno())

    def send(self, payload: bytes, until: float) -> None:
        """Write a frame. Raises: OSError, if there is no room for it before the deadline or nobody to read it."""
        self._socket.settimeout(_left(until))
        self._socket.sendall(len(payload).to_bytes(4, "big") + payload)

    def receive(self, until: float) -> bytes:
        """The next frame. Raises: OSError: there is none before the deadline, or it is too large."""
        size = int.from_bytes(self._exactly(4, until), "big")
        if size > inside.LARGEST:
            raise OSError(f"a frame of {size} bytes")
        return self._exactly(size, until)

    def _exactly(self, count: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._socket.settimeout(_left(until))
            part = self._socket.recv(count - len(data))
            if not part:
                raise OSError("it has gone")
            data += part
        return bytes(data)

    def close(self) -> None:
        """Kill it with all that it started, and see it dead: nothing holds the other end of its channel any more."""
        if self._socket.fileno() < 0:
            return
        if self._process.returncode is None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._socket.settimeout(GRACE)
        try:
            while self._socket.recv(1 << 16):
                pass
        except OSError:  # it said something that it had not been asked, and its end was closed over that
            pass
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


class Candidate:
    """The candidate's process as it looks from outside: an answer or none. Once there is none, there never is."""

    def __init__(self, process: Process, until: float) -> None:
        self._process, self._until, self._lost = process, until, False

    def answer(self, question: bytes) -> bytes:
        nonce = secrets.token_bytes(8)
        try:
            if not self._lost:
                self._process.send(nonce + question, self._until)
                reply = self._process.receive(self._until)
                if reply[:8] == nonce:
                    return reply[8:]
        except OSError:
            pass
        if not self._lost:
            self._process.close()
            self._lost = True
        return _GONE


def judged(program: str, exam: Exam, limits: Limits, wrap: Wrap) -> Verdict:
    """The verdict of two processes, each started inside `wrap`."""
    until = time.monotonic() + limits.seconds
    none = (False,) * len(exam.tests)
    with Process("examiner", limits, wrap) as examiner, Process("candidate", limits, wrap) as process:
        candidate = Candidate(process, until)
        try:
            process.send(inside.encode((exam.entry_point, program)), until)
            examiner.send(inside.encode((exam.entry_point, exam.prelude, exam.tests)), until)
            while (frame := examiner.receive(until + GRACE / 2))[:1] == b"?":
                examiner.send(candidate.answer(frame[1:]), until + GRACE / 2)
        except OSError as error:
            return Verdict(none, f"no verdict: {error}")
    return _verdict(frame, none)


def _verdict(frame: bytes, none: tuple[bool, ...]) -> Verdict:
    """What the examiner said, held to its form: the tests that it runs are data, too."""
    try:
        held, why = inside.decode(frame[1:])  # type: ignore[misc]
    except (ValueError, TypeError) as error:
        return Verdict(none, f"no verdict: {error}")
    if not (isinstance(held, list) and len(held) == len(none) and all(type(h) is bool for h in held)):
        return Verdict(none, "no verdict: malformed")
    return Verdict(tuple(held), str(why))
