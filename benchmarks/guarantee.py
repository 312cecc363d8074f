"""Check both guarantees on predictions of published models.

    python benchmarks/guarantee.py PREDICTIONS [--draws 300] [--seed 0] [--cells] [--jobs 1]

PREDICTIONS has the folders imagenet, logits and cifar10h, and lesions with predictions of runs,
`misgiving.predict(RUN, DATA).write("lesions/NAME.npz")`, whose training images are left out. The
table of a model's predictions is the population: labelled cases and batches are drawn from it with
replacement, so that the truth is known. The score is the log-odds of the predicted class, and the
OOD score that of all classes (energy). One Markdown table has:
- confident: a fifth of the labelled cases is left out, as it tunes a policy; the others certify.
- average: all cases certify; with other targets, a fifth tunes.
- SGR (Geifman and El-Yaniv, 2017, algorithm 2), written here from the paper: all cases.
- MAPIE: `BinaryClassificationController`, default method, with the score's rank in the population.
"""

import argparse
import math
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.certificate import number_reaching
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.guarantees import GUARANTEES, fit_selection
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import (
    ScoredCases,
    count_ranks,
    loosest_certified,
)
from misgiving.groups import TUNING_PARTS

warnings.filterwarnings("ignore", "nothing is accepted")  # in some of the draws
MAPIE = import_module("mapie.risk_control") if find_spec("mapie") else None
TABLES = ("imagenet/*", "cifar10h/*", "logits/cifar*", "logits/pathmnist*", "lesions/*")
ERRORS, SIZES = (0.01, 0.02, 0.05, 0.1, 0.2), (100, 200, 500, 1000, 3000)
WATCHED = {  # class with a target, and the target of the error beside it
    "logits/cifar10_resnet-20": ("3", 0.05),
    "logits/cifar10_vgg19_bn": ("3", 0.05),
    "logits/pathmnist_resnet50": ("7", 0.05),
    "lesions/*": ("0", 0.2),  # melanoma, the first class of ISIC 2019
}
CLASS_MISS, CLASS_SIZES, OOD_ERRORS, FALSE_ALARMS = 0.1, (200, 500, 1000, 3000), (0.1, 0.2), 0.05
POLICIES = ("cifar10_resnet-20", "pathmnist_resnet50")
POLICY_ERROR, POLICY_SIZES, FITS = 0.05, (200, 1000), 20
MANY, THIRD = 3000, 3  # so many cases get a third of the draws; MAPIE gets every third draw
LEVEL, BATCH, ROUNDING = 0.05, 500, 1e-9
WANTED = {8: 0.92, 20: 0.94, 40: 0.97}  # share of the best possible coverage, by allowed errors
SUMMARY = {  # of the sizes of one table and target
    "cases": lambda sizes: f"{sizes.min():,} to {sizes.max():,}",
    **dict.fromkeys(("best possible", "confident: coverage", "refused"), "mean"),
    **dict.fromkeys(("average: coverage", "SGR", "MAPIE"), "mean"),
    **dict.fromkeys(("confident: missed", "mean error", "batches above", "95 % quantile"), "max"),
    **dict.fromkeys(("class", "confident: class missed", "average: class missed"), "first"),
    "average: false alarms": "first",
}
LEGEND = f"""
`best possible`: largest coverage with a true error within the target. Coverages are means; refusals
count as 0. `confident: missed`: share of draws whose threshold truly misses a target. The share of
wrong answers among the accepted of a batch of {BATCH}, on average: `mean error`; `batches above`
the target; `95 % quantile`. Rows of several sizes have mean coverages and refusals, and otherwise
the highest. `false alarms` are given where they have a target, {FALSE_ALARMS}. {MANY:,} cases
without other targets have a third of the draws, whole policies (`Deferral.fit`) {FITS}, MAPIE
{"a third" if MAPIE else "is missing"}.
"""

PerDraw = Float[np.ndarray, " draws"]
Rows = Int[np.ndarray, "draws n"]


class Task(NamedTuple):
    """The question of a cell: a table of predictions, targets, and a number of labelled cases."""

    path: Path
    max_error: float
    watched: str | None
    size: int
    draws: int
    seed: int
    is_policy: bool = False
    max_ood_false_alarms: float | None = None


class Outcomes(NamedTuple):
    """Results of each draw, and of procedures that are measured beside the guarantees."""

    coverage: PerDraw
    missed: Bool[np.ndarray, " draws"]
    batch_coverage: PerDraw
    batch_error: PerDraw
    others: dict[str, Any]


