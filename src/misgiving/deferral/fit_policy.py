"""Fitting of all that scores a case, on the tuning set, and then of the thresholds.

The certificate gets the price of other targets, the mean cost, and that of single classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import expit

from misgiving.calibration.apply import Calibrator, answers_of
from misgiving.calibration.fit import Fitted, fit_calibrator
from misgiving.deferral.bounds import two_sided_interval, upper_bound
from misgiving.deferral.certificate import MIN_TUNING_CASES, MOST_LIMITS, Certificate
from misgiving.deferral.certify import (
    certificate_at,
    certify_thresholds,
    count_cases,
    sorted_by_value,
)
from misgiving.deferral.guarantees import GUARANTEES, Guarantee
from misgiving.deferral.outcomes import Coarse, MeanCost
from misgiving.deferral.policy import Policy
from misgiving.deferral.sets import check_ood_detector
from misgiving.deferral.targets import DecisionRule, Targets
from misgiving.deferral.thresholds import ScoredCases, meets_error
from misgiving.errors import DataError, Parameter
from misgiving.groups import unit_of
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, default_ood_detector
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.outputs import CONFIDENCE

LIMIT_OF_CLASS = 0.1  # suggested target of a class


def fit_policy(
    tuning: Predictions,
    detectors: FittedDetectors,
    fitted: Fitted | None,
    parameters: tuple[Targets, DecisionRule, Guarantee],
    *,
    ood_detector: str | None,
    looks: Sequence[int],
    seed: int,
) -> tuple[Policy, ScoredCases]:
    """Fit all that scores a case, and choose the targets that are in force.

    Args:
        tuning: For all that is fitted or chosen.
        detectors: Fitted on the training set.
        fitted: The calibration, where it was fitted on the tuning set before.
        parameters: Checked.
        ood_detector: Name of the OOD score; None: the default.
        looks: Numbers of cases of the planned calibrations.
        seed: Of the draw of one case from each group.

    Returns:
        A policy that accepts nothing yet, and one tuning case of each group, out of fold.

    Raises:
        DataError: The set cannot support a policy.
    """
    targets, rule, guarantee = parameters
    needs_vector = rule.rule in ("balanced", "costs") or targets.answer_level == "superclass"
    if tuning.kind == CONFIDENCE and (needs_vector or tuning.opinions):
        raise DataError(
            "costs, the rule balanced, superclasses as answers and second opinions need a "
            "probability for each class, and the predictions have an answer and its "
            "confidence; leave them out"
        )
    if fitted is None:
        answers, of_each = targets.answers(tuning.classes), None
        if targets.answer_level == "superclass":
            of_each = targets.superclass_of_each(tuning.classes)
        weights = rule.class_weights(answers, answers_of(tuning.labels, of_each))
        fitted = fit_calibrator(tuning, detectors, weights, of_each)
    finer = None
    if targets.answer == "finest":
        weights = rule.class_weights(tuning.classes, tuning.labels)
        finer = fit_calibrator(tuning, detectors, weights).calibrator
    is_chosen = ood_detector is not None
    ood_detector = ood_detector or default_ood_detector(detectors)
    check_ood_detector(ood_detector, tuning, detectors)
    if not (is_chosen or ood_detector in FEATURE_SCORES):
        targets = replace(targets, max_ood_false_alarms=None)
    chosen = tuning.one_per_group(seed=seed)
    policy = Policy(
        calibration=fitted.calibrator,
        finer=finer,
        detectors=detectors,
        rule=rule,
        ood_detector=ood_detector,
        certificate=Certificate(
            targets=targets,
            guarantee=guarantee.name,
            classes=tuning.classes,
            tuning_cases=len(chosen),
            looks=tuple(looks),
        ),
        model=tuning.model or "unnamed",
        unit=unit_of(tuning.group_columns),
        kind=tuning.kind,
        seed=seed,
    )
    check_limit(policy)
    cross_fitted = policy.judged(
        policy.score(tuning),
        probabilities=np.exp(fitted.vectors),
        predicted=fitted.predicted,
        acceptance_score=fitted.scores,
    )
    cases = ScoredCases.of(cross_fitted, tuning.labels, policy.calibration)
    return policy, cases[chosen]


def certify_policy(
    policy: Policy, tuned: ScoredCases | None, calibration: Predictions, guarantee: Guarantee
) -> Policy:
    """The policy with thresholds that are chosen and certified with these cases.

    Args:
        policy: That accepts nothing yet.
        tuned: The tuning cases; None: the cases were drawn above a limit.
        calibration: One case of each group is drawn.
        guarantee: That was asked for.

    Raises:
        DataError: The cases cannot support a policy.
    """
    cases, values, of_classes = calibration_cases(policy, calibration)
    blank = policy.certificate

    def certify(**changes: Any) -> Certificate:
        targets = replace(blank.targets, **changes)
        of_targets = replace(blank, targets=targets)
        of_cases = values if targets.for_each else ()
        return certify_thresholds(of_targets, tuned, cases, guarantee, of_cases)

    certificate = with_mean_cost(with_prices(certify(), certify), cases, policy.rule)
    if policy.finer is not None:
        certificate = with_finer(certificate, cases, of_classes, policy.calibration)
    unit, kind = unit_of(calibration.group_columns), calibration.kind
    certified = replace(policy, certificate=certificate, unit=unit, kind=kind)
    check_limit(certified)
    return certified


def with_prices(certificate: Certificate, certify: Callable[..., Certificate]) -> Certificate:
    """Add what other targets would accept, by the same cases.

    With `for_each`, these are one threshold for all, and values together or each alone. Otherwise,
    each class that is often missed or wrong gets a target against it: 10 %, or half of the share
    that is missed, whichever is lower: of the class itself where it is often missed, and otherwise
    of the class that its wrong answers most often have.

    Args:
        certificate: Without these.
        certify: Certifies targets with these changes.
    """
    if certificate.pool is not None or certificate.targets.answer == "finest":
        return certificate  # with which no target of a class goes
    targets, limited = certificate.targets, {each.name: each for each in certificate.class_errors}
    if certificate.by_value:
        return replace(
            certificate,
            accepted_with_one=certify(for_each=None).accepted,
            accepted_otherwise=certify(simultaneous=not targets.simultaneous).accepted,
        )
    for errors in certificate.failing_classes[:MOST_LIMITS]:
        name = errors.name if errors.is_often_missed else errors.confused_with
        if name is not None and name not in targets.class_max_miss:
            half = limited[name].missed / limited[name].cases / 2
            rates = {**targets.class_max_miss, name: min(LIMIT_OF_CLASS, float(f"{half:.2g}"))}
            changed = certify(class_max_miss=rates)
            limited[errors.name] = replace(
                errors, limit=changed.class_outcomes[-1], accepted_with_limit=changed.accepted
            )
    return replace(certificate, class_errors=tuple(limited.values()))


def with_mean_cost(certificate: Certificate, cases: ScoredCases, rule: DecisionRule) -> Certificate:
    """Add the mean cost of a case, where a review has a cost."""
    review = certificate.targets.review_cost
    if review is None:
        return certificate
    wrong_costs = np.where(cases.wrong, rule.costs_of(certificate.answers)[cases.labels], 0.0)
    above = certificate.above(cases.ood_scores)
    accepted = above & cases.acceptable & (cases.scores >= certificate.accept_threshold)
    costs = np.where(accepted, wrong_costs, review)
    kinds = {review, *rule.costs_of(certificate.answers).tolist()}
    level = certificate.level / len(kinds)
    shares = {
        kind: two_sided_interval(int((costs == kind).sum()), len(costs), level=level)
        for kind in kinds
    }
    best_first = np.argsort(-np.where(above, cases.scores, -math.inf), kind="stable")
    accept_best = np.append(0.0, wrong_costs[best_first].cumsum())[: above.sum() + 1]
    totals = accept_best + review * (len(costs) - np.arange(len(accept_best)))
    mean = MeanCost(
        mean=float(costs.mean()),
        lower=sum(kind * share.lower for kind, share in shares.items()),
        upper=min(sum(kind * share.upper for kind, share in shares.items()), max(kinds)),
        accept_all=float(wrong_costs.mean()),
        best=float(totals.min() / len(costs)),
    )
    return replace(certificate, mean_cost=mean)


def with_finer(
    certificate: Certificate,
    cases: ScoredCases,
    of_classes: ScoredCases,
    calibration: Calibrator,
) -> Certificate:
    """Add the certificate of the answers that are a class, by the log-odds of this.

    Among the certified thresholds, the loosest counts that is not below that of the superclasses:
    then an answer is given as a class wherever its log-odds reach it.

    Args:
        certificate: Of superclasses.
        cases: By superclass.
        of_classes: The same by class, with these log-odds as scores.
        calibration: Of the superclasses.
    """
    targets = replace(certificate.targets, answer="class", superclasses={})
    blank = replace(certificate, targets=targets, class_errors=(), superclass_errors=())
    can_be_class, _, _ = sorted_by_value(of_classes[np.isfinite(of_classes.scores)])
    counts = count_cases(can_be_class, blank, targets)
    (certified,) = meets_error([counts], targets.max_error or 0.0, certificate.level / 2)
    threshold = certificate.accept_threshold
    lowest = calibration.log_odds_at(np.array([threshold]))[0]
    positions = np.flatnonzero(certified & (counts.thresholds >= lowest)).tolist()
    guarantee, position = GUARANTEES[certificate.guarantee], max(positions, default=-1)
    finer = certificate_at(blank, can_be_class, counts, guarantee, targets, position)
    above = certificate.above(cases.ood_scores)
    as_class = above & of_classes.acceptable & (of_classes.scores >= finer.accept_threshold)
    only = above & cases.acceptable & (cases.scores >= threshold) & ~as_class
    accepted, wrong = int(only.sum()), int((only & cases.wrong).sum())
    pairs = max(1, len(counts.ranks) * certificate.num_ranks)
    bound = float(upper_bound(wrong, accepted, level=certificate.level / pairs))
    return replace(certificate, finer=finer, coarse=Coarse(accepted, wrong, bound))


def calibration_cases(
    policy: Policy, calibration: Predictions
) -> tuple[ScoredCases, Sequence[str], ScoredCases]:
    """One case of each group, its value of `for_each`, and the case at the level of classes.

    Raises:
        DataError: The column of `for_each` is missing.
    """
    targets, chosen = policy.certificate.targets, calibration.one_per_group(seed=policy.seed)
    targets.check_columns(calibration.metadata)
    scored = policy.score(calibration)
    cases = ScoredCases.of(scored, calibration.labels, policy.calibration)[chosen]
    finer = replace(
        cases,
        scores=scored.class_score[chosen],
        predicted=scored.predicted[chosen],
        labels=calibration.labels[chosen],
        acceptable=cases.acceptable & np.isfinite(scored.class_score[chosen]),
        error_probabilities=expit(-scored.class_score[chosen]),
    )
    if targets.for_each is None:
        return cases, [], finer
    values = policy.values_of(scored.predicted, calibration.metadata)
    return cases, [values[row] for row in chosen], finer


def check_limit(policy: Policy) -> None:
    """Check that a limit of the error probability or of the expected cost can be read from one.

    Raises:
        DataError: There is such a limit, and the policy shows no error probability.
    """
    highest, targets = policy.rule.max_error_probability, policy.certificate.targets
    limits = highest < DecisionRule.max_error_probability and not policy.certificate.shows_errors
    is_few = policy.certificate.tuning_cases < MIN_TUNING_CASES
    if limits or (targets.review_cost is not None and is_few):
        raise DataError(
            Parameter("max_error_probability" if limits else "review_cost"),
            " needs an error probability, for which the tuning set is too small or unlike the "
            f"calibration cases ({policy.certificate.tuning_cases} tuning cases, at least "
            f"{MIN_TUNING_CASES} are needed); give more, or leave it out",
        )
