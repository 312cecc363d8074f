"""`misgiving cases`, `keys` and `audits`: look after the store of a service."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from misgiving.cli.options import Folder, command
from misgiving.cli.progress import say, show_table
from misgiving.errors import DataError, UsageError
from misgiving.errors import Parameter as Named
from misgiving.hash_key import hash_key_file, hashed
from misgiving.serve.settings import Role

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from misgiving.serve.store import Store

STORE = "The service's database: an SQLite file, or postgresql://USER@HOST/DATABASE."
StoreLocation = Annotated[str, Parameter("STORE", help=STORE, env_var="MISGIVING_STORE")]


@contextmanager
def opened_store(
    location: str, *, create: bool = False, upgrade: bool = False
) -> Iterator["Store"]:
    """The store of a service; only `create` makes one, and not of a path that was mistyped.

    Raises:
        DataError: There is none.
    """
    from misgiving.serve.store import Store

    if not create and "://" not in location and not Path(location).is_file():
        raise DataError(
            f"{location}: is no file, so there is no such store; give that of `misgiving serve`"
        )
    with closing(Store.open(location, upgrade=upgrade)) as store:
        yield store


@command
def upgrade(store: StoreLocation, /) -> None:
    """Upgrade the tables of a store to this version of misgiving.

    Stop its services and back it up first. A kill leaves the tables as they were, or as they are
    afterwards.
    """
    from misgiving.serve.database import shown

    with opened_store(store, upgrade=True):
        say(f"{shown(store)} has the tables of this version")


@command
def delete(
    store: StoreLocation,
    /,
    *,
    group: str | None = None,
    before: date | None = None,
    keep_images: Folder | None = None,
) -> None:
    """Delete cases with their reviews and images, for good.

    The service may run. Audits and drift tests keep the outcomes and scores, without a name. After
    a kill, the same command deletes the rest. Backups are not touched.

    Args:
        group: The cases of this patient or lesion; of DICOM files, the plain PatientID.
        before: The cases received before this day (UTC), such as 2026-01-31.
        keep_images: Folder of the service's images.
    """
    from misgiving.serve.case import CASES, zulu
    from misgiving.serve.deletion import delete_cases
    from misgiving.serve.kept_images import KeptImages

    if group is not None and before is None:
        hashes = [hashed(group)] if hash_key_file().exists() else []  # of DICOM files
        chosen: ColumnElement[bool] = CASES.c.group.in_([group, *hashes])
    elif before is not None and group is None:
        chosen = CASES.c.received < zulu(datetime.combine(before, time(), UTC))
    else:
        raise UsageError("give ", Named("group"), " or ", Named("before"))
    if keep_images is not None and not keep_images.is_dir():
        raise DataError(f"{keep_images}: is no folder; give the --keep-images of the service")
    images = None if keep_images is None else KeptImages(keep_images)
    with opened_store(store) as opened:
        done = delete_cases(opened, images, chosen)
    if group is not None and not done.deleted:
        raise DataError(
            f"{group}: is no group of a case; that of a DICOM file is found with the key of the "
            "service (MISGIVING_HASH_KEY)"
        )
    say(f"deleted: {done.deleted} case{'s' * (done.deleted != 1)}")
    if done.blind or done.untold:
        say(
            f"of these, {done.blind} were blind and open, and {done.untold} accepted and found "
            "wrong, of which nobody was told"
        )


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


@command
def resume(store: StoreLocation, /, *, reason: str) -> None:
    """Lift the alarm of the audits: images are accepted again, from half a minute later.

    Cases from now on can raise another one. Find the cause first, and tell whoever acted on
    answers that were found wrong.

    Args:
        reason: Cause of the alarm, and how it was removed; it is kept and logged.
    """
    from misgiving.serve.audits import resume as lift

    with opened_store(store) as opened:
        for audit in lift(opened, reason):
            say(
                f"policy {audit.policy_fingerprint[:12]}: the alarm since {audit.alarm_since} is "
                f"lifted ({audit.wrong} of {audit.audited} audited answers were wrong)"
            )
