"""Prediction of a folder of JPEG files: `predict` against its steps, one after the other.

    python benchmarks/predicting.py [--images 256] [--width 600] [--height 450] [--rounds 5]

The steps are those that cannot be avoided: for every batch of 64, read, decode and preprocess each
file in turn by the same functions, then run the bare model, with torch's own number of threads. Its
model is loaded beforehand. Ours is the library function behind `misgiving predict`, from a run
folder and a folder of files to the rows of the table. The model is untrained, since weights do not
change the cost. Notes give the largest difference of a probability.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from pictures import write_pictures
from side_by_side import Comparison, alternate
from torch import Tensor

from misgiving.checkpoint import Architecture, Checkpoint, load, save
from misgiving.data.datasets.folders import image_names
from misgiving.data.decoding import read_bytes
from misgiving.data.preprocessing import Preprocessing
from misgiving.data.splits import Split
from misgiving.workflows.predict import predict_images, predictor_of

CLASSES = tuple("abcdefgh")
BATCH_SIZE = 64


def main() -> None:
    """Write files and a run folder, time both sides in turn, and compare the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=128, help="of the model, in pixels")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--width", type=int, default=600, help="of the files' images, in pixels")
    parser.add_argument("--height", type=int, default=450)
    parser.add_argument("--pictures", type=Path, help="take pictures below this folder instead")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, run = Path(temporary) / "images", Path(temporary) / "run"
        size = (options.width, options.height)
        paths = write_pictures(folder, count=options.images, size=size, source=options.pictures)
        save(run, untrained(options.backbone, options.image_size))
        checkpoint = load(run)
        Comparison(
            what=f"predicting {len(paths)} JPEG files of {options.width} x {options.height} pixels",
            against=f"decoding, preprocessing and the bare {options.backbone} in turn",
            measure="times as fast",
            bound=0.95,
            rounds=alternate(
                lambda: ours(run, folder),
                lambda: in_turn(checkpoint, paths),
                rounds=options.rounds,
            ),
            notes=(_difference(ours(run, folder), in_turn(checkpoint, paths)),),
        ).report()


def untrained(backbone: str, image_size: int) -> Checkpoint:
    """A model with random weights and a split, since a run folder has one."""
    torch.manual_seed(0)
    architecture = Architecture(backbone=backbone, num_classes=len(CLASSES), image_size=image_size)
    return Checkpoint(
        model=architecture.build().eval(),
        architecture=architecture,
        classes=CLASSES,
        preprocessing=Preprocessing(image_size=image_size),
        split=Split(ids=("0",), hashes=("0" * 64,), sets=("train",), labels=("a",), groups=("0",)),
        class_weights=(1.0,) * len(CLASSES),
        estimates_losses=True,
        configuration={"data": {"name": "drawn", "fingerprint": ""}, "training": {}},
    )


def ours(run: Path, folder: Path) -> np.ndarray:
    """The probability of each predicted class, by `predict`."""
    decisions = predict_images(
        predictor_of(run, device="cpu"), image_names([folder]), batch_size=BATCH_SIZE
    )
    return np.array([row.probability for row in decisions])


def in_turn(checkpoint: Checkpoint, paths: list[Path]) -> np.ndarray:
    """The same probabilities by the steps, with nothing in parallel."""
    starts = range(0, len(paths), BATCH_SIZE)
    with torch.no_grad():
        logits = [
            checkpoint.model(_batch(checkpoint, paths[start : start + BATCH_SIZE])).logits
            for start in starts
        ]
    return torch.cat(logits).double().softmax(dim=1).amax(dim=1).numpy()


def _batch(checkpoint: Checkpoint, paths: list[Path]) -> Tensor:
    squares = [checkpoint.preprocessing.from_file(read_bytes(path), str(path)) for path in paths]
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"largest difference of a probability {np.abs(ours - theirs).max():.1e}"


if __name__ == "__main__":
    main()
