"""Additions to a certificate: the price of other targets, the mean cost, and single classes."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from misgiving.calibration.apply import Calibrator
from misgiving.deferral.bounds import two_sided_interval, upper_bound
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.certify import certificate_at, count_cases, sorted_by_value
from misgiving.deferral.guarantees import GUARANTEES
from misgiving.deferral.outcomes import Coarse, MeanCost
from misgiving.deferral.targets import DecisionRule
from misgiving.deferral.thresholds import ScoredCases, meets_error

LIMIT_OF_CLASS, MOST_LIMITS = 0.1, 5  # suggested target of a class, and number of these


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
