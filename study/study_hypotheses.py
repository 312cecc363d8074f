"""Hypotheses of the study and the rule of evidence, as they are registered in README.md."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from misgiving.metrics.uncertainty import TrialInterval, holm, t_interval
from misgiving.reproduction.tables import read_table

ENOUGH_TRIALS = 5
LEVEL = 0.05
REGISTERED = "registered_estimator"  # the error estimator's first form, in a table of its own
RATIO = "split_ratio"  # measured images for each training image, in every unit's rows
TUNED_ON = "histology"
UNSEEN_CLASSES = "unseen_classes"  # all of them together
Values = Mapping[int, float]
"""By trial."""


class Result(NamedTuple):
    """One row of `results.csv`: a measurement of one model in one trial; a share is a fraction."""

    experiment: str
    trial: int
    model: str
    dataset: str
    detector: str
    metric: str
    value: float


def read_results(path: Path) -> list[Result]:
    """Read a table of results."""
    return [Result(*row) for row in read_table(path, schema="results.csv").itertuples(index=False)]


class Rows:
    """Values by trial of the measurements of one part."""

    def __init__(self, results: Iterable[Result]) -> None:
        self._values: dict[tuple[str, str, str, str, str], dict[int, float]] = defaultdict(dict)
        for experiment, trial, model, dataset, detector, metric, value in results:
            self._values[experiment, model, dataset, detector, metric][trial] = value

    def __call__(
        self, experiment: str, model: str, dataset: str, detector: str, metric: str
    ) -> Values:
        """Values by trial; empty where nothing was measured."""
        return self._values.get((experiment, model, dataset, detector, metric), {})

    def models(self) -> list[str]:
        """The models that have rows."""
        return list(dict.fromkeys(model for _, model, *_ in self._values))

    def detectors(self, experiment: str, model: str, dataset: str, metric: str) -> list[str]:
        """Detectors, or classes, with values of this metric."""
        asked = (experiment, model, dataset)
        return [each[3] for each in self._values if each[:3] == asked and each[4] == metric]

    def model_of(self, setting: str) -> str:
        """The model of a setting; where there is no estimator, it is `vanilla`."""
        return next(model for experiment, model, *_ in self._values if experiment == setting)

    def experiments(self) -> list[str]:
        """The experiments, or in the part on sensitivity the settings."""
        return list(dict.fromkeys(experiment for experiment, *_ in self._values))

    def ood_sets(self) -> list[str]:
        """The OOD sets of 4.2."""
        return sorted(
            {
                dataset
                for experiment, _, dataset, *measure in self._values
                if experiment == "ood_detection" and measure == ["odin", "auroc"]
            }
        )

    def ratio(self, experiment: str, dataset: str = "") -> float:
        """Measured images for each training image, of the first unit; 0 if there are none."""
        ratios = (self(experiment, model, dataset, "", RATIO) for model in self.models())
        return next((ratio for values in ratios for ratio in values.values()), 0.0)

    def ood_mean(self, model: str) -> Values:
        """AUROC of tuned ODIN, mean over the sets on which it was not tuned."""
        sets = [name for name in self.ood_sets() if name != TUNED_ON]
        return means(self("ood_detection", model, name, "odin", "auroc") for name in sets)

    def mixtures_mean(self, model: str, score: str) -> Values:
        """AURC where half of the images are OOD, mean over all sets."""
        return means(
            self("ood_detection", model, name, score, "mixed_aurc") for name in self.ood_sets()
        )


def means(of_sets: Iterable[Values]) -> Values:
    """Mean over sets, for each trial in which all are measured."""
    sets = list(of_sets)
    trials = set.intersection(*map(set, sets)) if sets else set()
    return {trial: mean(values[trial] for values in sets) for trial in sorted(trials)}


def difference(first: Values, second: Values) -> Values:
    """By trial, where both are measured."""
    return {trial: first[trial] - second[trial] for trial in sorted(set(first) & set(second))}


class Hypothesis(NamedTuple):
    """A registered hypothesis with its primary measure in each trial.

    Attributes:
        name: Its letter in the plan.
        measure: In words.
        values: By trial.
        ratio: Measured images for each training image.
        sign: 1 if a value above zero supports it, -1 if one below.
    """

    name: str
    measure: str
    values: Values
    ratio: float
    sign: int

    @property
    def interval(self) -> TrialInterval | None:
        """t-interval over trials; None for fewer than two."""
        if len(self.values) < 2:
            return None
        return t_interval(list(self.values.values()), split_ratio=self.ratio)


def hypotheses(rows: Rows) -> list[Hypothesis]:
    """The five registered hypotheses."""
    of_all, of_five = rows.ratio("generalization"), rows.ratio("ood_detection")
    measured = partial(rows, "generalization")
    balanced, unseen = (
        difference(*(rows(experiment, model, dataset, *names) for model in ("proposed", "vanilla")))
        for experiment, dataset, *names in (
            ("generalization", "test", "", "balanced_accuracy"),
            ("new_classes", UNSEEN_CLASSES, "odin", "auroc"),
        )
    )
    ood = difference(rows.ood_mean("proposed"), rows.ood_mean("vanilla"))
    losses = difference(
        *(measured("proposed", "test", score, "aurc") for score in ("predicted_loss", "msp"))
    )
    registered = measured("vanilla", "test", REGISTERED, "aurc")
    errors = difference(
        registered or measured("vanilla", "test", "error_estimator", "aurc"),
        measured("vanilla", "test", "calibrated", "aurc"),
    )
    less_vanilla = "proposed - vanilla"
    return [
        Hypothesis("a", f"balanced accuracy, {less_vanilla}", balanced, of_all, 1),
        Hypothesis("b", f"AUROC of ODIN, mean over OOD sets, {less_vanilla}", ood, of_five, 1),
        Hypothesis("c", f"AUROC of ODIN, unseen classes, {less_vanilla}", unseen, of_five, 1),
        Hypothesis("d", "AURC, predicted loss - MSP, of proposed", losses, of_all, -1),
        Hypothesis("e", "AURC, error estimator - calibrated, of vanilla", errors, of_all, -1),
    ]


def verdicts(
    tested: Sequence[Hypothesis], *, trials: int = ENOUGH_TRIALS
) -> list[tuple[float | None, str]]:
    """Holm's adjusted p-value and the verdict of each hypothesis, by the registered rule."""
    intervals = [
        hypothesis.interval if len(hypothesis.values) >= trials else None for hypothesis in tested
    ]
    # an unfinished one counts as p = 1, so that the others are not adjusted for too few
    adjusted = holm([1.0 if interval is None else interval.p_value for interval in intervals])
    judged: list[tuple[float | None, str]] = []
    for hypothesis, interval, p_value in zip(tested, intervals, adjusted, strict=True):
        if interval is None:
            judged.append((None, "open"))
        elif p_value >= LEVEL:
            judged.append((p_value, "inconclusive"))
        else:
            supported = interval.mean * hypothesis.sign > 0
            judged.append((p_value, "supported" if supported else "contradicted"))
    return judged
