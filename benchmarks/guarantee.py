"""Check that deferral policies meet their targets on populations whose truth is known.

    python benchmarks/guarantee.py [--draws 2000] [--fault fit-on-calibration]

Populations are simulated scores and errors, and the predictions of each decision rule after a
network with class weights. In each cell 2,000 calibration sets are drawn with replacement and
certified by the library's own code, and every policy is compared with the whole population. Prints
a Markdown table; the same seed gives the same table.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.special import expit, ndtri, softmax

from misgiving.calibration.apply import Calibrator
from misgiving.calibration.fit import TuningSet, fit_calibrator
from misgiving.deferral.bounds import binomial_cdf
from misgiving.deferral.certificate import mark_acceptable
from misgiving.deferral.settings import DecisionRule, Targets
from misgiving.deferral.thresholds import CertificationPlan, ScoredCases, ThresholdCounts
from misgiving.errors import DataError
from misgiving.scores.logits import LOGIT_SCORES

SIZES = (50, 200, 1000)
ERRORS = (0.05, 0.1, 0.2)
CLASS_RATES = (0.05, 0.1)
OOD_RATES = (0.05, 0.1)
LEVEL = 0.05
MOST_ABOVE = 0.065  # three standard errors of 2,000 draws above the level
TYPICAL = ("error 0.1", 1000)
DRAWS, TUNES, SIMULATED = 2000, 10, 20_000
SHAPES = {"well ranked": 2.5, "weakly ranked": 0.75, "confident errors": 2.5}
BASE_ERRORS = (0.1, 0.3, 0.45)
CLASS_SHARE = 0.15
RULE_CLASSES, RULE_SHARES = ("NV", "MEL", "BCC", "AK", "DF"), (0.6, 0.17, 0.12, 0.08, 0.03)
RULE_TUNING = 400
RULES = (
    DecisionRule(),
    DecisionRule(rule="balanced"),
    DecisionRule(costs={"MEL": 10.0}),
    DecisionRule(rule="logits"),
)
COVERAGES = ("mean coverage", "best test", "oracle")
CELL = ("population", "target", "cases", "above the target", "refused", *COVERAGES)
SUMMARY = ("population", "cells", "highest share above the target", "mostly refused", *COVERAGES)
LEGEND = """
`above the target`: share of all draws whose policy misses the target in the population; a refusal
misses none. `refused`: share of draws in which nothing is accepted, or the target is refused;
`mostly refused`: cells in which this is more than half. `mean coverage`: of the other draws, for a
target of 0.1 and 1,000 cases. `oracle`: the largest coverage of any threshold that truly meets the
target. `best test`: the largest coverage of a threshold that passes one single test of the error,
at the whole level, in half of the draws: about the best that so many cases can certify. Both ignore
the images that the OOD rule removes. A target for a class or for OOD false alarms is combined with
an error of 0.5, so that it alone decides.
"""


@dataclass(frozen=True)
class Population:
    """All cases, and the tuning set (None: drawn from the population)."""

    name: str
    cases: ScoredCases
    classes: tuple[str, ...]
    watched: str
    tune: ScoredCases | None = None

    def draw(self, sets: int, size: int, random: np.random.Generator) -> Int[np.ndarray, "s n"]:
        """Draw positions of cases, with replacement."""
        return random.integers(len(self.cases), size=(sets, size))


class Truth(NamedTuple):
    """Shares of the population under each draw's policy."""

    accepted: Float[np.ndarray, " draws"]
    wrong: Float[np.ndarray, " draws"]
    missed: Float[np.ndarray, " draws"]
    ood: Float[np.ndarray, " draws"]


class Cell(NamedTuple):
    """Shares of the draws and coverages, for one population, target and number of cases."""

    population: str
    target: str
    cases: int
    above: float
    refused: float
    coverage: float
    best: float
    oracle: float


