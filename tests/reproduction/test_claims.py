from itertools import chain, product
from math import sqrt
from statistics import mean, stdev

import pytest
from fabricated import SETTINGS, Epoch, Result, interval, run_of
from pages import table, texts
from scipy import stats

from misgiving.reproduction.report.claims import effect_of, harms_of, unjudged_sets, verdicts

NONE = (None,) * 3
GAINS = (0.04, 0.05, 0.06, 0.05, 0.04)
MIXED = (0.04, -0.05, 0.06, -0.05, 0.04)
PLACES = {  # one place of each claim, by its name
    "accuracy": ("generalization", "validation", "", "balanced_accuracy", "vanilla"),
    "minority": ("generalization", "validation", "", "sensitivity/BCC", "vanilla"),
    "ranking": ("generalization", "validation", "predicted_loss", "spearman", "mse"),
    "ood": ("ood_detection", "boxes", "odin", "auroc", "vanilla"),
    "new_classes": ("new_classes", "unseen_classes", "odin", "auroc", "vanilla"),
}


def rows_of(name, differences, **place):
    """Both models of a claim in trials that differ in level."""
    keys = ("experiment", "dataset", "detector", "metric", "baseline")
    where = dict(zip(keys, PLACES[name], strict=True)) | place
    baseline = where.pop("baseline")
    for trial, difference in enumerate(differences):
        level = 0.5 + 0.05 * trial
        for model, value in ((baseline, level), ("proposed", level + difference)):
            yield Result(**where, trial=trial, model=model, value=value)


def paired(name, *bounds, **changes):
    """A bootstrap interval about its middle in the place of a claim."""
    experiment, dataset, detector, metric, baseline = PLACES[name]
    place = {"experiment": experiment, "dataset": dataset, "baseline": baseline}
    return interval(detector, metric, *bounds, **place)._replace(**changes)


def of_all(differences):
    return [row for name in PLACES for row in rows_of(name, differences)]


def test_the_interval_over_trials_counts_the_split_of_the_settings():
    sizes = [size | {"trained": 60, "measured": 30} for size in SETTINGS["sizes"]]
    run = run_of(of_all(MIXED), settings=SETTINGS | {"sizes": sizes})
    verdict = verdicts(run)["accuracy"]
    error = stdev(MIXED) * sqrt(1 / 5 + 30 / 60)
    margin = stats.t.ppf(0.975, 4) * error
    expected = (mean(MIXED), mean(MIXED) - margin, mean(MIXED) + margin)
    assert verdict.interval[:3] == pytest.approx(expected)
    assert verdict.interval.p_value == pytest.approx(2 * stats.t.sf(mean(MIXED) / error, 4))


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(
    ("differences", "status"),
    [
        (GAINS, "supported"),
        ([-gain for gain in GAINS], "contradicted"),
        (MIXED, "inconclusive"),
        (GAINS[:4], "inconclusive"),
        (GAINS[:1], "inconclusive"),
        ((), "inconclusive"),
    ],
)
def test_a_claim_is_decided_by_five_trials_or_more(name, differences, status):
    others = [row for other in PLACES if other != name for row in rows_of(other, GAINS)]
    assert verdicts(run_of([*others, *rows_of(name, differences)]))[name].status == status


@pytest.mark.parametrize(
    ("name", "gains", "mean"),
    [
        ("minority", {"BCC": 0.1, "AK": 0.2, "DF": -0.06, "NV": 0.9, "MEL": 0.9}, 0.08),
        ("ood", {"boxes": 0.1, "photographs": 0.3, "histology": 0.9}, 0.2),  # the last tunes ODIN
    ],
)
def test_a_claim_of_several_places_is_judged_by_their_mean(name, gains, mean):
    column, prefix = ("metric", "sensitivity/") if name == "minority" else ("dataset", "")
    rows = [rows_of(name, [gain] * 2, **{column: prefix + at}) for at, gain in gains.items()]
    differences = verdicts(run_of(chain(*rows)))[name].differences
    assert list(differences.values()) == pytest.approx([mean, mean])


