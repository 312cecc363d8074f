"""Accuracy of locating lesions without masks, measured against masks.

    python benchmarks/lesion_location.py ISIC_2019 [--half odd]

The folder is laid out as the ISIC 2019 training set, with `masks/ID_segmentation.png` inside. The
locator's settings were chosen on images at even positions, without those at odd ones. Prints
tables; the same folder gives the same numbers, except for times.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.decoding import decode, read_bytes
from misgiving.reproduction.ood_sets import build
from misgiving.reproduction.ood_sets.derived import DerivedImages
from misgiving.reproduction.ood_sets.lesions import locate_lesion, resized

Mask = Bool[np.ndarray, "height width"]
Shares = Float[np.ndarray, " n"]

HALVES = {"even": slice(0, None, 2), "odd": slice(1, None, 2), "all": slice(None)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", help="laid out as the ISIC 2019 training set, with masks/")
    parser.add_argument("--half", choices=HALVES, default="odd")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = masked(load_dataset(f"isic2019:{options.folder}"), HALVES[options.half])
    print(f"{len(dataset)} images with masks at {options.half} positions, seed {options.seed}")
    print_location(dataset)
    print_rates("sets made with the masks", dataset, dataset, options.seed)
    without = replace(dataset, masks=None)
    print_rates("sets made by automatic location", dataset, without, options.seed)


def masked(dataset: Dataset, half: slice) -> Dataset:
    """The images of a half that have a mask."""
    places = np.arange(len(dataset))[half]
    return dataset.select(np.array([i for i in places if mask_path(dataset, i).is_file()]))


def mask_path(dataset: Dataset, index: int) -> Path:
    """Path of the mask of an image."""
    if dataset.masks is None:
        raise SystemExit("the folder has no masks/; add ID_segmentation.png files there")
    return dataset.masks / f"{dataset.ids[index]}_segmentation.png"


def real_lesion(dataset: Dataset, index: int, shape: tuple[int, ...]) -> Mask:
    """The mask of an image on its own grid."""
    path = mask_path(dataset, index)
    return resized(decode(read_bytes(path), str(path))[..., 0] >= 128, shape)


def print_location(dataset: Dataset) -> None:
    """Print the overlap of located and real lesions, and the time per image."""
    overlaps, seconds = [], []
    for index in range(len(dataset)):
        image = dataset.images.read(index).image
        start = time.perf_counter()
        located = locate_lesion(image)
        seconds.append(time.perf_counter() - start)
        real = real_lesion(dataset, index, image.shape[:2])
        overlaps.append((located & real).sum() / (located | real).sum())
    print_row("mean intersection over union", np.mean(overlaps))
    print_row("median", np.median(overlaps))
    print_row("share above 0.5", np.mean(np.array(overlaps) > 0.5))
    print_row("milliseconds per image, median", 1000 * np.median(seconds))


def print_rates(title: str, dataset: Dataset, held_out: Dataset, seed: int) -> None:
    """Print how much of the real lesions the derived sets cover or show."""
    print(f"\n{title}")
    boxed = overlaps(dataset, build("b_box", held_out, seed=seed, count=len(held_out)))
    partly = overlaps(dataset, build("b_box_70", held_out, seed=seed, count=len(held_out)))
    skin = build("derm_skin", held_out, seed=seed, count=len(held_out))
    touched = overlaps(dataset, skin)
    print_row("b_box over the whole bounding box", np.mean(boxed == 1))
    print_row("b_box: share of the lesion, mean", boxed.mean())
    print_row("b_box_70 over 60 to 80 %", np.mean((partly >= 0.6) & (partly <= 0.8)))
    print_row("b_box_70: share of the lesion, mean", partly.mean())
    print_row("derm_skin without lesion", np.mean(touched == 0))
    print_row("derm_skin: images left out", skin.left_out / len(held_out))


def overlaps(dataset: Dataset, built: Dataset) -> Shares:
    """Share of the real lesion's pixels that are in each image's box or crop."""
    positions = {identity: index for index, identity in enumerate(dataset.ids)}
    images = built.images
    if not isinstance(images, DerivedImages):
        raise TypeError(f"{built.name} is not derived from held-out images")
    shares = []
    for number, (identity, (box, _)) in enumerate(zip(built.ids, images.regions, strict=True)):
        position = positions[identity.removeprefix(f"{built.name}-")]
        shape = images.source.read(number).image.shape[:2]
        lesion = real_lesion(dataset, position, shape)
        shares.append(lesion[box].sum() / lesion.sum())
    return np.array(shares)


def print_row(name: str, value: float | np.floating) -> None:
    """Print a line of a table."""
    print(f"  {name:38}{value:8.3f}")


if __name__ == "__main__":
    main()
