"""`for_each`: a threshold for each value, against the same policy on the cases of one value."""

import math
from dataclasses import replace

import numpy as np
import pytest
from commands import call
from policies import cases_of, certify, drawn_cases, outputs
from scipy import stats

from misgiving import Deferral
from misgiving.deferral.planning import plan_values
from misgiving.deferral.reasons import NONE_FOR_VALUE
from misgiving.deferral.sentences import certificate_sentences
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import limits_of_ranks, probability_of_reaching
from misgiving.errors import DataError, UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.predictions.record import Predictions
from misgiving.report.evaluation import write_report

UNUSED = drawn_cases(20, 1000)
SITES = ("A", "B", "C", "")
TARGETS = Targets(max_error=0.1, for_each="site", max_ood_false_alarms=None)


def cases_by_value(counts, seed, *, tied=False):
    """Uniform scores, and risks that grow from value to value; with the value of each."""
    random, worst = np.random.default_rng(seed), np.linspace(0.2, 0.9, len(counts))
    values = np.repeat(np.arange(len(counts)), counts)
    scores = random.random(len(values))
    scores = np.ceil(scores * 5) / 5 if tied else scores
    wrong = random.random(len(values)) < worst[values] * (1 - scores) ** 2
    labels = random.integers(3, size=len(values))
    cases = cases_of(scores, random.normal(size=len(values)), wrong, labels=labels)
    return cases, [f"v{value:02}" for value in values], worst


def missed(certificate, worst, *, tied=False):
    """For each value, True where more than a tenth of what its threshold accepts is wrong."""
    is_missed, grid = [], np.arange(1, 6) / 5
    for part, of_value in zip(certificate.by_value.values(), worst, strict=True):
        at = part.accept_threshold
        if at == math.inf:
            is_missed.append(False)
        else:
            risk = ((1 - grid[grid >= at]) ** 2).mean() if tied else (1 - max(at, 0.0)) ** 2 / 3
            is_missed.append(bool(of_value * risk > 0.1))
    return is_missed


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("counts", [(300, 80), (200, 150, 100, 60, 40, 30, 20, 10, 3)])
@pytest.mark.parametrize("simultaneous", [True, False])
@pytest.mark.usefixtures("as_in_use")
def test_thresholds_hold_together_or_each_alone(counts, tied, simultaneous):
    targets = replace(TARGETS, simultaneous=simultaneous)
    draws, rows = 120 if len(counts) == 2 else 60, []
    for seed in range(draws):
        cases, values, worst = cases_by_value(counts, seed, tied=tied)
        rows.append(missed(certify(UNUSED, cases, targets, values=values), worst, tied=tied))
    limit = stats.binom.ppf(1 - 1e-4, draws, 0.05)
    assert np.any(rows, axis=1).sum() <= limit or not simultaneous
    assert np.sum(rows, axis=0).max() <= limit


def test_the_joint_level_is_spent_on_any_value_that_passes():
    """Each case is wrong with the target's probability, so any certified rank is a mistake."""
    ranks, random = ((20, 40, 60), (35, 70), (100,)), np.random.default_rng(0)
    limits = limits_of_ranks(ranks, 0.1, 0.05)
    reached = np.zeros(20_000, dtype=bool)
    for of_value, allowed in zip(ranks, limits, strict=True):
        wrong = (random.random((20_000, of_value[-1])) < 0.1).cumsum(axis=1)
        reached |= (wrong[:, np.array(of_value) - 1] <= allowed).any(axis=1)
    assert 0.02 < reached.mean() <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 20_000)
    each = [probability_of_reaching(*pair, 0.1) for pair in zip(ranks, limits, strict=True)]
    assert reached.mean() == pytest.approx(1 - math.prod(1 - x for x in each), abs=0.007)


def images(count, seed):
    logits, labels = outputs(count, seed, signal=1.8)
    random = np.random.default_rng(seed)
    return Predictions.of(
        {
            **{f"logit_{at}": column for at, column in enumerate(logits.T)},
            "label": [str(label) for label in labels],
            "id": [f"{seed}-{row}" for row in range(count)],
            "site": random.choice(SITES, size=count, p=(0.5, 0.3, 0.1, 0.1)),
            "age": random.integers(20, 90, size=count).astype(str),
        }
    )


TUNING, CALIBRATION, NEW = images(150, 1), images(900, 2), images(400, 3)


def fitted(**parameters):
    parameters = {"max_error": 0.1, "max_ood_false_alarms": None} | parameters
    return Deferral(**parameters).fit(TUNING, CALIBRATION)


def in_site(predictions, site):
    return predictions.select(np.flatnonzero(np.array(predictions.metadata["site"]) == site))


@pytest.mark.parametrize("guarantee", ["confident", "average"])
@pytest.mark.parametrize("site", ["A", "B"])
def test_each_value_alone_has_the_decisions_of_a_policy_on_its_own_cases(guarantee, site):
    deferral = fitted(for_each="site", simultaneous=False, guarantee=guarantee)
    own = Deferral(max_error=0.1, max_ood_false_alarms=None, guarantee=guarantee)
    own.fit(TUNING, in_site(CALIBRATION, site))
    part = deferral.certificate_.by_value[site]
    assert part.accept_threshold == own.certificate_.accept_threshold < math.inf
    assert (part.accepted, part.wrong) == (own.certificate_.accepted, own.certificate_.wrong)
    together, alone = deferral.decide(NEW), own.decide(in_site(NEW, site))
    here = np.array(NEW.metadata["site"]) == site
    assert together.decisions[here].tolist() == alone.decisions.tolist()
    assert "accept" in alone.decisions


