"""Audit real policies whose images change: what the living bound says, and the true error.

    python benchmarks/audited_shifts.py PREDICTIONS [--run RUN --data DATA]

Policies are certified on half of the predictions of a model of PREDICTIONS, the folder that
`guarantee.py` reads, or on the tuning and calibration sets of RUN, a run on dermoscopic DATA. The
other half, or the test set, is the population of new images: as it is, and after a change. For an
*unseen* class, the policy's model has no logit of it, and its images come after the change. For
*other classes*, the two classes with most errors become five times as frequent. For *another
centre*, no policy is certified: PathMNIST's test images are of a centre that the network was not
trained at, so all of them come after the change, and they are accepted as far as the network's own
probabilities promise the target. Streams draw audited accepted answers with replacement: 500 before
and 1,000 after the change, or 1,500 after it. Prints a Markdown table of means over policies and
streams, and the median of the audited answers from the change to the alarm, `inf` where fewer than
half of the streams have one.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from expected_performance import changed
from guarantee import read_predictions
from jaxtyping import Bool
from PIL import Image, ImageEnhance
from scipy.special import softmax

from misgiving.checkpoint import load
from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.deferral.audit import (
    ALARM_LEVEL,
    BOUND_LEVEL,
    alarm_evidence,
    anytime_upper_bound,
    bound_evidence,
)
from misgiving.deferral.deferral import Deferral
from misgiving.files import default_cache
from misgiving.groups import TUNING_PARTS, one_per_group
from misgiving.predictions.inference import predictions_of
from misgiving.scores.detectors import FittedDetectors

POLICIES, STREAMS, BEFORE, AFTER = 10, 100, 500, 1000
MODELS = {"pathmnist_resnet50": (0.05, 7), "cifar10_resnet-20": (0.05, 3)}  # target, unseen class
MOVED, PROMISED = "pathmnist_resnet50", 0.02
FREQUENT = 5
OLD, BRIGHTNESSES = 70, (0.7, 0.4)
HEADER = (
    *("policy", "change", "target", "accepted", "true error", "bound after 500", "after 1,500"),
    *("true mean then", "covered", "alarm before", "alarm after", "median delay"),
)

Population = tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]
"""Which new images are accepted, and which are answered wrongly."""


class Change(NamedTuple):
    """A policy's target, and its new images before and after a change.

    Attributes:
        answers: Audited accepted answers before the change.
    """

    target: float
    before: Population
    after: Population
    answers: int = BEFORE


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    for model, (target, unseen) in MODELS.items():
        cases, logits = read_predictions(asked.predictions / "logits" / f"{model}.npz")
        changes = [
            dict(of_logits(logits, cases.labels, target, unseen, seed)) for seed in range(POLICIES)
        ]
        show(model, changes)
    cases, logits = read_predictions(asked.predictions / "logits" / f"{MOVED}.npz")
    moved = of_promise(logits, cases.wrong, PROMISED)
    change = Change(PROMISED, moved, moved, answers=0)
    show(MOVED, [{"another centre": change}] * POLICIES)
    if asked.run is not None:
        show("dermoscopy, ours", [dict(of_run(asked.run, asked.data, asked.cache))])


def of_logits(
    logits: np.ndarray, labels: np.ndarray, target: float, unseen: int, seed: int
) -> Iterator[tuple[str, Change]]:
    """Changes of a policy for the logits of a table."""
    random = np.random.default_rng(seed)
    new, old = np.array_split(random.permutation(len(labels)), 2)
    tuning, calibration = np.split(old, [len(old) // TUNING_PARTS])

    def decided(deferral: Deferral, rows: np.ndarray, columns: np.ndarray) -> Population:
        decisions = deferral.decide(logits[rows][:, columns])
        return decisions.decisions == "accept", columns[decisions.predicted] != labels[rows]

    columns = np.arange(logits.shape[1])
    deferral = Deferral(max_error=target).fit(
        (logits[tuning], labels[tuning]), (logits[calibration], labels[calibration])
    )
    before = decided(deferral, new, columns)
    accepted, wrong = before
    errors = [wrong[accepted & (labels[new] == number)].mean() for number in columns]
    is_hard = np.isin(labels[new], np.argsort(errors)[-2:])
    mixed = np.repeat(new, np.where(is_hard, FREQUENT, 1))
    yield "none", Change(target, before, before)
    yield "other classes", Change(target, before, decided(deferral, mixed, columns))
    columns = np.delete(columns, unseen)
    tuning, calibration = (rows[labels[rows] != unseen] for rows in (tuning, calibration))
    deferral = Deferral(max_error=target).fit(
        *(
            (logits[rows][:, columns], labels[rows] - (labels[rows] > unseen))
            for rows in (tuning, calibration)
        )
    )
    usual = decided(deferral, new[labels[new] != unseen], columns)
    yield "unseen class", Change(target, usual, decided(deferral, new, columns))


def of_promise(logits: np.ndarray, wrong: Bool[np.ndarray, " n"], target: float) -> Population:
    """Accept as many images as the network's own probabilities allow, without a label."""
    doubts = 1 - softmax(logits.astype(float), axis=1).max(axis=1)
    best_first = np.argsort(doubts, kind="stable")
    promised = doubts[best_first].cumsum() / np.arange(1, len(doubts) + 1)  # it grows
    return np.isin(np.arange(len(doubts)), best_first[promised <= target]), wrong


