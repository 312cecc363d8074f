"""Processes that decode files, within limits of memory and time, shared fairly among clients.

Decoders are written in C for files that somebody means well with. What a hostile file costs cannot
be told from the file, so that each has a budget, and a process beyond it ends. Both sides send a
line of JSON, and after it bytes: nothing that a process sends is unpickled.
"""

import asyncio
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from misgiving.data.decoding import Loaded, has_preamble
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError
from misgiving.serve.problems import ProblemError
from misgiving.serve.stored_copy import stored_copy
from misgiving.serve.turns import Turns

if TYPE_CHECKING:
    from misgiving.bundle.bundle import SquareInputs
    from misgiving.serve.settings import ServiceSettings

ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # threads take address space
    "MALLOC_MMAP_THRESHOLD_": "1000000",  # glibc keeps smaller blocks when they are freed
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_TOP_PAD_": "131072",
}
"""Processes give freed memory back, unlike the command that starts them (`keep_freed_memory`)."""
SENT_BYTES = 1 << 18  # of a file that are given to a process at once
BUFFERED_BYTES = 1 << 20  # of a reply
NICENESS = 10  # so that decoding does not delay the answers of the service
GROWN_BYTES = 50_000_000  # of memory above those at the start, with which a process is replaced
VIRTUAL, RESIDENT = 0, 1  # columns of /proc/self/statm
INSTANCE = "SOPInstanceUID"
# Line ends among others, NUL, which databases refuse, and what cannot be encoded
CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MAX_NAME_LENGTH = 255  # characters; also of a tag
TOO_EXPENSIVE = (
    "takes too much memory or time to decode; save it again with another program, as JPEG or PNG, "
    "or scale it down"
)
ENDED = "the system has ended a process that decodes; send the request again later"


class DecodedFile(NamedTuple):
    """A decoded file.

    Attributes:
        inputs: The image as each model sees it.
        sha256: Of the file.
        copy: The file to store, if files are kept.
        tags: Values of a DICOM file's tags, by keyword: its UID, its group and those named.
    """

    inputs: "SquareInputs"
    sha256: str
    copy: bytes
    tags: dict[str, str]


class Decoder(NamedTuple):
    """A process of `main`, and the connection to it."""

    popen: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def kill(self) -> None:
        """End it at once, without waiting until the system has taken its memory back."""
        self.popen.kill()
        self.writer.transport.abort()
        threading.Thread(target=self.popen.wait, name="decoder-end").start()


class Decoders:
    """Processes for all clients, and one more, so that few wait for another's slow files.

    Args:
        preprocessings: Of the models.
        settings: Limits of a file, and `threads`.
    """

    def __init__(
        self, preprocessings: Sequence[Preprocessing], settings: "ServiceSettings"
    ) -> None:
        self._sides = [each.image_size for each in preprocessings]
        options = {
            "preprocessings": [*map(asdict, preprocessings)],
            "formats": settings.formats,
            "max_pixels": settings.max_pixels,
            "max_memory": settings.max_decoding_bytes,
            "max_seconds": settings.max_decoding_seconds,
            "copies": settings.keep_images is not None,
        }
        self._command = [sys.executable, "-P", "-m", __name__, json.dumps(options)]
        self._idle: list[Decoder] = []
        self._turns = Turns(settings.threads + 1)

    async def decode(self, name: str, file: bytes | Path, client: str) -> DecodedFile:
        """Decode a file, which is read in its turn.

        Where the caller no longer waits, the process is killed.

        Raises:
            DataError: It is no image of an accepted format, or is beyond a limit.
            ProblemError: The system has ended its process.
        """
        async with self._turns.turn(client):
            data = file if isinstance(file, bytes) else await asyncio.to_thread(file.read_bytes)
            begin, reply = time.monotonic(), dict[str, Any]()
            try:
                reply, content = await self._reply(name, data)
            finally:
                self._turns.use(client, reply.get("seconds", time.monotonic() - begin))
        if "error" in reply:
            raise DataError(reply["error"])
        pixels, end = np.frombuffer(content, np.uint8), 0
        inputs = tuple(
            pixels[end : (end := end + 3 * side**2)].reshape(side, side, 3) for side in self._sides
        )
        return DecodedFile(inputs, reply["sha256"], content[end:], reply["tags"])

    async def _reply(self, name: str, data: bytes) -> tuple[dict[str, Any], bytes]:
        """The reply of a process."""
        idle = self._idle
        while idle and idle[-1].popen.poll() is not None:  # the system killed it
            idle.pop().kill()
        decoder = idle.pop() if idle else await self._start()
        reply = {"has_grown": True}  # or has ended
        try:
            reply, content = await self._ask(decoder, name, data)
        finally:
            is_kept = idle is self._idle and not reply["has_grown"]
            idle.append(decoder) if is_kept else decoder.kill()
        return reply, content

    async def _start(self) -> Decoder:
        own, remote = socket.socketpair()
        with remote:
            reader, writer = await asyncio.open_connection(sock=own, limit=BUFFERED_BYTES)
            popen = subprocess.Popen(
                self._command,
                stdin=remote.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libraries write warnings there
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        decoder = Decoder(popen, reader, writer)
        try:
            if not await decoder.reader.readline():
                raise RuntimeError("a process for decoding does not start")
        except BaseException:
            decoder.kill()
            raise
        return decoder

    async def _ask(self, decoder: Decoder, name: str, data: bytes) -> tuple[dict[str, Any], bytes]:
        """The reply of a process, and the pixels, unless it is an error."""
        try:
            decoder.writer.write(json.dumps({"name": name, "length": len(data)}).encode() + b"\n")
            for start in range(0, len(data), SENT_BYTES):  # a copy of all would keep others waiting
                decoder.writer.write(data[start : start + SENT_BYTES])
                await decoder.writer.drain()
            reply = json.loads(await decoder.reader.readuntil())
            return reply, await decoder.reader.readexactly(reply["length"])
        except (OSError, EOFError) as failure:  # it has ended
            if await asyncio.to_thread(decoder.popen.wait) == -signal.SIGKILL:
                raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, ENDED) from failure
            raise DataError(f"{name}: {TOO_EXPENSIVE}") from failure

    async def close(self) -> None:
        """End the processes in the event loop that started them; one in use, after its file."""
        idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.kill()
        await asyncio.sleep(0)  # in which their connections are lost


