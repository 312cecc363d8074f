"""Check that deferral policies meet their targets on populations whose truth is known.

    python benchmarks/guarantee.py [FOLDER ...] [--out TABLE.md] [--fault fit-on-calibration]

A population is simulated, or holds the predictions of a reproduction's models for held-out images,
pooled over trials (or one of its `cases.csv` files). Rows whose `set` is `tune` choose the
candidate thresholds; all others are the population. A case is one image, drawn at random, of a
group that is drawn with replacement. In each cell 2,000 calibration sets are drawn and certified by
the library's own code, and every policy is compared with the whole population. Prints a Markdown
table; the same seed gives the same table.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.special import expit, ndtri, softmax

from misgiving.calibration.apply import Calibrator
from misgiving.calibration.fit import TuningSet, fit_calibrator
from misgiving.decisions.rules import DecisionRule
from misgiving.deferral.bounds import binomial_cdf
from misgiving.deferral.scored_cases import ScoredCases, one_per_group
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import CertificationPlan, ThresholdCounts
from misgiving.errors import DataError
from misgiving.files import write_text
from misgiving.results.formats import read_table
from misgiving.results.schema import CaseRow
from misgiving.scores.logits import LOGIT_SCORES

SIZES = (50, 200, 1000)
ERRORS = (0.05, 0.1, 0.2)
CLASS_RATES = (0.05, 0.1)
OOD_RATES = (0.05, 0.1)
LEVEL = 0.05
MOST_ABOVE = 0.065  # three standard errors of 2,000 draws above the level
MOST_LOST = 0.12  # of coverage, against the oracle
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
HEADER = (
    "population",
    "target",
    "cases",
    "above the target",
    "refused",
    "mean coverage",
    "best test",
    "oracle",
    "verdict",
)
LEGEND = """
`above the target`: share of all draws whose policy misses the target in the population; a refusal
misses none. `refused`: share of draws in which nothing is accepted, or the target is refused.
`mean coverage`: of the other draws. `oracle`: the largest coverage of any threshold that truly
meets the target. `best test`: the largest coverage of a threshold that passes one single test of
the error, at the whole level, in half of the draws: about the best that so many cases can certify.
Both ignore the images that the OOD rule removes. A target for a class or for OOD false alarms is
combined with an error of 0.5, so that it alone decides. `no evidence`: refused in more than half
of the draws.
"""


@dataclass(frozen=True)
class Population:
    """All cases with their groups, and the tuning set (None: drawn from the population)."""

    name: str
    cases: ScoredCases
    groups: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    watched: str
    tune: ScoredCases | None = None

    def draw(self, sets: int, size: int, random: np.random.Generator) -> Int[np.ndarray, "s n"]:
        """Draw positions of cases: groups with replacement, and one image of each."""
        order = np.argsort(self.groups, kind="stable")
        _, starts, sizes = np.unique(self.groups[order], return_index=True, return_counts=True)
        drawn = random.integers(len(starts), size=(sets, size))
        within = (random.random(drawn.shape) * sizes[drawn]).astype(int)
        positions: Int[np.ndarray, "s n"] = order[starts[drawn] + within]
        return positions

    @property
    def weights(self) -> Float[np.ndarray, " n"]:
        """Probability of each case in one draw."""
        _, members, sizes = np.unique(self.groups, return_inverse=True, return_counts=True)
        return 1 / (sizes[members] * len(sizes))


class Truth(NamedTuple):
    """Shares of the population under each draw's policy."""

    accepted: Float[np.ndarray, " draws"]
    wrong: Float[np.ndarray, " draws"]
    missed: Float[np.ndarray, " draws"]
    ood: Float[np.ndarray, " draws"]


