"""The memory that a command frees stays with it, so that the next tensor need not be mapped anew.

A training step on a processor frees and asks for the same hundreds of megabytes again and again.
glibc gives each large block back to Linux, which then maps it anew and fills it with zeros: with
small convolutions, half of the time goes into this.
"""

import ctypes
import os
import sys

MIB = 1 << 20
SETTINGS = {  # the number of each in malloc.h, and its value in bytes
    "MALLOC_TRIM_THRESHOLD_": (-1, 2048 * MIB - 1),
    "MALLOC_TOP_PAD_": (-2, 64 * MIB),
    "MALLOC_MMAP_THRESHOLD_": (-3, 1024 * MIB),
}
OLD_MMAP_THRESHOLD = 32 * MIB  # the largest that older versions of glibc take


def keep_freed_memory() -> None:
    """Let this process, and those that it starts, keep the memory that they free.

    For commands and worker processes, not for a library in somebody's program. What the user has
    set is left as it is; nothing happens where there is no glibc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in SETTINGS):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return
    for name, (number, value) in SETTINGS.items():
        os.environ[name] = str(value)
        if not mallopt(number, value):
            mallopt(number, OLD_MMAP_THRESHOLD)
