"""Images: preparing files, reading batches and augmenting them, against the usual ways.

    python benchmarks/images.py [--rounds 5] [--pictures FOLDER]

*Preparing*: both sides read JPEG files, decode, crop, balance the colours (shades of gray, p = 6)
and resize to 224 pixels, one image after the other in one thread. The plain way decodes every pixel
and takes the power mean and the division in float64. Ours takes the file's SHA-256 besides. Times
are the processor's. Notes give the difference between the pixels of both sides.

*Reading*: torchvision's `ImageFolder` of JPEG files, decoded, resized to 224 pixels and stacked by
a `DataLoader` whose two worker processes live through all rounds. Ours reads the same images,
prepared once in advance, in this process alone, and several times for each of theirs, so that it
takes long enough to be timed. A round's seconds are those of one pass over the images.

*Augmenting*: both sides flip both ways, rotate by up to 180 degrees and shift by up to a tenth
(bilinear), and vary brightness, contrast and saturation by a fifth; neither changes the hue. Beyond
an edge, our side mirrors the image and torchvision's is black, which is less work. Its images are
stacked into a batch, as by a loader. Each side draws its own random numbers.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from inputs import write_pictures
from PIL import Image
from side_by_side import Comparison, Round, alternate
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from misgiving.data.batching import augment, batches
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import FileImage
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing

SIDE = 1024  # of the files' images, in pixels
SIZE = 224
CROP = 0.85
PREPARED, BATCH_SIZE = 24, 64  # images
WORKERS = 2
PASSES = 20  # of ours for each of theirs
AUGMENTATION = AugmentationSettings()
THEIRS = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomAffine(
            degrees=AUGMENTATION.rotation,
            translate=(AUGMENTATION.translation, AUGMENTATION.translation),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(AUGMENTATION.jitter, AUGMENTATION.jitter, AUGMENTATION.jitter),
    ]
)


def main() -> None:
    """Report all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, help="prepare pictures below this folder instead")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compare_augmenting(3 * options.rounds)
    with TemporaryDirectory() as folder:
        compare_preparing(Path(folder), options.pictures, options.rounds)
    with TemporaryDirectory() as folder:
        compare_reading(Path(folder), options.rounds)


def compare_preparing(folder: Path, pictures: Path | None, rounds: int) -> None:
    """Report the preparation of files, and compare the pixels of both sides."""
    paths = write_pictures(folder, count=PREPARED, size=(SIDE, SIDE), source=pictures)
    Comparison(
        what=f"preparing {len(paths)} JPEG files of {SIDE} x {SIDE} pixels",
        against="Pillow and numpy",
        measure="times as fast",
        bound=6,
        rounds=alternate(
            lambda: prepared_by_us(paths),
            lambda: [prepared_plainly(path) for path in paths],
            rounds=rounds,
            clock=time.process_time,
        ),
        notes=(_difference(prepared_by_us(paths), [prepared_plainly(path) for path in paths]),),
    ).report()


def prepared_by_us(paths: list[Path]) -> list[np.ndarray]:
    """What `prepare` does with every image, without its threads."""
    preprocessing = Preprocessing(image_size=SIZE, crop=CROP)
    return [FileImage(path).read(preprocessing).image for path in paths]


def prepared_plainly(path: Path) -> np.ndarray:
    """The same steps as they are usually written."""
    image = np.asarray(Image.open(path).convert("RGB"))
    rows, columns = (round(CROP * side) for side in image.shape[:2])
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    cropped = image[top : top + rows, left : left + columns]
    honest = cropped[(cropped < 255).all(axis=2)]
    light = ((honest / 255) ** 6).mean(axis=0) ** (1 / 6)
    gains = np.linalg.norm(light) / (light * np.sqrt(3))
    balanced = np.rint(255 * np.clip(cropped / 255 * gains, 0, 1)).astype(np.uint8)
    resized = Image.fromarray(balanced).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def _difference(candidate: list[np.ndarray], plain: list[np.ndarray]) -> str:
    apart = [
        np.abs(mine - reference.astype(float)).mean()
        for mine, reference in zip(candidate, plain, strict=True)
    ]
    return (
        f"mean absolute difference {np.mean(apart):.2f} grey levels of 255, "
        f"at most 1.5 are meant; {max(apart):.2f} in the image where it is largest"
    )


def compare_reading(folder: Path, rounds: int) -> None:
    """Write and prepare files, and report the reading of batches."""
    for name in "ab":
        count = BATCH_SIZE // 2
        write_pictures(folder / "images" / name, count=count, size=(SIDE, SIDE))
    dataset = load_dataset(f"folder:{folder / 'images'}")
    prepared = prepare(dataset, Preprocessing(image_size=SIZE), cache=folder / "cache")
    loader = _loader(folder / "images")
    timed = alternate(lambda: read_cache(prepared), lambda: read_files(loader), rounds=rounds)
    timed = [Round(candidate / PASSES, reference) for candidate, reference in timed]
    best = len(prepared) / min(round_.candidate for round_ in timed)
    Comparison(
        what=f"reading {len(prepared)} images of {SIDE} x {SIDE} pixels",
        against=f"ImageFolder, Resize and DataLoader with {WORKERS} workers",
        measure="times as fast",
        bound=20,
        rounds=timed,
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


def _loader(folder: Path) -> DataLoader:
    transform = v2.Compose(
        [v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )
    return DataLoader(
        ImageFolder(folder, transform), BATCH_SIZE, num_workers=WORKERS, persistent_workers=True
    )


def compare_augmenting(rounds: int) -> None:
    """Report the augmentation of a batch."""
    torch.manual_seed(0)
    images, generator = torch.rand(BATCH_SIZE, 3, SIZE, SIZE), torch.Generator()
    Comparison(
        what=f"augmenting {BATCH_SIZE} images of {SIZE} x {SIZE} pixels "
        f"in {torch.get_num_threads()} threads",
        against="torchvision.transforms.v2",
        measure="times as fast",
        bound=2,
        rounds=alternate(
            lambda: augment(images, AUGMENTATION, generator),
            lambda: one_by_one(images),
            rounds=rounds,
        ),
    ).report()


def one_by_one(images: Tensor) -> Tensor:
    """The batch as a data set with these transforms and a loader would give it."""
    return torch.stack([THEIRS(image) for image in images])


if __name__ == "__main__":
    main()