class Drawn(NamedTuple):
    """Outcome of each draw."""

    coverage: Float[np.ndarray, " draws"]
    above: Bool[np.ndarray, " draws"]
    refused: Bool[np.ndarray, " draws"]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", action="store_true", help="print every cell")
    parser.add_argument("--fault", choices=["fit-on-calibration"], help="to see it break")
    options = parser.parse_args()
    started = time.perf_counter()
    populations = [*simulated(options.seed), *with_rules(options.seed)]
    cells = [
        cell
        for number, population in enumerate(populations)
        for cell in cells_of(population, options, np.random.default_rng([options.seed, number]))
    ]
    print(table(cells, options))
    print(f"{len(cells)} cells in {time.perf_counter() - started:.0f} s")


def simulated(seed: int) -> Iterator[Population]:
    """Simulated populations: every shape at every base error."""
    for shape, slope in SHAPES.items():
        for base in BASE_ERRORS:
            random = np.random.default_rng([seed, len(shape), round(100 * base)])
            ranks = random.random(SIMULATED)
            wrong = random.random(SIMULATED) < risks(ranks, shape, slope, base)
            yield Population(
                name=f"{shape}, base error {base:g}",
                cases=_with_labels(ranks, wrong, random),
                classes=("common", "watched"),
                watched="watched",
            )


def risks(
    ranks: Float[np.ndarray, " n"], shape: str, slope: float, base: float
) -> Float[np.ndarray, " n"]:
    """Probability of error by rank of the score, with a mean of `base`."""

    def at(offset: float) -> Float[np.ndarray, " n"]:
        falling = expit(offset - slope * ndtri(ranks))
        top = (ranks > 0.95) & (shape == "confident errors")
        risk: Float[np.ndarray, " n"] = np.where(top, np.maximum(falling, base), falling)
        return risk

    offset: float = brentq(lambda offset: at(offset).mean() - base, -20, 20)
    return at(offset)


def _with_labels(
    ranks: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], random: np.random.Generator
) -> ScoredCases:
    """Label the cases so that a quarter of the errors are in the watched class."""
    of_right = (CLASS_SHARE - 0.25 * wrong.mean()) / (1 - wrong.mean())
    watched = random.random(len(ranks)) < np.where(wrong, 0.25, of_right)
    ood_scores = 0.5 * ndtri(ranks) + random.normal(size=len(ranks))
    return ScoredCases(
        scores=ranks,
        ood_scores=ood_scores,
        wrong=wrong,
        labels=watched.astype(int),
        acceptable=np.ones(len(ranks), dtype=bool),
    )


def with_rules(seed: int) -> Iterator[Population]:
    """Populations whose classes are named by each rule, after a network with class weights.

    The true probabilities are the softmax of normal logits; the network's logits are scaled, and
    shifted towards rare classes as class weights shift them. A tuning set fits the calibrator.
    """
    shares = np.array(RULE_SHARES)
    random = np.random.default_rng([seed, 8])
    sizes = (RULE_TUNING, SIMULATED)
    true = [2 * random.normal(size=(size, len(shares))) + np.log(shares) for size in sizes]
    cumulated = (softmax(logits, axis=1).cumsum(axis=1)[:, :-1] for logits in true)
    labels = [(below < random.random((len(below), 1))).sum(axis=1) for below in cumulated]
    tuning, fresh = (1.7 * z - np.log(shares) for z in true)
    for rule in RULES:
        fitted = fit_calibrator(
            TuningSet(_logit_scores(tuning), tuning, labels[0], np.arange(RULE_TUNING)),
            partial(rule.class_weights, RULE_CLASSES),
        )
        calibrator = fitted.calibrator
        predicted = [fitted.predicted, calibrator.predict(fresh)]
        acceptance = [fitted.scores, calibrator.acceptance_scores(_logit_scores(fresh), fresh)]
        tune, cases = (
            _ruled_cases(rule, calibrator, *columns, random)
            for columns in zip((tuning, fresh), predicted, acceptance, labels, strict=True)
        )
        yield Population(
            name=f"rule {rule.rule}",
            cases=cases,
            classes=RULE_CLASSES,
            watched=RULE_CLASSES[1],
            tune=tune,
        )


def _logit_scores(logits: Float[np.ndarray, "n classes"]) -> dict[str, Float[np.ndarray, " n"]]:
    return {name: score(logits) for name, score in LOGIT_SCORES.items()}


