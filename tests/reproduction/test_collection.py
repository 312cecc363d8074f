import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from commands import of_json
from scipy import stats
from tiny import TINY

from misgiving.errors import DataError
from misgiving.files import write_json
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import accepted_errors
from misgiving.reproduction.collection import collect
from misgiving.reproduction.config import Unit
from misgiving.reproduction.intervals import MeasuredSet
from misgiving.reproduction.report.run import select
from misgiving.reproduction.tables import TABLES, load_scores, read_table, save_scores


@pytest.fixture(scope="module")
def results(reproduction):
    return read_table(reproduction / "results.csv")


@pytest.fixture(scope="module")
def intervals(reproduction):
    return read_table(reproduction / "intervals.csv")


def only(frame, **wanted):
    """The only row with these values."""
    (row,) = select(frame, **wanted).itertuples()
    return row


def test_tables_have_every_experiment_trial_and_model(reproduction, results, intervals):
    found = set(zip(results["experiment"], results["trial"], results["model"], strict=True))
    experiments = ("generalization", "ood_detection", "new_classes")
    assert found == set(product(experiments, (0, 1), TINY.models))
    for table in (results, intervals):
        assert select(table, model="vanilla", detector="predicted_loss").empty
    histories = read_table(reproduction / "histories.csv")
    assert len(histories) == len(histories.drop_duplicates()) == 2 * 2 * 2 * 1 * 2


@pytest.mark.parametrize("dataset", ["histology", "boxes"])
def test_ood_results_are_the_metrics_of_the_kept_scores(reproduction, results, dataset):
    unit = Unit("ood_detection", 1, "proposed")
    inliers, outliers = (
        load_scores(reproduction / unit.folder, name)[0] for name in ("validation", dataset)
    )
    for detector in inliers:
        for metric, value in ood_metrics(inliers[detector], outliers[detector]).items():
            wanted = {**unit._asdict(), "dataset": dataset, "detector": detector}
            assert only(results, **wanted, metric=metric).value == value
    together, *apart = (
        load_scores(reproduction / unit.folder, name)[0]["odin"]
        for name in ("unseen_classes", *(f"unseen/{name}" for name in TINY.unseen))
    )
    np.testing.assert_array_equal(np.sort(together), np.sort(np.concatenate(apart)))


def test_a_difference_is_paired_and_has_a_t_interval_over_trials_that_redraw_the_split(
    reproduction, results, intervals
):
    wanted = {"experiment": "ood_detection", "dataset": "boxes", "detector": "odin"}
    rows = select(results, metric="auroc", **wanted).pivot(
        index="trial", columns="model", values="value"
    )
    differences = rows["proposed"] - rows["vanilla"]
    sizes = of_json(reproduction / "settings.json")["sizes"]
    (size,) = [size for size in sizes if size["experiment"] == "ood_detection"]
    spread = abs(differences[0] - differences[1]) / 2**0.5  # standard deviation of two values
    error = spread * (1 / 2 + size["measured"] / size["trained"]) ** 0.5
    row = only(intervals, model="proposed", baseline="vanilla", metric="auroc", **wanted)
    mean, margin = differences.mean(), 12.706204736432095 * error
    assert row.estimate == pytest.approx(mean)
    assert row.lower <= row.estimate <= row.upper
    assert (row.trial_lower, row.trial_upper) == pytest.approx((mean - margin, mean + margin))
    assert row.p_value == pytest.approx(2 * stats.t.sf(abs(mean) / error, 1))
    row = only(intervals, model="proposed", baseline="", metric="auroc", **wanted)
    assert row.estimate == pytest.approx(rows["proposed"].mean(), rel=1e-12)


def test_intervals_are_left_out_where_nothing_varies_and_marked_where_odin_is_tuned(
    reproduction, intervals
):
    one_picture = select(intervals, dataset="histology")
    assert set(one_picture["n"]) == {1}
    assert one_picture[["lower", "upper"]].isna().all(axis=None)
    tuned = intervals[intervals["tuned"]]
    assert {*zip(tuned["dataset"], tuned["detector"], strict=True)} == {
        ("histology", "odin"),
        ("histology", "best_on_tuning"),
    }
    for table in (intervals, read_table(reproduction / "risk_coverage.csv")):
        assert not (table["lower"] == table["upper"]).any()


def test_failure_scores_stand_beside_msp_with_paired_differences(intervals):
    found = select(intervals, model="proposed", metric="aurc")
    values = select(found, baseline="").set_index("detector")["estimate"]
    assert set(values.index) == {"msp", "entropy", "max_logit", "max_logit_norm", "predicted_loss"}
    beside = select(found, baseline="msp").set_index("detector")
    assert set(beside.index) == set(values.index) - {"msp"}
    for name, estimate in beside["estimate"].items():
        assert estimate == pytest.approx(values[name] - values["msp"])


def test_a_curve_ends_in_the_error_rate_and_its_band_holds_it(reproduction, results):
    accuracies = select(results, experiment="generalization", model="proposed", metric="accuracy")
    curves = read_table(reproduction / "risk_coverage.csv")
    ends = select(curves, model="proposed", coverage=1.0)
    assert set(ends["detector"]) >= {"msp", "predicted_loss"}
    assert ends["risk"].to_numpy() == pytest.approx(1 - accuracies["value"].mean())
    assert ((ends["lower"] <= ends["risk"]) & (ends["risk"] <= ends["upper"])).all()


