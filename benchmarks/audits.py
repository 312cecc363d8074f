"""Simulate blind audits of policies: false alarms, delays, and what the living bound covers.

    python benchmarks/audits.py [--lives 2000]

A life has 10,000 accepted answers, of which a share is audited; the target is an error of 5 %. A
reader errs on each answer with the same probability, and then agrees with a wrong answer and
disagrees with a right one. Prints Markdown tables: the percentage of lives with an alarm (before a
change of the error, if any, plus after it), and the median of the answers from the change to it, by
the share that is audited, and by the readers with 10 % audited. "Least covered" is the lowest share
of lives in which the bound holds at all times. The last table has the means of bounds.
"""

import argparse
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import betainc, betaln
from scipy.stats import beta

from misgiving.deferral.audit import (
    ALARM_LEVEL,
    BOUND_LEVEL,
    alarm_evidence,
    anytime_upper_bound,
    bound_evidence,
)

CASES, TARGET = 10_000, 0.05
SHARES = (0.01, 0.05, 0.1, 0.2)
SHARE_OF_READERS = 0.1
CHANGES = {  # error before and after a share of the audits
    "3 %": (0.03, 0.03, 0.0),
    "5 %": (0.05, 0.05, 0.0),
    "7.5 %": (0.05, 0.075, 0.0),
    "10 %": (0.05, 0.1, 0.0),
    "20 %": (0.05, 0.2, 0.0),
    "5 % to 10 % after a quarter": (0.05, 0.1, 0.25),
    "3 % to 10 % after a quarter": (0.03, 0.1, 0.25),
    "5 % to 20 % after a quarter": (0.05, 0.2, 0.25),
}
SIZES, ERRORS = (50, 100, 200, 500, 1000), (0.01, 0.03, 0.05, 0.1)  # for the comparison of bounds
GRID = np.concatenate([np.linspace(0.0005, 0.3, 600), np.linspace(0.302, 0.999, 350)])


class Readers(NamedTuple):
    """Error of a reader, share of the errors that both readers make, and whether two must agree."""

    error: float = 0.0
    shared: float = 0.0
    confirm: bool = True


READERS = {
    "0": Readers(),
    "2 %, confirmed": Readers(0.02),
    "2 %, first alone": Readers(0.02, confirm=False),
    "5 %, confirmed": Readers(0.05),
    "5 %, first alone": Readers(0.05, confirm=False),
    "5 %, half shared, confirmed": Readers(0.05, 0.5),
}


class Lives(NamedTuple):
    """Share of lives with an alarm before a change, with one after it, delay, and coverage."""

    false_alarms: float
    alarms: float
    median: float
    covered: float

    @property
    def cell(self) -> str:
        """False alarms and alarms in percent, and the median of the delay."""
        early = f"{100 * self.false_alarms:.2g} + " if self.false_alarms else ""
        median = f", {self.median:.0f}" if np.isfinite(self.median) else ""
        return f"{early}{100 * self.alarms:.3g}{median}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lives", type=int, default=2000)
    asked = parser.parse_args()
    heads = [f"{100 * share:g} % audited" for share in SHARES]
    print(row("error", *heads, "least covered"), row(*["---"] * 6), sep="\n")
    for name, change in CHANGES.items():
        lives = [simulate(change, share, Readers(), asked.lives) for share in SHARES]
        print(row(name, *(part.cell for part in lives), least(lives)), flush=True)
    print(row("error", *READERS, "least covered"), row(*["---"] * 8), sep="\n")
    for name, change in CHANGES.items():
        lives = [
            simulate(change, SHARE_OF_READERS, readers, asked.lives) for readers in READERS.values()
        ]
        print(row(name, *(part.cell for part in lives), least(lives)), flush=True)
    print(row("error", "bound", *map(str, SIZES)), row(*["---"] * 7), sep="\n")
    for error in ERRORS:
        wrong = np.random.default_rng(0).random((BOUND_STREAMS, max(SIZES))) < error
        for name, bound in BOUNDS.items():
            bounds = np.mean([bound(stream) for stream in wrong], axis=0)
            print(row(f"{error:g}", name, *(f"{value:.4f}" for value in bounds)), flush=True)


def row(*cells: str) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


