from dataclasses import replace

import numpy as np
import pytest
from policies import CLASSES, certificate_of, drawn_cases
from scipy import stats

from misgiving.deferral.certificate import simultaneous_bounds
from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import (
    CertificationPlan,
    candidate_thresholds,
    counts_by_threshold,
)

WORST = 0.6
OOD = Targets(max_error=0.1, confidence=0.9, max_ood_false_alarms=0.1)


@pytest.fixture(scope="module")
def certificate():
    return certificate_of(OOD)


def test_every_operating_point_is_counted_and_bounded_as_by_scalar_loops(certificate):
    cases, points = drawn_cases(400, 2), certificate.operating_points
    for point in points:
        rows = [
            wrong
            for score, ood_score, wrong in zip(
                cases.scores, cases.ood_scores, cases.wrong, strict=True
            )
            if score >= point.threshold and ood_score > certificate.ood_threshold
        ]
        assert (point.accepted, point.wrong) == (len(rows), sum(rows))
        assert point.coverage == len(rows) / 400
        assert point.error == sum(rows) / len(rows)
        level = stats.binom.cdf(sum(rows), len(rows), point.bound)
        assert level == pytest.approx(0.1 / len(points), rel=1e-6)


def test_an_operating_point_that_accepts_nothing_has_the_bound_1(certificate):
    strict, _ = replace(
        certificate,
        thresholds=(0.9, -np.inf),
        scores=(0.5, 0.4),
        errors=(False, True),
        kept=(True, True),
    ).operating_points
    assert (strict.accepted, strict.error, strict.bound) == (0, None, 1.0)


MANY = candidate_thresholds(drawn_cases(300, 10**6).scores)


@pytest.mark.parametrize(
    ("thresholds", "draws", "size", "confidence"),
    [
        (np.array([0.6, 0.4, 0.2, -np.inf]), 5000, 200, 0.4),
        *(
            pytest.param(MANY, 10_000, size, 0.95, marks=pytest.mark.soak)
            for size in (60, 300, 1000)
        ),
    ],
)
def test_no_bound_is_exceeded_in_more_draws_than_the_confidence_allows(
    thresholds, draws, size, confidence
):
    random = np.random.default_rng(0)
    scores = random.random((draws, size))
    wrong = random.random((draws, size)) < WORST * (1 - scores) ** 2
    mistaken, accepted = (
        counts_by_threshold(scores, counted, thresholds) for counted in (wrong, scores >= 0)
    )
    bounds = simultaneous_bounds(mistaken, accepted, confidence=confidence)
    # Scores are uniform and the risk at s is WORST (1 - s)^2: this is the error from t on.
    true = WORST * (1 - np.maximum(thresholds, 0.0)) ** 2 / 3
    share = (true > bounds).any(axis=-1).mean()
    assert share <= 1 - confidence
    assert share > 0.2 or confidence > 0.4


def test_the_acceptance_interval_covers_the_true_rate_whichever_threshold_was_chosen(certificate):
    targets = replace(OOD, confidence=0.95)
    tuning = drawn_cases(300, 10**6)
    plan = CertificationPlan.from_tuning(tuning, targets, classes=CLASSES, cases=150)
    drawn = drawn_cases(300 * 150, 0)[np.arange(300 * 150).reshape(300, 150)]
    counts = plan.count(drawn)
    thresholds = plan.thresholds[plan.loosest_certified(counts)]
    missed = 0
    for row, (threshold, limit) in enumerate(zip(thresholds, counts.ood_limit, strict=True)):
        low, high = replace(
            certificate,
            accept_threshold=float(threshold),
            thresholds=tuple(plan.thresholds.tolist()),
            scores=tuple(drawn.scores[row].tolist()),
            kept=tuple(counts.kept[row].tolist()),
        ).acceptance_interval(level=0.1)
        true = (1 - max(threshold, 0.0)) * stats.norm.sf(limit)
        missed += not low <= true <= high
    assert missed <= 0.1 * 300
    assert (thresholds > 0).sum() > 50


def test_the_acceptance_interval_excludes_the_limit_case_and_shares_the_level(certificate):
    alone = replace(certificate, ood_threshold=None).acceptance_interval(level=0.1)
    ruled, accepted = certificate.acceptance_interval(level=0.1), certificate.accepted
    each = 0.1 / (len(certificate.thresholds) * 400)
    assert stats.binom.cdf(accepted, 399, ruled.upper) == pytest.approx(each / 2, rel=1e-6)
    assert ruled.lower < alone.lower < accepted / 400 < alone.upper < ruled.upper
