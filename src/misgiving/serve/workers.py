"""Threads that work on batches, and processes that decode files, shared fairly among clients."""

import asyncio
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from misgiving.bundle.bundle import SquareInputs
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError
from misgiving.serve.decoding import READY, REPLY, REQUEST
from misgiving.serve.settings import ServiceSettings

Item = TypeVar("Item")
Result = TypeVar("Result")

START = "import sys; sys.path[:] = {path!r}; from misgiving.serve.decoding import main; main({!r})"
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # threads take address space
    "MALLOC_MMAP_THRESHOLD_": "1000000",  # glibc keeps smaller blocks when they are freed
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "MALLOC_TOP_PAD_": "131072",
}
"""Processes give freed memory back, unlike the command that starts them (`keep_freed_memory`)."""
STARTING_SECONDS = 60.0  # of a process, on a busy machine
HASH_BYTES = 32
PIECE = 1 << 18  # bytes of a file that are given to a process at once
TOO_EXPENSIVE = (
    "takes too much memory or time to decode; save it again with another program, as JPEG or PNG, "
    "or scale it down"
)


class Batcher(Generic[Item, Result]):
    """Threads that process items in batches: of what has come while they were busy.

    A hung thread does not keep the process from ending. For the event loop's thread.

    Args:
        name: Name of the threads.
        work: Returns the results in the order of the items. After an exception, it is called again
            for each item alone.
        size: Maximum number of items in a batch.
        linger: Seconds that a first item waits for others while a thread is free.
        not_retried: Exceptions that no item causes: each item would fail as the batch did.
        threads: Number of threads.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        size: int = 1,
        linger: float = 0.0,
        not_retried: type[Exception] | tuple[()] = (),
        threads: int = 1,
    ) -> None:
        self._work, self._size, self._linger = work, size, linger
        self._not_retried = not_retried
        self._waiting: dict[asyncio.Future[Result], Item] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._free = threads
        self._batches: queue.SimpleQueue[dict[asyncio.Future[Result], Item] | None]
        self._batches = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def result(self, item: Item) -> asyncio.Future[Result]:
        """Queue an item, for a caller that waits for its result; a cancelled one saves the work."""
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._waiting.pop(done, None))
        self._waiting[future] = item
        self._start_or_linger()
        return future

    def close(self, seconds: float) -> None:
        """Finish the batches that have started, and end the threads; wait for these seconds."""
        for _ in self._threads:
            self._batches.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start_or_linger(self) -> None:
        if len(self._waiting) >= self._size or not self._linger:
            self._start()
        elif self._free and self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._linger, self._start)

    def _start(self) -> None:
        """Give batches to the threads that are free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and self._waiting:
            first = list(islice(self._waiting, self._size))
            self._batches.put({future: self._waiting.pop(future) for future in first})
            self._free -= 1

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            futures, results = list(batch), self._results(list(batch.values()))
            with suppress(RuntimeError):  # the loop has ended
                futures[0].get_loop().call_soon_threadsafe(self._deliver, futures, results)
            del batch, futures, results  # while this thread waits, they would stay in memory

    def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """The result of each item; an exception for one whose work fails even alone."""
        try:
            return self._work(items)
        except Exception as failure:  # the thread keeps running
            if len(items) == 1 or isinstance(failure, self._not_retried):
                return [failure] * len(items)
        return [result for item in items for result in self._results([item])]

    def _deliver(
        self, futures: Sequence[asyncio.Future[Result]], results: Sequence[Result | Exception]
    ) -> None:
        self._free += 1
        for future, result in zip(futures, results, strict=True):
            if future.done():  # cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        self._start_or_linger()


