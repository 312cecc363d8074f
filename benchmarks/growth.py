"""Growth of cost with the number of images, classes, features and calibration cases.

    python benchmarks/growth.py [--largest 1]

Measures the processor time, of all threads and processes: of `predict` on image files
(`vgg16_mini` at 32 pixels, without a policy), and of fitting a policy and deciding on drawn outputs
of a classifier. One size varies at a time. The slope is that of a line through the last three
points, both axes logarithmic: at 1, ten times as many cost ten times as much. --largest 0.1 stops
at a tenth of the sizes.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from inputs import untrained
from PIL import Image

from misgiving.checkpoint import save
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.sets import MOST_TUNED
from misgiving.groups import TUNING_PARTS
from misgiving.training.allocator import keep_freed_memory

CASES, CLASSES = 2000, 8  # where they do not vary
FILES = 100  # distinct ones; the others are links to them

Work = Callable[[], object]


class Curve(NamedTuple):
    """Processor seconds of some work at several sizes."""

    what: str
    over: str
    sizes: Sequence[int]
    seconds: Sequence[float]

    @property
    def slope(self) -> float:
        """Slope of the line through the last three points, on logarithmic axes."""
        last = slice(-3, None)
        return float(np.polyfit(np.log(self.sizes[last]), np.log(self.seconds[last]), 1)[0])


def main() -> None:
    """Print the seconds of all curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--largest", type=float, default=1.0, help="share of the largest sizes")
    options = parser.parse_args()
    keep_freed_memory()
    print(table(list(measured(options.largest))))


def measured(largest: float) -> Iterator[Curve]:
    """Every curve, up to a share of its largest size."""
    yield from _curves("images", (1_000, 3_000, 10_000, 30_000, 100_000), largest, _of_images)
    for over, sizes, work in (
        ("calibration cases", (100, 1_000, 10_000, 100_000, 1_000_000), _of_cases),
        ("classes", (2, 10, 30, 100, 300, 1_000), _of_classes),
        ("features", (64, 256, 1_024, 2_048, 4_096), _of_features),
    ):
        yield from _curves(over, sizes, largest, work)


def _curves(
    over: str,
    sizes: Sequence[int],
    largest: float,
    work_of: Callable[[int], Iterator[tuple[str, Work]]],
) -> Iterator[Curve]:
    measured: dict[str, list[float]] = {}
    chosen = [size for size in sizes if size <= largest * sizes[-1]]
    for _, work in work_of(sizes[0]):  # imports what it needs
        work()
    for size in chosen:
        for what, work in work_of(size):
            started = processor_seconds()
            work()
            measured.setdefault(what, []).append(processor_seconds() - started)
            print(f"{over} {size}: {what} {measured[what][-1]:.3g} s", flush=True)
    for what, seconds in measured.items():
        yield Curve(what, over, chosen, seconds)


def processor_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _of_images(count: int) -> Iterator[tuple[str, Work]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = temporary
        save(folder / "run", untrained("vgg16_mini", 32))
        (folder / "images").mkdir()
        random = np.random.default_rng(0)
        for number in range(count):
            path = folder / "images" / f"{number:06d}.png"
            if number < FILES:
                Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
            else:
                os.link(folder / "images" / f"{number % FILES:06d}.png", path)
        command = ["predict", "run", "images", "--out", "table.csv", "--device", "cpu"]
        yield (
            "predict",
            lambda: subprocess.run(
                [sys.executable, "-m", "misgiving", *command], cwd=folder, check=True
            ),
        )


def _of_cases(count: int) -> Iterator[tuple[str, Work]]:
    yield from _of_outputs(count, CLASSES, 0)


def _of_classes(count: int) -> Iterator[tuple[str, Work]]:
    yield from _of_outputs(max(CASES, 4 * count), count, 0)


def _of_features(width: int) -> Iterator[tuple[str, Work]]:
    yield from _of_outputs(CASES, CLASSES, width)


def _of_outputs(cases: int, classes: int, width: int) -> Iterator[tuple[str, Work]]:
    """Fit a policy on so many cases, of which some tune as in a command, and decide on them."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(classes, width))

    def outputs(count: int) -> dict[str, np.ndarray]:
        labels = random.integers(classes, size=count)
        logits = random.normal(size=(count, classes)) + 4 * np.eye(classes)[labels]
        features = random.normal(size=(count, width)) + middles[labels]
        drawn = {"label": labels, "logits": logits}
        return drawn | ({"features": features} if width else {})

    training = outputs(CASES) if width else None
    tuning = outputs(min(cases // TUNING_PARTS, MOST_TUNED))
    calibration = outputs(cases - len(tuning["label"]))
    deferral = Deferral(max_error=0.05)
    yield "fit", lambda: deferral.fit(tuning, calibration, training=training)
    del calibration["label"]
    yield "decide", lambda: deferral.decide(calibration)


def table(curves: Sequence[Curve]) -> str:
    """The seconds at every size, in Markdown."""
    lines = ["| cost of | over | slope | processor seconds at each size |", "|---|---|---|---|"]
    for curve in curves:
        points = zip(curve.sizes, curve.seconds, strict=True)
        text = "; ".join(f"{size:,}: {seconds:.3g}" for size, seconds in points)
        lines.append(f"| {curve.what} | {curve.over} | {curve.slope:.2f} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
