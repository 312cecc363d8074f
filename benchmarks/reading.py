"""Reading batches: ours from the prepared cache, against torchvision's from the original files.

    python benchmarks/reading.py [--images 64] [--side 1024] [--workers N] [--rounds 5]

Torchvision's side is an `ImageFolder` of JPEG files, decoded, resized to 224 pixels and stacked by
a `DataLoader` whose worker processes, by default two, live through all rounds. Ours reads the same
images, prepared once in advance, in this process alone. Neither augments. Both give batches of 64
in float32; ours reads the images several times for each of theirs, so that it takes long enough to
be timed. A round's seconds are those of one pass over the images.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from inputs import write_pictures
from side_by_side import Comparison, Round, alternate
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from misgiving.data.batching import batches
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.preprocessing import Preprocessing

SIZE = 224
BATCH_SIZE = 64
PASSES = 20  # of ours for each of theirs


def main() -> None:
    """Write and prepare the files, and time both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=1024, help="of the files' images, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, size = Path(temporary) / "images", (options.side, options.side)
        for name in "ab":
            write_pictures(folder / name, count=options.images // 2, size=size)
        prepared = prepare(
            load_dataset(f"folder:{folder}"),
            Preprocessing(image_size=SIZE),
            cache=Path(temporary) / "cache",
        )
        loader = _loader(folder, options.workers)
        rounds = alternate(
            lambda: read_cache(prepared), lambda: read_files(loader), rounds=options.rounds
        )
    rounds = [Round(candidate / PASSES, reference) for candidate, reference in rounds]
    best = len(prepared) / min(round_.candidate for round_ in rounds)
    Comparison(
        what=f"reading {len(prepared)} images of {options.side} x {options.side} pixels",
        against=f"ImageFolder, Resize and DataLoader with {options.workers} workers",
        measure="times as fast",
        bound=20,
        rounds=rounds,
        notes=(f"ours at best {best:.0f} images a second",),
    ).report()


def read_cache(prepared: ImageSet) -> None:
    """All batches, several times over."""
    for _ in range(PASSES):
        for _batch in batches(prepared, batch_size=BATCH_SIZE):
            pass


def read_files(loader: DataLoader) -> None:
    """All batches once."""
    for _batch in loader:
        pass


def _loader(folder: Path, workers: int) -> DataLoader:
    transform = v2.Compose(
        [v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )
    return DataLoader(
        ImageFolder(folder, transform),
        BATCH_SIZE,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


if __name__ == "__main__":
    main()
