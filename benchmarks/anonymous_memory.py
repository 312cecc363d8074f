"""Memory of this process that no file stands behind, and its peak while something runs.

Resident memory would count pages of memory-mapped files, which are free to go.
"""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 1024 * 1024


def anonymous() -> int:
    """Bytes of anonymous resident memory, as Linux tells them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = re.search(r"RssAnon:\s+(\d+)", status)
    if kilobytes is None:
        raise OSError("/proc/self/status has no line RssAnon; this needs Linux 4.5 or newer")
    return 1024 * int(kilobytes[1])


def peak(work: Callable[[], Any], *, every: float = 0.002) -> int:
    """The most anonymous memory seen, looking every so many seconds while the work runs."""
    seen, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(*seen, anonymous())
