import csv
import json
import math
import os
import re
import shutil
import signal
from itertools import product

import numpy as np
import pytest
from scipy import stats
from tiny import TINY

from misgiving.cli.reproduce import say_unfinished
from misgiving.errors import TrainingError, UsageError
from misgiving.files import write_json
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import accepted_errors
from misgiving.report.reproduction.page import write_report
from misgiving.reproduction.aggregate.collection import COLLECTION, collect, mapped
from misgiving.reproduction.aggregate.intervals import MeasuredSet, intervals_of
from misgiving.reproduction.aggregate.resampling import ComparedSet
from misgiving.reproduction.config import Unit
from misgiving.reproduction.score_files import load_scores, save_scores
from misgiving.reproduction.tables import read_run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def chosen(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def test_results_have_every_experiment_trial_and_model(reproduction):
    found = {(r["experiment"], r["trial"], r["model"]) for r in rows(reproduction / "results.csv")}
    experiments = ("generalization", "ood_detection", "new_classes")
    assert found == {(e, t, m) for e in experiments for t in "01" for m in TINY.models}


def test_vanilla_has_no_predicted_loss_in_any_table(reproduction):
    for name in ("results.csv", "intervals.csv"):
        assert not chosen(rows(reproduction / name), model="vanilla", detector="predicted_loss")


@pytest.mark.parametrize("dataset", ["histology", "boxes"])
def test_ood_results_are_the_metrics_of_the_kept_scores(reproduction, dataset):
    folder = reproduction / Unit("ood_detection", 1, "proposed").folder
    inliers, outliers = load_scores(folder, "validation"), load_scores(folder, dataset)
    for detector in inliers.scores:
        metrics = ood_metrics(inliers.scores[detector], outliers.scores[detector])
        for metric, value in metrics.items():
            (row,) = chosen(
                rows(reproduction / "results.csv"),
                experiment="ood_detection",
                trial="1",
                model="proposed",
                dataset=dataset,
                detector=detector,
                metric=metric,
            )
            assert float(row["value"]) == value


def test_unseen_classes_together_are_those_one_by_one(reproduction):
    folder = reproduction / Unit("ood_detection", 0, "proposed").folder
    together = load_scores(folder, "unseen_classes").scores["odin"]
    apart = [load_scores(folder, f"unseen/{name}").scores["odin"] for name in TINY.unseen]
    np.testing.assert_array_equal(np.sort(together), np.sort(np.concatenate(apart)))


def test_an_estimate_is_the_mean_over_trials(reproduction):
    wanted = {"experiment": "generalization", "model": "proposed", "metric": "balanced_accuracy"}
    values = [float(row["value"]) for row in chosen(rows(reproduction / "results.csv"), **wanted)]
    (row,) = chosen(rows(reproduction / "intervals.csv"), baseline="", **wanted)
    assert float(row["estimate"]) == pytest.approx(np.mean(values), rel=1e-12)
    assert float(row["lower"]) <= float(row["upper"])
    account = json.loads((reproduction / "datasets.json").read_text())
    assert (row["trials"], row["n"]) == ("2", str(account["validation"]["groups"]))


def test_a_difference_is_that_of_the_estimates_and_paired(reproduction):
    intervals = rows(reproduction / "intervals.csv")
    wanted = {
        "experiment": "ood_detection",
        "dataset": "boxes",
        "detector": "odin",
        "metric": "auroc",
    }
    values = {
        row["model"]: float(row["estimate"]) for row in chosen(intervals, baseline="", **wanted)
    }
    (row,) = chosen(intervals, baseline="vanilla", **wanted)
    assert float(row["estimate"]) == pytest.approx(values["proposed"] - values["vanilla"])
    assert float(row["lower"]) <= float(row["estimate"]) <= float(row["upper"])


def test_one_source_picture_gives_no_interval(reproduction):
    found = chosen(rows(reproduction / "intervals.csv"), dataset="histology")
    assert found
    assert {(row["lower"], row["upper"], row["n"]) for row in found} == {("", "", "1")}


def test_what_was_chosen_on_the_tuning_set_is_marked_there_and_only_there(reproduction):
    found = chosen(rows(reproduction / "intervals.csv"), tuned="yes")
    assert {(row["dataset"], row["detector"]) for row in found} == {
        ("histology", "odin"),
        ("histology", "best_on_tuning"),
    }


def test_histories_cover_every_training(reproduction):
    found = {
        (r["experiment"], r["trial"], r["model"], r["epoch"], r["set"])
        for r in rows(reproduction / "histories.csv")
    }
    assert len(found) == 2 * 2 * 2 * 1 * 2


def test_the_account_says_from_how_many_sources_a_set_is(reproduction):
    account = json.loads((reproduction / "datasets.json").read_text())
    assert account["histology"]["groups"] == 1
    assert account["unseen_classes"]["images"] == sum(
        account[f"unseen/{name}"]["images"] for name in TINY.unseen
    )


def test_only_a_set_that_is_made_of_held_out_images_says_so(reproduction):
    account = json.loads((reproduction / "datasets.json").read_text())
    contents = {name: account[name]["contents"] for name in ("histology", "boxes")}
    assert contents["boxes"].startswith("of held-out images: ")
    assert contents["histology"].startswith("256 crops of 64 x 64 pixels from one histology")


def test_every_set_has_example_images(reproduction):
    account = json.loads((reproduction / "datasets.json").read_text())
    for name in account:
        assert list((reproduction / "examples" / name.replace("/", "-")).glob("*.png"))


def test_settings_name_the_open_choices(reproduction):
    settings = json.loads((reproduction / "settings.json").read_text())
    assert settings["training"]["margin"] == TINY.training.margin
    assert settings["odin"]["tuning_set"] == "histology"
    assert settings["sizes"][0]["images"] == settings["images"]


def test_collecting_again_does_nothing_where_nothing_has_changed(trial_data, reproduction):
    before = (reproduction / "results.csv").stat().st_mtime_ns
    collect(trial_data, reproduction)
    assert (reproduction / "results.csv").stat().st_mtime_ns == before


def test_a_result_that_was_lost_is_made_again(trial_data, reproduction, tmp_path):
    shutil.copytree(reproduction, tmp_path / "copy")
    (tmp_path / "copy" / "results.csv").unlink()
    collect(trial_data, tmp_path / "copy")
    expected = (reproduction / "results.csv").read_bytes()
    assert (tmp_path / "copy" / "results.csv").read_bytes() == expected


def test_failure_scores_stand_beside_msp_with_paired_differences(reproduction):
    found = rows(reproduction / "intervals.csv")
    values = {
        row["detector"]: float(row["estimate"])
        for row in found
        if (row["model"], row["baseline"], row["metric"]) == ("proposed", "", "aurc")
    }
    assert {"msp", "entropy", "max_logit", "max_logit_norm", "predicted_loss"} == set(values)
    differences = {
        row["detector"]: row
        for row in found
        if (row["model"], row["baseline"], row["metric"]) == ("proposed", "msp", "aurc")
    }
    assert set(differences) == set(values) - {"msp"}
    for name, row in differences.items():
        assert float(row["estimate"]) == pytest.approx(values[name] - values["msp"])
        assert float(row["lower"]) <= float(row["upper"])


def test_a_curve_ends_in_the_error_rate_and_its_band_holds_it(reproduction):
    results = rows(reproduction / "results.csv")
    accuracies = [
        float(row["value"])
        for row in results
        if (row["experiment"], row["model"], row["metric"])
        == ("generalization", "proposed", "accuracy")
    ]
    points = [
        row
        for row in rows(reproduction / "risk_coverage.csv")
        if (row["model"], row["coverage"]) == ("proposed", "1.0")
    ]
    assert {row["detector"] for row in points} >= {"msp", "predicted_loss"}
    for row in points:
        assert float(row["risk"]) == pytest.approx(1 - np.mean(accuracies))
        assert float(row["lower"]) <= float(row["risk"]) <= float(row["upper"])


def test_policies_are_measured_with_intervals_and_bins_hold_every_image(reproduction):
    results = rows(reproduction / "results.csv")
    attained = [row for row in results if row["metric"] == "attained"]
    assert {row["detector"] for row in attained} == {"policy/0.05", "policy/0.1", "policy/0.2"}
    covered = [
        row
        for row in rows(reproduction / "intervals.csv")
        if (row["dataset"], row["metric"], row["baseline"]) == ("policy_test", "coverage", "")
    ]
    assert len(covered) == 2 * 3  # models and targets
    bins = [row for row in rows(reproduction / "reliability.csv") if row["trial"] == "0"]
    counts = {}
    for row in bins:
        key = (row["model"], row["quantity"])
        counts[key] = counts.get(key, 0) + int(row["images"])
    assert set(counts) == {
        ("vanilla", "error_probability"),
        ("proposed", "error_probability"),
        ("proposed", "expected_loss"),
    }
    assert len(set(counts.values())) == 1


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
                values.setdefault((name, f"policy/{target}", metric), {})[trial] = error
        save_scores(folders[name][trial], "policy_test", columns, groups)
    compared = ComparedSet("generalization", "policy_test", "generalization")
    found = intervals_of(
        MeasuredSet(compared, folders, "test", False, values, 0.25, replicates=50, seed=0)
    )
    for metric in ("error_among_accepted", "error_per_group"):
        by_policy = {
            (row.model, row.baseline, row.detector): (row.n, math.isnan(row.lower))
            for row in found.itertuples()
            if row.metric == metric
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
    columns = {"wrong": np.arange(40) % 4 == 0, "0.2/ood": np.zeros(40)}
    folders = {name: {0: tmp_path / name} for name in ("vanilla", "proposed")}
    for name, accepted in {"vanilla": np.ones(40), "proposed": np.zeros(40)}.items():
        scores = {**columns, "0.2/accept": accepted}
        scores = {key: values * 1.0 for key, values in scores.items()}
        save_scores(folders[name][0], "policy_test", scores, groups)
    coverages = {
        (name, "policy/0.2", "coverage"): {0: 1.0 * (name == "vanilla")} for name in folders
    }
    compared = ComparedSet("generalization", "policy_test", "generalization")
    found = intervals_of(
        MeasuredSet(compared, folders, "test", False, coverages, 0.25, replicates=50, seed=0)
    )
    assert {(row.model, row.baseline, row.estimate) for row in found.itertuples()} == {
        ("vanilla", "", 1.0),
        ("proposed", "", 0.0),
        ("proposed", "vanilla", -1.0),
    }
    assert found[["lower", "upper"]].isna().all(axis=None)


def test_no_interval_has_a_width_of_zero(reproduction):
    for name in ("intervals.csv", "risk_coverage.csv"):
        found = rows(reproduction / name)
        assert [row for row in found if row["lower"] and row["lower"] == row["upper"]] == []


def test_a_difference_has_a_t_interval_over_trials_that_redraw_the_split(reproduction):
    where = {"experiment": "ood_detection", "dataset": "boxes", "detector": "odin"}
    wanted = {**where, "metric": "auroc"}
    results = rows(reproduction / "results.csv")
    values = {
        model: {row["trial"]: float(row["value"]) for row in chosen(results, model=model, **wanted)}
        for model in ("proposed", "vanilla")
    }
    differences = [values["proposed"][trial] - values["vanilla"][trial] for trial in "01"]
    sizes = json.loads((reproduction / "settings.json").read_text())["sizes"]
    (size,) = [size for size in sizes if size["experiment"] == "ood_detection"]
    spread = abs(differences[0] - differences[1]) / 2**0.5  # standard deviation of two values
    error = spread * (1 / 2 + size["measured"] / size["trained"]) ** 0.5
    margin = 12.706204736432095 * error
    (row,) = chosen(
        rows(reproduction / "intervals.csv"), model="proposed", baseline="vanilla", **wanted
    )
    assert float(row["trial_lower"]) == pytest.approx(np.mean(differences) - margin)
    assert float(row["trial_upper"]) == pytest.approx(np.mean(differences) + margin)
    assert float(row["p_value"]) == pytest.approx(
        2 * stats.t.sf(abs(np.mean(differences)) / error, 1)
    )


FALLING = (
    "fpr",
    "detection_error",
    "aurc",
    "augrc",
    "excess",
    "balanced_aurc",
    "risk",
    "error_among",
)


def test_the_report_lists_every_metric_of_a_claim_that_got_worse(reproduction, tmp_path):
    page = write_report(read_run(reproduction), tmp_path).read_text("utf-8")
    start = page.index("<summary>Every harm")
    harms = page[start : page.index("</details>", start)]
    listed = re.findall(r'<td class="number">([+\N{MINUS SIGN}][\d.]+)', harms)
    expected = []
    paired = rows(reproduction / "intervals.csv")
    for row in chosen(paired, model="proposed", baseline="vanilla"):
        claimed = row["experiment"] == "generalization" or row["detector"] in ("odin", "")
        if claimed and row["lower"] and float(row["lower"]) * float(row["upper"]) > 0:
            falling = row["metric"].startswith((*FALLING, "ood_share"))
            if (float(row["lower"]) > 0) == falling:
                expected.append(abs(float(row["estimate"])))
    assert expected
    assert len(listed) == len(expected)


def test_several_processes_collect_what_one_does(trial_data, reproduction, tmp_path):
    shutil.copytree(reproduction / "units", tmp_path / "units")
    collect(trial_data, tmp_path, jobs=2)
    for name in COLLECTION:
        if name.endswith(".csv"):
            assert (tmp_path / name).read_bytes() == (reproduction / name).read_bytes()


def test_collecting_with_no_process_is_refused(trial_data, reproduction):
    with pytest.raises(UsageError, match="`jobs` must be at least 1, got 0"):
        collect(trial_data, reproduction, jobs=0)


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error_that_says_so():
    with (
        pytest.raises(TrainingError, match="low memory; run again with fewer `jobs`"),
        mapped(die, [1, 2], jobs=2) as found,
    ):
        list(found)


def test_the_command_says_how_many_units_its_numbers_lack(reproduction, tmp_path, capsys):
    settings = json.loads((reproduction / "settings.json").read_text())
    units = [Unit("generalization", 0, name)._asdict() for name in ("vanilla", "mse")]
    for lost, said in ((units, "unfinished: 2 units are not in these"), ([], "")):
        write_json(tmp_path / "settings.json", settings | {"missing_units": lost})
        say_unfinished(tmp_path)
        printed = capsys.readouterr().err
        assert printed.startswith(said)
        assert bool(printed) == bool(said)