def least(lives: list[Lives]) -> str:
    """The lowest coverage."""
    return f"{min(part.covered for part in lives):.3f}"


def simulate(
    change: tuple[float, float, float], share: float, readers: Readers, lives: int
) -> Lives:
    """Lives whose error changes once."""
    answers = round(share * CASES)
    numbers, random = np.arange(1, answers + 1), np.random.default_rng(0)
    before, after, place = change
    changed = round(place * answers)
    true = np.where(numbers <= changed, before, after)
    first_alarms, covered = [], []
    for _ in range(0, lives, 100):
        confirmed, doubtful = judged(random.random((100, answers)) < true, readers, random)
        alarms = alarm_evidence(confirmed, TARGET) >= -np.log(ALARM_LEVEL)
        first_alarms.append(np.where(alarms.any(axis=1), alarms.argmax(axis=1) + 1, np.inf))
        evidence = bound_evidence(doubtful.cumsum(axis=1), numbers, true.cumsum() / numbers)
        covered.append(evidence.max(axis=1) < -np.log(BOUND_LEVEL))
    at = np.concatenate(first_alarms)
    delays = at[at > changed] - changed
    return Lives(
        false_alarms=float((at <= changed).mean()),
        alarms=float((np.isfinite(at) & (at > changed)).mean()),
        median=float(np.quantile(delays, 0.5, method="lower")),
        covered=float(np.concatenate(covered).mean()),
    )


def judged(
    wrong: Bool[np.ndarray, "lives answers"], readers: Readers, random: np.random.Generator
) -> tuple[Bool[np.ndarray, "lives answers"], Bool[np.ndarray, "lives answers"]]:
    """Confirmed errors, and answers that count as wrong in the upper bound."""
    first = random.random(wrong.shape) < readers.error
    same = random.random(wrong.shape) < readers.shared
    second = np.where(same, first, random.random(wrong.shape) < readers.error)
    against = wrong ^ first
    return (against & (wrong ^ second) if readers.confirm else against), against


def fixed(wrong: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " sizes"]:
    """Clopper and Pearson's bound, which holds at one size alone."""
    counts = np.array([wrong[:size].sum() for size in SIZES])
    return np.asarray(beta.isf(BOUND_LEVEL, counts + 1, np.array(SIZES) - counts))


def odds(wrong: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " sizes"]:
    """The bound of the package."""
    return anytime_upper_bound(np.array([wrong[:size].sum() for size in SIZES]), np.array(SIZES))


def beta_binomial(wrong: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " sizes"]:
    """Likelihood ratio against all smaller errors, with a uniform weight."""
    bounds = []
    for size in SIZES:
        count = wrong[:size].sum()
        a, b = count + 1, size - count + 1
        mixed = betaln(a, b) + np.log(betainc(a, b, GRID)) - np.log(GRID)
        evidence = mixed - count * np.log(GRID) - (size - count) * np.log1p(-GRID)
        bounds.append(largest(evidence))
    return np.array(bounds)


def betting(wrong: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " sizes"]:
    """Predictable plug-in stakes (Waudby-Smith and Ramdas, 2024), at most half of the wealth."""
    number = np.arange(1, len(wrong) + 1)
    means = (0.5 + np.cumsum(wrong)) / (number + 1)
    variances = (0.25 + np.cumsum((wrong - means) ** 2)) / (number + 1)
    earlier = np.concatenate([[0.25], variances[:-1]])
    stakes = np.sqrt(-2 * np.log(BOUND_LEVEL) / (earlier * number * np.log1p(number)))
    stakes = np.minimum(stakes[:, None], 0.5 / (1 - GRID))
    wealth = np.log1p(stakes * (GRID - wrong[:, None])).cumsum(axis=0)
    return np.array([largest(wealth[size - 1]) for size in SIZES])


def largest(evidence: Float[np.ndarray, " errors"]) -> float:
    """The largest error that is not rejected."""
    return float(GRID[np.flatnonzero(evidence < -np.log(BOUND_LEVEL))[-1]])


BOUND_STREAMS = 200
BOUNDS = {"one size": fixed, "odds": odds, "beta-binomial": beta_binomial, "betting": betting}


if __name__ == "__main__":
    main()
