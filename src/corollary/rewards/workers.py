"""A pool of processes that run reward functions under deadlines.

A worker is a fresh interpreter, not a fork: it holds no lock, no thread and no tensor of ours. It lives in a session of its
own, so that killing it kills what it started, and it ends when its parent does.
"""

from __future__ import annotations

import os
import pickle
import re
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Self

from corollary.custom import at
from corollary.errors import DataError
from corollary.rewards.calling import Call, Fault, Values, framed, outcome

LOAD_SECONDS = 120.0  # at least, for importing a reward's file, before the clock of its first call starts
_TAIL = 4096  # bytes kept of what a worker printed
_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from corollary.rewards.calling import serve; serve(*map(int, sys.argv[1:3]))"


class Worker:
    """One process and the call that it is busy with."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.output, write = os.pipe()
        self.printed = b""  # the end of its standard output and error
        # The kernel's death signal follows the thread that starts the process, so only a lasting thread may ask for it.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        path = [entry or os.getcwd() for entry in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-u", "-c", _BOOT, str(theirs.fileno()), str(parent), *path],
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        os.close(write)
        theirs.close()
        self.channel.setblocking(False)
        os.set_blocking(self.output, False)
        self._out, self._in = b"", bytearray()
        self._call = Call("", {}, 0)
        self._deadline = 0.0
        self._loaded, self._answered = False, False  # this call's function; any call
        self.ready = True  # to be given a call

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    @property
    def blameless(self) -> bool:
        """If it is gone now: whether it went while idle, so that the call that it never took up is not at fault."""
        return self._answered and not self._loaded

    @property
    def _load_seconds(self) -> float:
        return max(LOAD_SECONDS, self._call.seconds)

    def begin(self, call: Call) -> None:
        self._call, self._loaded, self.ready = call, False, False
        self._out, self._in = framed(_request(call)), bytearray()
        self._deadline = time.monotonic() + self._load_seconds

    def register(self, selector: selectors.BaseSelector) -> None:
        """Wait for what it says and prints, and for room for what it has not been told yet."""
        selector.register(self.channel, selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0), self)
        if self.output >= 0:
            selector.register(self.output, selectors.EVENT_READ, self)

    def write(self) -> None:
        try:
            self._out = self._out[self.channel.send(self._out) :]
        except BlockingIOError:
            return
        except OSError:  # it is gone; reading says so
            self._out = b""

    def drain(self) -> bool:
        """Take what it printed; whether there was anything."""
        try:
            chunk = os.read(self.output, 1 << 16) if self.output >= 0 else b""
        except BlockingIOError:
            return False
        self.printed = (self.printed + chunk)[-_TAIL:]
        if not chunk:
            self._close_output()
        return bool(chunk)

    def read(self) -> Values | Fault | None:
        """What came of the call; None while it runs. A worker that is gone, or speaks nonsense, gives a fault."""
        try:
            chunk = self.channel.recv(1 << 20)
        except BlockingIOError:
            return None
        except OSError:
            chunk = b""
        if not chunk:
            return self._gone()
        self._in += chunk
        while (frame := self._frame()) is not None:
            if self._loaded or frame != b"{}":
                self._answered = self.ready = True
                return _outcome(frame)
            self._loaded = True
            self._deadline = time.monotonic() + self._call.seconds
        return None

    def _frame(self) -> bytes | None:
        if len(self._in) < 8:
            return None
        (size,) = struct.unpack_from("!Q", self._in)
        if len(self._in) < 8 + size:
            return None
        frame = bytes(self._in[8 : 8 + size])
        del self._in[: 8 + size]
        return frame

    def _gone(self) -> Fault:
        status = self.process.wait()
        while self.drain():
            pass
        if status < 0:
            what = f"its process was killed by {signal.Signals(-status).name}"
        else:
            last = self.printed.decode(errors="replace").strip().rpartition("\n")[2][:200]
            what = f"its process ended with exit status {status}" + (f" after printing: {last}" if last else "")
        return Fault("died" if self._loaded or self._answered else "unloadable", what, self._where())

    def hung(self) -> Fault:
        """The fault of a worker past its deadline; where it is, by the stack that it prints when asked."""
        self.printed = b""
        os.kill(self.process.pid, signal.SIGUSR1)
        end = time.monotonic() + 0.2
        while time.monotonic() < end and b"most recent call first" not in self.printed:
            time.sleep(0.01)
            self.drain()
        if self._loaded:
            return Fault("hung", f"no answer within {self._call.seconds:g} s", self._where())
        return Fault("unloadable", f"not loaded within {self._load_seconds:g} s", self._where())

    def _where(self) -> str:
        """`file:line` from the stack that faulthandler printed, if it did."""
        places = re.findall(r'File "(.+)", line (\d+)', self.printed.decode(errors="replace"))
        return at([(file, int(line)) for file, line in places], self._call.reference.rpartition(":")[0])

    def kill(self) -> None:
        """End the process and all that it started, and wait for it."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.channel.close()
        self._close_output()

    def _close_output(self) -> None:
        if self.output >= 0:
            os.close(self.output)
            self.output = -1


