"""Collect the finished units of a reproduction: its tables and documents."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from misgiving.checkpoint import versions
from misgiving.data.cache import ImageSet
from misgiving.data.preprocessing import AUGMENTATIONS
from misgiving.errors import DataError
from misgiving.evaluation.measures import POLICY_SET
from misgiving.files import read_json, whole_folder, write_json
from misgiving.reproduction.config import UNSEEN_SET, Unit
from misgiving.reproduction.intervals import MeasuredSet, risk_curves
from misgiving.reproduction.ood_detection import unseen_sets
from misgiving.reproduction.protocol import DERMOSCOPY, EXPERIMENTS, rate_experiments, units
from misgiving.reproduction.published import PAPER_IMAGES, PAPER_NAMES, PAPER_SETS, READ_OTHERWISE
from misgiving.reproduction.runner import is_finished
from misgiving.reproduction.tables import (
    RUN_AGAIN,
    Folders,
    read_table,
    table_of,
    values_by_trial,
    write_table,
)
from misgiving.reproduction.trial_data import TrialData
from misgiving.reproduction.workers import worker_pool
from misgiving.training.config import recorded

EXAMPLES = 6  # of each set

AS_GIVEN = ("data", "in_distribution", "unseen", "models", "challenger", "trials", "seed", "notes")
"""Fields of a protocol in `settings.json`."""


def collect(trial_data: TrialData, out: Path, *, jobs: int = 1) -> None:
    """Write the collected tables and documents of all units that are finished.

    These are the units of the protocol with the same settings, data and code.

    Args:
        trial_data: The prepared images.
        out: Folder of the reproduction.
        jobs: Processes that compute intervals.

    Raises:
        DataError: No unit is finished.
        UsageError: A unit is finished with other settings or data.
        TrainingError: A process was killed, as happens when memory runs out.
    """
    present = [unit for unit in units(trial_data.protocol) if (out / unit.folder).is_dir()]
    records = trial_data.records(present, out)
    finished = [unit for unit in present if is_finished(out / unit.folder, records[unit])]
    if not finished:
        raise DataError(
            f"{out}: no unit is finished with these settings, data and code; "
            "run units before collecting"
        )
    results = _of_units(finished, out, "results.csv")
    folders = _folders(finished, out)
    sets = list(_measured_sets(trial_data, folders, results))
    with worker_pool(jobs, ignore_interrupts=True) as pool:
        intervals = pool.map(MeasuredSet.intervals, sets)
        write_table(out / "results.csv", results)
        write_table(out / "histories.csv", _of_units(finished, out, "run/history.csv"))
        write_table(out / "confusions.csv", _of_units(finished, out, "confusion.csv"))
        write_table(out / "reliability.csv", _of_units(finished, out, "bins.csv"))
        measured = trial_data.evaluation_sets.measured
        curves = risk_curves(folders["generalization"], measured, trial_data.protocol)
        write_table(out / "risk_coverage.csv", curves)
        _write_sets(trial_data, out)
        write_json(out / "settings.json", _settings(trial_data, finished, out))
        write_table(out / "intervals.csv", pd.concat(intervals))


def _measured_sets(
    trial_data: TrialData, folders: Mapping[str, Folders], results: pd.DataFrame
) -> Iterator[MeasuredSet]:
    """All sets of all experiments, each with the experiment whose units measured it."""
    values = values_by_trial(results)
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    unseen = (UNSEEN_SET, *(f"unseen/{name}" for name in protocol.unseen))
    sets = [
        *((name, measured, name) for name in EXPERIMENTS),
        ("generalization", POLICY_SET, "generalization"),
        *(("ood_detection", name, "ood_detection") for name in protocol.ood_sets),
        *(("new_classes", name, "ood_detection") for name in unseen),
        *((name, measured, name) for name in rate_experiments(protocol)),
    ]
    for seed, (experiment, dataset, measured_by) in enumerate(sets, protocol.seed):
        size = trial_data.size(measured_by)
        yield MeasuredSet(
            experiment=experiment,
            dataset=dataset,
            measured=measured,
            protocol=protocol,
            folders=folders[measured_by],
            values=values,
            split_ratio=size["measured"] / size["trained"],
            seed=seed,
        )


def _folders(finished: Sequence[Unit], out: Path) -> Mapping[str, Folders]:
    """The folders of the units of each experiment."""
    folders: dict[str, dict[str, dict[int, Path]]] = defaultdict(dict)
    for unit in finished:
        folders[unit.experiment].setdefault(unit.model, {})[unit.trial] = out / unit.folder
    return folders


def _of_units(finished: Sequence[Unit], out: Path, name: str) -> pd.DataFrame:
    """The rows of a table of each unit, with its experiment, trial and model.

    A unit of which training diverged lacks its history and its confusions, and one for which no
    policy could be set lacks its bins.
    """
    tables = []
    for unit in finished:
        if (path := out / unit.folder / name).exists():
            table = read_table(path)
            columns = {key: value for key, value in unit._asdict().items() if key not in table}
            tables.append(pd.DataFrame({**columns, **table}))
    return pd.concat(tables) if tables else table_of([], Path(name).name)


def _settings(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> dict[str, Any]:
    """The data, the settings and the provenance of a reproduction, for `settings.json`.

    `images` and `classes` are those of 4.1, in the order of the data, and `class_counts` their
    images by class and set in the first trial; 4.2 has `in_distribution_images` of the classes
    `in_distribution`. Detectors are tuned on the `tuning_set`, which is also measured after each
    epoch, and every table is of the `measured_set`. `training` is before what each model changes.
    `unit_seconds` sums training and measuring over units.
    """
    protocol = trial_data.protocol
    timings = [read_json(out / unit.folder / "timing.json", remedy=RUN_AGAIN) for unit in finished]
    setup = trial_data.setup(Unit("generalization", 0, protocol.models[0]))
    classes = np.array(setup.images.classes)
    counts = pd.crosstab(classes[setup.images.labels], setup.sets).reindex(classes, fill_value=0)
    return {
        **{name: getattr(protocol, name) for name in AS_GIVEN},
        "images": len(trial_data.images),
        "in_distribution_images": len(trial_data.inliers),
        "classes": trial_data.images.classes,
        "class_counts": counts.to_dict("index"),
        "split": protocol.images.split,
        "validation_share": protocol.images.validation_share,
        **{f"{use}_set": name for use, name in trial_data.evaluation_sets._asdict().items()},
        "sizes": [trial_data.size(experiment) for experiment in EXPERIMENTS],
        "odin": asdict(protocol.odin),
        "learning_rates": sorted({protocol.training.learning_rate, *protocol.learning_rates}),
        "model": recorded(protocol.model),
        "training": recorded(protocol.training),
        "preprocessing": asdict(trial_data.preprocessing),
        "augmentation": asdict(AUGMENTATIONS[trial_data.augmentation]),
        "compares_with_paper": set(protocol.in_distribution) == set(DERMOSCOPY.in_distribution),
        "versions": versions(),
        "fingerprint": trial_data.images.fingerprint,
        "leakage": trial_data.leakage(),
        "missing_units": [unit._asdict() for unit in units(protocol) if unit not in finished],
        "skipped": trial_data.skipped(),
        "unit_seconds": sum(timing["seconds"] for timing in timings),
        "unit_threads": sorted({timing["threads"] for timing in timings}),
    }


def _write_sets(trial_data: TrialData, out: Path) -> None:
    """Write `datasets.json`, the images of each set into `manifests`, and a few into `examples`.

    The latter are spread evenly, so that several classes or source pictures are among them. Facts
    are `contents`, number of `images` and of independent `groups`, `checksum` of all images,
    `paper_set` (the set of the paper's Table 1 that it is or stands in for; empty for none) with
    `paper_images`, the images `left_out` because no sample could be made of them, and `origin`
    (`published set` if it was given under the paper's name, `given` under another, or `made here`;
    empty for the data).
    """
    facts, outliers = {}, trial_data.outliers(0)
    sources = {source.name: source for source in trial_data.protocol.sources}
    with whole_folder(out / "manifests") as manifests, whole_folder(out / "examples") as examples:
        for name, images, contents in _exhibits(trial_data):
            row = sources[name].row if name in sources else name
            given = "published set" if name in PAPER_NAMES else "given"
            origin = given if name in sources else "made here"
            facts[name] = {
                "contents": contents,
                "images": len(images),
                "groups": len(np.unique(images.units)),
                "checksum": images.fingerprint,
                "paper_set": READ_OTHERWISE.get(row, row if row in PAPER_SETS else ""),
                "paper_images": PAPER_IMAGES.get(row),
                "left_out": outliers[name][0].left_out if name in outliers else 0,
                "origin": origin if name in outliers else "",
            }
            file_name = name.replace("/", "-")
            columns = {"id": images.ids, "group": images.groups, "sha256": images.hashes}
            write_table(manifests / f"{file_name}.csv", pd.DataFrame(columns))
            (examples / file_name).mkdir()
            positions = np.linspace(0, len(images) - 1, min(EXAMPLES, len(images)))
            for number, pixels in enumerate(images.read(positions.round().astype(np.int64))):
                Image.fromarray(pixels).save(examples / file_name / f"{number}.png")
    write_json(out / "datasets.json", facts)


def _exhibits(trial_data: TrialData) -> Iterator[tuple[str, ImageSet, str]]:
    """All sets that are measured: name, images and contents, in the first trial."""
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    classes = ", ".join(protocol.in_distribution)
    within = f"held-out images of the classes {classes} (in-distribution in 4.2 and 4.3)"
    described = {
        measured: "held-out images of all classes (4.1)",
        f"{measured} (in-distribution classes)": within,
    }
    for experiment, (name, contents) in zip(EXPERIMENTS, described.items(), strict=True):
        setup = trial_data.setup(Unit(experiment, 0, protocol.models[0]))
        yield name, setup.images_of(measured), contents
    for name, (dataset, images) in trial_data.outliers(0).items():
        yield name, images, dataset.contents
    together, rows_of = unseen_sets(trial_data.images, protocol.unseen)
    for name, rows in rows_of.items():
        members = "all unseen classes" if name == UNSEEN_SET else f"class {name.split('/', 1)[1]}"
        contents = f"images of {members}, on which no model of 4.3 was trained"
        yield name, together.select(rows), contents
