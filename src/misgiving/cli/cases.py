"""`misgiving cases`: upgrade the store of a service."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from misgiving.cli.options import command
from misgiving.cli.progress import say
from misgiving.errors import DataError

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


def _open(location: str, *, upgrade: bool = False) -> "Store":
    """Open a store that exists."""
    from misgiving.serve.store import Store

    if "://" not in location and not Path(location).is_file():
        raise DataError(f"{location}: is no file; give the --store of the service")
    return Store.open(location, upgrade=upgrade)
