"""Preparing JPEG files for the model: ours against plain Pillow and numpy, on the same files.

    python benchmarks/preparing.py [--images 24] [--side 1024] [--pictures FOLDER] [--rounds 5]

Both sides read, decode, crop, balance the colours (shades of gray, p = 6) and resize to 224 pixels,
one image after the other in one thread. The plain way decodes every pixel and takes the power mean
and the division in float64. Ours takes the file's SHA-256 besides. Times are the processor's, so
that a busy machine adds less to them. Notes give the difference between the pixels of both sides.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from inputs import write_pictures
from PIL import Image
from side_by_side import Comparison, alternate

from misgiving.data.cache import preprocessed
from misgiving.data.datasets.dataset import FileImages
from misgiving.data.preprocessing import Preprocessing

SIZE = 224
CROP = 0.85


def main() -> None:
    """Write the files, time both sides in turn, and compare their pixels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=1024, help="of the files' images, in pixels")
    parser.add_argument("--pictures", type=Path, help="take pictures below this folder instead")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = (options.side, options.side)
        paths = write_pictures(
            Path(folder), count=options.images, size=size, source=options.pictures
        )
        Comparison(
            what=f"preparing {len(paths)} JPEG files of {options.side} x {options.side} pixels",
            against="Pillow and numpy",
            measure="times as fast",
            bound=6,
            rounds=alternate(
                lambda: candidate(paths),
                lambda: plain(paths),
                rounds=options.rounds,
                clock=time.process_time,
            ),
            notes=(_difference(candidate(paths), plain(paths)),),
        ).report()


def candidate(paths: list[Path]) -> list[np.ndarray]:
    """What `prepare` does with every image, without its threads."""
    images, preprocessing = FileImages(tuple(paths)), Preprocessing(image_size=SIZE, crop=CROP)
    return [preprocessed(images, index, preprocessing).image for index in range(len(paths))]


def plain(paths: list[Path]) -> list[np.ndarray]:
    """The same steps as they are usually written."""
    return [_plain(path) for path in paths]


def _plain(path: Path) -> np.ndarray:
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


if __name__ == "__main__":
    main()
