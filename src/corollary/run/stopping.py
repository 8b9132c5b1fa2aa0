"""SIGTERM and Ctrl-C: a run stops between two steps, with everything saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from corollary.errors import CorollaryError, Interrupted, Preempted


@contextmanager
def asked_to_stop() -> Iterator[list[type[CorollaryError]]]:
    """A list that SIGTERM or Ctrl-C puts the error to stop with into; a second signal stops at once.

    consumes: signals · waits for: nothing · unblocked by: nothing · produces: one entry in the list
    """
    asked: list[type[CorollaryError]] = []
    before = {}

    def handler(number: int, error: type[CorollaryError]) -> Callable[[int, FrameType | None], None]:
        def handle(_number: int, _frame: FrameType | None) -> None:
            asked.append(error)
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

        return handle

    if threading.current_thread() is threading.main_thread():  # elsewhere, whoever started the thread stops it
        for number, error in ((signal.SIGTERM, Preempted), (signal.SIGINT, Interrupted)):
            before[number] = signal.signal(number, handler(number, error))
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)
