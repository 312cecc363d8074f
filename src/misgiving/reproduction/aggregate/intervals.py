"""Bootstrap intervals: of every result, of paired differences, and of risk over coverage."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from misgiving.evaluation.measures import FAILURE_SCORES
from misgiving.metrics.bootstrap import percentile_interval
from misgiving.metrics.selective import RiskCoverage
from misgiving.metrics.trials import t_interval
from misgiving.predictions.record import Predictions
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
from misgiving.results.schema import CHOSEN, Result, ResultInterval, RiskPoint

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
    """One set in all models and trials.

    Attributes:
        compared: The set.
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


def intervals_of(of: MeasuredSet) -> list[ResultInterval]:
    """All intervals on a set; a difference is taken over the trials that both models have."""
    samples = {
        model: {
            trial: sample_of(of.compared, folder, of.measured)
            for trial, folder in folders.items()
            if has_sample(of.compared, folder)  # not where training diverged
        }
        for model, folders in of.folders.items()
    }
    return list(_SetIntervals(of, {name: found for name, found in samples.items() if found}).rows())


def values_by_trial(results: Iterable[Result]) -> dict[tuple[str, str], Values]:
    """The results of each set of an experiment."""
    values: dict[tuple[str, str], dict[tuple[str, str, str], dict[int, float]]] = {}
    for experiment, trial, model, dataset, detector, metric, value in results:
        of_set = values.setdefault((experiment, dataset), {})
        of_set.setdefault((model, detector, metric), {})[trial] = value
    return dict(values)


@dataclass(frozen=True)
class _SetIntervals:
    """The intervals on one set: of each model, and of differences from models and from MSP."""

    of: MeasuredSet
    samples: Mapping[str, Mapping[int, Sample]]
    drawn: dict[tuple[str, Trials], Mapping[Key, Replicates]] = field(default_factory=dict)

    def rows(self) -> Iterator[ResultInterval]:
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

    def _row(self, model: str, baseline: str, key: Key, trials: Trials) -> Iterator[ResultInterval]:
        """One interval; none where either side was not measured in every trial."""
        detector, metric = key
        other = (model, (MSP, metric)) if baseline == MSP else (baseline, key)
        by_trial = self._by_trial(model, key, trials)
        subtracted = self._by_trial(*other, trials) if baseline else np.zeros(len(trials))
        if by_trial is None or subtracted is None:  # the baseline has no such detector, for one
            return
        differences = by_trial - subtracted
        replicates = self._replicates(model, trials)[key]
        if baseline:
            replicates = replicates - self._replicates(other[0], trials)[other[1]]
        sides = [(model, key), *([other] if baseline else [])]
        n = min(self.samples[of][trial].size_of(key) for of, key in sides for trial in trials)
        lower, upper = _bounds(replicates, n)
        yield ResultInterval(
            experiment=self.of.compared.experiment,
            model=model,
            baseline=baseline,
            dataset=self.of.compared.dataset,
            detector=detector,
            metric=metric,
            estimate=float(differences.mean()),
            lower=lower,
            upper=upper,
            n=n,
            trials=len(trials),
            tuned=self.of.tuned and detector in ("odin", CHOSEN),
            **_over_trials(differences, self.of.split_ratio),
        )

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if trials and (model, trials) not in self.drawn:
            samples = [self.samples[model][trial] for trial in trials]
            drawn = resampled(samples, replicates=self.of.replicates, seed=self.of.seed)
            self.drawn[model, trials] = drawn
        return self.drawn.get((model, trials), {})

    def _by_trial(
        self, model: str, key: Key, trials: Trials
    ) -> Float[np.ndarray, " trials"] | None:
        values = self.of.values.get((model, *key), {})
        found = [values[trial] for trial in trials if trial in values]
        return np.array(found) if len(found) == len(trials) else None


def _over_trials(
    values: Float[np.ndarray, " trials"], split_ratio: float
) -> dict[str, float | None]:
    """The t-interval over trials, which redraw the split."""
    if len(values) < 2:
        return {}
    _, lower, upper, p_value = t_interval(values, split_ratio=split_ratio)
    return {"trial_lower": lower, "trial_upper": upper, "p_value": p_value}


def _bounds(replicates: Replicates, n: int) -> tuple[float | None, float | None]:
    """An interval; None where it would rest on one group, or where nothing varies."""
    lower, upper = percentile_interval(replicates)
    return (None, None) if n < 2 or math.isnan(lower) or lower == upper else (lower, upper)


def risk_curves(
    folders: Mapping[str, Sequence[Path]], measured: str, *, replicates: int, seed: int
) -> Iterator[RiskPoint]:
    """The error among the accepted in 4.1 by acceptance score, at every twentieth of coverage.

    Args:
        folders: Of the units, by model.
        measured: Name of the measured set.
        replicates: Bootstrap replicates of each interval.
        seed: Of their draws.
    """
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
                yield RiskPoint(model, detector, float(coverage), mean, lower, upper)


def _risks(folder: Path, measured: str) -> Sample:
    predictions = Predictions.read(predictions_path(folder, measured))
    errors, scores = predictions.errors, load_scores(folder, FAILURES).scores

    def statistic(weights: Weights | None = None) -> dict[Key, Float[np.ndarray, "*replicates"]]:
        curves = {name: RiskCoverage(of, errors, weights) for name, of in scores.items()}
        return {
            (name, str(coverage)): np.asarray(curve.risk_at_coverage(coverage))
            for name, curve in curves.items()
            for coverage in COVERAGES
        }

    return Sample(statistic, (group_names(predictions),), {})