def main() -> None:
    """Print the table, and whether the guarantees hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", action="store_true", help="print every cell")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        cells = pd.DataFrame(pool.map(measured, tasks_of(options), chunksize=15))
    print(f"{options.draws} draws in each of {len(cells)} cells, seed {options.seed}.\n{LEGEND}")
    print(markdown(cells, every=options.cells), *verdict(cells), sep="\n")


def tasks_of(options: argparse.Namespace) -> Iterator[Task]:
    """Every table, target and size. Tables change fastest, as they share cached limits."""
    tables = sorted(path for name in TABLES for path in options.predictions.glob(f"{name}.npz"))
    for size, max_error, path in product(SIZES, ERRORS, tables):
        draws = options.draws if size < MANY else math.ceil(options.draws / THIRD)
        yield Task(path, max_error, None, size, draws, options.seed)
    rest = options.draws, options.seed
    for (name, (watched, max_error)), size in product(WATCHED.items(), CLASS_SIZES):
        for path in options.predictions.glob(f"{name}.npz"):
            yield Task(path, max_error, watched, size, *rest)
    lesions = sorted(options.predictions.glob("lesions/*.npz"))
    for path, max_error, size in product(lesions, OOD_ERRORS, SIZES):
        yield Task(path, max_error, None, size, *rest, max_ood_false_alarms=FALSE_ALARMS)
    for stem, size in product(POLICIES, POLICY_SIZES):
        path = options.predictions / "logits" / f"{stem}.npz"
        yield Task(path, POLICY_ERROR, None, size, FITS, options.seed, True)


@cache
def read_predictions(path: Path) -> tuple[ScoredCases, Float[np.ndarray, "n classes"]]:
    """All images, scored, without error probabilities; their logits, unless five are known."""
    arrays, logits = dict(np.load(path)), np.empty((0, 0))
    if "classes" in arrays:  # a table that `predict` has written
        others = arrays["set"] != b"train"
        label = np.argmax(arrays["label"][others, None] == arrays["classes"], axis=1)
        arrays = {"logits": arrays["logits"][others], "label": label}
    if "top5_classes" in arrays:
        labels, predicted = arrays["labels"].astype(int), arrays["top5_classes"][:, 0].astype(int)
        top, *others = arrays["top5_probabilities"].astype(float).T
        scores = np.log(top) - np.log(np.maximum(1 - top, np.sum(others, axis=0)))
    else:
        logits = arrays["logits"] if "logits" in arrays else np.log(arrays["probabilities"])
        labels, predicted = arrays["label"], logits.argmax(axis=1)
        ordered = np.sort(logits.astype(float), axis=1)
        scores = ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1)
    cases = ScoredCases(
        scores=scores,
        ood_scores=logsumexp(logits.astype(float), axis=1) if logits.size else scores,
        error_probabilities=np.zeros(len(labels)),
        predicted=predicted,
        labels=labels,
        acceptable=np.ones(len(labels), dtype=bool),
    )
    return cases, logits


def measured(task: Task) -> dict[str, Any]:
    """Summarise the draws of a cell, with random numbers of its own."""
    name = f"{task.path.parent.name}/{task.path.stem}"
    seeds = (task.seed, task.size, round(1000 * task.max_error), task.watched is None)
    measure = policy_outcomes if task.is_policy else threshold_outcomes
    outcomes = measure(task, np.random.default_rng([*seeds, *name.encode()]))
    return {
        "predictions": name + (", whole policy" if task.is_policy else ""),
        "target": task.max_error,
        "cases": task.size,
        "draws": task.draws,
        "confident: coverage": outcomes.coverage.mean(),
        "refused": (outcomes.coverage == 0).mean(),
        "confident: missed": outcomes.missed.mean(),
        "average: coverage": outcomes.batch_coverage.mean(),
        "mean error": outcomes.batch_error.mean(),
        "deviation": max(outcomes.batch_error.std(), ROUNDING),
        "batches above": (outcomes.batch_error > task.max_error + ROUNDING).mean(),
        "95 % quantile": np.quantile(outcomes.batch_error, 0.95),
        **outcomes.others,
    }


def threshold_outcomes(task: Task, random: np.random.Generator) -> Outcomes:
    """Give all procedures the same labelled cases, and compare them with the population."""
    cases, _ = read_predictions(task.path)
    rows = random.integers(len(cases), size=(task.draws, task.size))
    batches = random.integers(len(cases), size=(task.draws, BATCH))
    thresholds = np.array([*lowest_accepted(task, rows, batches)], dtype=float)
    (confident, limits), (average, batch_limits) = thresholds.transpose(1, 2, 0)
    coverage, missed, class_missed = true_outcomes(task, confident, limits)
    everything = np.unique(cases.scores)
    coverages, above, _ = true_outcomes(task, everything, np.full(len(everything), -np.inf))
    unfamiliar = cases.ood_scores[batches] <= batch_limits[:, None]
    accepted = (cases.scores[batches] >= average[:, None]) & ~unfamiliar
    errors = (accepted & cases.wrong[batches]).sum(axis=1) / np.maximum(accepted.sum(axis=1), 1)
    others = {
        "best possible": coverages[~above].max(initial=0.0),
        "class": task.watched or "",
        "confident: class missed": class_missed.mean(),
        "average: class missed": true_outcomes(task, average, batch_limits)[2].mean(),
        "average: false alarms": false_alarms(task, batch_limits).mean(),
    }
    if not (task.watched or task.max_ood_false_alarms):
        others |= {"SGR": coverage_of_sgr(task, rows), "MAPIE": coverage_of_mapie(task, rows)}
    return Outcomes(coverage, missed, accepted.mean(axis=1), errors, others)


def lowest_accepted(
    task: Task, rows: Rows, batches: Rows
) -> Iterator[tuple[tuple[float, float], ...]]:
    """Lowest score and OOD limit of each draw, confident, and for its batch on average."""
    (cases, _), tuning_cases = read_predictions(task.path), task.size // TUNING_PARTS
    targets = Targets(
        max_error=task.max_error,
        class_max_miss={task.watched: CLASS_MISS} if task.watched else {},
        max_ood_false_alarms=task.max_ood_false_alarms,
    )
    classes = tuple(map(str, range(cases.labels.max() + 1)))
    is_split = bool(task.watched or task.max_ood_false_alarms)
    for chosen, batch in zip(rows, batches, strict=True):
        tuning, calibration = cases[chosen[:tuning_cases]], cases[chosen[tuning_cases:]]
        if task.watched:
            tuning = with_error_probabilities(tuning)
        certifying = calibration if is_split else cases[chosen]
        sets, limits = (calibration, certifying), []
        for guarantee, each in zip(GUARANTEES.values(), sets, strict=True):
            rank = guarantee.ood_rank(len(each), targets)
            limits.append(-np.inf if rank is None else float(np.sort(each.ood_scores)[rank - 1]))
        counts, batch_counts = (
            count_ranks(each, targets, classes=classes, ood_limit=limit)
            for each, limit in zip(sets, limits, strict=True)
        )
        position = loosest_certified([counts], targets)[0]
        certified = float(counts.thresholds[position]) if position >= 0 else math.nan
        selection = fit_selection(tuning, certifying, batch_counts, targets, classes=classes)
        familiar = cases.scores[batch][cases.ood_scores[batch] > limits[1]]
        lowest = selection.threshold(familiar, len(familiar))
        yield (certified, limits[0]), (math.nan if lowest == math.inf else lowest, limits[1])


def with_error_probabilities(tuning: ScoredCases) -> ScoredCases:
    """Fit the probability of an error to the score (Platt, 1999)."""
    wrong = tuning.wrong.sum()
    desired = np.where(tuning.wrong, (wrong + 1) / (wrong + 2), 1 / (len(tuning) - wrong + 2))

    def cross_entropy(line: Float[np.ndarray, " 2"]) -> float:
        log_odds = line[0] * tuning.scores + line[1]
        return float(np.sum(np.logaddexp(0, log_odds) - desired * log_odds))

    slope, offset = minimize(cross_entropy, [-1.0, 0.0]).x
    return replace(tuning, error_probabilities=expit(slope * tuning.scores + offset))


def true_outcomes(
    task: Task, thresholds: PerDraw, limits: PerDraw
) -> tuple[PerDraw, Bool[np.ndarray, " _"], PerDraw]:
    """True coverage, whether a target is missed, and the share of the class that is missed."""
    cases, _ = read_predictions(task.path)
    of_class = cases.labels == int(task.watched or -1)
    counts = np.zeros((3, len(thresholds)))
    for limit in np.unique(limits):
        above, same = cases.ood_scores > limit, limits == limit
        kinds = above, above & cases.wrong, cases.wrong & of_class
        for row, kind in zip(counts, kinds, strict=True):
            row[same] = number_reaching(cases.scores[kind], thresholds[same])
    accepted, wrong, missed = counts
    class_missed = missed / (of_class.sum() or np.nan)
    above = (wrong > (task.max_error + ROUNDING) * accepted) | (class_missed > CLASS_MISS)
    above |= false_alarms(task, limits) > (task.max_ood_false_alarms or 1)
    return accepted / len(cases), above, class_missed


def false_alarms(task: Task, limits: PerDraw) -> PerDraw:
    """Share of the population that is below an OOD limit; NaN without such a target."""
    scores = np.sort(read_predictions(task.path)[0].ood_scores)
    shares = np.searchsorted(scores, limits, side="left") / len(scores)
    return shares if task.max_ood_false_alarms else np.full(len(limits), np.nan)


def coverage_of_mapie(task: Task, rows: Rows) -> float:
    """Mean coverage of the threshold with the highest recall that MAPIE certifies."""
    if MAPIE is None:
        return math.nan
    cases, _ = read_predictions(task.path)
    ranks = np.searchsorted(np.sort(cases.scores), cases.scores) / len(cases)
    thresholds = []
    for chosen in rows[::THIRD]:
        controller = MAPIE.BinaryClassificationController(
            lambda values: np.stack([1 - values, values], axis=1),
            risk="precision",  # a positive is a right answer
            target_level=1 - task.max_error,
            confidence_level=1 - LEVEL,
            list_predict_params=np.linspace(0.99, 0, 100),
        ).calibrate(ranks[chosen], (~cases.wrong[chosen]).astype(int))
        thresholds.append(controller.best_predict_param)  # None, then NaN: nothing is certified
    return float(number_reaching(ranks, np.array(thresholds, dtype=float)).mean() / len(ranks))


def coverage_of_sgr(task: Task, rows: Rows) -> float:
    """Mean coverage of the lowest threshold that passes a step of SGR's binary search."""
    (cases, _), thresholds = read_predictions(task.path), np.full(len(rows), np.inf)
    steps = math.ceil(math.log2(task.size))
    for draw, chosen in enumerate(rows):
        drawn = cases[chosen[np.argsort(cases.scores[chosen])]]
        errors = np.cumsum(drawn.wrong[::-1])[::-1]
        low, high = 1, task.size
        for _ in range(steps):
            middle = math.ceil((low + high) / 2)
            threshold = drawn.scores[middle - 1]
            start = np.searchsorted(drawn.scores, threshold)
            if upper_bound(errors[start], task.size - start, level=LEVEL / steps) < task.max_error:
                high, thresholds[draw] = middle, min(threshold, thresholds[draw])
            else:
                low = middle
    return float(number_reaching(cases.scores, thresholds).mean() / len(cases))


