"""Bootstrap intervals: of every result, of paired differences, and of risk over coverage."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float

from misgiving.evaluation.measures import FAILURE_SCORES
from misgiving.metrics.bootstrap import bootstrap, percentile_interval
from misgiving.metrics.selective import risk_at_coverage
from misgiving.reproduction.aggregate.resampling import (
    ComparedSet,
    Key,
    Replicates,
    Sample,
    Weights,
    has_sample,
    sample_of,
)
from misgiving.reproduction.generalization import FAILURES
from misgiving.reproduction.new_classes import TOGETHER
from misgiving.reproduction.ood_detection import CHOSEN
from misgiving.reproduction.policies import POLICY_SET
from misgiving.reproduction.protocol import Unit, sweep_name
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.predictions import Predictions, load_scores, scores_path
from misgiving.results.schema import Result, ResultInterval, RiskPoint

Trials = tuple[int, ...]
Values = Mapping[tuple[str, ...], Mapping[int, float]]
"""Values by trial, by (experiment, model, dataset, detector, metric)."""

FEW_EVENTS = "error_among_accepted"
MSP = "msp"  # the baseline of every acceptance score
FAILURE_METRICS = (
    "error_auroc",
    "aurc",
    "excess_aurc",
    "augrc",
    "balanced_aurc",
    "risk_at_coverage",
    "coverage_at_risk",
)
COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))


def intervals(
    trial_data: TrialData, finished: Sequence[Unit], out: Path, results: Sequence[Result]
) -> list[ResultInterval]:
    """All intervals; a difference is taken over the trials in which both models are finished."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for experiment, trial, model, dataset, detector, metric, value in results:
        key = (experiment, model, dataset, detector, metric)
        values.setdefault(key, {})[trial] = value
    makers = [
        _SetIntervals(trial_data, compared, _folders(compared, finished, out), values, number)
        for number, compared in enumerate(_compared_sets(trial_data))
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter's lock
        made = pool.map(lambda maker: list(maker.rows()), makers)
        return [row for rows in made for row in rows]


def _compared_sets(trial_data: TrialData) -> list[ComparedSet]:
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    unseen = (TOGETHER, *(f"unseen/{name}" for name in protocol.unseen))
    rates = [sweep_name(rate) for rate in protocol.learning_rates]
    return [
        *(ComparedSet(name, measured, name) for name in ("generalization", "ood_detection")),
        ComparedSet("generalization", POLICY_SET, "generalization"),
        *(ComparedSet("ood_detection", name, "ood_detection") for name in protocol.ood_sets),
        *(ComparedSet("new_classes", name, "ood_detection") for name in unseen),
        *(ComparedSet(name, measured, name) for name in rates),
    ]


def _folders(
    compared: ComparedSet, finished: Sequence[Unit], out: Path
) -> dict[str, dict[int, Path]]:
    """The folders of finished units by model and trial, without those that diverged."""
    found: dict[str, dict[int, Path]] = {}
    for unit in finished:
        if unit.experiment == compared.units and has_sample(compared, out / unit.folder):
            found.setdefault(unit.model, {})[unit.trial] = out / unit.folder
    return found


class _SetIntervals:
    """The intervals on one set: of each model, and of differences from models and from MSP.

    The same seed and trials meet the same resampled sets, which makes differences paired.
    """

    def __init__(
        self,
        trial_data: TrialData,
        compared: ComparedSet,
        folders: Mapping[str, Mapping[int, Path]],
        values: Values,
        number: int,
    ) -> None:
        self._compared, self._folders, self._values = compared, folders, values
        self._measured = trial_data.evaluation_sets.measured
        self._protocol = trial_data.protocol
        self._seed = trial_data.protocol.seed + number
        self._samples: dict[tuple[int, str], Sample] = {}
        self._drawn: dict[tuple[str, Trials], Mapping[Key, Replicates]] = {}

    def rows(self) -> Iterator[ResultInterval]:
        models = list(self._folders)
        compared = [model for model in models if model != "proposed" and "proposed" in models]
        alone = [(model, "") for model in models]
        for model, baseline in [*alone, *(("proposed", other) for other in compared)]:
            shared = self._folders[baseline or model]
            trials = tuple(trial for trial in self._folders[model] if trial in shared)
            for key in self._replicates(model, trials):
                yield from self._row(model, baseline, key, trials)
        for model, folders in self._folders.items():
            trials = tuple(folders)
            for detector, metric in self._replicates(model, trials):
                judged = detector in FAILURE_SCORES and metric.partition("/")[0] in FAILURE_METRICS
                if judged and detector != MSP:
                    yield from self._row(model, MSP, (detector, metric), trials)

    def _row(self, model: str, baseline: str, key: Key, trials: Trials) -> Iterator[ResultInterval]:
        """One interval; none where either side was not measured in every trial."""
        detector, metric = key
        other = (model, (MSP, metric)) if baseline == MSP else (baseline, key)
        mean = self._mean(model, key, trials)
        subtracted = self._mean(*other, trials) if baseline else 0.0
        if mean is None or subtracted is None:  # the baseline has no such detector, for one
            return
        replicates = self._replicates(model, trials)[key]
        if baseline:
            replicates = replicates - self._replicates(other[0], trials)[other[1]]
        n = min(self._sample(trial, model).size_of(metric) for trial in trials)
        lower, upper = _bounds(replicates, n)
        if metric == FEW_EVENTS and lower == upper:  # no error among a few: nothing varies
            lower, upper = None, None
        here = (self._compared.experiment, self._compared.dataset)
        yield ResultInterval(
            experiment=here[0],
            model=model,
            baseline=baseline,
            dataset=here[1],
            detector=detector,
            metric=metric,
            estimate=mean - subtracted,
            lower=lower,
            upper=upper,
            n=n,
            trials=len(trials),
            tuned=here == ("ood_detection", self._protocol.search.tuning_set)
            and detector in ("odin", CHOSEN),
        )

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if trials and (model, trials) not in self._drawn:
            samples = [self._sample(trial, model) for trial in trials]
            self._drawn[model, trials] = bootstrap(
                [sample.statistic for sample in samples],
                [sample.groups for sample in samples],
                replicates=self._protocol.replicates,
                seed=self._seed,
            )
        return self._drawn.get((model, trials), {})

    def _sample(self, trial: int, model: str) -> Sample:
        if (trial, model) not in self._samples:
            folder = self._folders[model][trial]
            self._samples[trial, model] = sample_of(self._compared, folder, self._measured)
        return self._samples[trial, model]

    def _mean(self, model: str, key: Key, trials: Trials) -> float | None:
        where = (self._compared.experiment, model, self._compared.dataset, *key)
        values = self._values.get(where, {})
        found = [values[trial] for trial in trials if trial in values]
        return float(np.mean(found)) if len(found) == len(trials) else None


def _bounds(replicates: Replicates, n: int) -> tuple[float | None, float | None]:
    """An interval; None where it would rest on one group, or where none is defined."""
    lower, upper = percentile_interval(replicates)
    return (None, None) if n < 2 or math.isnan(lower) else (lower, upper)


def risk_curves(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> Iterator[RiskPoint]:
    """The error among the accepted in 4.1 by acceptance score, at every twentieth of coverage."""
    for model in trial_data.protocol.models:
        folders = [
            out / unit.folder
            for unit in finished
            if (unit.experiment, unit.model) == ("generalization", model)
            and scores_path(out / unit.folder, FAILURES).is_file()
        ]
        if folders:
            yield from _curves(trial_data, model, folders)


def _curves(trial_data: TrialData, model: str, folders: Sequence[Path]) -> Iterator[RiskPoint]:
    measured, protocol = trial_data.evaluation_sets.measured, trial_data.protocol
    samples = [_risks(folder, measured) for folder in folders]
    drawn = bootstrap(
        [sample.statistic for sample in samples],
        [sample.groups for sample in samples],
        replicates=protocol.replicates,
        seed=protocol.seed,
    )
    means = [sample.statistic() for sample in samples]
    for (detector, coverage), replicates in drawn.items():
        mean = float(np.mean([of_trial[detector, coverage] for of_trial in means]))
        lower, upper = percentile_interval(replicates)
        if not math.isnan(mean):
            yield RiskPoint(model, detector, float(coverage), mean, lower, upper)


def _risks(folder: Path, measured: str) -> Sample:
    predictions = Predictions.load(folder / "predictions" / f"{measured}.safetensors")
    errors, scores = predictions.errors, load_scores(folder, FAILURES).scores

    def statistic(weights: Weights | None = None) -> dict[Key, Float[np.ndarray, "*replicates"]]:
        return {
            (name, str(coverage)): np.asarray(
                risk_at_coverage(values, errors, coverage, weights=weights)
            )
            for name, values in scores.items()
            for coverage in COVERAGES
        }

    return Sample(statistic, (np.array(predictions.groups),), {})
