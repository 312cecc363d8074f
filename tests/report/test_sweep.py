from dataclasses import replace

import pytest
from fabricated import SETTINGS

from misgiving.report.figures.sweeps import rates_figure
from misgiving.report.findings.sweep import (
    faster,
    only_proposed,
    speed_sentence,
    sweep_of,
)
from misgiving.report.inputs import ReportInputs
from misgiving.results.schema import HistoryRow, Result

OWN = 1e-4
VANILLA = (0.4, 0.5, 0.6, 0.8)  # its mean final value is 0.8, so that the level is 0.76
FAST, SLOW, NEVER = (0.5, 0.77, 0.78, 0.8), VANILLA, (0.1, 0.2, 0.2, 0.2)


def read_sweep(results, histories, *, own_rate):
    settings = replace(SETTINGS, training={"learning_rate": own_rate})
    tables = {"results": results, "histories": histories, "settings": settings, "datasets": {}}
    return sweep_of(ReportInputs(**{name: [] for name in ReportInputs._fields} | tables))


def epochs(experiment, trial, model, values, part="validation"):
    return [
        HistoryRow(experiment, trial, model, number, part, 1.0, 1.0, 0.5, value, None, None, None)
        for number, value in enumerate(values, start=1)
    ]


def runs(proposed=FAST, *, rates=(), trials=3):
    """Histories of both models at the protocol's own rate, and at others as pairs of curves."""
    rows = []
    for trial in range(trials):
        rows += epochs("generalization", trial, "vanilla", VANILLA)
        rows += epochs("generalization", trial, "proposed", proposed)
        for rate, (plain, joint) in rates:
            rows += epochs(f"learning_rate/{rate}", trial, "vanilla", plain)
            rows += epochs(f"learning_rate/{rate}", trial, "proposed", joint)
    return rows


def diverged(rate, trial, model):
    return Result(f"learning_rate/{rate}", trial, model, "validation", "", "diverged", 1.0)


def test_the_level_is_95_percent_of_vanillas_mean_final_value():
    rows = [*epochs("generalization", 0, "vanilla", (0.9, 0.6))]
    rows += epochs("generalization", 1, "vanilla", (0.1, 0.8))
    assert read_sweep([], rows, own_rate=OWN).level == pytest.approx(0.95 * 0.7)


def test_epochs_are_counted_until_the_level_is_first_reached():
    sweep = read_sweep([], runs(FAST), own_rate=OWN)
    assert [run.epochs for run in sweep.at(OWN, "vanilla")] == [4, 4, 4]
    assert [run.epochs for run in sweep.at(OWN, "proposed")] == [2, 2, 2]


def test_a_level_that_is_not_reached_has_no_epoch():
    assert read_sweep([], runs(NEVER), own_rate=OWN).at(OWN, "proposed")[0].epochs is None


def test_a_run_that_diverged_has_not_reached_the_level_it_passed():
    rows = runs(rates=[("0.001", (FAST, FAST))])
    sweep = read_sweep([diverged("0.001", 1, "vanilla")], rows, own_rate=OWN)
    assert [run.epochs for run in sweep.at(1e-3, "vanilla")] == [2, None, 2]


@pytest.mark.parametrize("part", ["train", "test"])
def test_only_the_monitored_set_counts(part):
    rows = [*runs(SLOW), *epochs("generalization", 0, "proposed", (1.0,) * 4, part=part)]
    assert read_sweep([], rows, own_rate=OWN).at(OWN, "proposed")[0].epochs == 4


def test_rates_stand_from_low_to_high():
    rows = runs(rates=[("0.001", (SLOW, FAST)), ("3e-05", (SLOW, FAST))])
    sweep = read_sweep([], rows, own_rate=OWN)
    assert sweep.rates == [3e-5, 1e-4, 1e-3]
    assert sweep.higher == [1e-4, 1e-3]


def test_pairs_in_which_neither_reaches_the_level_are_left_out():
    rows = runs(rates=[("0.001", (NEVER, NEVER))])
    assert faster(read_sweep([], rows, own_rate=OWN), 1e-3) == (0, 0)


def test_equal_numbers_of_epochs_are_not_faster():
    assert faster(read_sweep([], runs(SLOW), own_rate=OWN), OWN) == (0, 3)


@pytest.mark.parametrize(
    ("pair", "times"), [((NEVER, FAST), 3), ((FAST, FAST), 0), ((FAST, NEVER), 0)]
)
def test_a_rate_is_gained_where_only_proposed_ends_at_the_level(pair, times):
    sweep = read_sweep([], runs(rates=[("0.001", pair)]), own_rate=OWN)
    assert only_proposed(sweep, 1e-3) == (times, 3)


def test_speed_is_a_count_over_trials_and_no_test():
    rows = runs(FAST, rates=[("0.001", (NEVER, FAST))], trials=6)
    said = speed_sentence(read_sweep([], rows, own_rate=OWN))
    assert "only the proposed model trains to that level in 6 of 6 pairs" in said
    assert "(of 6 runs of vanilla, 0 end at the level and 0 diverged; of 6 runs of proposed" in said
    assert said.endswith("These are counts over 6 trials without a test.")


def test_a_run_without_a_sweep_says_so_and_still_counts_epochs():
    said = speed_sentence(read_sweep([], runs(), own_rate=OWN))
    assert "No other learning rate was tried" in said
    assert "3 of 3 pairs of trials at 0.0001" in said


def test_without_a_level_there_is_no_sweep():
    assert read_sweep([], [], own_rate=OWN) is None
    assert "not swept" in speed_sentence(None)


def test_every_run_has_a_mark_in_the_figure_and_a_cross_where_it_diverged():
    rows = runs(rates=[("0.001", (SLOW, FAST))])
    rate = "learning_rate/0.001"
    results = [Result(rate, 0, "proposed", "test", "", "balanced_accuracy", 0.7)]
    results += [diverged("0.001", trial, "vanilla") for trial in range(2)]
    left, right = rates_figure(read_sweep(results, rows, own_rate=OWN)).axes
    assert sum(len(line.get_ydata()) for line in left.lines) == 12
    crosses = [line for line in right.lines if line.get_marker() == "x"]
    assert sum(len(line.get_ydata()) for line in crosses) == 2
