"""The service under load, and with a large store.

    python benchmarks/service.py [--clients 64] [--images 400] [--rounds 5] [--seconds 0]

*Load*: against a plain loop over the same files on the same cores. Bundles of
`tf_efficientnet_lite0` at 128 pixels, without and with a policy (or --bundle), are served by
`misgiving serve` in a process of its own, with its default settings. Each client in this process
has its own connection, sends a JPEG file of 600 x 450 pixels, and waits for the response before it
sends the next. The plain loop decodes, preprocesses and runs onnxruntime file by file: no network,
no JSON, no store, no decisions. Both use all cores, and the work of the clients counts against the
service. Prints the median ratio of the times with its range, latencies, and the number of 429
responses. `--seconds 60` adds a minute of continuous load, and reports the memory.

*Small images*: digits, each a new one, against a bare endpoint of FastAPI and onnxruntime that
decodes and answers in one process, and stores nothing.

*Large store*: the service decides on the files, and copies of these cases with ids and hashes of
their own fill its SQLite store. Then it starts again. While it replays all cases for the drift
tests, `/health` is asked without a pause; afterwards, pages of the worklist.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlsplit

import numpy as np
import onnxruntime
from inputs import write_pictures
from PIL import Image
from side_by_side import Comparison, Reading, alternate
from sklearn.datasets import load_digits

from misgiving.bundle.bundle import Bundle
from misgiving.predictions.network import GRAPH
from misgiving.serve.case import Case, CaseQuery
from misgiving.serve.store import Store

SIZE = (600, 450)
FILES = 64
STORED, STORED_AT_ONCE = 1_000_000, 5000  # cases
PAGE_ROUNDS = 5
LITE0 = ("--backbone", "tf_efficientnet_lite0", "--image-size", "128")
START, HEALTH, PAGE = 5.0, 0.5, 0.5  # seconds


def main() -> None:
    """Report both parts; of a bundle that is given, only the load."""
    options = _options()
    with TemporaryDirectory() as folder:
        place = Path(folder)
        if options.small:
            compare_with_bare(place, options)
            return
        paths = write_pictures(place / "images", count=FILES, size=SIZE)
        files = [path.read_bytes() for path in paths]
        if options.bundle:
            compare("the service", options.bundle, files, options)
            return
        compare("the service", _random_bundle(place), files, options)
        bundle = bundle_with_policy(place)
        compare("the service with a policy", bundle, files, options)
        compare_with_bare(place, options)
        report_large_store(bundle, files, place / "large.sqlite")


def compare(what: str, bundle: Path, files: Sequence[bytes], options: argparse.Namespace) -> None:
    """Serve one bundle, and report; then, if asked to, put continuous load on it."""
    with TemporaryDirectory() as store, served(bundle, Path(store) / "cases.sqlite") as service:
        load = Load(service.where, files, options.clients)
        plain = _plain_loop(bundle, files)
        rounds = alternate(
            lambda: load.send(options.images),
            lambda: plain(options.images),
            rounds=options.rounds,
        )
        Comparison(
            what=f"{what}, {options.clients} clients, {options.images} images a round",
            against="a plain loop of decoding, preprocessing and onnxruntime",
            measure="times as fast",
            bound=0.95,
            rounds=rounds,
            notes=(load.note(),),
        ).report()
        if options.seconds:
            _continuous_load(load, service, options.seconds)


def compare_with_bare(folder: Path, options: argparse.Namespace) -> None:
    """Serve a model of digits beside a bare endpoint, which each get every image once."""
    bundle = bundle_with_policy(folder / "small", network=["--backbone", "vgg16_mini"])
    images = 5 * options.images
    files = digits(images * (options.rounds + 1))
    with (
        served(bundle, folder / "small" / "cases.sqlite") as service,
        bare_endpoint(bundle) as address,
    ):
        loads = [Load(where, files, options.clients) for where in (service.where, address)]
        rounds = alternate(*(partial(load.send, images) for load in loads), rounds=options.rounds)
        Comparison(
            what=f"the service, {options.clients} clients, {images} new digits a round",
            against="a bare endpoint that stores nothing",
            measure="times as fast",
            bound=0.5,
            rounds=rounds,
            notes=tuple(load.note() for load in loads),
        ).report()


def digits(number_of_files: int) -> list[bytes]:
    """PNG files of noisy digits, no two of them equal."""
    images, random = load_digits().images, np.random.default_rng(0)
    files = []
    for number in range(number_of_files):
        noisy = images[number % len(images)] * 12 + random.integers(0, 60, images[0].shape)
        with io.BytesIO() as file:
            Image.fromarray(noisy.astype(np.uint8)).save(file, "PNG")
            files.append(file.getvalue())
    return files


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--images", type=int, default=400, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.0, help="of continuous load, afterwards")
    parser.add_argument("--bundle", type=Path, help="bundle to serve")
    parser.add_argument("--small", action="store_true", help="only the small images")
    return parser.parse_args()


@contextmanager
def bare_endpoint(bundle: Path) -> Iterator[tuple[str, int]]:
    """Serve the graph of a bundle by a bare endpoint until the end of the context."""
    command = [sys.executable, str(Path(__file__).with_name("bare_endpoint.py")), str(bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        yield str(address.hostname), int(address.port or 0)
        process.terminate()


@dataclass(frozen=True)
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    where: tuple[str, int]

    def megabytes(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


@contextmanager
def served(bundle: Path, store: Path) -> Iterator[Service]:
    """Serve a bundle until the end of the context."""
    command = [sys.executable, "-m", "misgiving", "serve", str(bundle), "--port", "0"]
    log = store.with_suffix(".log")
    process = subprocess.Popen([*command, "--store", str(store)], stderr=log.open("w"), text=True)
    try:
        while "http" not in (said := log.read_text()):
            time.sleep(0.1)
            if process.poll() is not None:
                raise SystemExit(said)
        address = urlsplit(
            next(word for word in said.split() if word.startswith("http")).rstrip(";")
        )
        yield Service(process, (str(address.hostname), int(address.port or 0)))
    finally:
        process.terminate()
        process.wait()


@dataclass
class Load:
    """Clients that send images without a pause, and their latencies and statuses."""

    where: tuple[str, int]
    files: Sequence[bytes]
    clients: int
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=count)

    def send(self, images: int, seconds: float = float("inf")) -> None:
        """Send the next so many images, or as many as the seconds allow."""
        until = time.perf_counter() + seconds
        asyncio.run(self._all(islice(self.numbers, images), until))

    def note(self) -> str:
        """Latencies and statuses so far."""
        middle, high = np.quantile(self.latencies, [0.5, 0.99])
        seen = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        return f"latency p50 {1000 * middle:.0f} ms, p99 {1000 * high:.0f} ms; statuses: {seen}"

    async def _all(self, numbers: Iterator[int], until: float) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(self._client(numbers, until))

    async def _client(self, numbers: Iterator[int], until: float) -> None:
        reader, writer = await asyncio.open_connection(*self.where)
        for number in numbers:
            if time.perf_counter() > until:
                break
            begun = time.perf_counter()
            writer.write(self._request(number))
            self.statuses[await _status(reader)] += 1
            self.latencies.append(time.perf_counter() - begun)
        writer.close()
        await writer.wait_closed()

    def _request(self, number: int) -> bytes:
        data = self.files[number % len(self.files)]
        head = (
            "POST /decisions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


async def _status(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().splitlines()
    length = next(
        int(line.partition(":")[2]) for line in lines if line.startswith("content-length")
    )
    body = json.loads(await reader.readexactly(length))
    status = int(lines[0].split()[1])
    assert status != 200 or body["results"][0]["case"]["sha256"]
    return status


def _plain_loop(bundle: Path, files: Sequence[bytes]) -> Callable[[int], None]:
    model_inputs = Bundle.load(bundle).model_inputs
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the service
    sessions = [
        onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        for path in (bundle / GRAPH, *sorted(bundle.glob("opinion_*.onnx")))
    ]

    def run(images: int) -> None:
        for number in range(images):
            squares = model_inputs(files[number % len(files)], "image")
            for square, session in zip(squares, sessions, strict=True):
                planes = np.ascontiguousarray(square.transpose(2, 0, 1)[None], dtype=np.float32)
                session.run(None, {session.get_inputs()[0].name: planes / 255})

    return run


def _continuous_load(load: Load, service: Service, seconds: float) -> None:
    load.latencies.clear()
    load.statuses.clear()
    before = service.megabytes()
    load.send(10**9, seconds)
    answered = len(load.latencies)
    print(f"{seconds:g} seconds of continuous load: {answered / seconds:.1f} images a second")
    print(f"  {load.note()}")
    print(f"  memory {before:.0f} MB before, {service.megabytes():.0f} MB after")


def _random_bundle(folder: Path) -> Path:
    """Export a model with random weights, which do not affect its speed."""
    from inputs import untrained

    from misgiving.bundle.export_run import export_run
    from misgiving.checkpoint import save

    save(folder / "run", untrained("tf_efficientnet_lite0", 128))
    export_run(folder / "run", folder / "bundle")
    return folder / "bundle"


def bundle_with_policy(folder: Path, network: Sequence[str] = LITE0) -> Path:
    """Export a network after an epoch on digits, with a policy for them."""
    run, bundle = str(folder / "trained"), folder / "decides"
    once = ["--recipe", "modern", "--epochs", "1"]
    policy = ["--max-error", "0.3", "--max-ood-false-alarms", "0.05"]
    for command in (
        ["train", "digits", "--out", run, *network, "--no-pretrained", *once],
        ["calibrate", run, "digits", *policy],
        ["export", run, "--out", str(bundle)],
    ):
        subprocess.run([sys.executable, "-m", "misgiving", *command], check=True)
    return bundle


def report_large_store(bundle: Path, files: Sequence[bytes], store: Path) -> None:
    """Fill a store, start the service on it, and report."""
    with served(bundle, store) as service:
        Load(service.where, files, clients=8).send(FILES)
    print(f"stored {fill(store, STORED)} cases", flush=True)
    started = time.perf_counter()
    with served(bundle, store) as service:
        start = time.perf_counter() - started
        measure(service, Bundle.load(bundle).classes, start, STORED)


def fill(location: Path, count: int) -> int:
    """Copy the cases of a store until there are so many; the number that it then has."""
    store = Store.open(str(location))
    cases = list(store.all(CaseQuery()))
    for first in range(len(cases), count, STORED_AT_ONCE):
        numbers = range(first, min(first + STORED_AT_ONCE, count))
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
        values = [_seconds(service, query) for _ in range(PAGE_ROUNDS)]
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
