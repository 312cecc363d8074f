"""Settings of glibc's allocator, for commands and worker processes, not for somebody's program.

A training step on a processor frees and asks for the same hundreds of megabytes again and again.
glibc gives each large block back to Linux, which then maps it anew and fills it with zeros: with
small convolutions, half of the time goes into this. A service that decodes images needs the
opposite, as the memory that it may use is counted.
"""

import ctypes
import os
from contextlib import suppress

MIB = 1 << 20
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # of mallopt(3)
MALLOC_SETTINGS = {  # bytes, for this process and for those that it starts
    "MALLOC_TRIM_THRESHOLD_": (TRIM_THRESHOLD, 2048 * MIB - 1),
    "MALLOC_TOP_PAD_": (TOP_PAD, 64 * MIB),
    "MALLOC_MMAP_THRESHOLD_": (MMAP_THRESHOLD, 1024 * MIB),
}
OLD_MMAP_THRESHOLD = 32 * MIB  # the largest that older versions of glibc take
HEAPS = 2


def keep_freed_memory() -> None:
    """Let this process, and those that it starts, keep the memory that they free.

    What the user has set is left as it is; nothing happens where there is no glibc.
    """
    if any(name in os.environ for name in MALLOC_SETTINGS):
        return
    with suppress(OSError, TypeError, AttributeError):  # Windows, musl, macOS
        mallopt = ctypes.CDLL(None).mallopt
        for name, (number, value) in MALLOC_SETTINGS.items():
            os.environ[name] = str(value)
            if not mallopt(number, value):
                mallopt(number, OLD_MMAP_THRESHOLD)


def return_freed_memory() -> None:
    """Let this process return the memory of a decoded image to the system.

    By default, glibc keeps blocks up to the size of the first large block that is freed, and a heap
    for each thread.
    """
    with suppress(OSError, TypeError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for number in (TRIM_THRESHOLD, TOP_PAD):
            mallopt(number, MIB // 8)
        mallopt(MMAP_THRESHOLD, MIB)
        mallopt(ARENA_MAX, HEAPS)
