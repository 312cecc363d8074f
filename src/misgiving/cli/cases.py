"""`misgiving cases`: upgrade the store of a service, and delete from it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from misgiving.cli.options import Folder, command
from misgiving.cli.progress import say
from misgiving.errors import DataError, UsageError
from misgiving.errors import Parameter as Named
from misgiving.hash_key import hash_key_file, hashed

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
