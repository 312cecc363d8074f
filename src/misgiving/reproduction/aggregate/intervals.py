"""Bootstrap intervals: of every result, of paired differences, and of risk over coverage."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from misgiving.evaluation.measures import FAILURE_SCORES
from misgiving.metrics.bootstrap import percentile_interval
from misgiving.metrics.selective import RiskCoverage
from misgiving.metrics.trials import t_interval
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
from misgiving.reproduction.generalization import FAILURES
from misgiving.reproduction.new_classes import TOGETHER
from misgiving.reproduction.ood_detection import CHOSEN
from misgiving.reproduction.policies import POLICY_SET
from misgiving.reproduction.protocol import Protocol, sweep_experiments
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.predictions import Predictions, load_scores, scores_path
from misgiving.results.schema import Result, ResultInterval, RiskPoint, Unit

Trials = tuple[int, ...]
Values = Mapping[tuple[str, ...], Mapping[int, float]]
"""Values by trial, by (experiment, model, dataset, detector, metric)."""

FEW_EVENTS = "error_among_accepted"
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


def intervals(
    trial_data: TrialData, finished: Sequence[Unit], out: Path, results: Sequence[Result]
) -> list[ResultInterval]:
    """All intervals; a difference is taken over the trials in which both models are finished."""
    values: dict[tuple[str, ...], dict[int, float]] = {}
    for experiment, trial, model, dataset, detector, metric, value in results:
        key = (experiment, model, dataset, detector, metric)
        values.setdefault(key, {})[trial] = value
    measured, protocol = trial_data.evaluation_sets.measured, trial_data.protocol

    found: list[ResultInterval] = []
    for seed, compared in enumerate(_compared_sets(trial_data), protocol.seed):
        samples = _samples(compared, finished, out, measured)
        ratio = trial_data.split_ratio(compared.units)
        found.extend(_SetIntervals(compared, protocol, samples, values, ratio, seed).rows())
    return found


def _compared_sets(trial_data: TrialData) -> list[ComparedSet]:
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    unseen = (TOGETHER, *(f"unseen/{name}" for name in protocol.unseen))
    return [
        *(ComparedSet(name, measured, name) for name in ("generalization", "ood_detection")),
        ComparedSet("generalization", POLICY_SET, "generalization"),
        *(ComparedSet("ood_detection", name, "ood_detection") for name in protocol.ood_sets),
        *(ComparedSet("new_classes", name, "ood_detection") for name in unseen),
        *(ComparedSet(name, measured, name) for name in sweep_experiments(protocol)),
    ]


def _samples(
    compared: ComparedSet, finished: Sequence[Unit], out: Path, measured: str
) -> dict[str, dict[int, Sample]]:
    """The samples of finished units by model and trial, without those that diverged."""
    found: dict[str, dict[int, Sample]] = {}
    for unit in finished:
        folder = out / unit.folder
        if unit.experiment == compared.units and has_sample(compared, folder):
            found.setdefault(unit.model, {})[unit.trial] = sample_of(compared, folder, measured)
    return found


@dataclass(frozen=True)
class _SetIntervals:
    """The intervals on one set: of each model, and of differences from models and from MSP.

    The same seed and trials meet the same resampled sets, which makes differences paired.
    """

    compared: ComparedSet
    protocol: Protocol
    samples: Mapping[str, Mapping[int, Sample]]
    values: Values
    split_ratio: float
    seed: int
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
        n = min(self.samples[model][trial].size_of(metric) for trial in trials)
        lower, upper = _bounds(replicates, n)
        if metric == FEW_EVENTS and lower == upper:  # no error among a few: nothing varies
            lower, upper = None, None
        here = (self.compared.experiment, self.compared.dataset)
        yield ResultInterval(
            experiment=here[0],
            model=model,
            baseline=baseline,
            dataset=here[1],
            detector=detector,
            metric=metric,
            estimate=float(differences.mean()),
            lower=lower,
            upper=upper,
            n=n,
            trials=len(trials),
            tuned=here == ("ood_detection", self.protocol.odin.tuning_set)
            and detector in ("odin", CHOSEN),
            **_over_trials(differences, self.split_ratio),
        )

    def _replicates(self, model: str, trials: Trials) -> Mapping[Key, Replicates]:
        if trials and (model, trials) not in self.drawn:
            samples = [self.samples[model][trial] for trial in trials]
            replicates = self.protocol.replicates
            self.drawn[model, trials] = resampled(samples, replicates=replicates, seed=self.seed)
        return self.drawn.get((model, trials), {})

    def _by_trial(
        self, model: str, key: Key, trials: Trials
    ) -> Float[np.ndarray, " trials"] | None:
        where = (self.compared.experiment, model, self.compared.dataset, *key)
        values = self.values.get(where, {})
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
    """An interval; None where it would rest on one group, or where none is defined."""
    lower, upper = percentile_interval(replicates)
    return (None, None) if n < 2 or math.isnan(lower) else (lower, upper)


def risk_curves(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> Iterator[RiskPoint]:
    """The error among the accepted in 4.1 by acceptance score, at every twentieth of coverage."""
    measured, protocol = trial_data.evaluation_sets.measured, trial_data.protocol
    for model in protocol.models:
        samples = [
            _risks(out / unit.folder, measured)
            for unit in finished
            if (unit.experiment, unit.model) == ("generalization", model)
            and scores_path(out / unit.folder, FAILURES).is_file()
        ]
        if not samples:
            continue
        means = [sample.statistic() for sample in samples]
        drawn = resampled(samples, replicates=protocol.replicates, seed=protocol.seed)
        for (detector, coverage), replicates in drawn.items():
            mean = float(np.mean([of_trial[detector, coverage] for of_trial in means]))
            lower, upper = percentile_interval(replicates)
            if not math.isnan(mean):
                yield RiskPoint(model, detector, float(coverage), mean, lower, upper)


def _risks(folder: Path, measured: str) -> Sample:
    predictions = Predictions.load(folder / "predictions" / f"{measured}.safetensors")
    errors, scores = predictions.errors, load_scores(folder, FAILURES).scores

    def statistic(weights: Weights | None = None) -> dict[Key, Float[np.ndarray, "*replicates"]]:
        curves = {name: RiskCoverage(of, errors, weights) for name, of in scores.items()}
        return {
            (name, str(coverage)): np.asarray(curve.risk_at_coverage(coverage))
            for name, curve in curves.items()
            for coverage in COVERAGES
        }

    return Sample(statistic, (np.array(predictions.groups),), {})
