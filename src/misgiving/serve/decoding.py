"""A process that decodes files for the service, one at a time, within limits of memory and time.

Decoders are written in C for files that somebody means well with. What a hostile file costs cannot
be told from the file, so that each has a budget, and a process beyond it ends.
"""

import json
import math
import resource
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError

REQUEST = struct.Struct("!IQ")  # bytes of the name and of the file, which follow
REPLY = struct.Struct("!??Q")
"""True where hash and pixels follow, else the text of a DataError; True where this process has
grown, so that it is to be replaced; bytes of what follows."""
GROWN = 100_000_000  # bytes above those at the start
READY = b"+"


def main(settings: str) -> None:
    """Answer requests on standard input, a socket, until it is closed.

    Args:
        settings: JSON with `preprocessing`, `formats`, `max_pixels`, `max_memory` (bytes that one
            file may take) and `max_seconds` (of processor time).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's
    options = json.loads(settings)
    preprocessing = Preprocessing(**options["preprocessing"])
    with socket.socket(fileno=0) as connection, connection.makefile("rwb") as stream:
        _limit_memory(options["max_memory"])
        stream.write(READY)
        stream.flush()
        before = _most_memory()
        while head := stream.read(REQUEST.size):
            name, data = (stream.read(length) for length in REQUEST.unpack(head))
            _limit_time(options["max_seconds"])
            read, content = _decoded(preprocessing, data, name.decode(), options)
            has_grown = _most_memory() > before + GROWN
            stream.write(REPLY.pack(read, has_grown, len(content)) + content)
            stream.flush()
            del data, content  # while this process waits, they would stay in memory


def _decoded(
    preprocessing: Preprocessing, data: bytes, name: str, options: dict[str, Any]
) -> tuple[bool, bytes]:
    try:
        square = preprocessing.from_file(
            data, name, formats=options["formats"], max_pixels=options["max_pixels"]
        )
    except DataError as failure:
        if isinstance(failure.__cause__, MemoryError):
            raise failure.__cause__ from failure  # this process ends, and all that it holds
        return False, str(failure).encode()
    return True, sha256(data).digest() + square.tobytes()


def _most_memory() -> int:
    """Highest resident memory of this process so far, in bytes."""
    count = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return count if sys.platform == "darwin" else 1024 * count


def _limit_memory(count: int) -> None:
    """Allow as many bytes of address space beyond those in use; only Linux tells how many."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + count
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_time(seconds: float) -> None:
    """Allow as many more seconds of processor time, after which the system ends the process."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


if __name__ == "__main__":
    main(sys.argv[1])