def test_the_predicted_class_is_a_value_that_each_image_has():
    deferral = fitted(for_each="predicted_class", simultaneous=False)
    decided = deferral.decide(NEW)
    limits = [part.accept_threshold for part in deferral.certificate_.by_value.values()]
    assert len({*limits}) == 3
    reached = decided.acceptance_score >= np.array(limits)[decided.predicted]
    assert ((decided.decisions == "accept") == (reached & decided.acceptable)).all()


def test_a_value_without_cases_is_deferred_and_says_so():
    deferral = fitted(for_each="site", simultaneous=False, max_error=0.2)
    other = replace(NEW, metadata={"site": ("D",) * 200 + ("",) * 200})
    decided = deferral.decide(other)
    assert {*decided.decisions} == {"defer"}
    reasons = {each.reason for each, ok in zip(decided, decided.acceptable, strict=True) if ok}
    assert reasons == {NONE_FOR_VALUE.format("site")}
    assert not deferral.certificate_.by_value[""].accepted  # though there were 90 such cases


def test_a_value_with_too_few_images_in_a_batch_is_deferred_on_average():
    deferral = fitted(for_each="site", guarantee="average")
    here = np.flatnonzero(np.array(NEW.metadata["site"]) == "B")
    for count, accepts in ((50, True), (49, False)):
        others = np.flatnonzero(np.array(NEW.metadata["site"]) == "A")
        decided = deferral.decide(NEW.select(np.sort(np.append(here[:count], others))))
        of_b = np.isin(decided.ids, np.array(NEW.ids)[here])
        assert ("accept" in decided.decisions[of_b]) == accepts
        assert "accept" in decided.decisions[~of_b]


def test_numbers_are_divided_at_limits():
    deferral = fitted(for_each="age:40,70", simultaneous=False)
    ages = np.array(CALIBRATION.metadata["age"], dtype=int)
    cases = {name: part.cases for name, part in deferral.certificate_.by_value.items()}
    expected = [(ages < 40).sum(), ((ages >= 40) & (ages < 70)).sum(), (ages >= 70).sum()]
    assert cases == dict(zip(("below 40", "40 to below 70", "70 or more"), expected, strict=True))


def test_the_certificate_has_all_cases_and_the_price_of_other_ways():
    each, joint = (fitted(for_each="site", simultaneous=way).certificate_ for way in (False, True))
    assert each.accepted_with_one == joint.accepted_with_one == fitted().certificate_.accepted
    assert (each.accepted_otherwise, joint.accepted_otherwise) == (joint.accepted, each.accepted)
    assert joint.accepted < each.accepted == sum(x.accepted for x in each.by_value.values())
    assert len(each.scores) == each.cases == 900
    assert each.accepted == each.accepted_cases.sum()
    assert each.wrong == np.array(each.errors)[each.accepted_cases].sum()


def test_a_policy_for_each_value_is_saved_stated_and_reported(tmp_path):
    deferral = fitted(for_each="site")
    deferral.save(tmp_path / "policy")
    again = Deferral.load(tmp_path / "policy")
    assert again.decide(NEW) == deferral.decide(NEW)
    assert again.get_params() == deferral.get_params()
    text = " ".join(certificate_sentences(deferral, brief=True))
    part = deferral.certificate_.by_value["A"]
    assert f"By site: A {part.accepted} of {part.cases}" in text
    assert "of the accepted predictions of each site" in text
    evaluation = evaluate(NEW, deferral, ood={"far": images(60, 9)})
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    assert "each value has its own threshold" in page


def test_predict_takes_the_value_from_a_column(tmp_path):
    fitted(for_each="site").save(tmp_path / "policy")
    NEW.write(tmp_path / "new.csv")
    call(
        "predict",
        tmp_path / "policy",
        tmp_path / "new.csv",
        "--out",
        tmp_path / "out.csv",
        cache=tmp_path,
    )
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert (
        sum(",accept," in row for row in rows)
        == (fitted(for_each="site").decide(NEW).decisions == "accept").sum()
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"for_each": "site", "class_max_miss": {"0": 0.1}}, "must go with `max_error` alone"),
        ({"for_each": "site", "max_deferred": 0.1}, "must go with `max_error` alone"),
        ({"for_each": "age:70,40"}, "growing numbers"),
        ({"for_each": "age:old"}, "growing numbers"),
    ],
)
def test_parameters_that_cannot_go_with_values_are_refused(parameters, message):
    with pytest.raises(UsageError, match=message):
        fitted(**parameters)


def test_a_plan_has_what_each_value_certifies_if_no_case_is_wrong():
    """With n cases, none is wrong with a probability of (1 - rate)^n."""
    values, units = ["A"] * 80 + ["B"] * 30 + [""] * 5, np.arange(115)
    rows = plan_values(values, units, TARGETS)
    assert [row[:2] for row in rows] == [("A", 80), ("B", 30)]
    for _, cases, alone, together in rows:
        assert (1 - alone) ** cases == pytest.approx(0.025)
        assert 1 - (1 - (1 - together) ** cases) ** 2 == pytest.approx(0.025)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"need the column 'scanner' .* these have site, age"):
        fitted(for_each="scanner")
    with pytest.raises(DataError, match="need the column 'site'"):
        fitted(for_each="site").decide(replace(NEW, metadata={}))
