"""`misgiving plan`."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from misgiving.cli.options import (
    DATA,
    PREDICTION_FILE,
    Fields,
    Values,
    command,
    is_prediction_file,
    seed_option,
)
from misgiving.cli.progress import say, show_table
from misgiving.deferral.settings import Targets

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from misgiving.data.cache import ImageSet
    from misgiving.data.splits import SetNames
    from misgiving.deferral.planning import CertificationOutlook, RatePlan

RAREST = 3  # classes that `train` names
PLANNED = Fields(
    Targets, ("max_error", "confidence", "class_max_miss", "max_ood_false_alarms", "simultaneous")
)


@command
def plan(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA|PREDICTIONS",
            help=f"{DATA} Or a {PREDICTION_FILE}",
        ),
    ],
    targets: Annotated[Values, PLANNED],
    seed: Annotated[int, seed_option("Seed of the split, as in `train`.")] = 0,
) -> None:
    """Say before training what a calibration set of DATA can certify.

    Splits DATA by group, as `train` does by default, and counts the calibration cases by class.
    Then it assumes that 0, 1, 3 or 5 % of the accepted answers are wrong, and gives the smallest
    error rate that these cases would certify, and how many more cases the target would need; the
    same for each class with a target. For a file of predictions, the calibration set is that of its
    column set, or three quarters of it.

    Example: misgiving plan isic2019:ISIC_2019 --max-error 0.05 --class-max-miss MEL=0.1
    """
    from misgiving.deferral.planning import WRONG_SHARES, plan_certification

    chosen = Targets(**targets)
    is_file = is_prediction_file(Path(data))
    images = _file_of_predictions(Path(data), seed) if is_file else _grouped_split(data, seed)
    outlook = plan_certification(images.labels, images.units, images.classes, chosen)
    for sentence in (*_description(images, outlook), *_verdict(outlook, images.share)):
        say(sentence)
    counts = [(name, outlook.images[name], cases) for name, cases in outlook.cases.items()]
    show_table(("class", "images", "cases"), counts, title="calibration set")
    header = ("if so many are wrong", *map(_percent, WRONG_SHARES))
    show_table(header, _table(outlook), title="what it certifies")


class CalibrationShare(NamedTuple):
    """The share of the data that is the calibration set, in words.

    Attributes:
        described: The share.
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


class PlannedImages(NamedTuple):
    """The images of a calibration set, and of the data that it is drawn from.

    Attributes:
        labels: True classes of the calibration set.
        units: Numbers of the groups of the calibration set.
        groups: Of all images; empty where an image is a group of its own.
        num_groups: Of all images.
    """

    name: str
    labels: "Int[np.ndarray, ' n']"
    units: "Int[np.ndarray, ' n']"
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    group_columns: tuple[str, ...]
    num_groups: int
    share: CalibrationShare


def _grouped_split(data: str, seed: int) -> PlannedImages:
    """Images of the calibration set of a grouped split.

    Only labels and groups are read: near duplicates, which training puts into one group, are not
    found, so there may be slightly fewer cases.
    """
    import numpy as np

    from misgiving.data.datasets import load_dataset
    from misgiving.data.splits import grouped_split
    from misgiving.groups import named_groups

    dataset = load_dataset(data)
    sets = grouped_split(dataset.labels, dataset.classes, dataset.groups, seed=seed)
    units = np.unique(np.array(dataset.groups), return_inverse=True)[1]
    rows = np.flatnonzero(sets == "calibrate")
    return PlannedImages(
        dataset.name,
        dataset.labels[rows],
        units[rows],
        dataset.classes,
        named_groups(dataset.groups, dataset.ids),
        dataset.group_columns,
        int(units.max()) + 1,
        GROUPED,
    )


def _file_of_predictions(path: Path, seed: int) -> PlannedImages:
    """Images of the calibration set of a file, as `calibrate` chooses them."""
    from misgiving.deferral.fit import drawn_sets
    from misgiving.predictions.record import Predictions

    predictions = Predictions.read(path)
    tuning, calibration, parts = drawn_sets(predictions, seed=seed)
    tuning.check_labelled()
    calibration.check_labelled()
    return PlannedImages(
        str(path),
        calibration.labels,
        calibration.units,
        predictions.classes,
        predictions.groups,
        predictions.group_columns,
        int(predictions.units.max()) + 1,
        DRAWN if parts else NAMED,
    )


