from dataclasses import replace

import pytest
from fabricated import SETTINGS

from misgiving.report.figures import COLOURS, LINES, MARKERS
from misgiving.report.figures.sweeps import rates_figure, values_figure
from misgiving.report.findings.sweep import (
    faster,
    only_proposed,
    speed_sentence,
    sweep_of,
    swept_sentence,
    swept_settings,
)
from misgiving.report.inputs import MODELS, ReportInputs
from misgiving.report.views.models import sweep_tables
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


def measured(experiment, detector, metric, *values, model="proposed"):
    return [
        Result(experiment, trial, model, "validation", detector, metric, value)
        for trial, value in enumerate(values)
    ]


WEIGHTS = [
    *measured("auxiliary_weight/20", "", "balanced_accuracy", 0.5, 0.4),
    *measured("auxiliary_weight/20", "predicted_loss", "spearman", 0.25, 0.75),
    *measured("auxiliary_weight/20", "", "diverged", 0.0, 0.0, 1.0),
    *measured("auxiliary_weight/3", "", "balanced_accuracy", 0.6, 0.7),
    *measured("generalization", "", "balanced_accuracy", 0.8, 0.9),
    *measured("generalization", "predicted_loss", "aurc", 0.125, 0.125),
    *measured("generalization", "", "balanced_accuracy", 0.3, model="vanilla"),
]


def inputs_of(results):
    blank = {name: [] for name in ReportInputs._fields} | {"datasets": {}}
    return ReportInputs(**blank | {"results": results, "settings": SETTINGS})


def test_other_weights_stand_beside_the_protocols_own_in_order_and_trial_by_trial():
    (table,) = sweep_tables(inputs_of(WEIGHTS)).values()
    lines = [[cell.text for cell in body[0]] for body in table.bodies]
    assert [line[:3] for line in lines] == [
        ["0.5", "proposed", "80.0, 90.0"],
        ["3", "proposed", "60.0, 70.0"],
        ["20", "proposed", "50.0, 40.0"],
    ]
    assert table.bodies[0][0][0].small == ("the protocol's own",)
    assert lines[2][3:5] == ["45.0", "0.500"]
    assert [line[-1] for line in lines] == ["0 of 2", "0 of 2", "1 of 3"]
    assert lines[0][5] == "0.125"


def drawn(results):
    (setting,) = swept_settings(inputs_of(results))
    return values_figure(setting, results)


def points(line):
    return [*zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_a_swept_weight_is_drawn_by_its_means_its_trials_and_a_cross_where_one_diverged():
    accuracy, ranks, *others = drawn(WEIGHTS).axes
    means, trials, crosses = accuracy.lines
    assert points(means) == [(0.5, pytest.approx(85)), (3, pytest.approx(65)), (20, 45)]
    assert sorted(points(trials)) == [(0.5, 80), (0.5, 90), (3, 60), (3, 70), (20, 40), (20, 50)]
    assert accuracy.get_ylim()[0] < 40 < 90 < accuracy.get_ylim()[1]
    assert list(crosses.get_xdata()) == [20]
    assert points(ranks.lines[0]) == [(20, 0.5)]
    assert [axes.get_title(loc="left") for axes in others] == ["AURC, predicted loss", "AURC, MSP"]
    assert [text.get_text() for text in accuracy.get_xticklabels()] == [
        "0.5\n(the protocol's)", "3\n", "20\n",
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "scale"), [("1.5", "linear"), ("2", "log"), ("0", "linear")])
def test_the_axis_of_values_is_logarithmic_where_they_differ_fourfold(value, scale):
    rows = [row._replace(experiment=row.experiment.replace("/20", f"/{value}")) for row in WEIGHTS]
    rows = [row for row in rows if row.experiment != "auxiliary_weight/3"]
    assert drawn(rows).axes[0].get_xscale() == scale


def test_a_logarithmic_axis_of_values_has_room_for_zero():
    rows = [*WEIGHTS, *measured("auxiliary_weight/0", "", "balanced_accuracy", 0.2, 0.2)]
    axes = drawn(rows).axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim()[0] < 0


def test_models_beside_each_other_in_a_figure_differ_without_colour():
    for styles in (COLOURS, MARKERS, LINES):
        assert list(styles) == list(MODELS)
        assert len(set(styles.values())) == len(MODELS)


def test_models_at_one_value_do_not_cover_each_other():
    others = [row._replace(model="proposed_sum") for row in WEIGHTS if row.model == "proposed"]
    axes = drawn([*WEIGHTS, *others]).axes[0]
    means = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert [line.get_marker() for line in means] == [MARKERS["proposed"], MARKERS["proposed_sum"]]
    left, right = (line.get_transform().transform((3, 65))[0] for line in means)
    assert right - left >= 5


def test_the_means_at_each_value_are_in_words():
    (setting,) = swept_settings(inputs_of(WEIGHTS))
    assert swept_sentence(setting, WEIGHTS) == (
        "Mean balanced accuracy: proposed 85.0 % at 0.5, 65.0 % at 3, 45.0 % at 20. The "
        "protocol's own value is 0.5. These are means over trials without a test."
    )


def test_every_run_has_a_mark_in_the_figure_and_a_cross_where_it_diverged():
    rows = runs(rates=[("0.001", (SLOW, FAST))])
    rate = "learning_rate/0.001"
    results = [Result(rate, 0, "proposed", "test", "", "balanced_accuracy", 0.7)]
    results += [diverged("0.001", trial, "vanilla") for trial in range(2)]
    left, right = rates_figure(read_sweep(results, rows, own_rate=OWN)).axes
    assert sum(len(line.get_ydata()) for line in left.lines) == 12
    crosses = [line for line in right.lines if line.get_marker() == "x"]
    assert sum(len(line.get_ydata()) for line in crosses) == 2
