"""The documents of a reproduction: its settings and provenance, and its sets with examples."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from misgiving.checkpoint import versions
from misgiving.data.cache import ImageSet
from misgiving.data.ood_sets import PAPER_COUNTS
from misgiving.evaluation.measures import UNSEEN_SET
from misgiving.files import read_json, whole_folder, write_json
from misgiving.reproduction.config import Unit
from misgiving.reproduction.ood_detection import unseen_images, unseen_sets
from misgiving.reproduction.protocol import DERMOSCOPY, EXPERIMENTS, PAPER_SETS, units
from misgiving.reproduction.tables import REMEDY, write_table
from misgiving.reproduction.trial_data import TrialData
from misgiving.training.config import recorded

EXAMPLES = 6  # of each set

Exhibits = dict[str, tuple[ImageSet, dict[str, Any]]]


def settings(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> dict[str, Any]:
    """The data, the settings and the provenance of a reproduction, for `settings.json`.

    `images` and `classes` are those of 4.1, in the order of the data, and `class_counts` their
    images by class and set in the first trial; 4.2 has `in_distribution_images` of the classes
    `in_distribution`. After each epoch the `monitored_set` is measured, detectors are tuned on
    the `tuning_set`, and every table is of the `measured_set`. `training` is before what each
    model changes. `unit_seconds` sums training and measuring over units.
    """
    protocol, sets = trial_data.protocol, trial_data.evaluation_sets
    timings = [timing(out / unit.folder) for unit in finished]
    return {
        "data": protocol.data,
        "images": len(trial_data.images),
        "in_distribution_images": len(trial_data.inliers),
        "classes": trial_data.images.classes,
        "in_distribution": protocol.in_distribution,
        "unseen": protocol.unseen,
        "class_counts": _class_counts(trial_data),
        "split": protocol.images.split,
        "validation_share": protocol.images.validation_share,
        "monitored_set": sets.monitored,
        "tuning_set": sets.tuning,
        "measured_set": sets.measured,
        "sizes": [trial_data.size(experiment) for experiment in EXPERIMENTS],
        "odin": asdict(protocol.odin),
        "models": protocol.models,
        "trials": protocol.trials,
        "seed": protocol.seed,
        "learning_rates": sorted({protocol.training.learning_rate, *protocol.learning_rates}),
        "model": recorded(protocol.model),
        "training": recorded(protocol.training),
        "preprocessing": trial_data.preprocessing.to_dict(),
        "augmentation": trial_data.augmentation.to_dict(),
        "compares_with_paper": set(protocol.in_distribution) == set(DERMOSCOPY.in_distribution),
        "versions": versions(),
        "fingerprint": trial_data.images.fingerprint,
        "leakage": [row._asdict() for row in trial_data.leakage()],
        "missing_units": [unit._asdict() for unit in units(protocol) if unit not in finished],
        "skipped": [
            {"set": name, **image._asdict()}
            for name, images in trial_data.skipped().items()
            for image in images
        ],
        "unit_seconds": sum(timing["seconds"] for timing in timings),
        "unit_threads": sorted({timing["threads"] for timing in timings}),
        "notes": protocol.notes,
    }


def timing(folder: Path) -> dict[str, Any]:
    """The `seconds` that a unit took, and its `threads`."""
    return read_json(folder / "timing.json", remedy=REMEDY)


def _class_counts(trial_data: TrialData) -> dict[str, dict[str, int]]:
    setup = trial_data.setup(Unit("generalization", 0, trial_data.protocol.models[0]))
    return {
        name: {
            str(part): int(np.sum((setup.images.labels == label) & (setup.sets == part)))
            for part in np.unique(setup.sets)
        }
        for label, name in enumerate(setup.images.classes)
    }


def exhibits(trial_data: TrialData) -> Exhibits:
    """The images of all sets that are measured, and their facts for `datasets.json`, by name.

    Sets are of the first trial where they differ between trials. Facts are `contents`, number of
    `images` and of independent `groups`, `checksum` of all images, `paper_set` (the set of the
    paper's Table 1 that it is or stands in for; empty for none) with `paper_images`, the images
    `left_out` because no sample could be made of them, and `origin` (`published set` if it was
    given under the paper's name, `given` under another, or `made here`; empty for the data).
    """
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    all_classes, some_classes = (
        trial_data.setup(Unit(experiment, 0, protocol.models[0])).images_of(measured)
        for experiment in EXPERIMENTS
    )
    classes = ", ".join(protocol.in_distribution)
    sets: Exhibits = {
        measured: (all_classes, _facts(all_classes, "held-out images of all classes (4.1)")),
        f"{measured} (in-distribution classes)": (
            some_classes,
            _facts(
                some_classes,
                f"held-out images of the classes {classes} (in-distribution in 4.2 and 4.3)",
            ),
        ),
    }
    for name, (dataset, images) in trial_data.outliers(0).items():
        facts = _facts(images, dataset.contents, protocol.row(name))
        origin = {"left_out": dataset.left_out, "origin": protocol.origin(name)}
        sets[name] = images, facts | origin
    together = unseen_images(trial_data.images, protocol.unseen)
    for name, rows in unseen_sets(together, protocol.unseen).items():
        described = f"class {name.removeprefix('unseen/')}"
        described = "all unseen classes" if name == UNSEEN_SET else described
        images = together.select(rows)
        contents = f"images of {described}, on which no model of 4.3 was trained"
        sets[name] = images, _facts(images, contents)
    return sets


def _facts(images: ImageSet, contents: str, row: str = "") -> dict[str, Any]:
    """Count a set; `row` is that of the paper's Table 1."""
    return {
        "contents": contents,
        "images": len(images),
        "groups": len(set(images.groups)),
        "checksum": images.fingerprint,
        "paper_set": row if row in PAPER_SETS else "",
        "paper_images": PAPER_COUNTS.get(row),
        "left_out": 0,
        "origin": "",
    }


def write_datasets(out: Path, sets: Exhibits) -> None:
    """Write `datasets.json`, and the images of each set into `manifests/`."""
    write_json(out / "datasets.json", {name: facts for name, (_, facts) in sets.items()})
    with whole_folder(out / "manifests") as partial:
        for name, (images, _) in sets.items():
            columns = {"id": images.ids, "group": images.groups, "sha256": images.hashes}
            write_table(partial / f"{name.replace('/', '-')}.csv", pd.DataFrame(columns))


def write_examples(folder: Path, sets: Exhibits) -> None:
    """Write a few images of each set as PNG files.

    They are spread evenly, so that several classes or source pictures are among them.
    """
    with whole_folder(folder) as partial:
        for name, (images, _) in sets.items():
            examples = partial / name.replace("/", "-")
            examples.mkdir()
            positions = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images)))
            for number, pixels in enumerate(images.read(positions.round().astype(np.int64))):
                Image.fromarray(pixels).save(examples / f"{number}.png")
