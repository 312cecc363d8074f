"""Subgroups of images by class and metadata: an audit of a policy, those that fare worse first."""

import math
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from scipy.stats import fisher_exact

from misgiving.arrays import Mask
from misgiving.deferral.bounds import BinomialInterval, two_sided_interval
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.targets import bands_of, number_of
from misgiving.metrics.uncertainty import holm
from misgiving.predictions.record import Predictions

Outcomes = Mapping[str, tuple[Mask, Mask]]

NO_VALUE = "unknown"
UNDEFINED = BinomialInterval(math.nan, math.nan)
WORSE_IS = {"coverage": "less", "error": "greater", "deferral": "greater"}
CLASS = "class"
AGES: tuple[float, ...] = (30, 50, 70)
AGE_BANDS: tuple[str, ...] = ("under 30", "30-49", "50-69", "70 or older")
FAMILY_LEVEL = 0.05  # of naming any quantity of any subgroup wrongly
MAX_VALUES = 12  # a column with at most so many values is kept as it is


class Subgroup(NamedTuple):
    """Decisions on the cases that share one value of a column, with exact intervals."""

    name: str
    """The column, such as `sex`."""
    value: str
    """Its value, such as `female`; `unknown` where the table has none."""
    cases: int
    accepted: int
    coverage: float
    """Share of the cases that is accepted."""
    coverage_lower: float
    coverage_upper: float
    errors: int
    """Accepted cases that are wrong."""
    error: float
    """Share of the accepted cases that is wrong; NaN, as its bounds, if none is accepted."""
    error_lower: float
    error_upper: float
    deferred: int
    """Cases left to a person: neither accepted nor out-of-distribution."""
    deferral: float
    """Share of the cases that is deferred."""
    deferral_lower: float
    deferral_upper: float
    worse: tuple[str, ...]
    """Those of `coverage`, `error` and `deferral` that are significantly worse than elsewhere."""


