"""A process that decodes files for the service, one at a time, within limits of memory and time.

Decoders are written in C for files that somebody means well with. What a hostile file costs cannot
be told from the file, so that each has a budget, and a process beyond it ends.
"""

import json
import math
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Sequence
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
NICENESS = 10  # so that decoding does not delay the answers of the service
GROWN = 50_000_000  # bytes of memory above those at the start
VIRTUAL, RESIDENT = 0, 1  # columns of /proc/self/statm
READY = b"+"


def main(settings: str) -> None:
    """Answer requests on standard input, a socket, until it is closed.

    Args:
        settings: JSON with `preprocessings`, `formats`, `max_pixels`, `max_memory` (bytes that one
            file may take) and `max_seconds` (of processor time).
    """
    for ending in (signal.SIGINT, signal.SIGTERM):  # also sent to the service, which closes this
        signal.signal(ending, signal.SIG_IGN)
    options = json.loads(settings)
    preprocessings = [Preprocessing(**values) for values in options["preprocessings"]]
    with socket.socket(fileno=0) as connection, connection.makefile("rwb") as stream:
        os.nice(NICENESS)
        _limit_memory(options["max_memory"])
        stream.write(READY)
        stream.flush()
        before = _memory(RESIDENT)
        while head := stream.read(REQUEST.size):
            name, data = (stream.read(length) for length in REQUEST.unpack(head))
            _limit_time(options["max_seconds"])
            read, content = _decoded(preprocessings, data, name.decode(), options)
            has_grown = _memory(RESIDENT) > before + GROWN
            stream.write(REPLY.pack(read, has_grown, len(content)) + content)
            stream.flush()
            del data, content  # while this process waits, they would stay in memory


def _decoded(
    preprocessings: Sequence[Preprocessing], data: bytes, name: str, options: dict[str, Any]
) -> tuple[bool, bytes]:
    limits = {"formats": options["formats"], "max_pixels": options["max_pixels"], "loaded": {}}
    try:
        squares = [each.from_file(data, name, **limits) for each in preprocessings]
    except DataError as failure:
        if isinstance(failure.__cause__, MemoryError):
            raise failure.__cause__ from failure  # this process ends, and all that it holds
        return False, str(failure).encode()
    return True, b"".join([sha256(data).digest(), *(square.tobytes() for square in squares)])


def _memory(column: int) -> int:
    """Bytes that this process uses; 0 where there is no /proc."""
    with suppress(FileNotFoundError):
        pages = Path("/proc/self/statm").read_text().split()
        return int(pages[column]) * resource.getpagesize()
    return 0


def _limit_memory(count: int) -> None:
    """Allow as many bytes of address space beyond those in use, if these are known."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if used := _memory(VIRTUAL):
        resource.setrlimit(resource.RLIMIT_AS, (used + count, used + count))


def _limit_time(seconds: float) -> None:
    """Allow as many more seconds of processor time, after which the system ends the process."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))