class Pool:
    """At most `size` workers, started when there is work for them, replaced when one had to be killed.

    Args:
        size: processes, ≥ 1. What a call returns does not depend on it.

    >>> with Pool(1) as pool:
    ...     pool.run([Call("builtins:len", {}, 1)])[0].what
    'TypeError: len() takes exactly one argument (0 given)'
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a pool needs at least 1 worker, got {size}")
        self.size = size
        self.workers: list[Worker] = []
        self._busy: dict[Worker, int] = {}
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self.workers)

    def run(self, calls: Sequence[Call]) -> list[Values | Fault]:
        """What came of each call, in their order; each runs on one worker under its own deadline.

        Raises:
            DataError: a keyword cannot be pickled.
        """
        waiting = deque(range(len(calls)))
        results: dict[int, Values | Fault] = {}
        with self._lock:
            assert self._finalizer.alive, "the pool is closed"
            try:
                while len(results) < len(calls):
                    while waiting and (worker := self._idle()):
                        worker.begin(calls[waiting[0]])
                        self._busy[worker] = waiting.popleft()
                    for worker, result in self._finished():
                        index = self._busy.pop(worker)
                        died = isinstance(result, Fault) and result.kind == "died"
                        if died or not worker.ready:
                            self._replace(worker)
                        if died and worker.blameless:
                            waiting.appendleft(index)
                        else:
                            results[index] = result
            finally:
                while self._busy:  # interrupted: their answers would be taken for later ones
                    self._replace(self._busy.popitem()[0])
        return [results[index] for index in range(len(calls))]

    def _idle(self) -> Worker | None:
        for worker in self.workers:
            if worker not in self._busy:
                return worker if worker.alive else self._replace(worker)
        if len(self.workers) < self.size:
            self.workers.append(Worker())
            return self.workers[-1]
        return None

    def _finished(self) -> list[tuple[Worker, Values | Fault]]:
        """Wait until a worker says something or a deadline passes; those that are done, and how."""
        with selectors.DefaultSelector() as selector:
            for worker in self._busy:
                worker.register(selector)
            ready = selector.select(max(0.0, min(worker.left for worker in self._busy)))
        done: list[tuple[Worker, Values | Fault]] = []
        for key, events in ready:
            worker: Worker = key.data
            if key.fileobj is not worker.channel:
                worker.drain()
                continue
            if events & selectors.EVENT_WRITE:
                worker.write()
            if events & selectors.EVENT_READ and (result := worker.read()):
                done.append((worker, result))
        late = [worker for worker in self._busy if worker.left <= 0 and all(worker is not w for w, _ in done)]
        return done + [(worker, worker.hung()) for worker in late]

    def _replace(self, worker: Worker) -> Worker:
        worker.kill()
        self.workers[self.workers.index(worker)] = fresh = Worker()
        return fresh

    def close(self) -> None:
        """End every worker. The pool cannot be used again."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kill_all(workers: list[Worker]) -> None:
    while workers:
        workers.pop().kill()


def _request(call: Call) -> bytes:
    try:
        return pickle.dumps(call, protocol=5)
    except Exception as error:  # a column's class may raise whatever it likes
        for name, value in call.keywords.items():
            try:
                pickle.dumps(value, protocol=5)
            except Exception:  # noqa: BLE001 - as above
                raise DataError(
                    f"column {name!r} cannot be sent to a reward's process: {error}",
                    hint="leave it out, or set isolated: false",
                ) from None
        raise


def _outcome(frame: bytes) -> Values | Fault:
    try:
        return outcome(frame)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Fault("died", "its process wrote into the channel that its answers come through")