def _ruled_cases(
    rule: DecisionRule,
    calibrator: Calibrator,
    logits: Float[np.ndarray, "n classes"],
    predicted: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    random: np.random.Generator,
) -> ScoredCases:
    errors = calibrator.error(scores)
    probabilities = calibrator.probabilities(logits, predicted, errors)
    return ScoredCases(
        scores=scores,
        ood_scores=logits.max(axis=1) + random.normal(size=len(labels)),
        wrong=predicted != labels,
        labels=labels,
        acceptable=mark_acceptable(rule, errors, probabilities, predicted),
    )


def targets_for(population: Population) -> Iterator[tuple[str, Targets]]:
    """Every target by itself, and all together."""
    for error in ERRORS:
        yield f"error {error:g}", Targets(max_error=error)
    if population.tune is None and "0.3" not in population.name:
        return
    alone = Targets(max_error=0.5, simultaneous=False)
    for rate in CLASS_RATES:
        yield f"class {rate:g}", replace(alone, class_max_miss={population.watched: rate})
    for rate in OOD_RATES:
        yield f"ood {rate:g}", replace(alone, max_ood_false_alarms=rate)
    for error in ERRORS[1:]:
        yield (
            f"all: error {error:g}, class 0.1, ood 0.05",
            Targets(
                max_error=error, class_max_miss={population.watched: 0.1}, max_ood_false_alarms=0.05
            ),
        )


def cells_of(
    population: Population, options: argparse.Namespace, random: np.random.Generator
) -> Iterator[Cell]:
    """A cell for each target and number of cases."""
    for label, targets in targets_for(population):
        for size in SIZES:
            drawn = draw_policies(population, label, targets, size, options=options, random=random)
            yield cell_of(population, label, targets, size, drawn)


