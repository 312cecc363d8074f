"""A finished reproduction as its report reads it: tables as frames, and lookups in them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from misgiving.arrays import Picture
from misgiving.errors import explain_damage
from misgiving.files import read_json
from misgiving.reproduction.config import MODELS, UNSEEN_SET
from misgiving.reproduction.published import (
    METRICS,
    MINORITY,
    PAPER_NAMES,
    PAPER_SETS,
    READ_OTHERWISE,
    table_1,
)
from misgiving.reproduction.tables import (
    RUN_AGAIN,
    TABLES,
    ValuesByTrial,
    read_table,
    values_by_trial,
)

MINORITY_CLASSES = 3  # classes that count as minority where the paper's are absent
SAME_CLASS = {"AKIEC": "AK"}  # HAM10000 files actinic keratosis with Bowen's disease

Quantity = tuple[str, str, str, str]
"""Experiment, dataset, detector and metric: a quantity of every model and trial in the results."""


def select(frame: pd.DataFrame, **columns: object) -> pd.DataFrame:
    """The rows whose columns hold these values, or one of a list of values."""
    for column, value in columns.items():
        cells = frame[column]
        frame = frame[cells.isin(value) if isinstance(value, list) else cells == value]
    return frame


def in_order(present: Iterable[str], order: Iterable[str]) -> list[str]:
    """The names that occur, each once: those with a place in their order, then any others."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(dict.fromkeys(present), key=lambda name: places.get(name, len(places)))


def models_of(frame: pd.DataFrame) -> list[str]:
    """The models that occur: known ones from vanilla to proposed, then any others."""
    return in_order(frame["model"], MODELS)


