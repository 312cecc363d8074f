"""`misgiving plan`: before a training, what the calibration set of a split can certify."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving.data.cache import ImageSet
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.splits import SetNames, grouped_split
from misgiving.deferral.fit import drawn_sets
from misgiving.deferral.planning import (
    MOST_CASES,
    WRONG_SHARES,
    CertificationOutlook,
    RatePlan,
    plan_certification,
)
from misgiving.deferral.scored_cases import one_per_group
from misgiving.deferral.targets import Targets
from misgiving.groups import QUARTERS, images_named_by, named_groups, partition_groups, unit_of
from misgiving.predictions.record import Predictions
from misgiving.report.certificate import unit_sentences

RAREST = 3  # classes that `train` names


class ClassCounts(NamedTuple):
    """Images of a class in the calibration set, and the cases of it that count: one per group."""

    name: str
    images: int
    cases: int


class DataPlan(NamedTuple):
    """The outlook of the calibration set of a split, its classes, and sentences about both."""

    outlook: CertificationOutlook
    classes: tuple[ClassCounts, ...]
    summary: list[str]

    @property
    def header(self) -> tuple[str, ...]:
        """Headings of the rows."""
        return "if so many are wrong", *map(_percent, WRONG_SHARES)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells of a table of the outlook: what is certified, by the share of wrong answers."""
        outlook, error = self.outlook, self.outlook.targets.max_error
        rows = [
            *_rows(f"error, all {outlook.cases} cases accepted", outlook.error, error),
            *_rows(f"error, {outlook.cases // 2} accepted", outlook.accepted_half, error),
        ]
        for of in outlook.classes:
            rows += _rows(f"missed {of.name}, {of.cases} cases", of.rates, of.rate, of=of.name)
        return rows


class CalibrationShare(NamedTuple):
    """The share of the data that is the calibration set.

    Attributes:
        described: In words.
        more: Sentence on what one more case takes; may be empty.
        wrong: Sentence on what shows how many answers are wrong.
    """

    described: str
    more: str
    wrong: str


BY_CALIBRATION = "`misgiving calibrate` shows how many of the accepted are wrong."
GROUPED = CalibrationShare(
    ", 15 % of the groups,",
    "The calibration set gets 15 % of the data: one more case takes about seven groups more.",
    "Only a trained model shows how many are wrong.",
)
DRAWN = CalibrationShare(
    ", three quarters of the groups,",
    "The calibration set gets three quarters of the data: four groups more are three more cases.",
    BY_CALIBRATION,
)
NAMED = CalibrationShare("", "", BY_CALIBRATION)


def plan_data(data: str, targets: Targets, *, seed: int = 0) -> DataPlan:
    """Plan the certification with the calibration set of a grouped split.

    Reads labels and groups, and no image: near duplicates, which training puts into one group, are
    not found, so there may be slightly fewer cases.

    Args:
        data: The data as the user names it.
        targets: The error rates to certify.
        seed: Of the split.
    """
    dataset = load_dataset(data)
    sets = grouped_split(dataset.labels, dataset.classes, dataset.groups, seed=seed)
    groups = named_groups(dataset.groups, dataset.ids)
    return _plan(dataset, sets, targets, name=dataset.name, groups=groups, share=GROUPED)


def plan_table(path: Path, targets: Targets, *, seed: int = 0) -> DataPlan:
    """Plan the certification with the calibration set of a file of predictions.

    Args:
        path: The file.
        targets: The error rates to certify.
        seed: Of the draw of the calibration set, where the file names no sets.

    Raises:
        DataError: The file names sets, but not `tune` or `calibrate`; or a label is missing.
    """
    table = Predictions.read(path)
    sets, share = np.array(table.sets or (), dtype=object), NAMED
    if len(sets):
        for chosen in drawn_sets(table, seed=seed)[:2]:  # as `calibrate` does
            chosen.check_labelled()
    else:
        table.check_labelled()
        sets, share = np.full(len(table), "calibrate", dtype=object), DRAWN
        sets[partition_groups(table.units, QUARTERS, seed=seed)[0]] = "tune"
    return _plan(table, sets, targets, name=str(path), groups=table.groups, share=share)


