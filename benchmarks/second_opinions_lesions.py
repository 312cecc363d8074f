"""Measure what second opinions are worth on images of skin lesions.

    python benchmarks/second_opinions_lesions.py RUNS DATA

RUNS has runs NAME-TRIAL, such as lite0-0; the runs of one trial share their split into training,
tuning, calibration and test set. Each is predicted once for DATA, and its predictions are kept
beside it. With each network in turn as the model, prints the AURC on the test set and the share of
the test set that policies accept, for targets of 5 and 10 % errors and for both guarantees: of the
model alone, with one and with two second opinions, which never change its answer; and of an
ensemble that may change it, the calibrated mean of all softmaxes. A policy uses second opinions
where they are worth something on its tuning set: "used" counts these trials. Intervals are
t-intervals over the trials, with the correction of
Nadeau and Bengio (2003). The time is that of the processor for one image, decoded and seen by each
network.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from misgiving.calibration.fit import aurc, fit_calibrator
from misgiving.checkpoint import load
from misgiving.data.datasets import load_dataset
from misgiving.data.decoding import Decoded
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.rules import DecisionRule
from misgiving.metrics.uncertainty import t_interval
from misgiving.predictions.inference import write_compared_graph
from misgiving.predictions.network import GRAPH, Network
from misgiving.predictions.predict import TrainedRun
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors

TARGETS = (*product(("confident", "average"), (0.05, 0.1)),)
TIMED = 200  # images
Trial = Mapping[str, Predictions]
"""Predictions of the runs of a trial, by network."""


def main() -> None:
    """Predict what is not predicted yet, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("data")
    asked = parser.parse_args()
    trials: dict[str, dict[str, Predictions]] = {}
    runs: dict[str, Path] = {}
    for config in sorted(asked.runs.glob("*-*/config.json")):
        name, trial = config.parent.name.rsplit("-", 1)
        runs[name] = config.parent
        trials.setdefault(trial, {})[name] = predicted(config.parent, asked.data)
    times = times_of(runs, asked.data)
    columns = [f"{guarantee}, {error:.0%}" for guarantee, error in TARGETS]
    header = ("model", "judged by", "error", "AURC", *columns, "AURC - alone", "used", "ms")
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for name in runs:
        others = [other for other in runs if other != name]
        alone = np.array([measured(trial[name]) for trial in trials.values()])
        for used in ([], *([other] for other in others), others):
            row(name, used, "", [*trials.values()], alone, times)
            if used and name < min(used):  # an ensemble is the same for each of its networks
                row(name, used, "ensemble: ", [*trials.values()], alone, times)


def predicted(run: Path, data: str) -> Predictions:
    """Predictions of a run for all images, made once."""
    path = run.with_suffix(".npz")
    if not path.is_file():
        TrainedRun(run).predict(data).predictions.write(path)
    return Predictions.read(path)


def row(
    name: str,
    others: Sequence[str],
    kind: str,
    trials: Sequence[Trial],
    alone: np.ndarray,
    times: Mapping[str, float],
) -> None:
    """Measure one way to judge a model in each trial, and print it."""
    make = partial(ensemble if kind else with_opinions, name, others)
    values = np.array([measured(make(trial)) for trial in trials]) if others else alone
    first = trials[0][name]
    ratio = len(first.in_set("test")) / len(first.in_set("train"))
    columns = np.column_stack([values[:, :-1], values[:, 1] - alone[:, 1]]).T
    intervals = [t_interval(column, split_ratio=ratio) for column in columns]
    cells = [f"{each.mean:.4f} ({each.lower:.4f} to {each.upper:.4f})" for each in intervals]
    cost = times["decoding"] + sum(times[each] for each in (name, *others))
    judge = f"{kind}{', '.join(others) or 'itself'}"
    used = f"{values[:, -1].sum():.0f} of {len(trials)}"
    print(f"| {' | '.join((name, judge, *cells, used, f'{cost:.1f}'))} |", flush=True)


def with_opinions(name: str, others: Sequence[str], trial: Trial) -> Predictions:
    """Predictions of a model with the second opinions of others."""
    predictions = trial[name]
    for other in others:
        predictions = predictions.with_opinion(trial[other], other)
    return predictions


def ensemble(name: str, others: Sequence[str], trial: Trial) -> Predictions:
    """Predictions of the mean of all softmaxes."""
    joined = with_opinions(name, others, trial)
    mean = np.mean([joined.probabilities, *joined.opinions.values()], axis=0)
    plain = dict.fromkeys(("features", "taps", "predicted_losses", "head"))
    made = replace(joined, logits=np.log(mean), kind="probabilities", opinions={}, **plain)
    return replace(made, tap_widths=())


def measured(predictions: Predictions) -> list[float]:
    """Error and AURC; accepted shares; 1 if opinions are used."""
    tuning, calibration, test, training = (
        predictions.in_set(name) for name in ("tune", "calibrate", "test", "train")
    )
    detectors = FittedDetectors()
    if training.features is not None:
        detectors = FittedDetectors.fit(training)
    weigh = partial(DecisionRule().class_weights, tuning.classes)
    fitted = fit_calibrator(tuning, detectors, weigh)
    shares, decisions = [], None
    for guarantee, error in TARGETS:
        deferral = Deferral(max_error=error, guarantee=guarantee, max_ood_false_alarms=None)
        deferral.certify(tuning, calibration, detectors=detectors, fitted=fitted)
        decisions = deferral.decide(test)
        shares.append(float((decisions.decisions == "accept").mean()))
    wrong = decisions.predicted != test.labels
    area = aurc(decisions.acceptance_score, wrong)
    used = bool(fitted.calibrator.needs_opinions)
    return [float(wrong.mean()), area, *shares, float(used)]


def times_of(runs: Mapping[str, Path], data: str) -> dict[str, float]:
    """Milliseconds of the processor for one image: of decoding for all, and of each network."""
    files = [path.read_bytes() for path in load_dataset(data).images.paths[:TIMED]]
    checkpoints = {name: load(run) for name, run in runs.items()}
    squares = {name: [] for name in runs}

    def decode() -> None:
        for file in files:
            loaded: dict[int, Decoded] = {}
            for name, checkpoint in checkpoints.items():
                squares[name].append(checkpoint.preprocessing.from_file(file, "", loaded=loaded))

    times = {"decoding": milliseconds(decode)}
    for name, checkpoint in checkpoints.items():
        with TemporaryDirectory() as folder:
            network = write_compared_graph(checkpoint, Path(folder) / GRAPH)
        times[name] = milliseconds(partial(see, network, squares[name]))
    return times


def see(network: Network, squares: Sequence[np.ndarray]) -> None:
    """Run a network on one image after the other."""
    for square in squares:
        network(square[None])


def milliseconds(work: Callable[[], object]) -> float:
    """Time of the processor for each of the timed images."""
    before = time.process_time()
    work()
    return 1000 * (time.process_time() - before) / TIMED


if __name__ == "__main__":
    main()
