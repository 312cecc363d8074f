from itertools import product

import pytest
from fabricated import Epoch, Result, interval, ood, policies, policy, run_of
from pages import findings, read, texts

from misgiving.reproduction.report.findings import (
    by_effect,
    collapse_of,
    convergence_of,
    main_target,
    ood_shares,
    targets_of,
)
from misgiving.reproduction.report.run import select

POLICY = "policy/0.1"
TARGETS = "Every target, by model"


OWN = 1e-4
VANILLA = (0.4, 0.5, 0.6, 0.8)  # its mean final value is 0.8, so that the level is 0.76
FAST, SLOW, NEVER = (0.5, 0.77, 0.78, 0.8), VANILLA, (0.1, 0.2, 0.2, 0.2)


def test_collapse_is_counted_on_the_tuning_set_after_the_last_epoch():
    def epoch(trial, number, ratio, part="validation", model="mse"):
        place = ("generalization", trial, model, number, part)
        return Epoch(*place, 1.0, 1.0, 0.5, 0.5, 0.1, ratio, 0.02)

    others = [epoch(0, 4, 0.0), epoch(0, 5, 0.0, "train"), epoch(0, 5, 0.0, model="proposed")]
    run = run_of(histories=[*others, epoch(0, 5, 0.02), epoch(1, 5, 0.4)])
    assert collapse_of(run) == ([0.02, 0.4], [0.02, 0.02])
    assert findings(run, "constant in 1 of 2 trials")
    assert findings(run_of(), "Collapse of the mse estimate is not measured")


def epochs(experiment, trial, model, values, part="validation"):
    return [
        Epoch(experiment, trial, model, number, part, 1.0, 1.0, 0.5, value, None, None, None)
        for number, value in enumerate(values, start=1)
    ]


def trainings(proposed=FAST, *, rates=(), trials=3):
    """Histories of both models at the protocol's own rate, and at others as pairs of curves."""
    pairs = [("generalization", (VANILLA, proposed))]
    pairs += [(f"learning_rate/{rate}", curves) for rate, curves in rates]
    return [
        row
        for trial, (experiment, curves) in product(range(trials), pairs)
        for model, values in zip(("vanilla", "proposed"), curves, strict=True)
        for row in epochs(experiment, trial, model, values)
    ]


def convergence(histories, results=()):
    return convergence_of(run_of(results, histories=histories))


def epochs_of(reached, rate, model):
    epochs = select(reached.runs, rate=rate, model=model)["epochs"]
    return epochs.astype(object).where(epochs.notna(), None).to_list()


def test_epochs_are_counted_on_the_tuning_set_until_the_level_is_first_reached():
    rows = [*epochs("generalization", 0, "vanilla", (0.9, 0.6))]
    rows += epochs("generalization", 1, "vanilla", (0.1, 0.8))
    assert convergence(rows).level == pytest.approx(0.95 * 0.7)  # of its mean final value
    assert convergence([]) is None
    other = epochs("generalization", 0, "proposed", (1.0,) * 4, part="train")
    reached = convergence([*trainings(FAST), *other])
    assert epochs_of(reached, OWN, "vanilla") == [4, 4, 4]
    assert epochs_of(reached, OWN, "proposed") == [2, 2, 2]
    assert epochs_of(convergence(trainings(NEVER)), OWN, "proposed") == [None] * 3
    place = ("learning_rate/0.001", 1, "vanilla", "validation", "")
    rows = trainings(rates=[("0.001", (FAST, FAST))])
    reached = convergence(rows, [Result(*place, "diverged", 1.0)])  # after it passed the level
    assert epochs_of(reached, 1e-3, "vanilla") == [2, None, 2]
    assert reached.ends.loc["vanilla"].to_list() == [3, 2, 1]


def test_pairs_of_trials_are_counted_by_who_reaches_the_level():
    for pair, faster, only_proposed in (
        ((NEVER, NEVER), (0, 0), (0, 3)),
        ((SLOW, SLOW), (0, 3), (0, 3)),
        ((NEVER, FAST), (3, 3), (3, 3)),
        ((FAST, NEVER), (0, 3), (0, 3)),
    ):
        reached = convergence(trainings(rates=[("0.001", pair)]))
        counts = reached.pairs.loc[1e-3]
        assert (counts["faster"], counts["decided"]) == faster
        assert (counts["only_proposed"], counts["pairs"]) == only_proposed
    rates = [("0.001", (NEVER, FAST)), ("3e-05", (SLOW, FAST))]
    assert convergence(trainings(rates=rates)).pairs.index.to_list() == [3e-5, 1e-4, 1e-3]
    run = run_of(histories=trainings(FAST, rates=rates[:1], trials=6))
    (said,) = findings(run, "reaches a balanced accuracy")
    assert "only the proposed model trains to that level in 6 of 6 pairs of trials" in said
    assert said.endswith("These are counts over 6 trials without a test.")


