"""The part in ten folds: its measures, intervals and verdicts, as README.md registers them."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import variance
from typing import NamedTuple

import numpy as np
import pandas
from study_format import by_trial, number, table
from study_hypotheses import LEVEL, UNSEEN_CLASSES, Result, Rows, Values, difference
from study_published import GAINS

from misgiving.evaluation.measures import Measurement
from misgiving.metrics.uncertainty import TrialInterval, holm, t_interval
from misgiving.predictions.record import Predictions
from misgiving.reproduction.config import Unit
from misgiving.reproduction.tables import load_scores, predictions_path

FOLDS = 10
SAME_IN_ALL = ("colon", "clinical_skin", "photographs")  # OOD sets; of photographs the pictures
DRAWS = 2000
SOURCES = "folds_sources.csv"
ALL_FOLDS = -1  # the trial of rows that belong to no single fold
VARIANCE, IMAGES, RIGHT = "variance_of_joint_draws", "images", "right_answers"  # metrics
LOSS_SUM = "loss_sum"  # of the images of a class, each with its cross-entropy
HEAD = ("measure", "by fold", "estimate (95 %)", "the paper's gain", "p", "verdict")
VANILLA, PRIMARY, SECONDARY = "vanilla", "proposed", "proposed_sum"


def class_counts(folder: Path, unit: Unit) -> list[Result]:
    """Test images of each class in a unit, and how many of these were answered rightly."""
    tested = Predictions.read(predictions_path(folder / unit.folder, "test"))
    return [Result(*unit, *measurement) for measurement in class_sums(tested, "test")]


def class_sums(predictions: Predictions, dataset: str) -> list[Measurement]:
    """Images of each class in a set, and how many of these were answered rightly."""
    right = predictions.labels[~predictions.errors]
    return [
        Measurement(dataset, name, metric, float((labels == position).sum()))
        for metric, labels in ((IMAGES, predictions.labels), (RIGHT, right))
        for position, name in enumerate(predictions.classes)
    ]


def with_areas(table: Path, folder: Path, unit: Unit) -> pandas.DataFrame:
    """Put AUROCs of a unit into the table of sources, a column for each unit, and return it.

    They are of the images of each source of the sets that are the same in all folds.
    """
    column, sets = column_of(unit.model, unit.trial), []
    for name in (*SAME_IN_ALL, UNSEEN_CLASSES):
        ranks, groups = outlier_ranks(folder / unit.folder, name)
        sets.append(pandas.DataFrame({"set": name, "source": groups, column: ranks}))
    by_source = pandas.concat(sets).groupby(["set", "source"])[column]
    areas = by_source.agg(["size", "mean"]).rename(columns={"size": "images", "mean": column})
    areas = areas.set_index("images", append=True).round(6)
    if table.exists():
        earlier = pandas.read_csv(table, index_col=["set", "source", "images"])
        areas = earlier.drop(columns=column, errors="ignore").join(areas, how="outer")
    areas.sort_index(axis=1).to_csv(table)
    return areas


def column_of(model: str, fold: int) -> str:
    """Name of a unit's column in the table of sources."""
    return f"{model} {fold}"


def joint_variances(areas: pandas.DataFrame) -> list[Result]:
    """Variance of a model's difference from vanilla over joint draws of the images of each OOD set.

    For models of which, as of vanilla, all folds are in the table of sources.
    """
    rows = []
    for model in (PRIMARY, SECONDARY):
        needed = {column_of(name, fold) for name in (model, VANILLA) for fold in range(FOLDS)}
        for name in (*SAME_IN_ALL, UNSEEN_CLASSES) if needed <= {*areas.columns} else ():
            experiment = "new_classes" if name == UNSEEN_CLASSES else "ood_detection"
            spread = float(np.var(joint_draws(areas.loc[name], model), ddof=1))
            rows.append(Result(experiment, ALL_FOLDS, model, name, "odin", VARIANCE, spread))
    return rows


