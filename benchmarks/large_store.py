"""The service with a large store: its start, its answers, and the replay of the drift tests.

    python benchmarks/large_store.py [--cases 1000000]

`misgiving serve` decides on some photographs, and copies of these cases with ids and hashes of
their own fill its SQLite store. Then the service starts again. While it replays all cases for the
drift tests, `/health` is asked without a pause; afterwards, pages of the worklist.
"""

import argparse
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from inputs import write_pictures
from serving import SIZE, Load, Service, bundle_with_policy, served
from side_by_side import Reading

from misgiving.bundle.bundle import Bundle
from misgiving.serve.case import Case, CaseQuery
from misgiving.serve.store import Store

FILES = 64
AT_ONCE = 5000
ROUNDS = 5
START, HEALTH, PAGE = 5.0, 0.5, 0.5  # seconds


def main() -> None:
    """Fill a store, start the service on it, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        place = Path(folder)
        bundle, store = bundle_with_policy(place), place / "cases.sqlite"
        files = [path.read_bytes() for path in write_pictures(place, count=FILES, size=SIZE)]
        with served(bundle, store) as service:
            Load(service.where, files, clients=8).send(FILES)
        print(f"stored {fill(store, options.cases)} cases", flush=True)
        started = time.perf_counter()
        with served(bundle, store) as service:
            start = time.perf_counter() - started
            measure(service, Bundle.load(bundle).classes, start, options.cases)


def fill(location: Path, count: int) -> int:
    """Copy the cases of a store until there are so many; the number that it then has."""
    store = Store.open(str(location))
    cases = list(store.all(CaseQuery()))
    for first in range(len(cases), count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        store.add([_copy(cases[number % len(cases)], number) for number in numbers])
    total = store.count(CaseQuery())
    store.close()
    return total


def _copy(case: Case, number: int) -> Case:
    changed = {"id": f"{int(case.id[:14], 16) + number:014x}{case.id[14:]}"}
    return case.model_copy(update={**changed, "sha256": f"{number:064x}"})


def measure(service: Service, classes: tuple[str, ...], start: float, count: int) -> None:
    """Ask for health during the replay, and for pages after it."""
    began = time.perf_counter()
    waits = []
    while not waits or _asked(service, "drift")["cases"] < count:
        waits.append(_seconds(service, "health"))
    replay = time.perf_counter() - began
    where = f"the service with {count:,} cases"
    Reading(what=f"start of {where}", bound=START, values=[start]).report()
    notes = (f"slowest of {len(waits)}: {max(waits):.3f} s; the replay took {replay:.0f} s",)
    what = f"/health of {where}, during a drift replay"
    Reading(what=what, bound=HEALTH, values=waits, notes=notes).report()
    for name, query in _queries(service, classes):
        values = [_seconds(service, query) for _ in range(ROUNDS)]
        notes = (f"{service.megabytes():.0f} MB of memory",)
        Reading(what=f"{name} of {where}", bound=PAGE, values=values, notes=notes).report()


def _queries(service: Service, classes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield "the first page", "cases"
    yield "deferred cases", "cases?decision=defer"
    for name in classes:
        if not _asked(service, f"cases?limit=1&class={quote(name)}")["cases"]:
            yield "a class that no case has", f"cases?class={quote(name)}"
            break


def _asked(service: Service, path: str) -> dict[str, object]:
    host, port = service.where
    with urllib.request.urlopen(f"http://{host}:{port}/{path}") as answer:
        return dict(json.load(answer))


def _seconds(service: Service, path: str) -> float:
    started = time.perf_counter()
    _asked(service, path)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
