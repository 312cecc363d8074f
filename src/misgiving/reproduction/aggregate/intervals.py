"""Bootstrap intervals: of every result, of paired differences, and of risk over coverage."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from misgiving.evaluation.measures import FAILURE_SCORES
from misgiving.metrics.bootstrap import percentile_interval
from misgiving.metrics.selective import RiskCoverage
from misgiving.metrics.trials import t_interval
from misgiving.predictions.record import Predictions
from misgiving.report.names import CHOSEN
from misgiving.reproduction.aggregate.resampling import (
    ComparedSet,
    Key,
    Replicates,
    Sample,
    Weights,
    has_sample,
    resampled,
    sample_of,
)
from misgiving.reproduction.config import FAILURES
from misgiving.reproduction.score_files import (
    group_names,
    load_scores,
    predictions_path,
    scores_path,
)
from misgiving.reproduction.tables import table_of

Trials = tuple[int, ...]
Values = Mapping[tuple[str, str, str], Mapping[int, float]]
"""Values by trial, of (model, detector, metric)."""

MSP = "msp"  # the baseline of every acceptance score
BESIDE_MSP = (
    "spearman",
    "error_auroc",
    "aurc",
    "excess_aurc",
    "augrc",
    "balanced_aurc",
    "risk_at_coverage",
    "coverage_at_risk",
)
COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))


class MeasuredSet(NamedTuple):
    """One set of one experiment, in all models and trials.

    Attributes:
        compared: The set, and the experiment whose units hold its predictions or scores.
        folders: Of the units that measured it, by model and trial.
        measured: Name of the set with the in-distribution images.
        tuned: True if ODIN was tuned on it.
        values: All results.
        split_ratio: Measured images for each training image.
        replicates: Bootstrap replicates of each interval.
        seed: The same seed and trials meet the same resampled sets, which makes differences paired.
    """

    compared: ComparedSet
    folders: Mapping[str, Mapping[int, Path]]
    measured: str
    tuned: bool
    values: Values
    split_ratio: float
    replicates: int
    seed: int


def intervals_of(measured: MeasuredSet) -> pd.DataFrame:
    """All intervals on a set; a difference is taken over the trials that both models have."""
    samples = {
        model: {
            trial: sample_of(measured.compared, folder, measured.measured)
            for trial, folder in folders.items()
            if has_sample(measured.compared, folder)  # not where training diverged
        }
        for model, folders in measured.folders.items()
    }
    samples = {model: trials for model, trials in samples.items() if trials}
    return table_of(_SetIntervals(measured, samples).rows(), "intervals.csv")


def values_by_trial(results: pd.DataFrame) -> dict[tuple[str, str], Values]:
    """The results of each set of an experiment."""
    values: dict[tuple[str, str], dict[tuple[str, str, str], dict[int, float]]] = {}
    for row in results.itertuples(index=False):
        of_set = values.setdefault((row.experiment, row.dataset), {})
        of_set.setdefault((row.model, row.detector, row.metric), {})[row.trial] = row.value
    return dict(values)


@dataclass(frozen=True)
class _SetIntervals:
    """The intervals on one set: of each model, and of differences from models and from MSP."""

    measured: MeasuredSet
    samples: Mapping[str, Mapping[int, Sample]]
    drawn: dict[tuple[str, Trials], Mapping[Key, Replicates]] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[object, ...]]:
        models = list(self.samples)
        compared = [model for model in models if model != "proposed" and "proposed" in models]
        alone = [(model, "") for model in models]
        for model, baseline in [*alone, *(("proposed", other) for other in compared)]:
            shared = self.samples[baseline or model]
            trials = tuple(trial for trial in self.samples[model] if trial in shared)
            for key in self._replicates(model, trials):
                yield from self._row(model, baseline, key, trials)
        for model, samples in self.samples.items():
            trials = tuple(samples)
            for detector, metric in self._replicates(model, trials):
                judged = detector in FAILURE_SCORES and metric.partition("/")[0] in BESIDE_MSP
                if judged and detector != MSP:
                    yield from self._row(model, MSP, (detector, metric), trials)

    def _row(
        self, model: str, baseline: str, key: Key, trials: Trials
    ) -> Iterator[tuple[object, ...]]:
        """One interval; none where either side was not measured in every trial."""
        other = (model, (MSP, key[1])) if baseline == MSP else (baseline, key)
        sides = [(model, key), *([other] if baseline else [])]
        values = [
            side_values
            for side in sides
            if (side_values := self._by_trial(*side, trials)) is not None
        ]
        if len(values) < len(sides):  # the baseline has no such detector, for one
            return
        differences, replicates = values[0], self._replicates(model, trials)[key]
        if baseline:
            differences = differences - values[1]
            replicates = replicates - self._replicates(other[0], trials)[other[1]]
        n = min(self.samples[name][trial].size_of(k) for name, k in sides for trial in trials)
        experiment, dataset, _ = self.measured.compared
        yield (
            *(experiment, model, baseline, dataset, *key),
            float(differences.mean()),
            *_bounds(replicates, n),
            *(n, len(trials), self.measured.tuned and key[0] in ("odin", CHOSEN)),
            *_over_trials(differences, self.measured.split_ratio),
        )

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if trials and (model, trials) not in self.drawn:
            samples = [self.samples[model][trial] for trial in trials]
            replicates, seed = self.measured.replicates, self.measured.seed
            self.drawn[model, trials] = resampled(samples, replicates=replicates, seed=seed)
        return self.drawn.get((model, trials), {})

    def _by_trial(
        self, model: str, key: Key, trials: Trials
    ) -> Float[np.ndarray, " trials"] | None:
        values = self.measured.values.get((model, *key), {})
        present = [values[trial] for trial in trials if trial in values]
        return np.array(present) if len(present) == len(trials) else None


def _over_trials(
    values: Float[np.ndarray, " trials"], split_ratio: float
) -> tuple[float | None, float | None, float | None]:
    """Ends and p-value of the t-interval over trials, which redraw the split."""
    if len(values) < 2:
        return None, None, None
    _, lower, upper, p_value = t_interval(values, split_ratio=split_ratio)
    return lower, upper, p_value


def _bounds(replicates: Replicates, n: int) -> tuple[float | None, float | None]:
    """An interval; None where it would rest on one group, or where nothing varies."""
    lower, upper = percentile_interval(replicates)
    return (None, None) if n < 2 or math.isnan(lower) or lower == upper else (lower, upper)


def risk_curves(
    folders: Mapping[str, Sequence[Path]], measured: str, *, replicates: int, seed: int
) -> pd.DataFrame:
    """The error among the accepted in 4.1 by acceptance score, at every twentieth of coverage.

    Args:
        folders: Of the units, by model.
        measured: Name of the measured set.
        replicates: Bootstrap replicates of each interval.
        seed: Of their draws.
    """
    rows = []
    for model, of_model in folders.items():
        samples = [
            _risks(folder, measured)
            for folder in of_model
            if scores_path(folder, FAILURES).is_file()
        ]
        if not samples:
            continue
        means = [sample.statistic() for sample in samples]
        drawn = resampled(samples, replicates=replicates, seed=seed)
        for (detector, coverage), values in drawn.items():
            mean = float(np.mean([of_trial[detector, coverage] for of_trial in means]))
            groups = min(sample.size_of((detector, coverage)) for sample in samples)
            lower, upper = _bounds(values, groups)
            if not math.isnan(mean):
                rows.append((model, detector, float(coverage), mean, lower, upper))
    return table_of(rows, "risk_coverage.csv")


def _risks(folder: Path, measured: str) -> Sample:
    predictions = Predictions.read(predictions_path(folder, measured))
    errors, scores = predictions.errors, load_scores(folder, FAILURES).scores

    def statistic(weights: Weights | None = None) -> dict[Key, Float[np.ndarray, "*replicates"]]:
        curves = {name: RiskCoverage(values, errors, weights) for name, values in scores.items()}
        return {
            (name, str(coverage)): np.asarray(curve.risk_at_coverage(coverage))
            for name, curve in curves.items()
            for coverage in COVERAGES
        }

    return Sample(statistic, (group_names(predictions),), {})