def joint_draws(areas: pandas.DataFrame, model: str) -> np.ndarray:
    """The difference from vanilla in AUROC, mean over the folds, in each draw.

    A draw takes the sources of a set with replacement, the same in every fold and both models.
    """
    of_model, of_vanilla = (
        areas[[column_of(name, fold) for fold in range(FOLDS)]].to_numpy()
        for name in (model, VANILLA)
    )
    shares = np.full(len(areas), 1 / len(areas))
    drawn = np.random.default_rng(0).multinomial(len(areas), shares, DRAWS)
    images = drawn * areas.index.get_level_values("images").to_numpy()
    return images @ (of_model - of_vanilla).mean(axis=1) / images.sum(axis=1)


def outlier_ranks(folder: Path, ood_set: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """For each OOD image the share of test images with a higher confidence, and its source.

    Ties count half, so that the mean is the AUROC.
    """
    (inliers, _), (outliers, groups) = (load_scores(folder, name) for name in ("test", ood_set))
    ordered = np.sort(inliers["odin"])
    below = np.mean([np.searchsorted(ordered, outliers["odin"], x) for x in ("left", "right")], 0)
    return 1 - below / len(ordered), groups


def pseudo_values(
    rows: Rows,
    experiment: str,
    model: str,
    *,
    dataset: str = "test",
    metric: str = RIGHT,
    classes: Collection[str] = (),
    folds: Sequence[int] = range(FOLDS),
) -> Values:
    """Delete-one-fold pseudo-values of the difference from vanilla in a mean over classes.

    Sums over the images of a class are pooled over the folds, so that each image counts once. The
    sums of right answers give balanced accuracy. Empty while one of the folds is missing.

    Args:
        rows: The measurements.
        experiment: Of which experiment.
        model: The model that is compared.
        dataset: The set.
        metric: Sums by class.
        classes: Only these; empty for all.
        folds: Only these.
    """
    chosen = rows.detectors(experiment, model, dataset, metric)
    chosen = [name for name in chosen if not classes or name in classes]

    def sums(name: str, metric: str) -> np.ndarray:
        by_class = [rows(experiment, name, dataset, each, metric) for each in chosen]
        return np.array([[values.get(fold, np.nan) for values in by_class] for fold in folds])

    gained, images = sums(model, metric) - sums(VANILLA, metric), sums(model, IMAGES)
    count = len(folds)
    if not chosen or count < 2 or np.isnan(gained).any():
        return {}
    whole = (gained.sum(axis=0) / images.sum(axis=0)).mean()
    left_out = (gained.sum(axis=0) - gained) / (images.sum(axis=0) - images)
    values = count * whole - (count - 1) * left_out.mean(axis=1)
    return dict(zip(folds, values.tolist(), strict=True))


class Measure(NamedTuple):
    """A registered measure with its value in each fold.

    Attributes:
        name: In words.
        values: By fold.
        ratio: Test images for each training image.
        gain: The paper's; None where the paper has none.
        sign: 1 if a gain is above zero, -1 if it is below.
        variance: Of the estimate over joint draws of the OOD images; 0 without these.
    """

    name: str
    values: Values
    ratio: float
    gain: float | None = None
    sign: int = 1
    variance: float = 0.0

    @property
    def complete(self) -> bool:
        """True if all folds are finished."""
        return len(self.values) == FOLDS

    def interval(self, level: float = 0.95) -> TrialInterval:
        """Approximate t-interval over the folds."""
        values = [*self.values.values()]
        ratio = self.ratio + self.variance / variance(values)
        return t_interval(values, split_ratio=ratio, level=level)

    def verdict(self, p_value: float) -> str:
        """By the registered rule, for an adjusted p-value against zero."""
        if not self.complete:
            return "open"
        interval, narrow = self.interval(), self.interval(0.9)
        holds = {}
        if p_value < LEVEL:
            holds["gain" if interval.mean * self.sign > 0 else "loss"] = True
        if self.gain is not None:
            holds["smaller than the paper's"] = interval.upper < self.gain
            half = self.gain / 2
            holds["equivalent"] = -half < narrow.lower and narrow.upper < half
        return ", ".join(name for name, true in holds.items() if true) or "inconclusive"


def balanced_accuracy(rows: Rows, model: str, experiment: str = "generalization") -> Measure:
    """Measure A of a model."""
    values, ratio = pseudo_values(rows, experiment, model), rows.ratio("generalization")
    name = f"A: balanced accuracy, 8 classes, {model} - {VANILLA}"
    return Measure(name, values, ratio, GAINS["a"])


def loss_ranking(rows: Rows, model: str, experiment: str = "generalization") -> Measure:
    """Measure C of a model."""
    areas = (rows(experiment, model, "test", score, "aurc") for score in ("predicted_loss", "msp"))
    name, ratio = f"C: AURC, predicted loss - MSP, of {model}", rows.ratio("generalization")
    return Measure(name, difference(*areas), ratio, sign=-1)


def primary_measures(rows: Rows, model: str) -> list[Measure]:
    """The measures A, B and C of a model."""
    ood = difference(rows.ood_mean(model), rows.ood_mean(VANILLA))
    drawn = [rows("ood_detection", model, name, "odin", VARIANCE) for name in SAME_IN_ALL]
    sets = len(rows.ood_sets()) - 1  # without the one on which ODIN is tuned
    spread = sum(sum(values.values()) for values in drawn) / sets**2 if sets > 0 else 0.0
    ratio, name = rows.ratio("ood_detection"), f"B: AUROC of ODIN, {model} - {VANILLA}"
    return [
        balanced_accuracy(rows, model),
        Measure(name, ood, ratio, GAINS["b"], variance=spread),
        loss_ranking(rows, model),
    ]


def secondary_measures(rows: Rows) -> list[Measure]:
    """The other registered measures, without adjustment."""
    eight, five = rows.ratio("generalization"), rows.ratio("ood_detection")
    measures = primary_measures(rows, SECONDARY)
    for model in (PRIMARY, SECONDARY):
        unseen, areas_msp, areas_estimator = (
            difference(*(rows(experiment, name, *place) for name in (model, VANILLA)))
            for experiment, *place in (
                ("new_classes", UNSEEN_CLASSES, "odin", "auroc"),
                ("generalization", "test", "msp", "aurc"),
                ("generalization", "test", "error_estimator", "aurc"),
            )
        )
        drawn = rows("new_classes", model, UNSEEN_CLASSES, "odin", VARIANCE)
        less = f"{model} - vanilla"
        measures += [
            Measure(
                f"AUROC of ODIN, unseen classes, {less}",
                {fold: value for fold, value in unseen.items() if fold != ALL_FOLDS},
                five,
                GAINS["c"],
                variance=sum(drawn.values()),
            ),
            Measure(
                f"balanced accuracy, 5 classes, {less}",
                pseudo_values(rows, "ood_detection", model),
                five,
                GAINS["a"],
            ),
            Measure(f"AURC of MSP, {less}", areas_msp, eight, sign=-1),
            Measure(f"AURC of the error estimator, {less}", areas_estimator, eight, sign=-1),
        ]
    return measures


def lines_of(measures: Sequence[Measure], *, adjusted: bool) -> Iterator[tuple[str, ...]]:
    """A line of the table for each measure."""
    p_values = [each.interval().p_value if each.complete else 1.0 for each in measures]
    for each, p_value in zip(measures, holm(p_values) if adjusted else p_values, strict=True):
        gain = "-" if each.gain is None else number(each.gain, signed=True)
        estimate, shown = "-", "-"
        if each.complete:
            interval, shown = each.interval(), f"{p_value:.3f}"
            ends = " to ".join(number(x, signed=True) for x in (interval.lower, interval.upper))
            estimate = f"{number(interval.mean, signed=True)} ({ends})"
        folds = by_trial(dict(sorted(each.values.items())))
        yield each.name, folds, estimate, gain, shown, f"**{each.verdict(p_value)}**"


def of_folds(rows: Rows) -> Iterator[str]:
    """The measures with their values by fold, and the verdicts."""
    yield (
        "EfficientNet-Lite0, 96 px, 12 epochs; ten folds, every image tested once. In balanced "
        "accuracy the values by fold are pseudo-values of pooled counts.\n"
    )
    yield "### Primary: Eq. 1 as a mean; p with Holm's adjustment\n"
    yield from table(HEAD, lines_of(primary_measures(rows, PRIMARY), adjusted=True))
    yield "### Secondary, without adjustment\n"
    yield from table(HEAD, lines_of(secondary_measures(rows), adjusted=False))
