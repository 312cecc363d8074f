"""The inputs of the report: a reproduction folder as rows and documents, and their selection."""

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from misgiving.errors import DataError
from misgiving.report.published import (
    MINORITY,
    READ_OTHERWISE,
    SETS,
    claimed_gains,
    paper_set_of,
    title,
)
from misgiving.report.wording import count
from misgiving.results.formats import REMEDY, Row, read_document, read_table
from misgiving.results.schema import (
    Confusion,
    HistoryRow,
    ModelName,
    ReliabilityRow,
    Result,
    ResultInterval,
    RiskPoint,
    SetFacts,
    Settings,
)

MODELS = get_args(ModelName)
MAX_EXAMPLES = 8  # pictures of each set
OF_LESIONS = "isic2019", "ham10000"  # data whose groups are lesions
RAREST = 3  # classes that count as minority where the paper's are absent
SAME_CLASS = {"AKIEC": "AK"}  # HAM10000 files actinic keratosis with Bowen's disease
Picture = UInt8[np.ndarray, "height width 3"]


class Examples(NamedTuple):
    """Pictures of one data set, and the lines that stand beside them."""

    name: str
    caption: str
    pictures: Sequence[Picture]


class Table(list[Row]):
    """Rows that a report selects from thousands of times; not to be changed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__(rows)
        self._by: dict[tuple[str, ...], dict[object, list[Row]]] = {}

    def by(self, names: tuple[str, ...]) -> Mapping[object, list[Row]]:
        """The rows by the value of a field, or by those of several."""
        if names not in self._by:
            fields = attrgetter(*names)
            found = self._by[names] = {}
            for row in self:
                found.setdefault(fields(row), []).append(row)
        return self._by[names]


class ReportInputs(NamedTuple):
    """All that the report is made from."""

    results: Sequence[Result]
    intervals: Sequence[ResultInterval]
    histories: list[HistoryRow]
    settings: Settings
    datasets: Mapping[str, SetFacts]
    examples: list[Examples]
    confusions: list[Confusion]
    reliability: list[ReliabilityRow]
    risk_coverage: list[RiskPoint]

    @property
    def measured(self) -> str:
        """The set behind the numbers of 4.1 and the in-distribution side of 4.2 and 4.3."""
        return self.settings.measured_set

    @property
    def unit(self) -> str:
        """The word for a group of the data."""
        return "lesion" if self.settings.data.partition(":")[0] in OF_LESIONS else "group"

    @property
    def tuned(self) -> set[str]:
        """The sets that ODIN was tuned on."""
        return {row.dataset for row in self.intervals if row.tuned} | {
            self.settings.odin.tuning_set
        }

    @property
    def claimed_sets(self) -> list[str]:
        """The untuned sets on which the paper's claim about ODIN is judged.

        Beside the paper these are its own and their stand-ins where it claims a gain, each once:
        another reading of one, or a set of the user's own, is measured but is no evidence for or
        against the paper.
        """
        rows = select(self.results, experiment="ood_detection", detector="odin", metric="auroc")
        untuned = [name for name in distinct(rows, "dataset") if name not in self.tuned]
        if not self.settings.compares_with_paper:
            return untuned
        gained = claimed_gains("auroc")
        return [
            name
            for name in untuned
            if name not in READ_OTHERWISE and self.paper_set(name) in gained
        ]

    def split_ratio(self, experiment: str) -> float:
        """Measured images for each training image of an experiment's splits."""
        of = trained_in(experiment)
        for size in self.settings.sizes:
            if size.experiment == of:
                return size.measured / size.trained
        raise DataError(f"settings.json has no sizes of {of}; {REMEDY}")

    @property
    def minority(self) -> list[str]:
        """The paper's minority classes that are here; where none is, the three rarest."""
        counts = self.settings.class_counts
        known = [name for name in counts if any(counts[name].values())]
        rarest = sorted(known, key=lambda name: sum(counts[name].values()))[:RAREST]
        return self._of_paper or rarest

    @property
    def has_minority(self) -> bool:
        """True if the minority classes are the paper's."""
        return bool(self._of_paper)

    @property
    def _of_paper(self) -> list[str]:
        names = {SAME_CLASS.get(name.upper(), name.upper()): name for name in self.settings.classes}
        return [names[name] for name in MINORITY if name in names]

    def paper_set(self, dataset: str) -> str:
        """The row of the paper's Table 1 beside which a set is shown; empty for none."""
        facts = self.datasets.get(dataset)
        return paper_set_of(dataset, facts.paper_set if facts else "")

    def sets_of(self, paper_set: str) -> list[str]:
        """The sets that are shown beside a row of the paper's Table 1, its namesake first."""
        measured = distinct(select(self.results, experiment="ood_detection"), "dataset")
        found = [name for name in measured if self.paper_set(name) == paper_set]
        return sorted(found, key=lambda name: name != paper_set)

    def stands_in(self, dataset: str) -> bool:
        """True for a set that is shown under a set of the paper which it is not."""
        paper_set = self.paper_set(dataset)
        return bool(paper_set) and paper_set not in (dataset, READ_OTHERWISE.get(dataset))

    def origin(self, dataset: str) -> str:
        """`published set` or `made here` for a set of the paper's name; empty for others."""
        facts = self.datasets.get(dataset)
        bears_name = self.paper_set(dataset) and not self.stands_in(dataset)
        return facts.origin if facts and bears_name else ""


