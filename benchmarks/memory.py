"""Peak memory of training from a cache of 25,000 images, above that of bare steps.

    python benchmarks/memory.py [--images 25000] [--image-size 64] [--steps 60]

Each side runs in a process of its own, whose anonymous resident memory is sampled: pages of the
memory-mapped cache, which the system may drop at any time, do not count. The first side takes so
many steps of the library's own epoch on images from all of the cache; the other takes bare steps on
one batch in memory. Needs Linux.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from anonymous_memory import MIB, peak
from epoch import image_set, mapped, sides
from side_by_side import Reading

from misgiving.training.config import TrainingConfig

ALLOWED = 1000.0  # MB


def main() -> None:
    """Run both sides and report, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--side", choices=["epoch", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(peak(lambda: run(options)))
    else:
        report(options)


def report(options: argparse.Namespace) -> None:
    """Compare the peaks of two processes."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "images.npy"
        image_set(cache, options.images, options.image_size)
        epoch, bare = (in_child(side, cache) for side in ("epoch", "bare"))
    stored = options.images * 3 * options.image_size**2 / MIB
    Reading(
        what=f"peak memory of training from {options.images} images above that of bare steps",
        values=[(epoch - bare) / 1e6],
        unit="MB",
        bound=ALLOWED,
        notes=(
            f"training {epoch / MIB:.0f} MiB, bare steps {bare / MIB:.0f} MiB",
            f"the cache holds {stored:.0f} MiB",
        ),
    ).report()


def in_child(side: str, cache: Path) -> int:
    """Peak memory of one side, in bytes."""
    command = [sys.executable, *sys.argv, "--side", side, "--cache", str(cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def run(options: argparse.Namespace) -> None:
    """One side: an epoch of images drawn from all of the cache, or bare steps."""
    config = TrainingConfig(batch_size=options.batch_size, learning_rate=1e-5, device="cpu")
    images = mapped(options.cache)
    spread = np.linspace(0, len(images) - 1, options.steps * options.batch_size).astype(np.int64)
    epoch, bare_steps = sides(options.backbone, config, images.select(spread))
    (epoch if options.side == "epoch" else bare_steps)()


if __name__ == "__main__":
    main()
