"""Compare labels that are drawn above a limit with labels of all images, and check the guarantee.

    python benchmarks/drawing.py PREDICTIONS [--draws 200] [--seed 0] [--jobs 1]

PREDICTIONS as in benchmarks/guarantee.py: a table of predictions is the population. A fifth of the
labels tunes; the others are drawn from a pool of 5,000 images, from all of it or above the limit
that the tuning set chose. Prints three Markdown tables:
- *Coverage* with so many labels, on the same tuning set and pool.
- *Labels* for 90 % of the best possible coverage.
- *Worst cases*: the share of draws that accept anything where every threshold misses the target.
  The risk is just above the target for the best images, and rises below; one look or six, groups of
  one image or of one and five with the same errors, scores with ties, 20 tuning cases or 100, a
  tenth of the labels missing; and a part of 1 % of the pool.
"""

import argparse
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from guarantee import TABLES, read_predictions, with_error_probabilities

from misgiving.deferral.draw import limit_of_draw, share_to_label
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import ScoredCases, count_ranks, loosest_certified
from misgiving.groups import TUNING_PARTS, one_per_group

SIZES, ERRORS, POOL = (100, 200, 300, 500, 1000), (0.05, 0.1), 5000
GRID, REPEATS, LARGE_POOL, WANTED = 500 * 2 ** np.arange(8), 11, 100_000, 0.9
WORST_DRAWS, GROUPS, SMALL_PART, MISSING = 300, 2000, 0.01, 0.1
LOOKS = (50, 75, 100, 150, 200, 300)
TARGET, LEVEL = 0.1, 0.05


class Threshold(NamedTuple):
    """Lowest accepted score; inf: none is."""

    uniform: float
    drawn: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    tables = sorted(path for name in TABLES for path in options.predictions.glob(f"{name}.npz"))
    with ProcessPoolExecutor(options.jobs) as pool:
        cells = [*product(tables, ERRORS, SIZES)]
        measure = partial(coverages, draws=options.draws, seed=options.seed)
        print_table(pool.map(measure, cells))
        print_table(pool.map(labels_needed, tables))
        worst = print_table(pool.map(accepted_at_worst, worst_cases()))
    deviation = np.sqrt(LEVEL * (1 - LEVEL) / WORST_DRAWS)
    excess = (worst["accepted"] - LEVEL) / deviation
    print(f"{(excess > 4).sum()} cells beyond four standard errors, {(excess > 2).mean():.3f} of "
          f"{len(worst)} beyond two.")  # fmt: skip


def print_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Print these rows as they come, with numbers in three digits."""
    made = []
    for row in rows:
        cells = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()]
        lines = [cells] if made else [[*row], ["---"] * len(row), cells]
        for line in lines:
            print("|", " | ".join(line), "|", flush=True)
        made.append(row)
    print()
    return pd.DataFrame(made)


def certified(cases: ScoredCases, targets: Targets, floor: float = -np.inf) -> float:
    """The loosest threshold that is certified."""
    counts = count_ranks(cases, targets, classes=("all",), floor=floor)
    position = loosest_certified([counts], targets)[0]
    return float(counts.thresholds[position]) if position >= 0 else np.inf


def thresholds_of(
    population: ScoredCases, targets: Targets, size: int, pool: int, random: np.random.Generator
) -> Threshold:
    """Certify with so many labels of a pool, of which a fifth tunes."""
    tuning = population[random.integers(len(population), size=size // TUNING_PARTS)]
    images, labels = population[random.integers(len(population), size=pool)], size - len(tuning)
    share = share_to_label(with_error_probabilities(tuning), targets)
    limit = limit_of_draw(images.scores, images.acceptable, share, labels)
    part = np.flatnonzero(images.scores > limit)
    drawn = images[random.permutation(part)[:labels]]
    whole = images[np.arange(labels)]
    return Threshold(certified(whole, targets), certified(drawn, targets, limit))


def coverages(cell: tuple[Path, float, int], *, draws: int, seed: int) -> dict[str, Any]:
    """Coverage, refusals and misses of both ways with so many labels."""
    path, max_error, size = cell
    population, targets = read_predictions(path)[0], Targets(max_error=max_error)
    name = f"{path.parent.name}/{path.stem}"
    random = np.random.default_rng([seed, size, round(1000 * max_error), *name.encode()])
    chosen = np.array(
        [thresholds_of(population, targets, size, POOL, random) for _ in range(draws)]
    )
    shares, risks = outcomes(population, chosen)
    gain = shares[:, 1] - shares[:, 0]
    return {
        "predictions": name,
        "target": max_error,
        "labels": size,
        "best possible": best_coverage(population, max_error),
        "of all images": shares[:, 0].mean(),
        "above a limit": shares[:, 1].mean(),
        "gain": gain.mean(),
        "standard error": gain.std() / np.sqrt(draws),
        "refused": (shares[:, 0] == 0).mean(),
        "refused above a limit": (shares[:, 1] == 0).mean(),
        "missed": (risks[:, 0] > max_error).mean(),
        "missed above a limit": (risks[:, 1] > max_error).mean(),
    }


def outcomes(population: ScoredCases, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True coverage, and true error among the accepted, of each threshold."""
    order = np.argsort(population.scores)
    scores, wrong = population.scores[order], population.wrong[order]
    first = np.searchsorted(scores, thresholds)
    below = np.append(0, np.cumsum(wrong))
    accepted = len(scores) - first
    return accepted / len(scores), (below[-1] - below[first]) / np.maximum(accepted, 1)