def draw_policies(
    population: Population,
    label: str,
    targets: Targets,
    size: int,
    *,
    options: argparse.Namespace,
    random: np.random.Generator,
) -> Drawn:
    """Certify many calibration sets; a simulated tuning set is drawn ten times."""
    parts = []
    tunes = TUNES if population.tune is None else 1
    for _ in range(tunes):
        tune = population.tune or population.cases[population.draw(1, size, random)[0]]
        chosen = population.draw(options.draws // tunes, size, random)
        try:
            plan = CertificationPlan.from_tuning(
                tune, targets, classes=population.classes, cases=size
            )
        except DataError:  # too few cases for the target, whatever they are
            none = np.zeros(len(chosen))
            parts.append(Drawn(none, none > 0, none == 0))
            continue
        calibration = population.cases[chosen]
        if options.fault:
            calibration = memorised(calibration, random)
        counts = plan.count(calibration)
        position = plan.loosest_certified(counts)
        truth = true_shares(population, plan, counts, position)
        above = missed_target(label, targets, truth)
        parts.append(Drawn(truth.accepted, above, position < 0))
    return Drawn(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def memorised(calibration: ScoredCases, random: np.random.Generator) -> ScoredCases:
    """Simulate scores that were fitted to the calibration cases: half of the errors are known."""
    lowered = calibration.wrong & (random.random(calibration.wrong.shape) < 0.5)
    lowest = calibration.scores.min()
    return replace(calibration, scores=np.where(lowered, lowest, calibration.scores))


def true_shares(
    population: Population,
    plan: CertificationPlan,
    counts: ThresholdCounts,
    position: Int[np.ndarray, " draws"],
) -> Truth:
    """Apply each policy to the whole population."""
    cases = population.cases
    ood_scores = cases.ood_scores
    limits = (
        np.full(len(position), -np.inf)
        if counts.ood_limit is None
        else np.asarray(counts.ood_limit)
    )
    of_class = cases.labels == population.classes.index(population.watched)
    truth = Truth(*(np.zeros(len(position)) for _ in Truth._fields))
    order = np.argsort(ood_scores)
    for threshold in np.unique(position[position >= 0]):
        draws = position == threshold
        accepted = cases.acceptable & (cases.scores >= plan.thresholds[threshold])
        above = np.searchsorted(ood_scores[order], limits[draws], side="right")
        for into, counted in (
            (truth.accepted, accepted),
            (truth.wrong, accepted & cases.wrong),
            (truth.missed, accepted & cases.wrong & of_class),
        ):
            into[draws] = _suffix_sums(counted[order] / len(cases))[above]
    below = np.searchsorted(ood_scores[order], limits, side="left")
    truth.ood[:] = below / len(cases)
    return truth._replace(missed=truth.missed / of_class.mean())


def _suffix_sums(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n_and_1"]:
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


def missed_target(label: str, targets: Targets, truth: Truth) -> Bool[np.ndarray, " draws"]:
    """Mark the draws that miss the row's target, or any of all targets."""
    rounding = 1e-9
    kinds = {
        "error": truth.wrong > (targets.max_error + rounding) * truth.accepted,
        "class": truth.missed > max(targets.class_max_miss.values(), default=1.0) + rounding,
        "ood": truth.ood > (targets.max_ood_false_alarms or 1.0) + rounding,
    }
    kind = label.partition(" ")[0]
    return np.any(list(kinds.values()), axis=0) if kind == "all:" else kinds[kind]


def cell_of(population: Population, label: str, targets: Targets, size: int, drawn: Drawn) -> Cell:
    """Average the draws of one cell."""
    refused = drawn.refused.mean()
    coverage = drawn.coverage[~drawn.refused].mean() if refused < 1 else np.nan
    return Cell(
        population.name,
        label,
        size,
        float(drawn.above.mean()),
        float(refused),
        float(coverage),
        *references(population, targets, size),
    )


def references(population: Population, targets: Targets, size: int) -> tuple[float, float]:
    """Coverage of the best single test of the error, and of the oracle; without an OOD rule."""
    cases = population.cases
    weights = cases.acceptable / len(cases)
    order = np.argsort(-cases.scores, kind="stable")
    last = np.append(np.diff(cases.scores[order]) != 0, True)
    of_class = cases.labels == population.classes.index(population.watched)
    accepted = np.cumsum(weights[order])[last]
    wrong = np.cumsum((weights * cases.wrong)[order])[last]
    missed = np.cumsum((weights * cases.wrong * of_class)[order])[last]
    missed /= of_class.mean()
    allowed = missed <= max(targets.class_max_miss.values(), default=1.0)
    within = allowed & (wrong <= targets.max_error * accepted)
    expected = np.rint(size * accepted).astype(int)
    median = np.floor(size * wrong).astype(int)
    p_values = binomial_cdf(median, expected, targets.max_error)
    passes = allowed & (p_values <= LEVEL)
    return float(accepted[passes].max(initial=0.0)), float(accepted[within].max(initial=0.0))


def by_cell(cells: Sequence[Cell]) -> Iterator[tuple[str, ...]]:
    """A row for each cell."""
    for cell in cells:
        shares = (f"{value:.3f}" for value in (cell.above, cell.refused))
        values = (cell.coverage, cell.best, cell.oracle)
        coverages = ("" if np.isnan(value) else f"{value:.2f}" for value in values)
        yield cell.population, cell.target, str(cell.cases), *shares, *coverages


def by_population(cells: Sequence[Cell]) -> Iterator[tuple[str, ...]]:
    """A row for each population."""
    for name in dict.fromkeys(cell.population for cell in cells):
        chosen = [cell for cell in cells if cell.population == name]
        (typical,) = (cell for cell in chosen if (cell.target, cell.cases) == TYPICAL)
        coverages = (typical.coverage, typical.best, typical.oracle)
        yield (
            name,
            str(len(chosen)),
            f"{max(cell.above for cell in chosen):.3f}",
            str(sum(cell.refused > 0.5 for cell in chosen)),
            *(f"{value:.2f}" for value in coverages),
        )


def table(cells: Sequence[Cell], options: argparse.Namespace) -> str:
    """Markdown table with a legend."""
    fault = f", with the fault `{options.fault}`" if options.fault else ""
    head, rows = (CELL, by_cell(cells)) if options.cells else (SUMMARY, by_population(cells))
    worst = max(cell.above for cell in cells)
    return (
        f"{options.draws:,} draws in each of {len(cells)} cells, seed {options.seed}{fault}. The "
        f"highest share above a target is {worst:.3f}; {MOST_ABOVE} is allowed.\n{LEGEND}\n"
        + "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
        + "\n"
    )


if __name__ == "__main__":
    main()