class Drawn(NamedTuple):
    """Outcome of each draw."""

    coverage: Float[np.ndarray, " draws"]
    above: Bool[np.ndarray, " draws"]
    refused: Bool[np.ndarray, " draws"]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("places", nargs="*", type=Path, help="reproductions, or files of cases")
    parser.add_argument("--out", type=Path, help="write the table here")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", choices=["fit-on-calibration"], help="to see it break")
    asked = parser.parse_args()
    started = time.perf_counter()
    made = (simulated(asked.seed), with_rules(asked.seed), *map(read, asked.places))
    populations = list(chain.from_iterable(made))
    rows = [
        row
        for number, population in enumerate(populations)
        for row in rows_of(population, asked, np.random.default_rng([asked.seed, number]))
    ]
    text = table(rows, asked)
    print(text)
    print(f"{len(rows)} cells in {time.perf_counter() - started:.0f} s")
    if asked.out:
        write_text(asked.out, text)


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
                groups=np.arange(SIMULATED),
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
    return ScoredCases(scores=ranks, ood_scores=ood_scores, wrong=wrong, labels=watched.astype(int))


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
        named = [fitted.named, calibrator.named(fresh)]
        acceptance = [fitted.scores, calibrator.acceptance_scores(_logit_scores(fresh), fresh)]
        tune, cases = (
            _ruled_cases(rule, calibrator, *one, random)
            for one in zip((tuning, fresh), named, acceptance, labels, strict=True)
        )
        yield Population(
            name=f"rule {rule.rule}",
            cases=cases,
            groups=np.arange(SIMULATED),
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
    named: Int[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    labels: Int[np.ndarray, " n"],
    random: np.random.Generator,
) -> ScoredCases:
    errors = calibrator.error(scores)
    probabilities = calibrator.probabilities(logits, named, errors)
    return ScoredCases(
        scores=scores,
        ood_scores=logits.max(axis=1) + random.normal(size=len(labels)),
        wrong=named != labels,
        labels=labels,
        acceptable=rule.acceptable(errors, probabilities, named),
    )


def read(place: Path) -> Iterator[Population]:
    """Populations of a CSV file, or of each model of a reproduction, pooled over its trials."""
    if place.is_file():
        yield population_of(place.stem, read_table(place, CaseRow))
        return
    found = sorted(place.glob("units/generalization/trial-*/*/cases.csv"))
    if not found:
        raise SystemExit(f"{place}: holds no units with cases.csv; reproduce with this version")
    for model in sorted({path.parent.name for path in found}):
        paths = [path for path in found if path.parent.name == model]
        pooled = [
            row
            for path in paths
            for row in on_one_scale(read_table(path, CaseRow), path.parent.parent.name)
        ]
        yield population_of(f"{place.name}, {model}, {len(paths)} trials", pooled)


def on_one_scale(rows: Sequence[CaseRow], trial: str) -> Iterator[CaseRow]:
    """Map scores to ranks in the trial's tuning set, since each trial may choose another score.

    The rank rises with the score, so that a trial's own policies stay the same.
    """
    accepting = _scaled(rows, [row.acceptance_score for row in rows])
    ood = _scaled(rows, [row.ood_score for row in rows])
    for row, acceptance_score, ood_score in zip(rows, accepting, ood, strict=True):
        yield row._replace(
            acceptance_score=float(acceptance_score),
            ood_score=float(ood_score),
            group=f"{trial}/{row.group}",
        )


def _scaled(rows: Sequence[CaseRow], scores: Sequence[float | None]) -> Float[np.ndarray, " n"]:
    values = np.array(scores, dtype=float)
    tune = np.sort(values[[row.set == "tune" for row in rows]])
    places = np.interp(values, tune, np.linspace(0, 1, len(tune)))
    return np.asarray(places + 1e-3 * np.tanh((values - tune.mean()) / (10 * tune.std())))


def population_of(name: str, rows: Sequence[CaseRow]) -> Population:
    """All cases outside the tuning set; the class nearest to 15 % of them is watched."""
    classes = sorted({row.label for row in rows})
    tune, population = (
        [row for row in rows if (row.set == "tune") == is_tune] for is_tune in (True, False)
    )
    cases = _cases(population, classes)
    shares = np.bincount(cases.labels, minlength=len(classes)) / len(cases)
    tune_one = one_per_group([row.group for row in tune], seed=0)
    return Population(
        name=name,
        cases=cases,
        groups=np.unique([row.group for row in population], return_inverse=True)[1],
        classes=tuple(classes),
        watched=classes[int(np.argmin(np.abs(shares - CLASS_SHARE)))],
        tune=_cases(tune, classes)[tune_one],
    )


def _cases(rows: Sequence[CaseRow], classes: Sequence[str]) -> ScoredCases:
    return ScoredCases(
        scores=np.array([row.acceptance_score for row in rows]),
        ood_scores=np.array([row.ood_score for row in rows], dtype=float),
        wrong=np.array([row.wrong for row in rows]),
        labels=np.array([classes.index(row.label) for row in rows]),
        acceptable=np.array([row.acceptable for row in rows]),
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


def rows_of(
    population: Population, asked: argparse.Namespace, random: np.random.Generator
) -> Iterator[tuple[str, ...]]:
    """A row for each target and number of cases."""
    for label, targets in targets_for(population):
        for size in SIZES:
            drawn = draw_policies(population, label, targets, size, asked=asked, random=random)
            yield row(population, label, targets, size, drawn)


def draw_policies(
    population: Population,
    label: str,
    targets: Targets,
    size: int,
    *,
    asked: argparse.Namespace,
    random: np.random.Generator,
) -> Drawn:
    """Certify many calibration sets; a simulated tuning set is drawn ten times."""
    parts = []
    tunes = TUNES if population.tune is None else 1
    for _ in range(tunes):
        tune = population.tune or population.cases[population.draw(1, size, random)[0]]
        chosen = population.draw(asked.draws // tunes, size, random)
        try:
            plan = CertificationPlan.from_tuning(
                tune, targets, classes=population.classes, cases=size
            )
        except DataError:  # too few cases for the target, whatever they are
            none = np.zeros(len(chosen))
            parts.append(Drawn(none, none > 0, none == 0))
            continue
        calibration = population.cases[chosen]
        if asked.fault:
            calibration = memorised(calibration, random)
        counts = plan.count(calibration)
        position = plan.loosest_certified(counts)
        truth = true_shares(population, plan, counts, position)
        above = missed_target(label, targets, truth)
        parts.append(Drawn(truth.accepted, above, position < 0))
    return Drawn(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def memorised(calibration: ScoredCases, random: np.random.Generator) -> ScoredCases:
    """Simulate scores that were fitted to the calibration cases: half of the errors are known."""
    known = calibration.wrong & (random.random(calibration.wrong.shape) < 0.5)
    lowest = calibration.scores.min()
    return replace(calibration, scores=np.where(known, lowest, calibration.scores))


def true_shares(
    population: Population,
    plan: CertificationPlan,
    counts: ThresholdCounts,
    position: Int[np.ndarray, " draws"],
) -> Truth:
    """Apply each policy to the whole population."""
    cases, weights = population.cases, population.weights
    ood_scores = cases.ood_scores
    assert ood_scores is not None
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
        accepted = cases.eligible() & (cases.scores >= plan.thresholds[threshold])
        above = np.searchsorted(ood_scores[order], limits[draws], side="right")
        for into, counted in (
            (truth.accepted, accepted),
            (truth.wrong, accepted & cases.wrong),
            (truth.missed, accepted & cases.wrong & of_class),
        ):
            into[draws] = _suffix_sums((weights * counted)[order])[above]
    below = np.searchsorted(ood_scores[order], limits, side="left")
    truth.ood[:] = np.append(0.0, np.cumsum(weights[order]))[below]
    return truth._replace(missed=truth.missed / (weights @ of_class))


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


def row(
    population: Population, label: str, targets: Targets, size: int, drawn: Drawn
) -> tuple[str, ...]:
    """Cells of one row of the table."""
    above, refused = drawn.above.mean(), drawn.refused.mean()
    coverage = drawn.coverage[~drawn.refused].mean() if refused < 1 else np.nan
    best, oracle = references(population, targets, size)
    short = label.startswith("error") and size == max(SIZES) and targets.max_error >= 0.1
    verdict = "met" if above <= MOST_ABOVE else "**missed**"
    if refused > 0.5:
        verdict = "no evidence" if above <= MOST_ABOVE else verdict
    elif short and oracle - coverage > MOST_LOST:
        verdict += f", {100 * (oracle - coverage):.0f} points below the oracle"
    shares = (f"{value:.3f}" for value in (above, refused))
    coverages = ("" if np.isnan(c) else f"{c:.2f}" for c in (coverage, best, oracle))
    return population.name, label, str(size), *shares, *coverages, verdict


def references(population: Population, targets: Targets, size: int) -> tuple[float, float]:
    """Coverage of the best single test of the error, and of the oracle; without an OOD rule."""
    cases = population.cases
    weights = population.weights * cases.eligible()
    order = np.argsort(-cases.scores, kind="stable")
    last = np.append(np.diff(cases.scores[order]) != 0, True)
    of_class = cases.labels == population.classes.index(population.watched)
    accepted = np.cumsum(weights[order])[last]
    wrong = np.cumsum((weights * cases.wrong)[order])[last]
    missed = np.cumsum((weights * cases.wrong * of_class)[order])[last]
    missed /= population.weights @ of_class
    kept = missed <= max(targets.class_max_miss.values(), default=1.0)
    within = kept & (wrong <= targets.max_error * accepted)
    expected = np.rint(size * accepted).astype(int)
    median = np.floor(size * wrong).astype(int)
    p_values = binomial_cdf(median, expected, targets.max_error)
    passes = kept & (p_values <= LEVEL)
    return float(accepted[passes].max(initial=0.0)), float(accepted[within].max(initial=0.0))


def table(rows: Sequence[tuple[str, ...]], asked: argparse.Namespace) -> str:
    """Markdown table with a legend."""
    fault = f", with the fault `{asked.fault}`" if asked.fault else ""
    lines = [HEADER, ("---",) * len(HEADER), *rows]
    worst = max(float(cells[3]) for cells in rows)
    return (
        f"{asked.draws:,} draws in each of {len(rows)} cells, seed {asked.seed}{fault}. The "
        f"highest share above a target is {worst:.3f}; {MOST_ABOVE} is allowed.\n{LEGEND}\n"
        + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
