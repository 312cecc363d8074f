import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.label_shift import complete_shares, estimated_error
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError, UsageError

ALL = {"NV": 0.7, "MEL": 0.2, "BCC": 0.1}


def test_with_the_class_shares_of_the_cases_the_estimate_is_the_observed_error():
    wrong, right, cases = np.array([3, 1]), np.array([20, 2]), np.array([30, 10])
    assert estimated_error(wrong, right, cases, cases / 40) == pytest.approx(4 / 26)


def test_a_class_that_occurs_twice_as_often_counts_twice():
    wrong, right, cases = np.array([3, 1]), np.array([20, 2]), np.array([30, 10])
    shares = np.array([30, 20]) / 50
    assert estimated_error(wrong, right, cases, shares) == pytest.approx((3 + 2) / (23 + 6))


def test_classes_that_are_not_named_share_the_rest_as_in_the_cases():
    shares = complete_shares({"MEL": 0.1}, ["NV", "MEL", "BCC"], cases=np.array([60, 30, 20]))
    np.testing.assert_allclose(shares, [0.9 * 0.75, 0.1, 0.9 * 0.25])


@pytest.mark.parametrize(
    ("prevalence", "cases"),
    [({"a": 0.7, "b": 0.4}, [5, 5, 5]), ({"a": 0.3, "b": 0.3, "c": 0.3}, [5, 5, 5]),
     ({"a": 0.5}, [5, 0, 0])],
    ids=["above 1", "all named, below 1", "no other cases"],
)  # fmt: skip
def test_shares_that_cannot_sum_to_one_are_refused(prevalence, cases):
    with pytest.raises(UsageError, match="prevalence` sums to"):
        complete_shares(prevalence, ["a", "b", "c"], cases=np.array(cases))


def test_a_class_without_cases_is_refused():
    with pytest.raises(DataError, match=r"prevalence` of b: .*no calibration cases"):
        complete_shares({"b": 0.5}, ["a", "b"], cases=np.array([5, 0]))


@pytest.mark.parametrize("max_ood_false_alarms", [None, 0.05], ids=["no rule", "OOD rule"])
def test_the_bound_equals_scalar_loops(drawn_cases, classes, max_ood_false_alarms):
    tuning, cases = drawn_cases(300, 1), drawn_cases(400, 2)
    targets = Targets(max_error=0.2, max_ood_false_alarms=max_ood_false_alarms, prevalence=ALL)
    found = certify_thresholds(tuning, cases, targets, classes=classes)
    level, most_wrong, least_right = 0.05 / (2 * 3 * found.thresholds_tried), 0.0, 0.0
    for label, share in enumerate(ALL.values()):
        n = right_n = int((cases.labels == label).sum())
        k, right, of_right = 0, 0, level
        for s, u, w, y in zip(
            cases.scores, cases.ood_scores, cases.wrong, cases.labels, strict=True
        ):
            reached = y == label and s >= found.accept_threshold
            k += reached and w
            right += reached and not w and (max_ood_false_alarms is None or u > found.ood_threshold)
            if max_ood_false_alarms is not None:
                right_n -= y == label and u == found.ood_threshold
        of_right = level / (1 if max_ood_false_alarms is None else 400)
        most_wrong += share * stats.beta.isf(level, k + 1, n - k)
        least_right += share * stats.beta.ppf(of_right, right, right_n - right + 1)
    assert found.label_shift.bound == pytest.approx(most_wrong / (most_wrong + least_right))
    assert found.label_shift.estimate < found.label_shift.bound


def test_where_nothing_is_accepted_there_is_no_error(drawn_cases, classes):
    targets = Targets(max_error=0.001, prevalence=ALL)
    found = certify_thresholds(drawn_cases(50, 1), drawn_cases(50, 2), targets, classes=classes)
    assert (found.label_shift.estimate, found.label_shift.bound) == (None, None)


def test_the_estimate_of_a_policy_counts_only_what_it_accepts(classes):
    half = np.arange(200) % 2 == 0
    cases = ScoredCases(scores=np.where(half, 0.9, 0.1), wrong=~half, labels=np.where(half, 0, 1))
    targets = Targets(max_error=0.1, prevalence={"NV": 0.5, "MEL": 0.5})
    found = certify_thresholds(cases, cases, targets, classes=classes)
    assert found.label_shift.estimate == 0.0
