"""Risk over coverage of every failure score, with a band: what the report draws."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.metrics.bootstrap import bootstrap, percentile_interval
from misgiving.metrics.selective import risk_at_coverage
from misgiving.reproduction.aggregate.resampling import Weights
from misgiving.reproduction.generalization import FAILURES
from misgiving.reproduction.protocol import Unit
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.predictions import Predictions
from misgiving.results.schema import RiskPoint
from misgiving.results.scores import load_scores, scores_path

COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))


def risk_curves(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> Iterator[RiskPoint]:
    """The error among the accepted in 4.1, at every twentieth of coverage."""
    for model in trial_data.protocol.models:
        folders = [
            out / unit.folder
            for unit in finished
            if (unit.experiment, unit.model) == ("generalization", model)
            and scores_path(out / unit.folder, FAILURES).is_file()
        ]
        if folders:
            yield from _curves(trial_data, model, folders)


class _Trial(NamedTuple):
    scores: dict[str, Float[np.ndarray, " n"]]
    errors: Bool[np.ndarray, " n"]
    groups: tuple[str, ...]

    def risks(self, weights: Weights | None = None) -> dict[str, Float[np.ndarray, "*replicates"]]:
        return {
            f"{name}\t{coverage}": np.asarray(
                risk_at_coverage(values, self.errors, coverage, weights=weights)
            )
            for name, values in self.scores.items()
            for coverage in COVERAGES
        }


def _trial(folder: Path, measured: str) -> _Trial:
    predictions = Predictions.load(folder / "predictions" / f"{measured}.safetensors")
    scored = load_scores(folder, FAILURES)
    return _Trial(dict(scored.scores), predictions.errors, predictions.groups)


def _curves(trial_data: TrialData, model: str, folders: Sequence[Path]) -> Iterator[RiskPoint]:
    trials = [_trial(folder, trial_data.evaluation_sets.measured) for folder in folders]
    drawn = bootstrap(
        [trial.risks for trial in trials],
        [(np.array(trial.groups),) for trial in trials],
        replicates=trial_data.protocol.replicates,
        seed=trial_data.protocol.seed,
    )
    means = [trial.risks() for trial in trials]
    for key, replicates in drawn.items():
        detector, coverage = key.split("\t")
        lower, upper = percentile_interval(replicates)
        mean = float(np.mean([of_trial[key] for of_trial in means]))
        if not math.isnan(mean):
            yield RiskPoint(model, detector, float(coverage), mean, lower, upper)
