"""Whether some group of people or pictures gets a worse deal from the accept-or-defer rule."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy.stats import beta, fisher_exact

from misgiving.errors import UsageError
from misgiving.metrics._weighted import samples

Cases = Bool[np.ndarray, " n"]

UNKNOWN = "unknown"
WORSE_IS = {"coverage": "less", "error": "greater", "deferral": "greater"}


class Subgroup(NamedTuple):
    """What happened to the cases that share one value of a column, with exact intervals."""

    name: str
    """The column, as `sex`."""
    value: str
    """Its value, as `female`; `unknown` where the table has none."""
    cases: int
    accepted: int
    coverage: float
    """Share of the cases that is accepted."""
    coverage_lower: float
    coverage_upper: float
    errors: int
    """Accepted cases that are wrong."""
    error: float
    """Share of the accepted cases that is wrong; NaN with its bounds if none is accepted."""
    error_lower: float
    error_upper: float
    deferred: int
    """Cases handed to a person: neither accepted nor found out-of-distribution."""
    deferral: float
    """Share of the cases that is deferred."""
    deferral_lower: float
    deferral_upper: float
    worse: tuple[str, ...]
    """Which of `coverage`, `error` and `deferral` are clearly worse than among all other cases."""


class _Counts(NamedTuple):
    """A number of `events` among the cases `of` which could have had one."""

    events: int
    of: int


class _Outcomes(NamedTuple):
    """What became of each case; only accepted ones are wrong here."""

    accepted: Cases
    wrong: Cases
    deferred: Cases

    def among(self, members: Cases) -> dict[str, _Counts]:
        cases, accepted, wrong, deferred = (
            int(np.count_nonzero(members & outcome)) for outcome in (True, *self)
        )
        return {
            "coverage": _Counts(accepted, cases),
            "error": _Counts(wrong, accepted),
            "deferral": _Counts(deferred, cases),
        }


def audit(
    columns: Mapping[str, Sequence[str]],
    accepted: Cases,
    ood: Cases,
    wrong: Cases,
    *,
    confidence: float = 0.95,
) -> list[Subgroup]:
    """Coverage, error among the accepted and deferral of every subgroup, and who fares worse.

    Design. The cases must be independent: one for each patient (or lesion), because two pictures of
    one patient are not two observations, and the intervals and tests would be too sure. A subgroup
    is all cases with one value of one column; a case is thus in one subgroup of every column. All
    is conditional on the rule and its thresholds: these must come from other cases.

    Intervals. Each proportion has the exact two-sided interval of Clopper and Pearson at
    `confidence`, for itself; it is conservative (covers at least as often as it says), and not
    corrected for the number of subgroups.

    Comparison. For each subgroup and each quantity a one-sided Fisher exact test compares the
    subgroup with all other cases together, in the direction of harm alone: lower coverage, higher
    error among the accepted, higher deferral. No test is made where the subgroup or the rest has no
    case (for the error: no accepted case). The p-values of all tests made in the call, over all
    columns, are corrected together by Holm's method, so that the probability of naming any quantity
    of any subgroup wrongly is at most 1 - `confidence`, however the tests depend on each other.
    `worse` names what stays significant. That it is empty does not show that the groups are treated
    alike: in a small group the test sees only large differences, so read the interval with it.

    Args:
        columns: The value of each case by the column's name. An empty value is `unknown`.
        accepted: The prediction is used without a person.
        ood: The case is turned away as not of the kind that the model knows; never accepted.
        wrong: The prediction is wrong; looked at for accepted cases only.
        confidence: Level of the intervals; 1 less it is the level of the tests as a family.

    >>> yes, no = np.array([True] * 9 + [False]), np.zeros(10, dtype=bool)
    >>> young, old = audit({"age": ["young"] * 5 + ["old"] * 5}, yes, no, no)[::-1]
    >>> old.coverage, round(old.coverage_lower, 3), old.worse
    (0.8, 0.284, ())
    """
    _check(columns, accepted, ood, wrong, confidence)
    outcomes = _Outcomes(accepted, accepted & wrong, ~accepted & ~ood)
    groups = list(_groups(columns))
    comparisons = {
        (position, quantity): pvalue
        for position, (_, _, members) in enumerate(groups)
        for quantity, pvalue in _comparisons(outcomes, members)
    }
    worse = _holm(comparisons, 1 - confidence)
    return [
        _subgroup(
            (name, value),
            outcomes.among(members),
            tuple(quantity for quantity in WORSE_IS if (position, quantity) in worse),
            confidence,
        )
        for position, (name, value, members) in enumerate(groups)
    ]


def _groups(columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, Cases]]:
    for name, column in columns.items():
        values = np.array([value.strip() or UNKNOWN for value in column])
        yield from ((name, str(value), values == value) for value in np.unique(values))


def _subgroup(
    key: tuple[str, str], counts: Mapping[str, _Counts], worse: tuple[str, ...], confidence: float
) -> Subgroup:
    coverage, error, deferral = (_proportion(counts[name], confidence) for name in WORSE_IS)
    cases = counts["coverage"].of
    return Subgroup._make((*key, cases, *coverage, *error, *deferral, worse))


def _proportion(counts: _Counts, confidence: float) -> tuple[int, float, float, float]:
    """The events and their share with its Clopper-Pearson interval, quantiles of the beta law.

    >>> _, share, lower, upper = _proportion(_Counts(0, 10), 0.95)
    >>> share, lower, round(upper, 4)  # 1 - 0.025 ** (1 / 10)
    (0.0, 0.0, 0.3085)
    """
    events, of = counts
    if not of:
        return events, float("nan"), float("nan"), float("nan")
    tail = (1 - confidence) / 2
    lower = float(beta.ppf(tail, events, of - events + 1)) if events else 0.0
    upper = float(beta.isf(tail, events + 1, of - events)) if events < of else 1.0
    return events, events / of, lower, upper


def _comparisons(outcomes: _Outcomes, members: Cases) -> Iterator[tuple[str, float]]:
    """The p-value of each quantity for which the group can be compared with the rest."""
    group, rest = outcomes.among(members), outcomes.among(~members)
    for quantity, direction in WORSE_IS.items():
        rows = [(side.events, side.of - side.events) for side in (group[quantity], rest[quantity])]
        if all(map(sum, rows)):
            yield quantity, float(fisher_exact(rows, alternative=direction).pvalue)


def _holm(pvalues: Mapping[tuple[int, str], float], level: float) -> frozenset[tuple[int, str]]:
    """What is rejected when the i-th smallest of m p-values is held against level / (m - i).

    >>> sorted(_holm({(0, "error"): 0.01, (1, "error"): 0.04, (2, "error"): 0.02}, 0.05))
    [(0, 'error'), (1, 'error'), (2, 'error')]
    """
    rejected: list[tuple[int, str]] = []
    for key in sorted(pvalues, key=lambda key: pvalues[key]):
        if pvalues[key] > level / (len(pvalues) - len(rejected)):
            break
        rejected.append(key)
    return frozenset(rejected)


def _check(
    columns: Mapping[str, Sequence[str]],
    accepted: Cases,
    ood: Cases,
    wrong: Cases,
    confidence: float,
) -> None:
    samples(accepted=accepted, ood=ood, wrong=wrong)
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence}; it must lie between 0 and 1")
    if (accepted & ood).any():
        position = np.argmax(accepted & ood)
        raise UsageError(
            f"ood is true at position {position}, which is accepted; a case cannot be both"
        )
    for name, column in columns.items():
        if len(column) != len(accepted):
            raise UsageError(
                f"columns has {len(column)} values of {name} for {len(accepted)} cases; "
                "give one for each"
            )
