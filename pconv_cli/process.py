"""How a process of ours runs: the C library's heap, the garbage collector, turns of threads, memory that is left.

Knows nothing of what the process does. For programs, not for libraries: `settle` sets what holds for all of it.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # as in glibc's malloc.h
_KEPT = 256 << 20  # bytes
_MOST = 32 << 20  # what older versions of the library take for the second


def settle() -> None:
    """Keep what is freed for what is asked for next. Call it before the first thread starts.

    glibc hands each large block back to the system and asks for it again: a network then spends up to a third of its
    time on having pages zeroed. It also gives every thread a heap of its own, and what one has freed no other can use.
    And at its defaults, the garbage collector looks through all that importing torch makes again and again, and a
    thread that plans keeps the interpreter for 5 ms at a time while those that compute wait for it.
    """
    gc.set_threshold(100_000)
    sys.setswitchinterval(0.0005)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            set_option = ctypes.CDLL(None).mallopt
            set_option(_ARENA_MAX, 1)
            # Without the one the other does harm: setting either ends what the library would adapt by itself.
            if set_option(_MMAP_THRESHOLD, _KEPT) or set_option(_MMAP_THRESHOLD, _MOST):
                set_option(_TRIM_THRESHOLD, _KEPT)


def is_open(descriptor: int) -> bool:
    """Whether there is a file behind a descriptor: standard streams may be closed."""
    with suppress(OSError):
        os.fstat(descriptor)
        return True
    return False


def memory_available() -> int | None:
    """Bytes of memory that could be had, or None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/meminfo").read_text("ascii").partition("MemAvailable:")[2].split()[0]) * 1024
    return None
