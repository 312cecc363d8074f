"""The stand-in model with a real policy, and drawn lesions in place of photographs."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
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
    found = certify_thresholds(
        cases_like_the_standins(400, 1), cases_like_the_standins(500, 2), targets, classes=classes
    )
    return DeferralPolicy(
        certificate=found,
        score="combination",
        ood_detector="knn",
        model_fingerprint="f" * 64,
        calibration_fingerprint="c" * 64,
        seed=0,
        error_limit=None if found.accept_threshold is None else 1 - found.accept_threshold,
    )


class Calibrated(Standin):
    """Decides by its policy; its scores still follow from the mean colour."""

    def __init__(self, policy=None):
        self.policy = policy or made_policy()

    def decide_squares(self, squares):
        return [self._decided(decision_of(square)) for square in squares]

    def _decided(self, known):
        numbers = {
            name: math.nan if getattr(known, name) is None else getattr(known, name)
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
        return known._replace(
            decision=str(outcome),
            reason=reason_for(
                self.policy,
                outcome,
                numbers,
                known.predicted_class,
                known.probabilities,
                scaled=known.predicted_class,
            ),
            ood_p_value=float(p_value),
        )


def drawn_lesion(seed, size=(240, 180)):
    """A drawn brown spot on skin, with a rim and freckles."""
    random = np.random.default_rng(seed)
    skin = np.array([226, 184, 160]) + random.normal(0, 9, 3)
    picture = Image.new("RGB", size, tuple(int(value) for value in skin.clip(0, 255)))
    pen = ImageDraw.Draw(picture)
    middle, radius = np.array(size) / 2 + random.normal(0, 10, 2), random.uniform(32, 62)
    tone = np.array([124, 74, 50]) * random.uniform(0.55, 1.25)
    for ring in np.linspace(1, 0.35, 4):
        turns = np.linspace(0, 2 * np.pi, 40)
        edge = radius * ring * (1 + 0.1 * np.sin(3 * turns + random.uniform(0, 6)))
        points = middle + np.stack([np.cos(turns) * 1.2, np.sin(turns)], axis=1) * edge[:, None]
        shade = tuple(int(value) for value in (tone * (0.6 + 0.4 * ring)).clip(0, 255))
        pen.polygon([tuple(map(float, point)) for point in points], fill=shade)
    for _ in range(20):
        x, y = middle + random.normal(0, radius / 2, 2)
        pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=(52, 30, 22))
    return picture.filter(ImageFilter.GaussianBlur(1.6))
