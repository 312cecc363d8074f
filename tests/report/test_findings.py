import math

import numpy as np
import pytest

from misgiving.report.findings import PLAIN, POINTS, Effect, effect_of
from misgiving.report.findings.collapse import collapse_sentence
from misgiving.report.inputs import models_of, select, spread
from misgiving.results.schema import HistoryRow, ResultInterval


def difference(lower, upper, **changes):
    row = ResultInterval(
        "generalization", "proposed", "mse", "validation", "predicted_loss", "spearman",
        0.1, lower, upper, n=100, trials=3, tuned=False,
    )  # fmt: skip
    return row._replace(**changes)


ABOVE, ACROSS, BELOW, NONE = (0.05, 0.15), (-0.02, 0.22), (-0.3, -0.1), (None, None)


def test_models_stand_from_plain_to_proposed_and_strangers_last(results):
    named = [
        row._replace(model=name) for name in ("other", "proposed", "vanilla") for row in results[:2]
    ]
    assert models_of(named) == ["vanilla", "proposed", "other"]


def test_spread_over_trials_is_the_sample_standard_deviation(results):
    rows = select(results, model="mse", metric="auroc", detector="msp", dataset="boxes")
    values = np.array([row.value for row in rows])
    expected = math.sqrt(sum((value - values.mean()) ** 2 for value in values) / (len(values) - 1))
    assert spread(rows).deviation == pytest.approx(expected)


def test_one_trial_has_no_standard_deviation(results):
    assert spread(results[:1]).deviation is None


@pytest.mark.parametrize(
    ("bounds", "effect"),
    [
        (ABOVE, Effect.BETTER),
        (ACROSS, Effect.UNDECIDED),
        (BELOW, Effect.WORSE),
        (NONE, Effect.UNKNOWN),
        ((0.0, 0.2), Effect.UNDECIDED),
        ((-0.2, 0.0), Effect.UNDECIDED),
    ],
)
def test_only_an_interval_that_excludes_zero_decides(bounds, effect):
    assert effect_of(difference(*bounds)) is effect


@pytest.mark.parametrize("metric", ["fpr_at_tpr95", "detection_error", "aurc", "errors"])
def test_less_is_better_for_errors(metric):
    assert effect_of(difference(*BELOW, metric=metric)) is Effect.BETTER


def test_no_row_decides_nothing():
    assert effect_of(None) is Effect.UNKNOWN


def epoch(trial, number, ratio, set="validation", model="mse"):
    return HistoryRow(
        "generalization", trial, model, number, set, 1.0, 1.0, 0.5, 0.5, 0.1, ratio, 0.02
    )


def test_collapse_is_described_by_the_spread_of_the_estimates():
    rows = [epoch(trial, 5, ratio) for trial, ratio in enumerate((0.02, 0.4))]
    said = collapse_sentence(rows, monitored="validation")
    assert "constant in 1 of 2 trials" in said
    assert "0.02 to 0.40" in said
    assert said.endswith("This is a count without a test.")


def test_collapse_is_measured_on_the_monitored_set_after_the_last_epoch():
    last = epoch(0, 5, 0.5)
    others = [epoch(0, 4, 0.0), epoch(0, 5, 0.0, set="train"), epoch(0, 5, 0.0, model="proposed")]
    assert "in 0 of 1 trials" in collapse_sentence([*others, last], monitored="validation")


def test_collapse_without_histories_is_not_measured():
    assert "not measured" in collapse_sentence([], monitored="validation")


@pytest.mark.parametrize(
    ("value", "text"), [(0.51414, "51.4"), (-0.1, "\N{MINUS SIGN}10.0"), (-0.0001, "0.0")]
)
def test_points_are_written_with_one_decimal_and_a_true_minus(value, text):
    assert POINTS.number(value) == text


def test_correlations_are_written_with_three_decimals():
    assert PLAIN.number(0.1234, sign="+") == "+0.123"