def main(settings: str) -> None:
    """Answer requests on standard input until it is closed.

    Args:
        settings: JSON with `preprocessings`, `formats`, `max_pixels`, `max_memory` (bytes that one
            file may take), `max_seconds` (of processor time) and `copies` (follow the pixels).
    """
    for ending in (signal.SIGINT, signal.SIGTERM):  # also sent to the service, which closes this
        signal.signal(ending, signal.SIG_IGN)
    options = json.loads(settings)
    preprocessings = [Preprocessing(**values) for values in options["preprocessings"]]
    with socket.socket(fileno=0) as connection, connection.makefile("rwb") as stream:
        os.nice(NICENESS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if used := _memory(VIRTUAL):  # else, none is known
            most = used + options["max_memory"]
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        if "DICOM" in options["formats"]:
            import misgiving.data.dicom  # noqa: F401  # not within the limits of a file
        stream.write(b"\n")
        stream.flush()
        before = _memory(RESIDENT)
        _, most_seconds = resource.getrlimit(resource.RLIMIT_CPU)
        while line := stream.readline():
            request = json.loads(line)
            data = stream.read(request["length"])
            begin = time.process_time()
            allowed = math.ceil(begin + options["max_seconds"])  # then, the system ends the process
            resource.setrlimit(resource.RLIMIT_CPU, (allowed, most_seconds))
            reply, content = _decoded(preprocessings, data, request["name"], options)
            reply |= {"length": len(content), "seconds": time.process_time() - begin}
            reply["has_grown"] = _memory(RESIDENT) > before + GROWN_BYTES
            stream.write(json.dumps(reply).encode() + b"\n" + content)
            stream.flush()
            del data, content  # while this process waits, they would stay in memory


def _decoded(
    preprocessings: Sequence[Preprocessing], data: bytes, name: str, options: dict[str, Any]
) -> tuple[dict[str, Any], bytes]:
    loaded: Loaded = {}
    limits = {"formats": options["formats"], "max_pixels": options["max_pixels"]}
    try:
        squares = [each.from_file(data, name, loaded=loaded, **limits) for each in preprocessings]
        frame = preprocessings[0].frame
        copy = stored_copy(data, name, frame=frame, loaded=loaded) if options["copies"] else b""
    except DataError as failure:
        if isinstance(failure.__cause__, MemoryError):
            raise failure.__cause__ from failure  # this process ends, and all that it holds
        return {"error": str(failure)}, b""
    pixels = b"".join(square.tobytes() for square in squares)
    tags = _tags(data, preprocessings[0]) if has_preamble(data) else {}
    return {"sha256": sha256(data).hexdigest(), "tags": tags}, pixels + copy


def _tags(data: bytes, settings: Preprocessing) -> dict[str, str]:
    from misgiving.data.dicom import header  # needs the extra dicom

    tags = header(data, (INSTANCE, settings.group_tag, *settings.tags))
    identity = {settings.group_tag: tags.pop(settings.group_tag)}  # is hashed as it is
    return {name: clean_name(text) for name, text in tags.items() if text} | identity


def clean_name(name: str, otherwise: str = "image") -> str:
    """Remove control characters from a file name, and shorten it to the usual limit."""
    return CONTROL.sub("\ufffd", name)[:MAX_NAME_LENGTH] or otherwise


def _memory(column: int) -> int:
    """Bytes that this process uses; 0 where there is no /proc."""
    with suppress(FileNotFoundError):
        pages = Path("/proc/self/statm").read_text().split()
        return int(pages[column]) * resource.getpagesize()
    return 0


if __name__ == "__main__":
    main(sys.argv[1])
