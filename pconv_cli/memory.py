"""How a process of ours handles memory: the C library's heap and Python's garbage collector.

Knows nothing of what is kept there. For programs, not for libraries: it sets what holds for the whole process.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1  # as in glibc's malloc.h
_KEPT = 256 << 20  # bytes


def settle() -> None:
    """Keep what is freed for what is asked for next. Call it before the first thread starts.

    glibc hands each large block back to the system and asks for it again: a network then spends a third of its time on
    having pages zeroed. It also gives every thread a heap of its own, and what one has freed no other can use. And at
    its defaults, the garbage collector looks through all that importing torch makes again and again.
    """
    gc.set_threshold(100_000)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            set_option = ctypes.CDLL(None).mallopt
            set_option(_ARENA_MAX, 1)
            set_option(_MMAP_THRESHOLD, _KEPT)
            set_option(_TRIM_THRESHOLD, _KEPT)
