"""Decisions on image files by a run or a bundle; no torch unless it is a run.

Images are scored part by part, and decided together. Each part is a file that is named by the
model, its policy and the images: one that is there is not scored again, so that a command that was
stopped resumes.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from misgiving.bundle.bundle import Bundle, SquareInputs, is_bundle, used_opinions
from misgiving.data.datasets.dataset import file_key
from misgiving.data.decoding import (
    FAIL,
    LOOK_AHEAD,
    BadImage,
    check_bad_images,
    in_order,
    read_bytes,
    returning_bad_images,
)
from misgiving.deferral.decisions import ScoredImages, score_without_policy
from misgiving.deferral.policy_file import POLICY_FOLDER
from misgiving.errors import DataError
from misgiving.files import sha256_of_json, whole_file
from misgiving.predictions.network import ModelInputs
from misgiving.scores.outputs import Outputs

if TYPE_CHECKING:
    from pandas import DataFrame

    from misgiving.checkpoint import Checkpoint  # needs torch

OnImage = Callable[[int, int], None]
PART = 256  # images
UNREADABLE = "unreadable"  # images of a part, and why


def load_model(
    folder: Path,
    *,
    opinions: Mapping[str, Path] | None = None,
    count: int = 0,
    device: str = "auto",
) -> Bundle:
    """Load the bundle in a folder, or a run as one without a card.

    Args:
        folder: The folder.
        opinions: Runs whose second opinions the policy of a run uses, by name; a bundle has its
            own.
        count: Number of images in all; many are scored by the run's graph (`kept_network`).
        device: Of a run. A bundle uses all cores of the processor.

    Raises:
        DataError: It is neither, or damaged, or a second opinion is of another model.
        UsageError: A second opinion is missing.
    """
    if is_bundle(folder):
        return Bundle.load(folder)
    import torch

    from misgiving.checkpoint import load
    from misgiving.deferral.deferral import Deferral
    from misgiving.predictions.inference import fingerprint_of, kept_network, outputs_of_model
    from misgiving.training.processes import device_named

    place = device_named(device)
    checkpoint = load(folder)
    fingerprint = fingerprint_of(checkpoint)
    deferral = Deferral.of_run(folder, model=fingerprint)
    policy = None if deferral is None else deferral.policy_

    def as_bundle(run: Path, source: "Checkpoint", **values: Any) -> Bundle:
        model = source.model.to(place)

        def run_model(inputs: ModelInputs) -> Outputs:
            """Run the model itself in place of its graph."""
            images = torch.from_numpy(inputs).permute(0, 3, 1, 2).float() / 255
            return outputs_of_model(model, [images.to(place)], source.views)

        return Bundle(
            network=kept_network(source, count, run) or run_model,
            classes=source.classes,
            preprocessing=source.preprocessing,
            estimates_losses=source.estimates_losses,
            card={},
            **values,
        )

    seconds = {}
    for name, run in used_opinions(policy, opinions or {}).items():
        other = load(run)
        seconds[name] = as_bundle(run, other, fingerprint=fingerprint_of(other), policy=None)
    bundle = as_bundle(folder, checkpoint, fingerprint=fingerprint, policy=policy, opinions=seconds)
    return bundle.tried(folder / POLICY_FOLDER)


def decide_files(
    model: Bundle,
    names: Sequence[str],
    folder: Path,
    *,
    batch_size: int = 64,
    on_image: OnImage = lambda *_: None,
    on_bad_image: str = FAIL,
    values: Mapping[str, str] | None = None,
) -> "DataFrame":
    """Decide on image files, as one batch.

    Returns a row for each file, in their order: its `path`, the columns of `Decisions.to_frame`,
    and `unreadable`, the reason why it cannot be read.

    Args:
        model: A run or a bundle.
        names: Paths of the files.
        folder: For the parts.
        batch_size: Images in one forward pass.
        on_image: Called with the number of finished images and of all.
        on_bad_image: `fail`, or `skip` for a row without decision.
        values: Of columns, for all files, as the site.

    Raises:
        BadImagesError: Images cannot be read, and they are not to be skipped, or none can.
        DataError: They are too few for the average guarantee.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if model.policy is not None:
        model.policy.check_batch(len(names))
    parts = [names[start : start + PART] for start in range(0, len(names), PART)]
    paths = {folder / f"{_part_name(model, part)}.safetensors": part for part in parts}
    remaining = {  # parts of which not all images could be read are tried again
        path: part for path, part in paths.items() if not path.is_file() or _unreadable(path)
    }
    images = [name for part in remaining.values() for name in part]
    done = len(names) - len(images)
    if done:
        on_image(done, len(names))
    with closing(_model_inputs(model, images, ahead=max(batch_size, LOOK_AHEAD))) as inputs:
        for path, part in remaining.items():
            unread, bad = iter(part), dict[str, str]()
            scored = [score_without_policy(Outputs(logits=np.empty((0, len(model.classes)))))]
            while batch := [*zip(islice(unread, batch_size), inputs, strict=False)]:
                bad |= {name: each.reason for name, each in batch if isinstance(each, BadImage)}
                read = [each for _, each in batch if not isinstance(each, BadImage)]
                if read:
                    scored.append(model.score_inputs(*map(np.stack, zip(*read, strict=True))))
                done += len(batch)
                on_image(done, len(names))
            arrays = _joined([each.arrays for each in scored])
            with whole_file(path) as temporary:
                save_file(arrays, temporary, {UNREADABLE: json.dumps(bad)})
    reasons = {name: reason for path in paths for name, reason in _unreadable(path).items()}
    check_bad_images([*map(BadImage._make, reasons.items())], len(names), on_bad_image)
    together = ScoredImages(**_joined([load_file(path) for path in paths]))
    cells = {name: [value] * len(together) for name, value in (values or {}).items()}
    table = model.decide_scored(together, cells).to_frame()
    table.index = np.flatnonzero([name not in reasons for name in names])
    table = table.reindex(range(len(names)))
    table.insert(0, "path", names)
    return table.assign(unreadable=[reasons.get(name) for name in names])


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Arrays of all parts, by their names."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _part_name(model: Bundle, names: Sequence[str]) -> str:
    """Identifies the model, its policy, and the images with their sizes and times of change."""
    keys: dict[str, str] = {}
    for name in names:
        with suppress(DataError):  # it is gone
            keys[name] = file_key(Path(name))
    policy = model.policy and model.policy.fingerprint
    return sha256_of_json([model.fingerprint, policy, names, keys])[:32]


def _unreadable(part: Path) -> dict[str, str]:
    """Names of images of a part that cannot be read, and why."""
    with safe_open(part, "np") as arrays:
        reasons: dict[str, str] = json.loads(arrays.metadata()[UNREADABLE])
    return reasons


def _model_inputs(
    model: Bundle, names: Sequence[str], *, ahead: int
) -> Generator[SquareInputs | BadImage]:
    """Preprocessed images in their order; threads read the next while some are decided on."""

    def read(position: int) -> SquareInputs:
        return model.model_inputs(read_bytes(Path(names[position])), names[position])

    return in_order(returning_bad_images(read, names), len(names), ahead=ahead)
