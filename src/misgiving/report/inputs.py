"""What a reproduction folder holds for the report."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from misgiving.errors import DataError
from misgiving.report import tables
from misgiving.report.figures import MAX_EXAMPLES, Examples, Picture
from misgiving.report.markup import UNKNOWN, count, label
from misgiving.report.published import READ_OTHERWISE, SETS, SETTINGS, row_of, title
from misgiving.report.tables import (
    Bin,
    Confusion,
    Epoch,
    Interval,
    Result,
    RiskPoint,
    Sweep,
    distinct,
    select,
)

Facts = Mapping[str, Any]
RAREST = 3  # classes that count as minority where the paper's are absent
SAME_CLASS = {"AKIEC": "AK"}  # HAM10000 files actinic keratosis with Bowen's disease


class Material(NamedTuple):
    """All that the report is made from; `settings` and `datasets` are the JSON files' objects."""

    results: list[Result]
    intervals: list[Interval]
    histories: list[Epoch]
    settings: Facts
    datasets: Mapping[str, Facts]
    examples: list[Examples]
    confusions: list[Confusion]
    reliability: list[Bin]
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
    datasets = _read_json(folder / "datasets.json")
    return Material(
        results=tables.read_results(folder),
        intervals=tables.read_intervals(folder),
        histories=tables.read_histories(folder),
        settings=_read_json(folder / "settings.json"),
        datasets=datasets,
        examples=_read_examples(folder / "examples", datasets),
        confusions=tables.read_confusions(folder),
        reliability=tables.read_reliability(folder),
        risk_coverage=tables.read_risk_coverage(folder),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise _unusable(path, reason) from reason
    if not isinstance(content, dict):
        raise _unusable(path, "it holds no object")
    return content


def _unusable(path: Path, reason: object) -> DataError:
    return DataError(f"{path} cannot be used: {reason}; run `misgiving reproduce` again")


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
        raise _unusable(path, reason) from reason