def test_policies_are_measured_with_intervals_and_bins_hold_every_image(
    reproduction, results, intervals
):
    policies = {"policy/0.05", "policy/0.1", "policy/0.2"}
    assert set(select(results, metric="attained")["detector"]) == policies
    assert {"policy", "error_probability"} <= {*select(results, metric="ece")["detector"]}
    covered = select(intervals, dataset="policy_test", metric="coverage", baseline="")
    assert len(covered) == 2 * 3  # models and targets
    bins = select(read_table(reproduction / "reliability.csv"), trial=0)
    counts = bins.groupby(["model", "quantity"])["images"].sum()
    assert set(counts.index) == {
        ("vanilla", "error_probability"),
        ("proposed", "error_probability"),
        ("proposed", "expected_loss"),
    }
    assert len(set(counts)) == 1


def intervals_of_policies(folders, values, challenger=None):
    protocol = replace(TINY, models=(*TINY.models, "mine:loss"), challenger=challenger)
    names = {"experiment": "generalization", "dataset": "policy_test", "protocol": protocol}
    names["measured"] = "validation"
    values = {("generalization", "policy_test", *key): by_trial for key, by_trial in values.items()}
    given = {"folders": folders, "values": values, "split_ratio": 0.25, "seed": 0}
    return MeasuredSet(**names, **given).intervals()


def test_the_error_of_a_policy_counts_the_groups_that_this_policy_accepts(tmp_path):
    groups = tuple(f"lesion-{row // 2}" for row in range(80))
    wrong = np.arange(80) % 7 == 0
    taken = {"vanilla": {"0.05": 30, "0.2": 1}, "proposed": {"0.05": 1, "0.2": 60}}
    folders = {name: {trial: tmp_path / name / str(trial) for trial in (0, 1)} for name in taken}
    values = {}
    for name, trial in product(taken, (0, 1)):
        columns = {"wrong": wrong * 1.0}
        for target, count in taken[name].items():
            accepted = np.arange(80) < count
            columns |= {f"{target}/accept": accepted * 1.0, f"{target}/ood": np.zeros(80)}
            for metric, error in accepted_errors(accepted, wrong, groups).items():
                values.setdefault((f"policy/{target}", metric, name), {})[trial] = error
        save_scores(folders[name][trial], "policy_test", columns, groups)
    found = intervals_of_policies(folders, values)
    for metric in ("error_among_accepted", "error_per_group"):
        by_policy = {
            (row.model, row.baseline, row.detector): (row.n, np.isnan(row.lower))
            for row in select(found, metric=metric).itertuples()
        }
        assert by_policy == {
            ("vanilla", "", "policy/0.05"): (15, False),
            ("vanilla", "", "policy/0.2"): (1, True),
            ("proposed", "", "policy/0.05"): (1, True),
            ("proposed", "", "policy/0.2"): (30, False),
            ("proposed", "vanilla", "policy/0.05"): (1, True),
            ("proposed", "vanilla", "policy/0.2"): (1, True),
        }


def test_a_value_that_no_resampled_set_changes_has_no_interval(tmp_path):
    groups = tuple(f"lesion-{row}" for row in range(40))
    columns = {"wrong": (np.arange(40) % 4 == 0) * 1.0, "0.2/ood": np.zeros(40)}
    accepted = {"vanilla": np.ones(40), "proposed": np.zeros(40), "mine:loss": np.ones(40)}
    for name, values in accepted.items():
        save_scores(tmp_path / name, "policy_test", columns | {"0.2/accept": values}, groups)
    coverages = {("policy/0.2", "coverage", name): {0: accepted[name][0]} for name in accepted}
    folders = {name: {0: tmp_path / name} for name in accepted}
    found = intervals_of_policies(folders, coverages, challenger="mine:loss")
    assert {(row.model, row.baseline, row.estimate) for row in found.itertuples()} == {
        ("vanilla", "", 1.0),
        ("proposed", "", 0.0),
        ("proposed", "vanilla", -1.0),
        ("proposed", "mine:loss", -1.0),
        ("mine:loss", "", 1.0),
        ("mine:loss", "vanilla", 0.0),
        ("mine:loss", "proposed", 1.0),
    }
    assert found[["lower", "upper"]].isna().all(axis=None)


def test_units_are_collected_alike_by_processes_whatever_their_threads(
    trial_data, reproduction, tmp_path
):
    with pytest.raises(DataError):  # nothing is there
        collect(trial_data, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(reproduction, copy)
    (copy / "results.csv").unlink()
    timing = copy / Unit("generalization", 1, "vanilla").folder / "timing.json"
    write_json(timing, {"seconds": 1.0, "threads": 64})
    collect(trial_data, copy, jobs=2)
    for name in TABLES:
        table = f"{name}.csv"
        assert (copy / table).read_bytes() == (reproduction / table).read_bytes()
    before, after = (of_json(out / "settings.json") for out in (reproduction, copy))
    assert after["unit_threads"] == [*before["unit_threads"], 64]