def main_model(models: Sequence[str]) -> str:
    """The model that findings are about: the proposed one, or the first that there is.

    >>> main_model(["vanilla", "proposed"]), main_model(["vanilla"])
    ('proposed', 'vanilla')
    """
    return "proposed" if "proposed" in models or not models else models[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """All that the report is made from.

    Attributes:
        results: Columns of `results.csv`; and so with the next five.
        intervals: A missing end is NaN.
        histories: A quantity that is not defined is NaN.
        settings: The object in `settings.json`.
        datasets: Facts about each set by name, as in `datasets.json`.
        pictures: Examples of each set by name.
    """

    results: pd.DataFrame
    intervals: pd.DataFrame
    histories: pd.DataFrame
    confusions: pd.DataFrame
    reliability: pd.DataFrame
    risk_coverage: pd.DataFrame
    settings: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, Sequence[Picture]]

    @cached_property
    def _values(self) -> ValuesByTrial:
        return values_by_trial(self.results)

    @cached_property
    def _intervals(self) -> Mapping[tuple[str, ...], Any]:
        frame = self.intervals.astype(object).where(self.intervals.notna(), None)
        return {
            (row.experiment, row.dataset, row.detector, row.metric, row.model, row.baseline): row
            for row in frame.itertuples(index=False)
        }

    def values(self, quantity: Quantity, model: str) -> Mapping[int, float]:
        """The values of a model by trial."""
        return self._values.get((*quantity, model), {})

    def interval(self, quantity: Quantity, model: str, baseline: str = "") -> Any:
        """The row of `intervals.csv`, or None; a missing end is None, too."""
        return self._intervals.get((*quantity, model, baseline))

    def paired(self, **columns: str) -> list[Any]:
        """The paired differences in `intervals.csv` whose columns hold these values."""
        return [
            row
            for row in self._intervals.values()
            if row.baseline and all(getattr(row, name) == columns[name] for name in columns)
        ]

    def differences(
        self, quantities: Sequence[Quantity], model: str, baseline: str
    ) -> dict[int, float]:
        """Model minus baseline in each trial that has both; of several quantities, their mean.

        A quantity that no trial has, such as a class without a measured image, is left out.
        """
        measured = {key[:4] for key in self._values}
        parts = [part for part in quantities if part in measured]
        pairs = [(self.values(part, model), self.values(part, baseline)) for part in parts]
        complete = set.intersection(*({*a} & {*b} for a, b in pairs)) if pairs else set()
        return {t: fmean(a[t] - b[t] for a, b in pairs) for t in sorted(complete)}

    def rows(self, **columns: object) -> pd.DataFrame:
        """The results whose columns hold these values."""
        return select(self.results, **columns)

    @cached_property
    def claimed_sets(self) -> list[str]:
        """The untuned sets on which the paper's claim about ODIN is judged.

        Beside the paper these are its own and their stand-ins where it claims a gain, each once:
        another reading of one, or a set of the user's own, is measured but is no evidence for or
        against the paper.
        """
        rows = self.rows(experiment="ood_detection", detector="odin", metric="auroc")
        tuning_set = self.settings["odin"]["tuning_set"]
        untuned = [name for name in rows["dataset"].unique() if name != tuning_set]
        if not self.settings["compares_with_paper"]:
            return untuned
        cells = [cell for name in PAPER_SETS for cell in table_1(name) if cell.metric == "auroc"]
        gained = [cell.dataset for cell in cells if cell.difference > 0]
        return [n for n in untuned if n not in READ_OTHERWISE and self.paper_set(n) in gained]

    @property
    def paper_minority(self) -> list[str]:
        """The paper's minority classes that are here."""
        names = {
            SAME_CLASS.get(name.upper(), name.upper()): name for name in self.settings["classes"]
        }
        return [names[name] for name in MINORITY if name in names]

    @property
    def minority(self) -> list[str]:
        """The paper's minority classes that are here; where none is, the three rarest."""
        counts = {name: sum(sets.values()) for name, sets in self.settings["class_counts"].items()}
        present = [name for name in counts if counts[name]]
        rarest = sorted(present, key=lambda name: counts[name])[:MINORITY_CLASSES]
        return self.paper_minority or rarest

    def paper_set(self, dataset: str) -> str:
        """The row of the paper's Table 1 beside which a set is shown; empty for none."""
        return str(self.datasets.get(dataset, {}).get("paper_set", ""))

    def sets_of(self, paper_set: str) -> list[str]:
        """The sets that are shown beside a row of the paper's Table 1, its namesake first."""
        measured = self.rows(experiment="ood_detection")["dataset"].unique()
        beside = [name for name in measured if self.paper_set(name) == paper_set]
        return sorted(beside, key=lambda name: name != paper_set)

    def stands_in(self, dataset: str) -> bool:
        """True for a set that is shown under a set of the paper which it is not."""
        return self.paper_set(dataset) != "" and dataset not in PAPER_NAMES

    def origin(self, dataset: str) -> str:
        """`published set` or `made here` for a set of the paper's name; empty for others."""
        return str(self.datasets[dataset]["origin"]) if dataset in PAPER_NAMES else ""

    @cached_property
    def detector_rows(self) -> pd.DataFrame:
        """All detectors on the sets of 4.2, and on all unseen classes of 4.3 together."""
        rows = self.rows(metric=[*METRICS])
        rows = rows[rows["detector"] != ""]
        unseen = select(rows, experiment="new_classes", dataset=UNSEEN_SET)
        return pd.concat([select(rows, experiment="ood_detection"), unseen])

    @cached_property
    def example_sets(self) -> list[str]:
        """Sets with pictures: measured images, then the paper's sets in its order, then others.

        Within a row of the paper, the set of the paper's name comes before others.
        """
        shown = [name for name in self.datasets if self.pictures.get(name)]
        own = [name for name in shown if name.startswith(self.settings["measured_set"])]
        places = (*PAPER_SETS, "")
        others = [name for name in shown if name not in own]
        others.sort(key=lambda name: (places.index(self.paper_set(name)), name in READ_OTHERWISE))
        return own + others


def read_run(folder: Path) -> Run:
    """Read a reproduction's folder for its report.

    Raises:
        DataError: A file is missing or damaged.
    """
    tables = {name: read_table(folder / f"{name}.csv") for name in TABLES}
    datasets = read_json(folder / "datasets.json", remedy=RUN_AGAIN)
    return Run(
        **tables,
        settings=read_json(folder / "settings.json", remedy=RUN_AGAIN),
        datasets=datasets,
        pictures={name: _pictures(folder / "examples", name) for name in datasets},
    )


def _pictures(folder: Path, dataset: str) -> list[Picture]:
    """The examples of a set in the order of their numbers."""
    pictures, paths = [], (folder / dataset.replace("/", "-")).glob("*.png")
    for path in sorted(paths, key=lambda path: (len(path.stem), path.stem)):  # 2 before 10
        with explain_damage(path, remedy=RUN_AGAIN), Image.open(path) as image:
            pictures.append(np.asarray(image.convert("RGB")))
    return pictures
