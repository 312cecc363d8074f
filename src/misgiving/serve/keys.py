"""Keys with roles, and the sessions of browsers: hashes in the database of cases.

A key has 256 random bits, so that a plain hash of it cannot be guessed.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import insert, select

from misgiving.errors import UsageError
from misgiving.serve.case import KEYS, SESSIONS, folded, zulu
from misgiving.serve.settings import Role
from misgiving.serve.store import Store

IDLE_TIME = timedelta(minutes=15)  # after which a browser must sign in again
VALID_SECONDS = 1.0  # for which a key that was found holds
MAX_RECALLED = 1000  # keys and sessions
ANY = "any"  # name of the fact that there is a key
KEY, SESSION = "key ", "session "  # before the hash of one that was found
USE_TIME = timedelta(minutes=1)  # between two notes that a session is in use


class Key(NamedTuple):
    """A key without its secret.

    Attributes:
        number: Number in the database.
        name: Of the person or program that holds it; a reader's name comes from here alone.
        role: What it opens.
    """

    number: int
    name: str
    role: Role


class Keys:
    """The keys of a store; a change holds within a second, for every service of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recalled: dict[str, tuple[float, Any]] = {}

    def add(self, name: str, role: Role) -> tuple[str, list[Key]]:
        """Add a key.

        Returns:
            The key, which is stored nowhere, and the other keys of the same person by which a
            reader would know what is to be read blind, or who is blind would be known.
        """
        name = " ".join(name.split())
        if not 0 < len(name) <= 200 or not name.isprintable():
            raise UsageError("a name has 1 to 200 printable characters")
        key = secrets.token_urlsafe(32)
        values = {
            "name": name,
            "role": role,
            "hash": _hash(key),
            "made_at": zulu(datetime.now(UTC)),
        }
        others = [Key(row.number, row.name, row.role) for row in self.all() if not row.revoked_at]
        with self._store.begin(writing=True) as connection:
            connection.execute(insert(KEYS).values(values))
        own = [other for other in others if folded(other.name) == folded(name)]
        sees = {"send", "operate"} if role == "read" else {"read"} if role != "metrics" else set()
        return key, [other for other in own if other.role in sees]

    def revoke(self, number: int) -> None:
        """Make a key useless, with the sessions that it opened.

        Raises:
            UsageError: There is no such key.
        """
        is_it = (KEYS.c.number == number) & KEYS.c.revoked_at.is_(None)
        with self._store.begin(writing=True) as connection:
            values = {"revoked_at": zulu(datetime.now(UTC))}
            if not connection.execute(sa.update(KEYS).where(is_it).values(values)).rowcount:
                raise UsageError(f"there is no key {number} to revoke; `misgiving keys list`")

    def all(self) -> list[Any]:
        """The rows of all keys, also of those that were revoked."""
        with self._store.begin() as connection:
            return list(connection.execute(select(KEYS).order_by(KEYS.c.number)))

    def exist(self) -> bool:
        """True once there was a key: after the last is revoked, nobody gets in."""
        return bool(self._recall(ANY, lambda: self._first(select(KEYS.c.number))))

    def is_recalled(self, secret: str, *, is_session: bool) -> bool:
        """True if nothing need be read to answer for a key or a token, or for none."""
        now, (until, exist) = time.monotonic(), self._recalled.get(ANY, (0.0, None))
        needs_none = not (exist and secret)
        name = (SESSION if is_session else KEY) + _hash(secret)
        return now < until and (needs_none or now < self._recalled.get(name, (0.0,))[0])

    def find(self, secret: str) -> Key | None:
        """The key with this secret."""
        digest = _hash(secret)
        is_it = (KEYS.c.hash == digest) & KEYS.c.revoked_at.is_(None)
        query = select(KEYS.c.number, KEYS.c.name, KEYS.c.role).where(is_it)
        row = self._recall(KEY + digest, lambda: self._first(query))
        return row and Key(*row)

    def sign_in(self, key: Key) -> str:
        """Open a session; the token for its cookie, of which the hash is stored."""
        token, now = secrets.token_urlsafe(32), datetime.now(UTC)
        values = {"hash": _hash(token), "key_number": key.number, "used_at": zulu(now)}
        with self._store.begin(writing=True) as connection:
            idle = SESSIONS.c.used_at < zulu(now - IDLE_TIME)
            connection.execute(sa.delete(SESSIONS).where(idle))
            connection.execute(insert(SESSIONS).values(values))
        return token

    def session(self, token: str, *, is_use: bool) -> Key | None:
        """The key of a session that was not idle for too long; use starts its time again."""
        digest, now = _hash(token), datetime.now(UTC)
        query = (
            select(KEYS.c.number, KEYS.c.name, KEYS.c.role, SESSIONS.c.used_at)
            .join(KEYS, KEYS.c.number == SESSIONS.c.key_number)
            .where(SESSIONS.c.hash == digest, KEYS.c.revoked_at.is_(None))
        )
        row = self._recall(SESSION + digest, lambda: self._first(query))
        if row is None or row.used_at < zulu(now - IDLE_TIME):
            return None
        if is_use and row.used_at < zulu(now - USE_TIME):
            with self._store.begin(writing=True) as connection:
                used = sa.update(SESSIONS).where(SESSIONS.c.hash == digest)
                connection.execute(used.values(used_at=zulu(now)))
            self._recalled.pop(SESSION + digest, None)
        return Key(row.number, row.name, row.role)

    def sign_out(self, token: str) -> None:
        """End a session at once."""
        with self._store.begin(writing=True) as connection:
            connection.execute(sa.delete(SESSIONS).where(SESSIONS.c.hash == _hash(token)))
        self._recalled.pop(SESSION + _hash(token), None)

    def _first(self, query: sa.Select[Any]) -> Any:
        with self._store.begin() as connection:
            return connection.execute(query).first()

    def _recall(self, name: str, read: Callable[[], Any]) -> Any:
        """Keys that were read in the last second; guesses of keys are not kept."""
        until, content = self._recalled.get(name, (0.0, None))
        if time.monotonic() < until:
            return content
        content = read()
        if len(self._recalled) >= MAX_RECALLED:
            self._recalled.clear()
        if content is not None or name == ANY:
            self._recalled[name] = time.monotonic() + VALID_SECONDS, content
        return content


def has_keys(location: str) -> bool:
    """True if there is a key in a store, which is not made for the question."""
    if "://" not in location and not Path(location).exists():
        return False
    with closing(Store.open(location)) as store:
        return Keys(store).exist()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
