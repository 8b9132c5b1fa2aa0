"""A deadline for code of others that runs in this process."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TooLong(BaseException):
    """Not an Exception, so that nothing in between takes it for its own."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises `TooLong` in the block when it takes longer, at the next Python instruction; in any thread, unlike an alarm signal.

    The timer's thread consumes nothing and waits `seconds` or for `cancel`; it produces the exception in the thread of the block.
    The lock orders the two ends: once the block has set `over`, no exception is sent; if it was sent before, it is raised here.
    """
    block, lock, over = threading.get_ident(), threading.Lock(), threading.Event()

    def fire() -> None:
        with lock:
            if not over.is_set():
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(block), ctypes.py_object(TooLong))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over.set()
        timer.cancel()
