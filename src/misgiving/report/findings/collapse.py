"""Collapse of the mse estimate to a constant (Figure 2): a description, not a test."""

from collections.abc import Sequence

from misgiving.report.findings import Scale
from misgiving.report.inputs import select
from misgiving.results.schema import HistoryRow

COLLAPSED_SPREAD = 0.1  # an estimate with less than a tenth of the true spread counts as constant
RATIO = Scale(1.0, 2, "")


def collapse_sentence(histories: Sequence[HistoryRow], *, monitored: str) -> str:
    """The spread of the mse estimate on the monitored set after the last epoch, over trials."""
    rows = select(histories, experiment="generalization", model="mse", set=monitored)
    last = [row for row in rows if row.epoch == max(other.epoch for other in rows)]
    spreads = [row.spread_ratio for row in last if row.spread_ratio is not None]
    fits = [row.r_squared for row in last if row.r_squared is not None]
    if not spreads:
        return (
            "Collapse of the mse estimate is not measured: histories.csv has no spread of it on "
            f"the {monitored} set."
        )
    collapsed = sum(ratio < COLLAPSED_SPREAD for ratio in spreads)
    return (
        f"The mse estimate is constant in {collapsed} of {len(spreads)} trials: after the last "
        f"epoch its spread on the {monitored} set is {RATIO.range(spreads)} of that of the true "
        f"losses (below {COLLAPSED_SPREAD} counts as constant), and R² is "
        f"{RATIO.range(fits) if fits else 'unknown'}. This is a count without a test."
    )
