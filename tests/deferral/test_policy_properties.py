"""Laws of deferral policies, with guarantees recomputed from the cases."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from policies import (
    CLASSES,
    cases_of,
    certificate_of,
    certify,
    outcomes,
    policy_with,
    with_errors,
    write,
)
from policies import decided as decided_by
from scipy import stats
from scipy.special import expit
from strategies import heights

from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.errors import DataError

SCORES = 40  # distinct, so that many cases are tied
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0.01, 0.99)


def drawn_cases(seed, count, worst):
    """Whole scores, the highest of which are seldom wrong; random labels and OOD scores."""
    random = np.random.default_rng(seed)
    scores, labels = random.integers(SCORES, size=count), random.integers(3, size=count)
    wrong = random.random(count) < worst * (1 - scores / SCORES) ** 2
    cases = cases_of(scores / SCORES, random.permutation(count) / 1.0, wrong, labels=labels)
    return replace(cases, scores=scores / 1.0, error_probabilities=random.random(count))


drawn_sets = st.tuples(seeds, st.integers(20, 100), st.integers(60, 200), st.floats(0, 0.6))
targets = st.fixed_dictionaries(
    {
        "max_error": st.floats(0.1, 0.6),
        "confidence": st.floats(0.5, 0.95),
        "class_max_miss": st.dictionaries(
            st.sampled_from(CLASSES), st.floats(0.1, 0.5), max_size=2
        ),
        "max_silent_error": st.none() | st.floats(0.05, 0.5),
        "max_ood_false_alarms": st.none() | st.floats(0.1, 0.5),
        "simultaneous": st.booleans(),
    }
)


def tuning_and_calibration(drawn):
    seed, tuning, cases, worst = drawn
    return drawn_cases(seed, tuning, worst), drawn_cases(seed + 1, cases, worst)


def calibrated(both, asked):
    try:
        return certify(*both, asked)
    except DataError:  # too few cases for what is asked; its own tests see to that
        reject()


@given(drawn_sets, targets)
def test_every_target_of_an_accepting_policy_passes_its_binomial_test(drawn, asked):
    both, asked = tuning_and_calibration(drawn), Targets(**asked)
    found, cases = calibrated(both, asked), both[1]
    assume(found.accepted)
    reached = cases.scores >= found.accept_threshold
    familiar = found.ood_threshold is None or cases.ood_scores > found.ood_threshold
    accepted = reached & familiar
    wrong = (accepted & cases.wrong).sum()
    assert (found.accepted, found.wrong) == (accepted.sum(), wrong)
    tests = [(wrong, accepted.sum(), asked.max_error, asked.level_of_error)]
    for name, rate in asked.class_max_miss.items():
        of_class = cases.labels == CLASSES.index(name)
        missed = (reached & cases.wrong & of_class).sum()
        tests.append((missed, of_class.sum(), rate, asked.level_of_misses))
    if asked.max_silent_error is not None:
        silent = (reached & cases.wrong).sum()  # those that the OOD limit keeps out count, too
        tests.append((silent, len(cases), asked.max_silent_error, asked.level_of_misses))
    for count, among, rate, level in tests:
        assert stats.binom.cdf(count, among, rate) <= level * (1 + 1e-9)


@given(drawn_sets, targets, heights(SCORES, largest=1e100), st.integers(1, 5))
def test_a_strictly_increasing_map_of_the_scores_moves_the_threshold_along_and_nothing_else(
    drawn, asked, steps, factor
):
    def mapped(cases):
        scores = steps[cases.scores.astype(int)]
        return replace(cases, scores=scores, ood_scores=factor * cases.ood_scores - 7)

    # the lowest float above one of the scores is not another one of them
    assume((np.nextafter(steps[:-1], np.inf) < steps[1:]).all())
    both, asked = tuning_and_calibration(drawn), Targets(**asked)
    plain = calibrated(both, asked)
    changed = calibrated([mapped(cases) for cases in both], asked)
    at, limit = plain.accept_threshold, plain.ood_threshold
    moved = changed.accept_threshold
    accepted = [score >= at for score in plain.scores]
    assert [score >= moved for score in changed.scores] == accepted
    assert (at == math.inf) == (moved == math.inf)
    assert changed.ood_threshold == (None if limit is None else factor * limit - 7)
    assert changed.scores == tuple(steps[int(score)] for score in plain.scores)
    moved = ("accept_threshold", "ood_threshold", "ood_scores", "scores", "thresholds")
    assert replace(changed, **{name: getattr(plain, name) for name in moved}) == plain


@given(drawn_sets, targets, seeds, st.integers(0, 19))
def test_the_order_of_cases_changes_nothing_and_one_more_wrong_answer_never_loosens_a_policy(
    drawn, asked, seed, at
):
    (tuning, cases), asked = tuning_and_calibration(drawn), Targets(**asked)
    random, found = np.random.default_rng(seed), calibrated((tuning, cases), asked)
    shuffled = [each[random.permutation(len(each))] for each in (tuning, cases)]
    assert calibrated(shuffled, asked) == found
    worse = with_errors(cases, cases.wrong | (np.arange(len(cases)) == at))
    before, after = found.accept_threshold, calibrated((tuning, worse), asked).accept_threshold
    assert before <= after


BASE = replace(
    certificate_of(Targets(max_error=0.1), 20, 20),
    thresholds=(0.5, -math.inf),
    scores=(0.5,),
    errors=(False,),
    kept=(True,),
    error_probabilities=(0.5,),
)


def policy(*, accept, limit=None, ood_scores=(), **changes):
    """The certificate of a policy with any thresholds and calibration OOD scores."""
    ood = {"ood_threshold": limit, "ood_rank": None if limit is None else 1}
    ood["ood_scores"] = tuple(sorted(ood_scores))
    return replace(BASE, accept_threshold=accept, **ood, **changes)


levels = st.integers(-2, 2).map(lambda level: level / 2)  # few, so that many are met exactly
anything = levels | st.sampled_from([np.nan, np.inf, -np.inf])
thresholds = st.sampled_from([-math.inf, math.inf]) | levels
facts = st.fixed_dictionaries(
    {
        "accept": thresholds,
        "limit": st.none() | levels,
        "ood_scores": st.lists(levels, min_size=1, max_size=9),
    }
)
images = st.lists(st.tuples(anything, anything, shares), min_size=1, max_size=12)


@given(facts, images, st.data())
def test_nothing_is_accepted_that_is_not_finite_acceptable_at_the_threshold_and_above_the_ood_limit(
    facing, rows, data
):
    accept, limit = facing["accept"], facing["limit"]
    marked = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    columns = np.array(rows, dtype=float).T[:2]
    verdicts = outcomes(policy(**facing), *columns, np.array(marked), accept)
    for (score, ood_score, _), acceptable, verdict in zip(rows, marked, verdicts, strict=True):
        ood = limit is not None and ood_score < limit
        familiar = limit is None or limit < ood_score < np.inf
        reached = score >= accept and math.isfinite(score)
        assert (verdict == "ood") == ood
        assert (verdict == "accept") == (reached and familiar and acceptable and not ood)


@given(facts, images, st.sampled_from(["calibrated", "msp"]))
def test_a_reason_in_terms_of_the_error_is_never_on_the_other_side_of_its_limit(
    facing, rows, score_name
):
    rule = DecisionRule(rule="balanced")  # whose predicted class may be less probable
    deferral = policy_with(policy(**facing), score=score_name, rule=rule)
    for score, ood_score, error in rows:
        decision = decided_by(deferral, score, ood_score, error)
        if "probability of error" in decision.reason and error <= 0.5:
            assert score_name == "calibrated"
            assert (error <= expit(-facing["accept"])) == (decision.decision == "accept")
        elif error > 0.5:
            assert decision.decision != "accept"


ASKED = {"class_max_miss": {"MEL": 0.2}, "max_ood_false_alarms": 0.1}
WRITTEN = {
    "several targets": Targets(max_error=0.15, **ASKED),
    "all accepted": Targets(max_error=0.9),
    "nothing accepted": Targets(max_error=0.001),
    "average": Targets(max_error=0.15, **ASKED),
    "average without a score": Targets(max_silent_error=0.001),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_policy_comes_back_from_its_file_as_it_was(tmp_path, kind):
    guarantee = "average" if "average" in kind else "confident"
    certificate = certificate_of(WRITTEN[kind], guarantee=guarantee)
    write(policy_with(certificate, ood_detector="max_logit", score="msp"), tmp_path)
    _, policy = PolicyFile.read(tmp_path)
    assert policy.certificate == certificate
    text = (tmp_path / "policy.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # has no NaN nor infinity