def _description(images: PlannedImages, outlook: "CertificationOutlook") -> Iterator[str]:
    """Sentences on the data, the unit, and the calibration set."""
    from misgiving.groups import unit_of
    from misgiving.report.sentences import unit_sentences

    groups, columns = images.groups, images.group_columns
    unit = unit_of(columns)
    counted = "Each image" if unit == "image" else f"One image of each {unit}"
    yield f"{images.name}: {len(groups)} images of {images.num_groups} groups"
    yield from unit_sentences(columns, len(groups), groups.count(""))
    yield (
        f"The calibration set{images.share.described} has {len(images.labels)} images. "
        f"{counted} counts: {outlook.total} cases."
    )


def training_outlook(images: "ImageSet", sets: "SetNames") -> list[str]:
    """Two sentences on the calibration set of a split; none where the split has no such set."""
    import numpy as np

    from misgiving.deferral.planning import plan_certification
    from misgiving.groups import unit_of

    if "calibrate" not in sets:
        return []
    rows = np.flatnonzero(sets == "calibrate")
    units = np.unique(np.array(images.groups), return_inverse=True)[1]
    targets = Targets(max_error=0.5)
    outlook = plan_certification(images.labels[rows], units[rows], images.classes, targets)
    rarest = sorted(outlook.cases.items(), key=lambda counted: counted[1])[:RAREST]
    unit = unit_of(images.group_columns)
    counted = "copies count once" if unit == "image" else f"one image of each {unit}"
    first, *others = (
        f"{_percent(rate.smallest)} if {_percent(rate.wrong_share)} are" for rate in outlook.error
    )
    return [
        f"The calibration set has {len(rows)} images, {outlook.total} cases: "
        f"{counted}; the rarest classes are "
        f"{', '.join(f'{name} {cases}' for name, cases in rarest)}.",
        f"With all accepted, it certifies an error of {first} wrong, {', '.join(others)}; "
        "`misgiving plan` says what a target needs.",
    ]


def _verdict(outlook: "CertificationOutlook", share: CalibrationShare) -> Iterator[str]:
    """Sentences on the targets and on the meaning of the table."""
    from misgiving.deferral.planning import MOST_CASES

    targets, rate = outlook.targets, outlook.targets.max_ood_false_alarms
    needs = {f"an error of {100 * targets.max_error:.3g} %": outlook.error[0].more}
    needs |= {
        f"{100 * targets.class_max_miss[name]:.3g} % of {name} missed": rates[0].more
        for name, rates in outlook.classes.items()
    }
    if rate is not None and outlook.ood_cases is not None:
        needs[f"{100 * rate:.3g} % OOD false alarms"] = max(0, outlook.ood_cases - outlook.total)
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


def _table(outlook: "CertificationOutlook") -> list[tuple[str, ...]]:
    """Cells of a table: what is certified, by the share of wrong answers."""
    error = outlook.targets.max_error
    rows = [
        *_rows(f"error, all {outlook.total} cases accepted", outlook.error, error),
        *_rows(f"error, {outlook.total // 2} accepted", outlook.accepted_half, error),
    ]
    for name, rates in outlook.classes.items():
        title = f"missed {name}, {outlook.cases[name]} cases"
        rows += _rows(title, rates, outlook.targets.class_max_miss[name], name=name)
    return rows


def _rows(
    title: str, rates: "Sequence[RatePlan]", target: float, *, name: str = ""
) -> list[tuple[str, ...]]:
    from misgiving.deferral.planning import MOST_CASES

    many = f"> {MOST_CASES}"
    more = (
        str(rate.more) if rate.more is not None else many if rate.wrong_share < target else "never"
        for rate in rates
    )
    return [
        (f"{title}: certified", *(_percent(rate.smallest) for rate in rates)),
        (f"  more cases{name and f' of {name}'} for {100 * target:.3g} %", *more),
    ]


def _percent(rate: float) -> str:
    """Percentage with one digit, rounded up.

    >>> _percent(0.05), _percent(0.01111)
    ('5 %', '1.2 %')
    """
    return f"{math.ceil(1000 * rate - 1e-9) / 10:g} %"