def test_p_values_are_adjusted_for_five_claims_by_holm():
    gains = {name: (0.01 * k, *GAINS[1:]) for k, name in enumerate(PLACES)}
    results = [row for name, values in gains.items() for row in rows_of(name, values)]
    judged = verdicts(run_of(results))
    raw = {name: verdict.interval.p_value for name, verdict in judged.items()}
    largest = 0.0
    for rank, name in enumerate(sorted(raw, key=raw.get)):
        largest = max(largest, min(1.0, (5 - rank) * raw[name]))
        assert judged[name].p_value == pytest.approx(largest)
    alone = verdicts(run_of(rows_of("accuracy", GAINS)))  # those not measured keep their place
    p_value = alone["accuracy"].interval.p_value
    assert alone["accuracy"].p_value == pytest.approx(5 * p_value)
    assert alone["ood"].status == "inconclusive"


def test_minority_classes_are_the_papers_or_else_the_rarest(complete):
    for classes, minority in (("MEL", "BCC", "AKIEC"), ["BCC", "AKIEC"]), ("abcd", ["d", "b", "a"]):
        images = dict(zip(classes, (30, 20, 40, 10), strict=False))
        counts = {name: {"train": count} for name, count in images.items()}
        run = run_of(settings=SETTINGS | {"classes": classes, "class_counts": counts})
        assert run.minority == minority
    # the paper's models both separate B-Box-70 perfectly, and it claims nothing of other sets
    assert complete.claimed_sets == ["b_box", "photographs", "derm_skin"]


def test_a_mean_over_parts_needs_every_part_of_a_trial():
    rows = [*rows_of("ood", GAINS[:3]), *rows_of("ood", GAINS[:2], dataset="photographs")]
    parts = [("ood_detection", name, "odin", "auroc") for name in ("boxes", "photographs")]
    differences = run_of(rows).differences(parts, "proposed", "vanilla")
    assert differences == pytest.approx({0: 0.04, 1: 0.05})
    lost = [row for row in of_all(GAINS) if (row.trial, row.model) != (2, "vanilla")]
    verdict = verdicts(run_of(lost))["accuracy"]  # a trial needs both models
    assert (list(verdict.differences), verdict.status) == ([0, 1, 3, 4], "inconclusive")


def diverging(model, trials, experiment="generalization"):
    return [
        Result(experiment, trial, model, "validation", "", "diverged", 1.0)
        for trial in range(5, 5 + trials)
    ]


LOSSES = [-gain for gain in GAINS]


@pytest.mark.parametrize(
    ("differences", "proposed", "vanilla", "status"),
    [
        (GAINS, 0, 0, "supported"),
        (GAINS, 1, 0, "inconclusive"),
        (GAINS, 2, 1, "inconclusive"),
        (GAINS, 1, 2, "supported"),
        (LOSSES, 5, 0, "contradicted"),
    ],
)
def test_a_gain_of_the_trials_that_did_not_diverge_supports_no_claim(
    differences, proposed, vanilla, status
):
    lost = [*diverging("proposed", proposed), *diverging("vanilla", vanilla)]
    judged = verdicts(run_of([*of_all(differences), *lost]))
    assert judged["accuracy"].status == status
    assert judged["ood"].status != "inconclusive"  # of other models
    lost = diverging("proposed", 1, "ood_detection")  # which judge unseen classes, too
    judged = verdicts(run_of([*of_all(GAINS), *lost]))
    assert judged["new_classes"].status == judged["ood"].status == "inconclusive"
    assert judged["accuracy"].status == "supported"


FPR = paired("ood", 0.381, 0.899, metric="fpr_at_tpr95", estimate=0.596)