def of_run(run: Path, data: str, cache: Path, target: float = 0.1) -> Iterator[tuple[str, Change]]:
    """Changes of a policy for a trained model: older people, and darker images."""
    checkpoint, dataset = load(run), load_dataset(data)
    images = prepare(dataset, checkpoint.preprocessing, cache=cache)
    images = replace(images, groups=checkpoint.split.groups)
    sets = np.array(checkpoint.split.sets)
    parts = {name: images.select(np.flatnonzero(sets == name)) for name in np.unique(sets)}
    predicted = {name: predictions_of(checkpoint, part) for name, part in parts.items()}
    detectors = FittedDetectors.fit(predicted["train"])
    deferral = Deferral(max_error=target).certify(
        predicted["tune"], predicted["calibrate"], detectors=detectors
    )
    chosen = one_per_group(predicted["test"].units, seed=0)
    ages = np.array([float(age or "nan") for age in dataset.metadata["age"]])
    is_old = ages[sets == "test"][chosen] >= OLD

    def decided(change: Callable[[Image.Image], Image.Image] | None) -> Population:
        form = predicted["test"]
        if change is not None:
            form = predictions_of(checkpoint, changed(parts["test"], change))
        decisions = deferral.decide(form.select(chosen))
        return decisions.decisions == "accept", decisions.predicted != form.labels[chosen]

    before = decided(None)
    yield "none", Change(target, before, before)
    old: Population = (before[0][is_old], before[1][is_old])
    yield f"people of {OLD} years and more", Change(target, before, old)
    for share in BRIGHTNESSES:
        after = decided(partial(darker, share))
        yield f"darkened to {100 * share:g} %", Change(target, before, after)


def darker(share: float, image: Image.Image) -> Image.Image:
    """Multiply the brightness."""
    return ImageEnhance.Brightness(image).enhance(share)


def show(policy: str, policies: list[dict[str, Change]]) -> None:
    """Print a row for each change."""
    for name in policies[0]:
        changes = [changes[name] for changes in policies]
        rows = np.array([row for seed, part in enumerate(changes) for row in followed(part, seed)])
        first, second, early, true, late, covered = rows[:, :-1].mean(axis=0)
        accepted = [np.mean([part[side][0].mean() for part in changes]) for side in (1, 2)]
        alarms, sooner = rows[:, -1], changes[0].answers
        delays = alarms[alarms > sooner] - sooner
        cells = (
            *(policy, name, f"{changes[0].target:g}"),
            *(f"{accepted[0]:.2f} to {accepted[1]:.2f}", f"{first:.3f} to {second:.3f}"),
            *(f"{number:.3f}" for number in (early, late, true, covered)),
            *(f"{(alarms <= sooner).mean():.3f}", f"{np.isfinite(delays).sum() / len(rows):.3f}"),
            f"{np.quantile(delays, 0.5, method='lower'):.0f}",
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def followed(change: Change, seed: int) -> Iterator[tuple[float, ...]]:
    """Errors before and after, bound after 500, mean error and bound then, covered, and alarm."""
    random = np.random.default_rng(seed)
    first, second = (wrong[accepted] for accepted, wrong in (change.before, change.after))
    number, sooner = np.arange(1, BEFORE + AFTER + 1), change.answers
    true = np.where(number <= sooner, first.mean(), second.mean()).cumsum() / number
    for _ in range(STREAMS):
        parts = random.choice(first, sooner), random.choice(second, len(number) - sooner)
        stream = np.concatenate(parts)
        wrong = stream.cumsum()
        evidence = bound_evidence(wrong, number, true)
        alarms = np.flatnonzero(alarm_evidence(stream, change.target) >= -np.log(ALARM_LEVEL))
        yield (
            *(first.mean(), second.mean(), float(anytime_upper_bound(wrong[BEFORE - 1], BEFORE))),
            *(true[-1], float(anytime_upper_bound(wrong[-1], len(number)))),
            *(evidence.max() < -np.log(BOUND_LEVEL), alarms[0] + 1 if len(alarms) else np.inf),
        )


if __name__ == "__main__":
    main()