def trained_in(experiment: str) -> str:
    """The experiment that trains the models which an experiment measures."""
    return "ood_detection" if experiment == "new_classes" else experiment


def read_inputs(folder: Path) -> ReportInputs:
    """Read a reproduction folder.

    Raises:
        DataError: A file is missing or damaged, or there are no results.
    """
    results = read_table(folder / "results.csv", Result)
    if not results:
        raise DataError(f"{folder / 'results.csv'} has no results; {REMEDY}")
    inputs = ReportInputs(
        results=Table(results),
        intervals=Table(read_table(folder / "intervals.csv", ResultInterval)),
        histories=read_table(folder / "histories.csv", HistoryRow),
        settings=read_document(folder / "settings.json", Settings),
        datasets=read_document(folder / "datasets.json", dict[str, SetFacts]),
        examples=[],
        confusions=read_table(folder / "confusions.csv", Confusion),
        reliability=read_table(folder / "reliability.csv", ReliabilityRow),
        risk_coverage=read_table(folder / "risk_coverage.csv", RiskPoint),
    )
    return inputs._replace(examples=_read_examples(folder / "examples", inputs))


def _read_examples(folder: Path, inputs: ReportInputs) -> list[Examples]:
    """Measured images first, then the sets in the paper's order, then others.

    Within a row of the paper, the set of the paper's name comes before others.
    """

    def order(name: str) -> tuple[int, bool]:
        if name.startswith(inputs.measured):
            return -1, False
        paper_set = inputs.paper_set(name)
        return list(SETS).index(paper_set) if paper_set else len(SETS), name in READ_OTHERWISE

    found = []
    for name in sorted(inputs.datasets, key=order):
        paths = (folder / name.replace("/", "-")).glob("*.png")
        numbered = sorted(paths, key=lambda path: (len(path.stem), path.stem))  # 2 before 10
        if pictures := [_read_picture(path) for path in numbered[:MAX_EXAMPLES]]:
            facts = inputs.datasets[name]
            stands = f"for {title(inputs.paper_set(name))}: " if inputs.stands_in(name) else ""
            caption = f"{stands}{facts.contents}; {count(facts.images, 'images')}"
            found.append(Examples(title(name), caption, pictures))
    return found


def _read_picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as reason:
        raise DataError(f"{path} cannot be used: {reason}; {REMEDY}") from reason


def select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """The rows whose named fields hold the wanted values."""
    if not wanted:
        return list(rows)
    fields, values = attrgetter(*wanted), tuple(wanted.values())
    expected = values if len(values) > 1 else values[0]
    if isinstance(rows, Table):
        return list(rows.by(tuple(wanted)).get(expected, ()))
    return [row for row in rows if fields(row) == expected]


def distinct(rows: Iterable[object], field: str) -> list[str]:
    """The values of a field, each once, in order of appearance."""
    return list(dict.fromkeys(getattr(row, field) for row in rows))


def models_of(rows: Iterable[object]) -> list[str]:
    """The models that occur: known ones from vanilla to proposed, then any others."""
    found = distinct(rows, "model")
    return sorted(found, key=lambda name: MODELS.index(name) if name in MODELS else len(MODELS))


def main_model(models: Sequence[str]) -> str:
    """The model that findings are about: the proposed one, or the first that there is.

    >>> main_model(["vanilla", "proposed"]), main_model(["vanilla"])
    ('proposed', 'vanilla')
    """
    return "proposed" if "proposed" in models or not models else models[0]


def find(intervals: Iterable[ResultInterval], **wanted: object) -> ResultInterval | None:
    """The first interval with the wanted fields; None where there is none."""
    return next(iter(select(intervals, **wanted)), None)


def differences_by_trial(
    results: Iterable[Result], model: str, baseline: str, *parts: Mapping[str, object]
) -> dict[int, float]:
    """Model minus baseline in each trial that has both; of several parts, the mean over them.

    Args:
        results: Values by trial.
        model: The model.
        baseline: The model that it is compared with.
        parts: Fields by which the rows of each part are found.
    """
    known = list(results)
    of_parts = []
    for wanted in parts:
        rows = select(known, **wanted)
        ours, theirs = (
            {row.trial: row.value for row in select(rows, model=name)} for name in (model, baseline)
        )
        of_parts.append({trial: ours[trial] - theirs[trial] for trial in ours.keys() & theirs})
    complete = set.intersection(*(set(values) for values in of_parts)) if of_parts else set()
    return {trial: fmean(values[trial] for values in of_parts) for trial in sorted(complete)}


class Spread(NamedTuple):
    """A value over trials; the standard deviation (n - 1) is None for a single trial."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]


def spread(rows: Iterable[Result]) -> Spread | None:
    """Mean, standard deviation and values of rows that differ in the trial alone.

    >>> spread([])
    """
    return spread_of([row.value for row in rows])


def spread_of(numbers: Iterable[float]) -> Spread | None:
    """Mean, standard deviation and values; None where there are none."""
    values = tuple(numbers)
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, values)
