"""Measure what becomes of a guarantee where its assumptions do not hold.

    python benchmarks/guarantee_units.py [--draws 2000]

*Patients.* Each simulated patient has 6 to 20 lesions and an effect that these share: it is added
to the log-odds of every error. All lesions of some patients are calibration cases. The policy is
certified by the library's own code, with the lesion as the unit (every lesion counts as a case) and
with the patient as the unit (one lesion of each counts), and compared with the population.

*Photographs.* Each simulated lesion has a difficulty, and more photographs the more difficult it is
(base errors are by photograph). One photograph of each lesion is a calibration case, and the policy
is compared with the population by lesion, as is certified, and by photograph.

*Seeds.* A data set is divided at random ten times, a fifth for tuning and the rest for
calibration, and the policy with the highest coverage is kept; a quarter of the draws.

Prints three Markdown tables; the same seed gives the same tables.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.special import expit, ndtri

from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import ScoredCases, count_ranks, loosest_certified
from misgiving.groups import TUNING_PARTS

DRAWS = 2000  # calibration sets of each cell
GROUPS = 4000
LESIONS = (6, 20)
MEAN_LESIONS = 13
EFFECTS = (0.0, 0.5, 1.0, 2.0)  # standard deviation of the patients' log-odds
BASE_ERRORS = (0.1, 0.3)
ERRORS = (0.05, 0.1, 0.2)
PATIENTS = (50, 200)
SLOPE = 1.5  # of the log-odds of an error in the score, or in the difficulty
REPEATS = (0.0, 0.25, 0.5, 1.0)  # slope of the log of further photographs in the difficulty
PHOTOGRAPHED = 1000  # lesions in a calibration set
MOST_PHOTOGRAPHS = 10
DIVIDED = (200, 1000)  # cases of a data set, a fifth of them for tuning
SEEDS = 10

Positions = Int[np.ndarray, "sets n"]


class Curve(NamedTuple):
    """Shares of accepted and of accepted wrong answers, after 0, 1, ... cases by falling score."""

    falling: Float[np.ndarray, " n"]
    accepted: Float[np.ndarray, " n_and_1"]
    wrong: Float[np.ndarray, " n_and_1"]

    def at(self, thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, "2 t"]:
        """Coverage and error among accepted answers at each threshold; inf accepts nothing."""
        count = np.searchsorted(self.falling, -thresholds, side="right")
        accepted, wrong = self.accepted[count], self.wrong[count]
        return np.stack([accepted, wrong / np.maximum(accepted, 1e-12)])


@dataclass(frozen=True)
class Population:
    """All cases of a simulated population, with those of one group in a row."""

    cases: ScoredCases
    groups: Int[np.ndarray, " n"]

    def one_of_each(self, sets: int, groups: int, random: np.random.Generator) -> Positions:
        """Draw groups with replacement, and one case of each."""
        starts, sizes = self._extents()
        drawn = random.integers(len(starts), size=(sets, groups))
        return np.asarray(starts[drawn] + random.integers(sizes[drawn]))

    def whole_groups(self, sets: int, groups: int, random: np.random.Generator) -> Positions:
        """Draw groups with replacement and take all their cases, as many in every set."""
        starts, sizes = self._extents()
        drawn = random.integers(len(starts), size=(sets, 2 * groups))
        return np.stack([_runs(starts[row], sizes[row])[: MEAN_LESIONS * groups] for row in drawn])

    @cached_property
    def by_group(self) -> "Curve":
        """Shares of the population if all groups count alike."""
        sizes = np.bincount(self.groups)
        return self._curve(1 / (sizes[self.groups] * len(sizes)))

    @cached_property
    def by_case(self) -> "Curve":
        """Shares of the population if all cases count alike."""
        return self._curve(np.full(len(self.groups), 1 / len(self.groups)))

    def _curve(self, weights: Float[np.ndarray, " n"]) -> "Curve":
        order = np.argsort(-self.cases.scores)
        accepted, wrong = (
            np.append(0.0, np.cumsum(values[order]))
            for values in (weights, weights * self.cases.wrong)
        )
        return Curve(-self.cases.scores[order], accepted, wrong)

    def _extents(self) -> tuple[Int[np.ndarray, " groups"], Int[np.ndarray, " groups"]]:
        sizes = np.bincount(self.groups)
        return np.cumsum(sizes) - sizes, sizes


def _runs(
    starts: Int[np.ndarray, " groups"], sizes: Int[np.ndarray, " groups"]
) -> Int[np.ndarray, " n"]:
    """Runs of consecutive positions, one after the other.

    >>> _runs(np.array([10, 0]), np.array([2, 3]))
    array([10, 11,  0,  1,  2])
    """
    ends = np.cumsum(sizes)
    return np.repeat(starts - ends + sizes, sizes) + np.arange(ends[-1])


class Certified(NamedTuple):
    """Of each draw: the true error of its policy, by group and by case, and its coverage."""

    by_group: Float[np.ndarray, " draws"]
    by_case: Float[np.ndarray, " draws"]
    coverage: Float[np.ndarray, " draws"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(patients_table(options), photographs_table(options), seeds_table(options), sep="\n")


def patients(effect: float, base: float, random: np.random.Generator) -> Population:
    """Lesions of patients whose errors share an effect."""
    groups = np.repeat(np.arange(GROUPS), random.integers(LESIONS[0], LESIONS[1] + 1, GROUPS))
    ranks = random.random(len(groups))
    shared = effect * random.normal(size=GROUPS)[groups]
    return _population(ranks, shared - SLOPE * ndtri(ranks), base, groups, random)


def photographs(repeats: float, base: float, random: np.random.Generator) -> Population:
    """Photographs of lesions, more of them where a lesion is more difficult."""
    difficulty = random.normal(size=5 * GROUPS)
    further = random.poisson(np.exp(repeats * difficulty))
    groups = np.repeat(np.arange(5 * GROUPS), 1 + np.minimum(further, MOST_PHOTOGRAPHS - 1))
    seen = difficulty[groups] + 0.5 * random.normal(size=len(groups))
    return _population(-seen, SLOPE * difficulty[groups], base, groups, random)


def _population(
    scores: Float[np.ndarray, " n"],
    log_odds: Float[np.ndarray, " n"],
    base: float,
    groups: Int[np.ndarray, " n"],
    random: np.random.Generator,
) -> Population:
    offset: float = brentq(lambda offset: expit(offset + log_odds).mean() - base, -20, 20)
    wrong = random.random(len(groups)) < expit(offset + log_odds)
    labels = np.zeros(len(groups), dtype=np.int64)
    cases = ScoredCases(
        scores=scores,
        ood_scores=scores,
        error_probabilities=np.zeros(len(groups)),
        predicted=wrong.astype(np.int64),
        labels=labels,
        acceptable=np.ones(len(groups), dtype=bool),
    )
    return Population(cases, groups)


def certify(population: Population, calibration: Positions, target: float) -> Certified:
    """Certify calibration sets."""
    targets, thresholds = Targets(max_error=target, max_ood_false_alarms=None), []
    for chosen in calibration:
        counts = count_ranks(population.cases[chosen], targets, classes=("all",))
        position = loosest_certified([counts], targets)[0]
        thresholds.append(counts.thresholds[position] if position >= 0 else np.inf)
    _, by_group = population.by_group.at(np.array(thresholds))
    coverage, by_case = population.by_case.at(np.array(thresholds))
    return Certified(by_group, by_case, coverage)


def patients_table(options: argparse.Namespace) -> str:
    """Share of draws whose policy misses its target, by the unit of the guarantee."""
    rows = []
    for effect in EFFECTS:
        for base in BASE_ERRORS:
            random = np.random.default_rng([options.seed, round(10 * effect), round(10 * base)])
            population = patients(effect, base, random)
            for count in PATIENTS:
                sets = population.whole_groups(options.draws, count, random)
                ones = population.one_of_each(options.draws, count, random)
                for target in ERRORS:
                    by_lesion = certify(population, sets, target)
                    by_patient = certify(population, ones, target)
                    rows.append(
                        (
                            f"{effect:g}",
                            f"{base:g}",
                            f"{count} ({MEAN_LESIONS * count})",
                            f"{target:g}",
                            *_cells(by_lesion.by_case, target, by_lesion),
                            *_cells(by_patient.by_group, target, by_patient),
                        )
                    )
    header = (
        "patient effect",
        "base error",
        "patients (lesions)",
        "target",
        *(f"{what}, {unit}" for unit in ("lesion", "patient") for what in ("missed", "coverage")),
    )
    return _markdown(header, rows)


def photographs_table(options: argparse.Namespace) -> str:
    """Errors by lesion, as certified, and by photograph."""
    rows = []
    for repeats in REPEATS:
        for base in BASE_ERRORS:
            random = np.random.default_rng(
                [options.seed, round(100 * repeats), round(10 * base), 1]
            )
            population = photographs(repeats, base, random)
            for target in ERRORS:
                policies = certify(
                    population,
                    population.one_of_each(options.draws, PHOTOGRAPHED, random),
                    target,
                )
                accepting = policies.coverage > 0
                units = (policies.by_group, policies.by_case)
                means = [errors[accepting].mean() for errors in units]
                rows.append(
                    (
                        f"{repeats:g}",
                        f"{len(population.groups) / (5 * GROUPS):.2f}",
                        f"{base:g}",
                        f"{target:g}",
                        *(f"{mean:.4f}" for mean in means),
                        *(f"{np.mean(errors > target + 1e-9):.3f}" for errors in units),
                    )
                )
    header = (
        "more photographs by difficulty",
        "photographs per lesion",
        "base error",
        "target",
        *(f"{what} by {unit}" for what in ("error", "missed") for unit in ("lesion", "photograph")),
    )
    return _markdown(header, rows)


def seeds_table(options: argparse.Namespace) -> str:
    """Share of data sets whose policy misses its target: of the first seed, and of the best."""
    rows = []
    for base in BASE_ERRORS:
        random = np.random.default_rng([options.seed, round(10 * base), 2])
        population = patients(0.0, base, random)
        for count in DIVIDED:
            sets = population.one_of_each(options.draws // 4, count, random)
            for target in ERRORS:
                missed = np.array([_divided(population, cases, target, random) for cases in sets])
                rows.append(
                    (f"{base:g}", str(count), f"{target:g}", *(f"{m:.3f}" for m in missed.mean(0)))
                )
    header = ("base error", "cases", "target", "missed, one seed", f"missed, best of {SEEDS}")
    return _markdown(header, rows)


def _divided(
    population: Population, cases: Int[np.ndarray, " n"], target: float, random: np.random.Generator
) -> tuple[bool, bool]:
    """Misses of the target: by the first of several divisions, and by the one that accepts most."""
    order = np.stack([random.permutation(cases) for _ in range(SEEDS)])
    policies = certify(population, order[:, len(cases) // TUNING_PARTS :], target)
    missed = policies.by_case > target + 1e-9
    best = int(np.argmax(policies.coverage))
    return bool(missed[0]), bool(missed[best])


def _cells(
    errors: Float[np.ndarray, " draws"], target: float, policies: Certified
) -> tuple[str, str]:
    return f"{np.mean(errors > target + 1e-9):.3f}", f"{policies.coverage.mean():.2f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines: Iterator[Sequence[str]] = iter([header, ["---"] * len(header), *rows])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    main()
