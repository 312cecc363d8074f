"""Augmenting a batch: ours against torchvision's transforms, image by image, on the same images.

    python benchmarks/augmenting.py [--images 64] [--side 224] [--threads N] [--rounds 15]

Both sides flip both ways, rotate by up to 180 degrees and shift by up to a tenth (bilinear), and
vary brightness, contrast and saturation by a fifth; neither changes the hue. Beyond an edge, our
side mirrors the image and torchvision's is black, which is less work. Its images are stacked into a
batch, as by a loader. Each side draws its own random numbers.
"""

import argparse

import torch
from side_by_side import Comparison, alternate
from torch import Tensor
from torchvision.transforms import v2

from misgiving.data.batching import augment
from misgiving.data.preprocessing import AugmentationSettings

SETTINGS = AugmentationSettings()
THEIRS = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(),
        v2.RandomAffine(
            degrees=SETTINGS.rotation,
            translate=(SETTINGS.translation, SETTINGS.translation),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(SETTINGS.jitter, SETTINGS.jitter, SETTINGS.jitter),
    ]
)


def main() -> None:
    """Time both sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=224, help="of an image, in pixels")
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images, generator = torch.rand(options.images, 3, options.side, options.side), torch.Generator()
    Comparison(
        what=f"augmenting {options.images} images of {options.side} x {options.side} pixels "
        f"in {torch.get_num_threads()} threads",
        against="torchvision.transforms.v2",
        measure="times as fast",
        bound=2,
        rounds=alternate(
            lambda: augment(images, SETTINGS, generator),
            lambda: one_by_one(images),
            rounds=options.rounds,
        ),
    ).report()


def one_by_one(images: Tensor) -> Tensor:
    """The batch as a data set with these transforms and a loader would give it."""
    return torch.stack([THEIRS(image) for image in images])


if __name__ == "__main__":
    main()
