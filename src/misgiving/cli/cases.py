"""`misgiving cases`: upgrade the store of a service, and delete from it."""

from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from misgiving.cli.options import Folder, command
from misgiving.cli.progress import say
from misgiving.errors import DataError, UsageError
from misgiving.errors import Parameter as Named

if TYPE_CHECKING:
    from misgiving.serve.store import Store

STORE = "The service's database: an SQLite file, or postgresql://USER@HOST/DATABASE."
StorePlace = Annotated[str, Parameter("STORE", help=STORE, env_var="MISGIVING_STORE")]


@command
def upgrade(store: StorePlace, /) -> None:
    """Upgrade the tables of a store to this version of misgiving.

    Stop its services and back it up first. A kill leaves the tables as they were, or as they are
    afterwards.
    """
    from misgiving.serve.database import shown

    _open(store, upgrade=True).close()
    say(f"{shown(store)} has the tables of this version")


@command
def delete(
    store: StorePlace,
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
        group: The cases of this patient or lesion.
        before: The cases received before this day (UTC), such as 2026-01-31.
        keep_images: Folder of the service's images.
    """
    from misgiving.serve.case import CASES, zulu
    from misgiving.serve.deletion import delete_cases
    from misgiving.serve.kept_images import KeptImages

    if group is not None and before is None:
        chosen = CASES.c.group == group
    elif before is not None and group is None:
        chosen = CASES.c.received < zulu(datetime.combine(before, time(), UTC))
    else:
        raise UsageError("give ", Named("group"), " or ", Named("before"))
    if keep_images is not None and not keep_images.is_dir():
        raise DataError(f"{keep_images}: is no folder; give the --keep-images of the service")
    opened = _open(store)
    try:
        images = None if keep_images is None else KeptImages(keep_images)
        done = delete_cases(opened, images, chosen)
    finally:
        opened.close()
    say(f"deleted: {done.deleted} cases")
    if done.blind or done.untold:
        say(
            f"of these, {done.blind} were blind and open, and {done.untold} accepted and found "
            "wrong, of which nobody was told"
        )


def _open(location: str, *, upgrade: bool = False) -> "Store":
    """Open a store that exists."""
    from misgiving.serve.store import Store

    if "://" not in location and not Path(location).is_file():
        raise DataError(f"{location}: is no file; give the --store of the service")
    return Store.open(location, upgrade=upgrade)