SCORED = Result("generalization", 0, "proposed", "validation", "msp", "aurc", 0.1)
BESIDE_MSP = {"baseline": "msp", "dataset": "validation"}


@pytest.mark.parametrize(
    ("bounds", "effect", "words"),
    [
        ((-0.03, -0.01), "better", "ranks errors better than its MSP: AURC"),
        ((0.01, 0.03), "worse", "ranks errors worse than its MSP: AURC +0.020"),
        ((), "unknown", "cannot be judged: AURC"),
    ],
)
def test_a_score_beats_msp_only_where_the_paired_interval_says_so(bounds, effect, words):
    rows = [
        interval("predicted_loss", "aurc", *bounds, **BESIDE_MSP),
        interval("predicted_loss", "aurc", -0.03, -0.01, model="mse", **BESIDE_MSP),
    ]
    run = run_of([SCORED], rows)
    effects = by_effect(run.paired(baseline="msp"))
    assert "proposed" in [row.model for row in effects[effect]]
    assert findings(run, words)
    elsewhere = run_of([SCORED], [row._replace(baseline="vanilla") for row in rows])
    assert len(findings(elsewhere, "was not compared with MSP")) == 3


@pytest.mark.parametrize(
    ("errors", "bounds", "status", "words"),
    [
        ((0.05, 0.12), (0.02, 0.1), "met", "the whole interval meets the target"),
        ((0.05, 0.12), (0.11, 0.2), "missed", "exceeds the target, which was missed"),
        ((0.05, 0.12), (0.02, 0.11), "inconclusive", "the interval includes the target"),
        ((0.05, 0.12), (), "no_interval", "meets the target in 1 of 2 trials"),
        ((None,), (), "nothing_accepted", "its error is unknown"),
    ],
)
def test_a_target_is_met_or_missed_only_where_the_whole_interval_says_so(
    errors, bounds, status, words
):
    rows = [row for k, value in enumerate(errors) for row in policy(k, error=value)]
    run = run_of(rows, [interval(POLICY, "error_among_accepted", *bounds)])
    assert targets_of(run)[0].status == status
    assert findings(run, words)
    (target,) = targets_of(run_of([*policy(0, error=0.041), *policy(1, smallest=0.2)]))
    counts = (len(target.certified), target.errors, target.smallest)
    assert (target.status, *counts) == ("no_interval", 1, [0.041], [0.2])


def test_a_target_is_judged_by_one_image_of_each_group_as_it_is_certified():
    rows = policy(0, error=0.12)
    drawn = rows[-1]._replace(metric="error_per_group", value=0.07)
    bounds = {"error_among_accepted": (0.11, 0.13), "error_per_group": (0.05, 0.09)}
    run = run_of([*rows, drawn], [interval(POLICY, name, *ends) for name, ends in bounds.items()])
    (target,) = targets_of(run)
    assert (target.errors, target.status) == ([0.07], "met")
    heads, line = texts(read(run).tables[TARGETS])
    first, second = (at for at, name in enumerate(heads) if name.startswith("Errors among"))
    assert "one image of each group" in heads[first]
    assert "all images" in heads[second]
    assert (line[first], line[second]) == ("7.0", "12.0")


def test_the_main_target_is_one_in_ten_of_the_proposed_model_or_else_the_plainest():
    main = main_target(targets_of(run_of(policies())))
    assert (main.model, main.target) == ("proposed", 0.1)
    rows = [*policy(0, "vanilla"), *policy(0, "vanilla", 0.2)]
    assert main_target(targets_of(run_of(rows))).model == "vanilla"


def test_the_sets_stand_by_the_share_of_ood_images_that_is_detected():
    run = run_of(ood())
    model, shares = ood_shares(run)
    assert model == "proposed"
    assert list(shares) == ["validation", "boxes", "photographs", "histology"]
    assert findings(run, "called OOD by mistake (at most 5 % in 3 of 3 trials")
