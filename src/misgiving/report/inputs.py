"""What a reproduction folder holds for the report."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from misgiving.errors import DataError
from misgiving.report import tables, wording
from misgiving.report.figures import MAX_EXAMPLES, Examples, Picture
from misgiving.report.published import READ_OTHERWISE, SETS, SETTINGS, row_of, title
from misgiving.report.tables import Sweep, distinct, select
from misgiving.report.tables.records import Row
from misgiving.report.wording import UNKNOWN, count, label
from misgiving.results.formats import REMEDY, read_document, read_table
from misgiving.results.schema import (
    Confusion,
    HistoryRow,
    ReliabilityRow,
    Result,
    ResultInterval,
    RiskPoint,
    SetFacts,
    Settings,
)

Facts = Mapping[str, Any]
RAREST = 3  # classes that count as minority where the paper's are absent
SAME_CLASS = {"AKIEC": "AK"}  # HAM10000 files actinic keratosis with Bowen's disease


class Material(NamedTuple):
    """All that the report is made from; `settings` and `datasets` are the JSON files' objects."""

    results: list[Result]
    intervals: list[ResultInterval]
    histories: list[HistoryRow]
    settings: Facts
    datasets: Mapping[str, Facts]
    examples: list[Examples]
    confusions: list[Confusion]
    reliability: list[ReliabilityRow]
    risk_coverage: list[RiskPoint]

    @property
    def measured(self) -> str:
        """The part of the data that the numbers of 4.1 and the in-distribution side come from."""
        return str(self.settings.get("measured_set", "validation"))

    @property
    def watched(self) -> str:
        """The part that is measured after each epoch of training."""
        return str(self.settings.get("monitored_set", "validation"))

    @property
    def compares_with_paper(self) -> bool:
        """Whether the run is one of dermoscopy, whose numbers belong beside the paper's."""
        return bool(self.settings.get("compares_with_paper", False))

    @property
    def sweep(self) -> Sweep | None:
        """The learning rates that were tried; None where even one cannot be judged."""
        rate = self.settings.get("learning_rate")
        own = None if rate is None else float(rate)
        return tables.read_sweep(self.results, self.histories, own_rate=own, part=self.watched)

    @property
    def tuned(self) -> set[str]:
        """The sets that ODIN was tuned on."""
        named = {row.dataset for row in self.intervals if row.tuned}
        return named | {str(self.settings.get("tuning_set", ""))}

    @property
    def claimed_sets(self) -> list[str]:
        """The untuned sets on which the paper's claim about ODIN is judged.

        Beside the paper these are its own and their stand-ins, each once: another reading of one,
        or a set of the user's own, is measured and no evidence for or against the paper.
        """
        rows = select(self.intervals, experiment="ood_detection", detector="odin", metric="auroc")
        untuned = [name for name in distinct(rows, "dataset") if name not in self.tuned]
        if not self.compares_with_paper:
            return untuned
        return [name for name in untuned if name not in READ_OTHERWISE and self.row(name) in SETS]

    @property
    def classes(self) -> list[str]:
        """The classes of Section 4.1 in the order of the data."""
        return [str(name) for name in self.settings.get("classes", ())]

    @property
    def minority(self) -> list[str]:
        """The paper's minority classes that are here; where none is, the three rarest."""
        named = self._paper_classes(SETTINGS.minority)
        counts = {name: sum(self.counts(name).values()) for name in self.classes}
        known = sorted((name for name in counts if counts[name]), key=lambda name: counts[name])
        return named or known[:RAREST]

    @property
    def majority(self) -> list[str]:
        """The paper's densely sampled classes that are here."""
        return self._paper_classes(SETTINGS.majority)

    def _paper_classes(self, wanted: Iterable[str]) -> list[str]:
        names = {SAME_CLASS.get(name.upper(), name.upper()): name for name in self.classes}
        return [names[name] for name in wanted if name in names]

    def counts(self, name: str) -> dict[str, int]:
        """Images of a class in each part of the data of 4.1."""
        counted = self.settings.get("class_counts", {}).get(name, {})
        return {str(part): int(images) for part, images in counted.items()}

    def held_out(self) -> dict[str, int]:
        """Images of each class that the numbers of 4.1 come from, where they are counted."""
        counted = {name: self.counts(name).get(self.measured) for name in self.classes}
        return {name: images for name, images in counted.items() if images is not None}

    def row(self, dataset: str) -> str:
        """The row of the paper's Table 1 beside which a set is shown; empty for none."""
        return row_of(dataset, str(self.datasets.get(dataset, {}).get("stands_for") or ""))

    def sets_of(self, row: str) -> list[str]:
        """The sets that are shown beside a row of the paper's Table 1, its namesake first."""
        measured = distinct(select(self.results, experiment="ood_detection"), "dataset")
        found = [name for name in measured if self.row(name) == row]
        return sorted(found, key=lambda name: name != row)


