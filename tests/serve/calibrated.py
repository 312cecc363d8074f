"""The stand-in model with a real policy."""

import math

import numpy as np
from standin import CLASSES, Standin, decision_of

from misgiving.decisions.decision import reason_for
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds

TARGETS = Targets(max_error=0.1, max_ood_false_alarms=0.05)


def cases_like_the_standins(count, seed):
    """Scores from 0.5 to 1; higher ones are less often wrong, and most images are not green."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.5, 1, count)
    return ScoredCases(
        scores=scores,
        ood_scores=-random.uniform(0, 255, count),
        wrong=random.random(count) < 1.6 * (1 - scores) ** 1.5,
        labels=random.integers(2, size=count),
    )


def made_policy(targets=TARGETS, classes=CLASSES):
    certificate = certify_thresholds(
        cases_like_the_standins(400, 1), cases_like_the_standins(500, 2), targets, classes=classes
    )
    return DeferralPolicy(
        certificate=certificate,
        score="combination",
        ood_detector="knn",
        model_fingerprint="f" * 64,
        calibration_fingerprint="c" * 64,
        seed=0,
        error_limit=None
        if certificate.accept_threshold is None
        else 1 - certificate.accept_threshold,
    )


class Calibrated(Standin):
    """Decides by its policy; its scores still follow from the mean colour."""

    def __init__(self, policy=None):
        self.policy = policy or made_policy()

    def decide_squares(self, squares):
        return [self._decided(decision_of(square)) for square in squares]

    def _decided(self, decision):
        numbers = {
            name: math.nan if getattr(decision, name) is None else getattr(decision, name)
            for name in ("acceptance_score", "ood_score", "error_probability")
        }
        (outcome,), (p_value,) = self.policy.decide(
            np.array([numbers["acceptance_score"]]),
            np.array([numbers["ood_score"]]),
            acceptable=np.array(
                [numbers["error_probability"] <= self.policy.max_error_probability]
            ),
        )
        numbers["ood_p_value"] = float(p_value)
        return decision._replace(
            decision=str(outcome),
            reason=reason_for(
                self.policy,
                outcome,
                numbers,
                decision.predicted_class,
                decision.probabilities,
                scaled=decision.predicted_class,
            ),
            ood_p_value=float(p_value),
        )
