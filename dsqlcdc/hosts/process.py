"""What a process that reads for long asks of the interpreter and of the C library. Only `dsqlcdc run` does: it owns its process."""

from __future__ import annotations

import ctypes
import gc
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 64 * 1024 * 1024
_OWN = 32 * 1024 * 1024


def settle_in() -> None:
    """Call once everything is imported and configured.

    What is loaded by now lives as long as the process, so the collector need not look at it again. How often it looks stays as it is: the
    tracebacks of failed attempts are cycles that hold whole batches. A page's memory is kept for the next page, not given to the system and
    asked for again: with glibc each of its 4 KiB would cost half a microsecond. Threads share one arena: what one has let go of
    serves all. Where the C library is another one, nothing is asked of it.
    """
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except (AttributeError, OSError):
            return
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _OWN)
        mallopt(_ARENA_MAX, 1)
