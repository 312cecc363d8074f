"""Every value of the tables with its interval, and the paired differences between models."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from misgiving.evaluation.measures import FAILURE_SCORES
from misgiving.metrics.bootstrap import bootstrap, percentile_interval
from misgiving.reproduction.aggregate.resampling import (
    ComparedSet,
    Key,
    Replicates,
    Sample,
    Statistic,
    has_sample,
    sample_of,
)
from misgiving.reproduction.new_classes import TOGETHER
from misgiving.reproduction.ood_detection import CHOSEN
from misgiving.reproduction.policies import POLICY_SET
from misgiving.reproduction.protocol import Unit, sweep_name
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.schema import Result, ResultInterval

Trials = tuple[int, ...]

FEW_EVENTS = "error_among_accepted"
MSP = "msp"  # the confidence that every other has to beat
FAILURE_METRICS = (
    "error_auroc",
    "aurc",
    "excess_aurc",
    "augrc",
    "balanced_aurc",
    "risk_at_coverage",
    "coverage_at_risk",
)


def intervals(
    trial_data: TrialData, finished: Sequence[Unit], out: Path, results: Sequence[Result]
) -> list[ResultInterval]:
    """All intervals; a difference is taken over the trials in which both models are finished."""
    values = _values(results)
    makers = [
        _SetIntervals(
            trial_data, compared, finished, out, values, trial_data.protocol.seed + number
        )
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


class _SetIntervals:
    """The intervals on one set, of each model and of the differences from `proposed`."""

    def __init__(
        self,
        trial_data: TrialData,
        compared: ComparedSet,
        finished: Sequence[Unit],
        out: Path,
        values: Mapping[tuple[str, ...], Mapping[int, float]],
        seed: int,
    ) -> None:
        self._bench, self._compared, self._out = trial_data, compared, out
        self._values, self._seed = values, seed
        self._available = _trials_of(compared, finished, out)
        self._samples: dict[tuple[int, str], Sample] = {}
        self._drawn: dict[tuple[str, Trials], Mapping[Key, Replicates]] = {}

    def rows(self) -> Iterator[ResultInterval]:
        for model, baseline in _pairs(list(self._available)):
            shared = self._available[baseline or model]
            trials = tuple(trial for trial in self._available[model] if trial in shared)
            if trials:
                yield from self._pair(model, baseline, trials)
        for model, available in self._available.items():
            yield from self._beside_msp(model, tuple(available))

    def _pair(self, model: str, baseline: str, trials: Trials) -> Iterator[ResultInterval]:
        """The same seed and trials meet the same resampled sets, so that differences are paired."""
        ours = self._replicates(model, trials)
        theirs = self._replicates(baseline, trials) if baseline else {}
        for key, replicates in ours.items():
            mean = self._mean(model, key, trials)
            other = self._mean(baseline, key, trials) if baseline else 0.0
            if mean is None or other is None:  # the baseline has no such detector, for one
                continue
            differences = replicates - theirs[key] if baseline else replicates
            yield self._interval(model, baseline, key, trials, mean - other, differences)

    def _beside_msp(self, model: str, trials: Trials) -> Iterator[ResultInterval]:
        """Failure scores less MSP, of one model on the same resampled sets."""
        replicates = self._replicates(model, trials)
        for key, values in replicates.items():
            beside = (MSP, key[1])
            mean, other = (self._mean(model, of, trials) for of in (key, beside))
            known = key[0] in FAILURE_SCORES and key[1].partition("/")[0] in FAILURE_METRICS
            if not known or key[0] == MSP or mean is None or other is None:
                continue
            yield self._interval(model, MSP, key, trials, mean - other, values - replicates[beside])

    def _interval(
        self,
        model: str,
        baseline: str,
        key: Key,
        trials: Trials,
        estimate: float,
        replicates: Replicates,
    ) -> ResultInterval:
        n = min(_size(self._sample(trial, model), key[1]) for trial in trials)
        lower, upper = _bounds(replicates, n)
        if key[1] == FEW_EVENTS and lower == upper:  # no error among a few: nothing varies
            lower, upper = None, None
        return ResultInterval(
            experiment=self._compared.experiment,
            model=model,
            baseline=baseline,
            dataset=self._compared.dataset,
            detector=key[0],
            metric=key[1],
            estimate=estimate,
            lower=lower,
            upper=upper,
            n=n,
            trials=len(trials),
            tuned=self._is_tuned(key[0]),
        )

    def _is_tuned(self, detector: str) -> bool:
        here = (self._compared.experiment, self._compared.dataset)
        tuned_on = ("ood_detection", self._bench.protocol.search.tuning_set)
        return here == tuned_on and detector in ("odin", CHOSEN)

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if (model, trials) not in self._drawn:
            samples = [self._sample(trial, model) for trial in trials]
            replicates = self._bench.protocol.replicates
            self._drawn[model, trials] = _replicates(samples, replicates, seed=self._seed)
        return self._drawn[model, trials]

    def _sample(self, trial: int, model: str) -> Sample:
        if (trial, model) not in self._samples:
            folder = self._out / Unit(self._compared.units, trial, model).folder
            part = self._bench.evaluation_sets.measured
            self._samples[trial, model] = sample_of(self._compared, folder, part)
        return self._samples[trial, model]

    def _mean(self, model: str, key: Key, trials: Trials) -> float | None:
        compared = self._compared
        values = self._values.get((compared.experiment, model, compared.dataset, *key), {})
        found = [values[trial] for trial in trials if trial in values]
        return float(np.mean(found)) if len(found) == len(trials) else None


def _trials_of(compared: ComparedSet, finished: Sequence[Unit], out: Path) -> dict[str, list[int]]:
    """By model the trials that are finished, less those that diverged."""
    found: dict[str, list[int]] = {}
    for unit in finished:
        if unit.experiment == compared.units and has_sample(compared, out / unit.folder):
            found.setdefault(unit.model, []).append(unit.trial)
    return found


def _pairs(models: Sequence[str]) -> list[tuple[str, str]]:
    alone = [(model, "") for model in models]
    if "proposed" not in models:
        return alone
    return alone + [("proposed", model) for model in models if model != "proposed"]


def _values(results: Sequence[Result]) -> dict[tuple[str, ...], dict[int, float]]:
    """Values by trial, by (experiment, model, dataset, detector, metric)."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for experiment, trial, model, dataset, detector, metric, value in results:
        key = (experiment, model, dataset, detector, metric)
        values.setdefault(key, {})[trial] = value
    return values


def _replicates(
    samples: Sequence[Sample], replicates: int, *, seed: int
) -> Mapping[Key, Replicates]:
    drawn = bootstrap(
        [_named(sample.statistic) for sample in samples],
        [sample.groups for sample in samples],
        replicates=replicates,
        seed=seed,
    )
    return {_key(name): values for name, values in drawn.items()}


def _named(statistic: Statistic) -> Callable[..., Mapping[str, Replicates]]:
    return lambda *weights: {
        f"{detector}\t{metric}": values
        for (detector, metric), values in statistic(*weights).items()
    }


def _key(name: str) -> Key:
    detector, metric = name.split("\t")
    return detector, metric


def _size(sample: Sample, metric: str) -> int:
    """How many groups there are behind a metric."""
    everything = min(len(np.unique(groups)) for groups in sample.groups)
    return sample.sizes.get(metric, everything)


def _bounds(replicates: Replicates, n: int) -> tuple[float | None, float | None]:
    """An interval; None where it would rest on one group, or where none is defined."""
    lower, upper = percentile_interval(replicates)
    return (None, None) if n < 2 or math.isnan(lower) else (lower, upper)
