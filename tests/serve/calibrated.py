"""The stand-in model with a real policy."""

import math

import numpy as np
from policies import decided, policy_with
from standin import CLASSES, Standin, decision_of

from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import ScoredCases, certify_thresholds

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
        acceptable=np.ones(count, dtype=bool),
    )


def made_policy(targets=TARGETS, classes=CLASSES, **fields):
    certificate = certify_thresholds(
        cases_like_the_standins(400, 1), cases_like_the_standins(500, 2), targets, classes=classes
    )
    return policy_with(certificate, score="combination", **fields)


class Calibrated(Standin):
    """Decides by its policy; its scores still follow from the mean colour."""

    def __init__(self, deferral=None):
        self.deferral = deferral or made_policy()

    def decide_inputs(self, inputs):
        return [self._decided(decision_of(model_input)) for model_input in inputs]

    def _decided(self, decision):
        numbers = decision.acceptance_score, decision.ood_score, decision.error_probability
        named = CLASSES.index(decision.predicted_class)
        by_policy = decided(
            self.deferral,
            *(math.nan if number is None else number for number in numbers),
            scaled=named,
            predicted=np.array([named]),
            probabilities=np.array([[*decision.probabilities.values()]]),
        )
        changed = ("decision", "reason", "ood_p_value")
        return decision._replace(**{name: getattr(by_policy, name) for name in changed})
