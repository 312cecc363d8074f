"""Decisions on image files by a run or a bundle, part by part; no torch unless it is a run.

Each part is a file that is named by the model, its policy and the images: one that is there is not
decided on again, so that a command that was stopped resumes.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from misgiving.bundle.bundle import Bundle, is_bundle
from misgiving.data.datasets.dataset import file_key
from misgiving.data.decoding import (
    FAIL,
    LOOK_AHEAD,
    check_bad_images,
    in_order,
    read_bytes,
    returning_bad_images,
)
from misgiving.deferral.decision_tables import DecisionRow, row_of
from misgiving.deferral.deferral import Deferral
from misgiving.errors import BadImage, DataError
from misgiving.files import write_text
from misgiving.manifests import sha256_of_json
from misgiving.predictions.network import ModelInputs
from misgiving.predictions.record import Predictions

OnImage = Callable[[int, int], None]
PART = 256  # images

ModelInput = UInt8[np.ndarray, "size size 3"]


def load_model(folder: Path, *, count: int = 0, device: str = "auto") -> Bundle:
    """Load the bundle in a folder, or a run as one without a card.

    Args:
        folder: The folder.
        count: Number of images in all; many are scored by the run's graph (`kept_network`).
        device: Of a run. A bundle uses all cores of the processor.

    Raises:
        DataError: It is neither, or damaged.
    """
    if is_bundle(folder):
        return Bundle.load(folder)
    import torch

    from misgiving.checkpoint import load
    from misgiving.models.joint import full_outputs_of
    from misgiving.predictions.inference import fingerprint_of, kept_network
    from misgiving.training.processes import device_named

    checkpoint = load(folder)
    fingerprint = fingerprint_of(checkpoint)
    deferral = Deferral.of_run(folder, model=fingerprint)
    place = device_named(device)
    model = checkpoint.model.to(place)

    def run_model(inputs: ModelInputs) -> tuple[Float[np.ndarray, "n ..."], ...]:
        """Outputs of the model itself, in the form that a graph gives them."""
        images = torch.from_numpy(inputs).permute(0, 3, 1, 2).float() / 255
        return tuple(out.numpy() for out in full_outputs_of(model, [images.to(place)]))

    return Bundle(
        network=kept_network(checkpoint, count, folder) or run_model,
        classes=checkpoint.classes,
        preprocessing=checkpoint.preprocessing,
        estimates_losses=checkpoint.estimates_losses,
        deferral=deferral,
        card={},
        fingerprint=fingerprint,
    )


class DecidedFiles:
    """Decisions on image files in their order, read from the parts at each iteration."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[DecisionRow]:
        for part in self._parts:
            yield from _read_part(part)


def decide_files(
    model: Bundle,
    names: Sequence[str],
    folder: Path,
    *,
    batch_size: int = 64,
    on_image: OnImage = lambda *_: None,
    on_bad_image: str = FAIL,
) -> DecidedFiles:
    """Decide on image files.

    Args:
        model: A run or a bundle.
        names: Paths of the files.
        folder: For the parts.
        batch_size: Images in one forward pass.
        on_image: Called with the number of finished images and of all.
        on_bad_image: `fail`, or `skip` for a row without decision.

    Raises:
        BadImagesError: Images cannot be read, and they are not to be skipped, or none can.
    """
    parts = [names[start : start + PART] for start in range(0, len(names), PART)]
    paths = [folder / f"{_part_name(model, part)}.jsonl" for part in parts]
    remaining = [each for each in zip(parts, paths, strict=True) if not _is_finished(each[1])]
    images = [name for part, _ in remaining for name in part]
    done = len(names) - len(images)
    if done:
        on_image(done, len(names))
    with closing(_model_inputs(model, images, ahead=max(batch_size, LOOK_AHEAD))) as inputs:
        for part, path in remaining:
            unread, rows = iter(part), list[DecisionRow]()
            while batch := [*zip(islice(unread, batch_size), inputs, strict=False)]:
                rows += _decided(model, batch)
                done += len(batch)
                on_image(done, len(names))
            write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
    decided = DecidedFiles(paths)
    bad = [BadImage(row.path, row.unreadable) for row in decided if row.unreadable]
    check_bad_images(bad, len(names), on_bad_image)
    return decided


def decide_rows(
    deferral: Deferral, predictions: Predictions, *, many: int = 10_000
) -> Iterator[DecisionRow]:
    """Decisions on predictions, with the path of each image, or its id; `many` at a time."""
    names = predictions.paths or predictions.ids
    for start in range(0, len(predictions), many):
        rows = np.arange(start, min(start + many, len(predictions)))
        yield from map(row_of, names[start:], deferral.decide(predictions.select(rows)))


def _part_name(model: Bundle, names: Sequence[str]) -> str:
    """Identifies the model, its policy, and the images with their sizes and times of change."""
    keys: dict[str, str] = {}
    for name in names:
        with suppress(DataError):  # it is gone
            keys[name] = file_key(Path(name))
    policy = model.deferral and model.deferral.fingerprint
    return sha256_of_json([model.fingerprint, policy, names, keys])[:32]


def _is_finished(part: Path) -> bool:
    """True for a part of which all images could be read."""
    return part.is_file() and not any(row.unreadable for row in _read_part(part))


def _read_part(part: Path) -> Iterator[DecisionRow]:
    with part.open(encoding="utf-8") as file:
        for line in file:
            yield DecisionRow(*json.loads(line))


def _model_inputs(
    model: Bundle, names: Sequence[str], *, ahead: int
) -> Generator[ModelInput | BadImage]:
    """Preprocessed images in their order; threads read the next while some are decided on."""

    def read(position: int) -> ModelInput:
        return model.model_input(read_bytes(Path(names[position])), names[position])

    return in_order(returning_bad_images(read, names), len(names), ahead=ahead)


def _decided(
    model: Bundle, batch: Sequence[tuple[str, ModelInput | BadImage]]
) -> list[DecisionRow]:
    """Rows of a batch; those of images that cannot be read say why."""
    inputs = [model_input for _, model_input in batch if not isinstance(model_input, BadImage)]
    decisions = iter(model.decide_inputs(np.stack(inputs)) if inputs else ())
    return [
        DecisionRow(name, unreadable=model_input.reason)
        if isinstance(model_input, BadImage)
        else row_of(name, next(decisions))
        for name, model_input in batch
    ]
