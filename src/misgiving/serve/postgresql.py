"""Connections to PostgreSQL that give up where the server, its host or the network does not answer.

Needs psycopg.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event, text

Result = TypeVar("Result")

ANSWER_SECONDS = 20.0  # above statement_timeout, so that a server that works explains itself
LIMITS = {
    "connect_timeout": 5,
    "options": "-c statement_timeout=15s",
    "keepalives_idle": 10,  # the host is gone after 10 + 2 * 5 seconds
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,  # milliseconds
}
"""Options of libpq (PostgreSQL's manual, 34.1.2); the URL of the store may give others."""


def postgresql_engine(url: URL, connections: int) -> Engine:
    """An engine whose statements and connections end within the limits."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={
            "client_encoding": "utf8",
            **{name: value for name, value in LIMITS.items() if name not in url.query},
        },
        hide_parameters=True,  # names and notes must not get into logs
        pool_size=connections,
        pool_pre_ping=True,  # reconnects after a restart of the database
    )
    event.listen(engine, "do_connect", _connect)
    return engine


@contextmanager
def unlimited(connection: Connection) -> Iterator[None]:
    """Let a transaction take as long as it needs, such as a migration."""
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    driver: Any = connection.connection.driver_connection
    driver.patience = math.inf
    try:
        yield
    finally:
        del driver.patience


class _Impatient(psycopg.Connection[Any]):
    """Closes itself where an answer takes too long: libpq waits for a stopped server for ever."""

    patience = ANSWER_SECONDS

    def wait(self, gen: PQGen[Result], *args: Any, **options: Any) -> Result:
        try:
            return super().wait(_limited(gen, self.patience), *args, **options)
        except TimeoutError as error:
            self.close()
            raise psycopg.OperationalError(str(error)) from None


def _connect(_: Any, __: Any, arguments: list[Any], options: dict[str, Any]) -> _Impatient:
    return _Impatient.connect(*arguments, **options)


def _limited(gen: PQGen[Result], seconds: float) -> PQGen[Result]:
    """The same steps of psycopg, which wakes a step that waits about every 0.1 seconds."""
    deadline, ready = time.monotonic() + seconds, None
    while True:
        try:
            wanted = gen.send(ready)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as end:
            result: Result = end.value
            return result
        ready = yield wanted
        if not ready and time.monotonic() > deadline:
            raise TimeoutError(f"no answer for {seconds:g} seconds")