def read_material(folder: Path) -> Material:
    """Read the folder; only `results.csv` must be there, but nothing may be damaged."""
    results = read_table(folder / "results.csv", Result)
    if not results:
        raise DataError(f"{folder / 'results.csv'} holds no results; {REMEDY}")
    datasets = _read_datasets(folder / "datasets.json")
    return Material(
        results=results,
        intervals=_optional(folder / "intervals.csv", ResultInterval),
        histories=_optional(folder / "histories.csv", HistoryRow),
        settings=_read_settings(folder / "settings.json"),
        datasets=datasets,
        examples=_read_examples(folder / "examples", datasets),
        confusions=_optional(folder / "confusions.csv", Confusion),
        reliability=_optional(folder / "reliability.csv", ReliabilityRow),
        risk_coverage=_optional(folder / "risk_coverage.csv", RiskPoint),
    )


def _optional(path: Path, kind: Callable[..., Row]) -> list[Row]:
    return read_table(path, kind) if path.exists() else []


def _read_datasets(path: Path) -> dict[str, Facts]:
    if not path.exists():
        return {}
    found = read_document(path, dict[str, SetFacts])
    return {
        name: {
            "contents": facts.contents,
            "images": facts.images,
            "sources": facts.groups,
            "checksum": facts.checksum,
            "stands_for": facts.paper_set if facts.paper_set != name else None,
            "paper_images": facts.paper_images,
            "left_out": facts.left_out or None,
        }
        for name, facts in found.items()
    }


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = read_document(path, Settings)
    return {
        "title": "Loss Estimators Improve Model Generalization: a reproduction",
        "data": found.data,
        "backbone": found.model["backbone"],
        "pretrained": wording.weights(found),
        "image_size": found.preprocessing["image_size"],
        "epochs": found.training["epochs"],
        "batch_size": found.training["batch_size"],
        "learning_rate": found.training["learning_rate"],
        "learning_rates": list(found.learning_rates),
        "trials": found.trials,
        "models": list(found.models),
        "seed": found.seed,
        "split": found.split,
        "validation_share": found.validation_share,
        "monitored_set": found.monitored_set,
        "measured_set": found.measured_set,
        "classes": list(found.classes),
        "class_counts": found.class_counts,
        "in_distribution": list(found.in_distribution),
        "unseen": list(found.unseen),
        "tuning_set": found.odin.tuning_set,
        "odin_temperatures": list(found.odin.temperatures),
        "odin_epsilons": list(found.odin.epsilons),
        "compares_with_paper": found.compares_with_paper,
        "open_choices": wording.open_choices(found),
        "training": wording.training_settings(found),
        "versions": found.versions,
        "fingerprint": found.fingerprint,
        "leakage": [wording.leakage(one, found.measured_set) for one in found.leakage],
        "missing_units": [
            f"{unit.experiment}, trial {unit.trial}, {unit.model}" for unit in found.missing_units
        ],
        "unit_seconds": found.unit_seconds,
        "notes": wording.remarks(found),
    }


def _read_examples(folder: Path, datasets: Mapping[str, Facts]) -> list[Examples]:
    found = []
    for name, facts in sorted(datasets.items(), key=_order):
        paths = sorted((folder / name.replace("/", "-")).glob("*.png"), key=_place)
        pictures = [_read_picture(path) for path in paths[:MAX_EXAMPLES]]
        if pictures:
            found.append(Examples(label(name), _caption(name, facts), pictures))
    return found


def _order(item: tuple[str, Facts]) -> tuple[int, bool]:
    """The sets of the paper stand in its order, before those of one's own and the unseen classes.

    What is held out comes first; within a row the set of the paper's name comes before others.
    """
    name, facts = item
    if name.startswith(("validation", "test")):
        return -1, False
    row = row_of(name, str(facts.get("stands_for") or ""))
    return list(SETS).index(row) if row else len(SETS), name in READ_OTHERWISE


def _caption(name: str, facts: Facts) -> str:
    row = row_of(name, str(facts.get("stands_for") or ""))
    stands = f"for {title(row)}: " if stands_in(name, row) else ""
    return f"{stands}{facts.get('contents', '')}; {count(facts.get('images', UNKNOWN), 'images')}"


def stands_in(name: str, row: str) -> bool:
    """Whether a set is another one than the paper's under whose row it is shown."""
    return bool(row) and row not in (name, READ_OTHERWISE.get(name))


def _place(path: Path) -> tuple[int, str]:
    return len(path.stem), path.stem  # 2.png comes before 10.png


def _read_picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as reason:
        raise DataError(f"{path} cannot be used: {reason}; {REMEDY}") from reason