class Decoders:
    """One process more than one client can occupy, so that nobody waits for another's slow files.

    Args:
        preprocessings: Of the models.
        settings: Limits of a file; `threads` processes are for one client.
    """

    def __init__(self, preprocessings: Sequence[Preprocessing], settings: ServiceSettings) -> None:
        self._sides = [each.image_size for each in preprocessings]
        options = {
            "preprocessings": [*map(asdict, preprocessings)],
            "formats": settings.formats,
            "max_pixels": settings.max_pixels,
            "max_memory": settings.max_decoding_bytes,
            "max_seconds": settings.max_decoding_seconds,
        }
        self._start = START.format(json.dumps(options), path=sys.path)
        self._idle: list[_Process] = []
        self._threads = settings.threads
        self._turns = asyncio.Semaphore(settings.threads + 1)
        self._turns_of = WeakValueDictionary[str, asyncio.Semaphore]()  # while a client waits

    async def decode(self, name: str, file: bytes | Path, client: str) -> tuple[SquareInputs, str]:
        """The model inputs of a file, which is read in its turn, and the SHA-256 of its content.

        Where the caller no longer waits, the process is killed.

        Raises:
            DataError: It is no image of an accepted format, or is beyond a limit.
        """
        of_client = self._turns_of.setdefault(client, asyncio.Semaphore(self._threads))
        async with of_client, self._turns:
            data = file if isinstance(file, bytes) else await asyncio.to_thread(file.read_bytes)
            return await self.decode_now(name, data)

    async def decode_now(self, name: str, data: bytes) -> tuple[SquareInputs, str]:
        """The same as `decode`, without a turn."""
        while self._idle and self._idle[-1].popen.poll() is not None:  # the system killed it
            self._idle.pop().kill()
        process = self._idle.pop() if self._idle else _Process(self._start)
        try:
            read, has_grown, content = await process.ask(name.encode(), data)
        except (OSError, EOFError) as failure:
            process.kill()
            raise DataError(f"{name}: {TOO_EXPENSIVE}") from failure
        except BaseException:
            process.kill()
            raise
        if has_grown:
            process.kill()
        else:
            self._idle.append(process)
        if not read:
            raise DataError(content.decode())
        pixels = np.frombuffer(content, np.uint8, offset=HASH_BYTES)
        ends = np.cumsum([3 * side**2 for side in self._sides])[:-1]
        parts = zip(np.split(pixels, ends), self._sides, strict=True)
        squares = tuple(part.reshape(side, side, 3) for part, side in parts)
        return squares, content[:HASH_BYTES].hex()

    async def close(self) -> None:
        """End the processes that wait, in the event loop that asked them."""
        while self._idle:
            self._idle.pop().kill()
        await asyncio.sleep(0)  # in which their connections are lost


class _Process:
    """A process of `misgiving.serve.decoding` and the socket to it."""

    def __init__(self, start: str) -> None:
        self._socket, remote = socket.socketpair()
        with remote:
            self.popen = subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=remote.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # libraries write warnings there
                env=os.environ | ENVIRONMENT,
            )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._is_ready = False

    async def ask(self, name: bytes, data: bytes) -> tuple[bool, bool, bytes]:
        """The parts of `decoding.REPLY`.

        Raises:
            OSError, EOFError: The process has ended.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._socket)
        reader, writer = self._streams
        if not self._is_ready:
            async with asyncio.timeout(STARTING_SECONDS):
                if await reader.read(1) != READY:
                    raise RuntimeError("a process for decoding does not start")
            self._is_ready = True
        writer.write(REQUEST.pack(len(name), len(data)) + name)
        for start in range(0, len(data), PIECE):  # a copy of all would keep other requests waiting
            writer.write(data[start : start + PIECE])
            await writer.drain()
        read, has_grown, length = REPLY.unpack(await reader.readexactly(REPLY.size))
        return read, has_grown, await reader.readexactly(length)

    def kill(self) -> None:
        """End the process at once, without waiting until the system has taken its memory back."""
        self.popen.kill()
        if self._streams is None:
            self._socket.close()
        else:
            self._streams[1].transport.abort()
        threading.Thread(target=self.popen.wait, name="decoder-end").start()