def policy_outcomes(task: Task, random: np.random.Generator) -> Outcomes:
    """Fit whole policies, and apply them to the population, or to a batch on average."""
    cases, logits = read_predictions(task.path)
    outcomes = np.empty((2, 2, task.draws))
    for (number, guarantee), draw in product(enumerate(GUARANTEES), range(task.draws)):
        rows = random.integers(len(cases), size=task.size + BATCH)
        *sets, batch = np.split(rows, [task.size // TUNING_PARTS, task.size])
        tuning, calibration = ((logits[part], cases.labels[part]) for part in sets)
        images = batch if guarantee == "average" else np.arange(len(cases))
        deferral = Deferral(max_error=task.max_error, guarantee=guarantee)
        decided = deferral.fit(tuning, calibration).decide(logits[images])
        accepted = decided.decisions == "accept"
        wrong = accepted & (decided.predicted != cases.labels[images])
        outcomes[number, :, draw] = accepted.mean(), wrong.sum() / max(accepted.sum(), 1)
    (coverage, error), (batch_coverage, batch_error) = outcomes
    return Outcomes(coverage, error > task.max_error + ROUNDING, batch_coverage, batch_error, {})


def markdown(cells: pd.DataFrame, *, every: bool) -> str:
    """Markdown table: of every cell, or of all sizes together where there is no class target."""
    plain = cells["SGR"].notna()
    rows = cells[plain].sort_values(["predictions", "target", "cases"])
    if not every:
        rows = rows.groupby(["predictions", "target"], as_index=False).agg(SUMMARY)
    rows = pd.concat([rows, cells[~plain]])[["predictions", "target", *SUMMARY]].astype(object)
    rows = rows.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [list(rows), ["---"] * rows.shape[1], *rows.replace("nan", "").to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def verdict(cells: pd.DataFrame) -> Iterator[str]:
    """Say whether the guarantees hold, in standard errors, and how much average accepts."""
    excesses = {
        "average: mean errors": (cells["mean error"] - cells["target"]) / cells["deviation"],
        "confident: misses": (cells["confident: missed"] - LEVEL) / math.sqrt(LEVEL * (1 - LEVEL)),
    }
    for name, excess in excesses.items():
        errors = excess * np.sqrt(cells["draws"])
        two, four = (errors > 2).sum(), (errors > 4).sum()
        yield (
            f"- {name} are{' NOT' if four or two > 0.05 * len(errors) else ''} within the limit: of"
            f" {len(errors)}, {two} are more than two standard errors above it, {four} more than 4."
        )
    shares = cells["average: coverage"] / cells["best possible"]
    expected = cells["best possible"] * cells["target"] * (cells["cases"] + 1)
    for least, wanted in WANTED.items():
        chosen = shares[cells["SGR"].notna() & (expected >= least)]
        yield (
            f"- average reaches at least {chosen.min():.3f} of the best possible coverage, "
            f"{chosen.mean():.3f} on average (wanted: {wanted}), in {len(chosen)} cells with "
            f"best possible x target x (cases + 1) >= {least}."
        )


if __name__ == "__main__":
    main()