def audit(
    columns: Mapping[str, Sequence[str]],
    accepted: Mask,
    ood: Mask,
    wrong: Mask,
    *,
    confidence: float = 0.95,
    level: float = FAMILY_LEVEL,
) -> list[Subgroup]:
    """Audit coverage, error among the accepted and deferral of every subgroup.

    Design. The cases must be independent: one for each patient (or lesion), since two images of one
    patient are not two observations. A subgroup is all cases with one value of one column, so a
    case is in one subgroup of every column. The audit is conditional on the policy, whose
    thresholds must come from other cases.

    Intervals. Each proportion has its exact two-sided Clopper-Pearson interval at `confidence`,
    not corrected for the number of subgroups.

    Comparison. A one-sided Fisher exact test compares each quantity of a subgroup with all other
    cases, in the direction of harm: lower coverage, higher error among the accepted, higher
    deferral. No test is made where the subgroup or the rest has no case (for the error: no accepted
    case). Holm's method corrects all tests of the call together: the probability of naming any
    quantity of any subgroup wrongly is at most `level`, whatever the dependence between the tests.
    An empty `worse` does not show that the groups fare alike: in a small group only a
    large difference is significant, so read the interval with it.

    Args:
        columns: The value of each case by the column's name. An empty value is `unknown`.
        accepted: The prediction is used without review.
        ood: The case is called out-of-distribution; never accepted.
        wrong: The prediction is wrong; used for accepted cases only.
        confidence: Level of the intervals.
        level: Familywise level of the tests.

    >>> yes, no = np.array([True] * 9 + [False]), np.zeros(10, dtype=bool)
    >>> young, old = audit({"age": ["young"] * 5 + ["old"] * 5}, yes, no, no)[::-1]
    >>> old.coverage, round(old.coverage_lower, 3), old.worse
    (0.8, 0.284, ())
    """
    everyone = np.ones(len(accepted), dtype=np.bool_)
    outcomes: Outcomes = {  # the cases that count, and among which
        "coverage": (accepted, everyone),
        "error": (accepted & wrong, accepted),
        "deferral": (~accepted & ~ood, everyone),
    }
    groups: list[tuple[str, str, Mask]] = []
    for name, column in columns.items():
        values = np.array([value.strip() or NO_VALUE for value in column])
        groups += [(name, str(value), values == value) for value in np.unique(values)]
    p_values = {
        (position, quantity): p_value
        for position, (_, _, members) in enumerate(groups)
        for quantity, p_value in _comparisons(outcomes, members)
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    worse = {key for key, p_value in adjusted.items() if p_value <= level}
    subgroups = []
    for position, (name, value, members) in enumerate(groups):
        shares: list[float] = []
        for events, cases in _counts(outcomes, members).values():
            ends = two_sided_interval(events, cases, level=1 - confidence) if cases else UNDEFINED
            shares += [events, events / cases if cases else math.nan, *ends]
        flagged = tuple(quantity for quantity in WORSE_IS if (position, quantity) in worse)
        subgroups.append(Subgroup._make((name, value, int(members.sum()), *shares, flagged)))
    return subgroups


def _counts(outcomes: Outcomes, members: Mask) -> dict[str, tuple[int, int]]:
    """Number of events and of cases of each quantity in a group."""
    return {
        quantity: (int(np.sum(members & events)), int(np.sum(members & cases)))
        for quantity, (events, cases) in outcomes.items()
    }


def _comparisons(outcomes: Outcomes, members: Mask) -> Iterator[tuple[str, float]]:
    """P-value of each quantity for which the group can be compared with the rest."""
    group, rest = _counts(outcomes, members), _counts(outcomes, ~members)
    for quantity, direction in WORSE_IS.items():
        rows = [(events, cases - events) for events, cases in (group[quantity], rest[quantity])]
        if all(map(sum, rows)):
            yield quantity, float(fisher_exact(rows, alternative=direction).pvalue)


class Harm(NamedTuple):
    """A subgroup: its errors if all were accepted, and the policy's decisions, if any."""

    errors: Subgroup
    decisions: Subgroup | None

    @property
    def worse(self) -> tuple[str, ...]:
        """Quantities that are significantly worse than elsewhere: errors and decisions together.

        `wrong` (if all were accepted), and of the policy `coverage`, `error` and `deferral`.
        """
        of_policy = self.decisions.worse if self.decisions else ()
        return (("wrong",) if self.errors.worse else ()) + of_policy


def harms_of(judged: Predictions, decisions: Decisions | None, *, seed: int) -> list[Harm]:
    """Subgroups by class and metadata, on one image of each group, in the order of harm."""
    rows = judged.one_per_group(seed=seed)
    drawn = judged.select(rows)
    columns = {CLASS: [drawn.classes[label] for label in drawn.labels]} | {
        f"column {name}" if name == CLASS else name: [bands[row] for row in rows]
        for name, values in judged.metadata.items()
        if (bands := banded(name, values))
    }
    wrong = drawn.errors if decisions is None else decisions.wrong(judged.labels)[rows]

    level = FAMILY_LEVEL / (1 if decisions is None else 2)  # errors and decisions are one family

    def audited(outcomes: Shaped[np.ndarray, " drawn"]) -> list[Subgroup]:
        return audit(columns, outcomes == "accept", outcomes == "ood", wrong, level=level)

    errors = audited(np.full(len(rows), "accept"))
    decided = [None] * len(errors) if decisions is None else audited(decisions.decisions[rows])
    pairs = map(Harm, errors, decided)
    return sorted(pairs, key=lambda harm: (not harm.worse, -harm.errors.error_lower))


def banded(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A column of few values as it is, and numbers in bands; empty if it is neither.

    An age is in one of four bands, another number in a quarter of the column; what is no number is
    in none.
    """
    if name != "age" and len(set(values)) <= MAX_VALUES:
        return tuple(values)
    numbers = [number_of(value) for value in values]
    bounds, bands = AGES, AGE_BANDS
    if name != "age":
        if any(math.isnan(x) for x, value in zip(numbers, values, strict=True) if value):
            return ()
        ascending = sorted(number for number in numbers if not math.isnan(number))
        bounds = tuple(sorted({ascending[len(ascending) * part // 4] for part in (1, 2, 3)}))
        bands = bands_of(bounds)
    return tuple("" if math.isnan(x) else bands[bisect(bounds, x)] for x in numbers)
