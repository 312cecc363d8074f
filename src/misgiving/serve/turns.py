"""Turns of clients at the processes that decode: those who have used least come first."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

HALF_LIFE = 60.0  # seconds after which half of what a client has used is forgotten
ASSUMED_SECONDS = 2.0  # of processor time, as long as a turn lasts
LITTLE_SECONDS = 1.0  # or half of the mean of all clients


class Turns:
    """A number of turns at once, of which the last is for clients that have used little."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[asyncio.Future[None], str] = {}  # the clients, as they have come
        self._used, self._counted_at = defaultdict[str, float](float), 0.0

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the block."""
        begin = asyncio.get_running_loop().create_future()
        self._waiting[begin] = client
        self._give()
        try:
            await begin
            yield
        finally:
            if self._waiting.pop(begin, None) is None:  # it was given
                self._free += 1
                self.use(client, -ASSUMED_SECONDS)
            self._give()

    def use(self, client: str, seconds: float) -> None:
        """Count processor time that a client has used."""
        now = time.monotonic()
        left = 0.5 ** ((now - self._counted_at) / HALF_LIFE)
        for each, used in [*self._used.items()]:
            self._used[each] = used * left
            if used < 0.001:
                del self._used[each]
        self._used[client] += seconds
        self._counted_at = now

    def _give(self) -> None:
        while self._free and self._waiting:
            begin, client = min(self._waiting.items(), key=lambda item: self._used[item[1]])
            mean = sum(self._used.values()) / len(self._used)
            if self._free == 1 and self._used[client] >= max(LITTLE_SECONDS, mean / 2):
                return
            del self._waiting[begin]
            self._free -= 1
            self.use(client, ASSUMED_SECONDS)
            if not begin.done():  # it is where its client no longer waits
                begin.set_result(None)
