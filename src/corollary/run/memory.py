"""The C allocator's settings. They change no number, only how often memory is given back and faulted in again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names in malloc.h


def keep_large_blocks() -> bool:
    """Ask glibc to keep freed large blocks for reuse; True where it took the setting. Call it before the first tensor.

    glibc returns every large block to the system and zeroes it anew at the next use: for the tensors of a training step that
    costs as much as a third of the time.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, which has no such setting
        return False
    largest = 2**31 - 1
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, largest))