def _plan(
    images: Dataset | Predictions,
    sets: SetNames,
    targets: Targets,
    *,
    name: str,
    groups: tuple[str, ...],
    share: CalibrationShare,
) -> DataPlan:
    classes = _count(images, sets)
    outlook = plan_certification({of.name: of.cases for of in classes}, targets)
    unit, count = unit_of(images.group_columns, groups), sum(of.images for of in classes)
    counted = "Each image" if unit == "image" else f"One image of each {unit}"
    summary = [
        f"{name}: {len(images)} images of {len(np.unique(_units(images)))} groups",
        *unit_sentences(
            images.group_columns,
            len(images),
            groups.count(""),
            images_named_by(images.group_columns, groups),
        ),
        f"The calibration set{share.described} has {count} images. "
        f"{counted} counts: {outlook.cases} cases.",
        *_verdict(outlook, share),
    ]
    return DataPlan(outlook, classes, summary)


def training_outlook(images: ImageSet, sets: SetNames) -> list[str]:
    """Two sentences on the calibration set of a split; none where the split has no such set."""
    if "calibrate" not in sets:
        return []
    classes = _count(images, sets)
    found = plan_certification({of.name: of.cases for of in classes}, Targets(max_error=0.5))
    rarest = sorted(classes, key=lambda of: of.cases)[:RAREST]
    unit = unit_of(images.group_columns, images.groups)
    counted = "copies count once" if unit == "image" else f"one image of each {unit}"
    first, *others = (
        f"{_percent(of.smallest)} if {_percent(of.wrong_share)} are" for of in found.error
    )
    return [
        f"The calibration set has {sum(of.images for of in classes)} images, {found.cases} cases: "
        f"{counted}; the rarest classes are "
        f"{', '.join(f'{of.name} {of.cases}' for of in rarest)}.",
        f"With all accepted, it certifies an error of {first} wrong, {', '.join(others)}; "
        "`misgiving plan` says what a target needs.",
    ]


def _count(images: Dataset | ImageSet | Predictions, sets: SetNames) -> tuple[ClassCounts, ...]:
    """Calibration cases by class, drawn as `calibrate` draws them."""
    chosen = np.flatnonzero(sets == "calibrate")
    labels = images.labels[chosen]
    drawn = one_per_group(_units(images)[chosen], seed=0)
    found, cases = Counter(labels.tolist()), Counter(labels[drawn].tolist())
    return tuple(
        ClassCounts(name, found[label], cases[label]) for label, name in enumerate(images.classes)
    )


def _units(images: Dataset | ImageSet | Predictions) -> Int[np.ndarray, " n"]:
    """Number of the group of each image."""
    if isinstance(images, Predictions):
        return images.units
    return np.unique(np.array(images.groups), return_inverse=True)[1]


def _verdict(outlook: CertificationOutlook, share: CalibrationShare) -> Iterator[str]:
    """Sentences on the targets and on the meaning of the table."""
    targets, rate = outlook.targets, outlook.targets.max_ood_false_alarms
    needs = {f"an error of {100 * targets.max_error:.3g} %": outlook.error[0].more}
    needs |= {
        f"{100 * of.rate:.3g} % of {of.name} missed": of.rates[0].more for of in outlook.classes
    }
    if rate is not None and outlook.ood_cases is not None:
        needs[f"{100 * rate:.3g} % OOD false alarms"] = max(0, outlook.ood_cases - outlook.cases)
    if short := [
        f"{target} needs {f'more than {MOST_CASES}' if more is None else more} more cases"
        for target, more in needs.items()
        if more != 0
    ]:
        yield f"Too few cases, even if no accepted answer is wrong: {'; '.join(short)}."
    else:
        yield f"Enough cases for {', '.join(needs)}, if no accepted answer is wrong."
    yield (
        f"{share.wrong} What is certified holds with a confidence of "
        f"{100 * targets.confidence:g} %, so it lies above that share."
    )
    if share.more:
        yield share.more


def _rows(
    title: str, rates: Sequence[RatePlan], target: float, *, of: str = ""
) -> list[tuple[str, ...]]:
    many = f"> {MOST_CASES}"
    more = (
        str(rate.more) if rate.more is not None else many if rate.wrong_share < target else "never"
        for rate in rates
    )
    return [
        (f"{title}: certified", *(_percent(rate.smallest) for rate in rates)),
        (f"  more cases{of and f' of {of}'} for {100 * target:.3g} %", *more),
    ]


def _percent(rate: float) -> str:
    """Percentage with one digit, rounded up.

    >>> _percent(0.05), _percent(0.01111)
    ('5 %', '1.2 %')
    """
    return f"{math.ceil(1000 * rate - 1e-9) / 10:g} %"
