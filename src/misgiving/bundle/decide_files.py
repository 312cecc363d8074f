"""Decisions on image files by a run or a bundle; no torch unless it is a run.

Images are scored part by part, and decided together. Each part is a file that is named by the
model, its policy and the images: one that is there is not scored again, so that a command that was
stopped resumes.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
from misgiving.deferral.decision_tables import UNREADABLE, DecisionRow
from misgiving.deferral.decisions import ScoredImages, score_without_policy
from misgiving.deferral.policy_file import POLICY_FOLDER
from misgiving.errors import DataError
from misgiving.files import sha256_of_json, whole_file
from misgiving.predictions.network import ModelInputs
from misgiving.scores.outputs import Outputs

if TYPE_CHECKING:
    from misgiving.checkpoint import Checkpoint  # needs torch

OnImage = Callable[[int, int], None]
PART = 256  # images
DECIDING = ("acceptance_score", "ood_score", "acceptable", "predicted")  # columns


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


class DecidedFiles:
    """Decisions on image files in their order, read from the parts at each iteration.

    Attributes:
        bad: Images that cannot be read.
    """

    def __init__(
        self,
        model: Bundle,
        parts: Mapping[Path, Sequence[str]],
        values: Mapping[str, str],
        *,
        on_bad_image: str,
    ) -> None:
        self._model, self._parts, self._values = model, parts, values
        self.bad = [BadImage(*each) for part in parts for each in _unreadable(part).items()]
        check_bad_images(self.bad, sum(map(len, parts.values())), on_bad_image)
        self._threshold: Sequence[float] = ()
        if model.policy is not None:
            columns = [[arrays[name] for name in DECIDING] for arrays in map(load_file, parts)]
            scores, ood_scores, acceptable, predicted = (
                np.concatenate(each) for each in zip(*columns, strict=True)
            )
            part = model.policy.part_of(predicted, self._columns(len(predicted)))
            self._threshold = model.policy.thresholds(scores, ood_scores, acceptable, part)

    def _columns(self, count: int) -> dict[str, list[str]]:
        return {name: [value] * count for name, value in self._values.items()}

    def __iter__(self) -> Iterator[DecisionRow]:
        for part, names in self._parts.items():
            scored, reasons = ScoredImages(**load_file(part)), _unreadable(part)
            columns = self._columns(len(scored))
            decisions = iter(self._model.decide_scored(scored, columns, threshold=self._threshold))
            for name in names:
                decision = None if name in reasons else next(decisions)
                yield DecisionRow(name, decision, reasons.get(name))


def decide_files(
    model: Bundle,
    names: Sequence[str],
    folder: Path,
    *,
    batch_size: int = 64,
    on_image: OnImage = lambda *_: None,
    on_bad_image: str = FAIL,
    values: Mapping[str, str] | None = None,
) -> DecidedFiles:
    """Decide on image files, as one batch.

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
            columns = {
                name: np.concatenate([each.arrays[name] for each in scored])
                for name in scored[0].arrays
            }
            with whole_file(path) as temporary:
                save_file(columns, temporary, {UNREADABLE: json.dumps(bad)})
    return DecidedFiles(model, paths, values or {}, on_bad_image=on_bad_image)


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