HARMFUL = [  # and the claims of whose family each is
    (paired("accuracy", -0.2, -0.1), [1]),
    (paired("accuracy", 0.1, 0.2, detector="msp", metric="aurc"), [1]),
    (paired("accuracy", -0.2, -0.1, dataset="policy_test", detector="policy/0.1",
            metric="coverage"), [1]),
    (paired("accuracy", -0.2, -0.1, experiment="ood_detection"), [1]),
    (paired("minority", -0.2, -0.1, metric="sensitivity/NV"), [1]),
    (paired("minority", -0.2, -0.1), [1, 2]),
    (paired("ranking", 0.1, 0.2, metric="aurc"), [3]),
    (paired("ood", -0.2, -0.1, dataset="histology"), [4]),
    (paired("new_classes", -0.2, -0.1, dataset="unseen/BKL"), [5]),
]  # fmt: skip


@pytest.mark.parametrize(("row", "claims"), HARMFUL)
def test_every_metric_of_the_family_of_a_claim_can_be_a_harm(row, claims):
    others = [row._replace(baseline="detached"), row._replace(model="detached")]
    ((_, numbers),) = harms_of(verdicts(run_of(of_all(MIXED), [row, *others])))
    assert numbers == claims


def test_harms_are_listed_worst_first_with_the_values_of_each_trial():
    rows = [paired("ood", -0.2, -0.1), FPR, paired("accuracy", -0.4, -0.2)]
    results = [*of_all(MIXED), *rows_of("ood", (0.6, 0.7), metric="fpr_at_tpr95")]
    run = run_of(results, rows)
    first, second, third = texts(table(run, "Every harm, and how harms are judged"))
    assert first[2:] == ["+59.6 points", "(38.1 to 89.9)", "(no interval)", "+60.0, +70.0"]
    assert (second[0], third[0]) == ("balanced accuracy", "AUROC of ODIN on boxes")
    rows = [paired("ood", dataset="histology"), paired("ood", -0.1, 0.1)]
    assert unjudged_sets(verdicts(run_of(of_all(MIXED), rows))) == ["histology"]


@pytest.mark.parametrize(
    ("metric", "bounds", "effect"),
    [
        ("spearman", (0.05, 0.15), "better"),
        ("spearman", (-0.02, 0.22), "undecided"),
        ("spearman", (-0.3, -0.1), "worse"),
        ("spearman", (), "unknown"),
        ("spearman", (0.0, 0.2), "undecided"),
        ("detection_error", (0.05, 0.15), "worse"),
        *((metric, (-0.3, -0.1), "better") for metric in ("fpr_at_tpr95", "aurc", "errors")),
        ("risk_at_coverage/0.8", (-0.3, -0.1), "better"),
    ],
)
def test_only_an_interval_that_excludes_zero_decides(metric, bounds, effect):
    assert effect_of(paired("ranking", *bounds, metric=metric)) == effect
    assert effect_of(None) == "unknown"


def test_trainings_that_end_while_they_learn_stand_beside_their_verdict():
    """A curve counts on the monitored set, by a line through the last quarter of its epochs."""

    def curve(trial, model, *values):
        for (epoch, value), part in product(enumerate(values, start=1), ("validation", "train")):
            shown = value if part == "validation" else 0.9
            yield Epoch("generalization", trial, model, epoch, part, 1.0, None, 0.5, shown, *NONE)

    histories = [
        # of three points, a line rises by the last less the first
        *curve(0, "proposed", *[0.2] * 9, 0.6, 0.58, 0.611),
        *curve(1, "proposed", *[0.2] * 9, 0.6, 0.58, 0.609),
        *curve(2, "proposed", *[0.2] * 9, 0.6, 0.75, 0.6),
        *curve(0, "vanilla", 0.5, 0.7, 0.6, 0.5),
        *curve(1, "vanilla", 0.5),
    ]
    run = run_of(of_all(GAINS), histories=histories)
    verdict = verdicts(run)["accuracy"]
    assert verdict.learning == {"proposed": 1, "vanilla": 0}
    assert verdicts(run)["ood"].learning == {"proposed": 0, "vanilla": 0}