def best_coverage(population: ScoredCases, max_error: float) -> float:
    """The largest coverage of a threshold with a true error within the target."""
    shares, risks = outcomes(population, np.unique(population.scores))
    return float(shares[risks <= max_error].max(initial=0.0))


def labels_needed(path: Path) -> dict[str, Any]:
    """Labels for 90 % of the best coverage at 5 %, by halving between powers of two."""
    population, targets = read_predictions(path)[0], Targets(max_error=ERRORS[0])
    random, wanted = np.random.default_rng(0), WANTED * best_coverage(population, ERRORS[0])
    needed = dict.fromkeys(Threshold._fields, np.inf)
    means = []
    for size in GRID.tolist():
        draws = [
            thresholds_of(population, targets, size, LARGE_POOL, random) for _ in range(REPEATS)
        ]
        means.append(outcomes(population, np.array(draws))[0].mean(axis=0))
        if (means[-1] >= wanted).all():
            break
    for column, name in enumerate(needed):
        values = np.array(means)[:, column]
        if (values >= wanted).any():
            at = int(np.argmax(values >= wanted))
            low, high = (0.0, values[0]) if not at else values[at - 1 : at + 1]
            share = (wanted - low) / (high - low)
            needed[name] = float(GRID[at] * 2 ** (share - 1))
    return {
        "predictions": f"{path.parent.name}/{path.stem}",
        "labels of all images": needed["uniform"],
        "labels above a limit": needed["drawn"],
        "ratio": needed["drawn"] / needed["uniform"],
    }


def worst_cases() -> list[dict[str, Any]]:
    """Every cell of the last table."""
    names = ("looks", "groups", "ties", "tuning", "missing", "part")
    cells = [*product(((), LOOKS), (1, 5), (False, True), (20, 100), (0.0, MISSING), (0.4,))]
    cells += [*product(((), LOOKS), (1, 5), (False,), (100,), (0.0,), (SMALL_PART,))]
    return [dict(zip(names, cell, strict=True)) for cell in cells]


def accepted_at_worst(cell: dict[str, Any]) -> dict[str, Any]:
    """Share of draws in which anything is accepted, although every threshold misses the target."""
    random = np.random.default_rng([*repr(cell).encode()])
    accepted = np.mean([accepts(random, **cell) for _ in range(WORST_DRAWS)])
    return {**cell, "looks": len(cell["looks"]) or 1, "accepted": accepted}


def accepts(
    random: np.random.Generator,
    *,
    looks: Sequence[int],
    groups: int,
    ties: bool,
    tuning: int,
    missing: float,
    part: float,
) -> bool:
    """True if any look certifies a threshold."""
    targets = Targets(max_error=TARGET)
    count = GROUPS if part > SMALL_PART else round(LOOKS[-1] / SMALL_PART)
    tuned, images = (simulated(random, number, groups, ties, part) for number in (tuning, count))
    limit = limit_of_draw(
        images.scores,
        images.acceptable,
        share_to_label(with_error_probabilities(tuned), targets),
        cases := LOOKS[-1],
    )
    drawn = images[random.permutation(np.flatnonzero(images.scores > limit))[:cases]]
    lost = random.random(len(drawn)) < missing
    drawn = ScoredCases(**{**vars(drawn), "labels": np.where(lost, -1, drawn.labels)})
    sizes = [size for size in looks if size <= len(drawn)] or [len(drawn)]
    return any(
        certified(drawn[np.arange(size)], targets.at_look(size, looks), limit) < np.inf
        for size in sizes
    )


def simulated(
    random: np.random.Generator, groups: int, largest: int, ties: bool, part: float
) -> ScoredCases:
    """One image of each group; the others of a group have similar scores, and the same errors."""
    units = np.repeat(np.arange(groups), random.choice([1, largest], size=groups))
    center, error = random.random((2, groups))
    scores = (center[units] + 0.1 * random.normal(size=len(units))) % 1
    scores = np.ceil(20 * scores) / 20 if ties else scores
    risks = np.where(scores > 1 - part, 1.001 * TARGET, TARGET + 0.6 * (1 - part - scores))
    risks = np.maximum(risks, 1.001 * TARGET)
    cases = ScoredCases(
        scores=scores,
        ood_scores=scores,
        error_probabilities=risks,
        predicted=np.zeros(len(units), dtype=int),
        labels=(error[units] < risks).astype(int),
        acceptable=np.ones(len(units), dtype=bool),
    )
    return cases[one_per_group(units, seed=int(random.integers(2**32)))]


if __name__ == "__main__":
    main()
