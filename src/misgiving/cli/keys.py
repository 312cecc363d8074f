"""`misgiving keys`: who may send, read, operate and measure a service."""

from misgiving.cli.cases import StoreLocation, opened_store
from misgiving.cli.options import command
from misgiving.cli.progress import say, show_table
from misgiving.serve.settings import Role


@command
def add(store: StoreLocation, /, *, role: Role, name: str) -> None:
    """Add a key to the store of a service, and print it once: only its hash is kept.

    It holds at once, without a restart. From the first key on, each request needs one.

    Args:
        role: send: uploads, and reads its own decisions; read: sees the worklist, and signs
            readings; operate: everything but readings; metrics: GET /metrics.
        name: Of the person or program. A reader's name in the record comes from here alone.
    """
    from misgiving.serve.keys import Keys

    with opened_store(store, create=True) as opened:
        key, others = Keys(opened).add(name, role)
    for other in others:
        say(
            f"Warning: {other.name} holds key {other.number} to {other.role}, too: who sees "
            "decisions is no blind reader, and their answers are no audit."
        )
    print(key)


@command
def list_(store: StoreLocation, /) -> None:
    """List the keys of a store: numbers, names and roles."""
    from misgiving.serve.keys import Keys

    with opened_store(store) as opened:
        rows = Keys(opened).all()
    header = ["number", "name", "role", "since", "revoked"]
    show_table(
        header,
        ([r.number, r.name, r.role, r.made_at[:16], (r.revoked_at or "")[:16]] for r in rows),
    )


@command
def revoke(store: StoreLocation, /, *, number: int) -> None:
    """Revoke a key, and end the sessions that it opened, at once.

    Args:
        number: Number of the key, as `misgiving keys list` shows it.
    """
    from misgiving.serve.keys import Keys

    with opened_store(store) as opened:
        Keys(opened).revoke(number)
    say(f"key {number} is revoked")
