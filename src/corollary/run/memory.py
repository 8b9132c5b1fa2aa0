"""The C allocator's settings. They change no number, only how often memory is given back and faulted in again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names in malloc.h


def keep_large_blocks() -> bool:
    """Ask glibc to keep freed large blocks for reuse; True where it took the setting. Call it before the first tensor.

    glibc returns every large block to the system and zeroes it anew at the next use: for the tensors of a training step that
    costs as much as a third of the time.
    """
    mallopt = _glibc("mallopt")
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_back_free_blocks() -> None:
    """Return what is free to the system: between steps, whose blocks differ in size and would pile up beside each other."""
    _glibc("malloc_trim")(0)


def _glibc(name: str) -> Callable[..., int]:
    """A function of glibc; one that does nothing where the C library has none of that name."""
    try:
        return ctypes.CDLL("libc.so.6")[name] if sys.platform.startswith("linux") else _nothing
    except (OSError, AttributeError):
        return _nothing


def _nothing(*_: int) -> int:
    return 0
