"""`misgiving keys`: who may send, read, operate and measure a service."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from misgiving.cli.options import command
from misgiving.cli.progress import say, show_table
from misgiving.serve.settings import Role

if TYPE_CHECKING:
    from misgiving.serve.keys import Keys

StoreLocation = Annotated[str, Parameter("STORE", env_var="MISGIVING_STORE")]


@command
def add(store: StoreLocation, /, *, role: Role, name: str) -> None:
    """Add a key to the store of a service, and print it once: only its hash is kept.

    It holds at once, without a restart. From the first key on, each request needs one.

    Args:
        store: Database of cases, as of `misgiving serve --store`.
        role: send: uploads, and reads its own decisions; read: sees the worklist, and signs
            readings; operate: everything but readings; metrics: GET /metrics.
        name: Of the person or program. A reader's name in the record comes from here alone.
    """
    with _keys(store, create=True) as keys:
        key, others = keys.add(name, role)
    for other in others:
        say(
            f"Warning: {other.name} holds key {other.number} to {other.role}, too: who sees "
            "decisions is no blind reader, and their answers are no audit."
        )
    print(key)


@command
def list_(store: StoreLocation, /) -> None:
    """List the keys of a store: numbers, names and roles.

    Args:
        store: Database of cases, as of `misgiving serve --store`.
    """
    with _keys(store) as keys:
        rows = keys.all()
    header = ["number", "name", "role", "since", "revoked"]
    show_table(
        header,
        ([r.number, r.name, r.role, r.made_at[:16], (r.revoked_at or "")[:16]] for r in rows),
    )


@command
def revoke(store: StoreLocation, /, *, number: int) -> None:
    """Revoke a key, and end the sessions that it opened, at once.

    Args:
        store: Database of cases, as of `misgiving serve --store`.
        number: Number of the key, as `misgiving keys list` shows it.
    """
    with _keys(store) as keys:
        keys.revoke(number)
    say(f"key {number} is revoked")


@contextmanager
def _keys(location: str, *, create: bool = False) -> Iterator["Keys"]:
    from misgiving.serve.database import check_exists
    from misgiving.serve.keys import Keys
    from misgiving.serve.store import Store

    if not create:
        check_exists(location)
    with closing(Store.open(location)) as store:
        yield Keys(store)
