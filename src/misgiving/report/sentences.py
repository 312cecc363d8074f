"""A policy in words: its fit and certificate, drift, and the expected performance."""

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.drift import DriftTest, Recent
from misgiving.deferral.expected_performance import Expected, ExpectedPerformance
from misgiving.deferral.remedies import find_remedies
from misgiving.deferral.settings import DecisionRule
from misgiving.report.rendering import lines

POLICY, DRIFT = "policy.txt", "drift.txt"


def summarize(deferral: Deferral) -> list[str]:
    """Sentences on how a policy was fitted, and on what it certifies."""
    return [*lines(POLICY, "fitted", deferral), *certificate_sentences(deferral)]


def certificate_sentences(deferral: Deferral, *, brief: bool = False) -> list[str]:
    """Sentences on targets, observations and limits of the guarantee; a few if `brief`."""
    macro = "brief" if brief else "certified"
    return lines(POLICY, macro, deferral, find_remedies(deferral.certificate_))


def rule_sentence(rule: DecisionRule, classes: tuple[str, ...]) -> str:
    """Sentence on the class that is predicted, with the costs that decide it, if any."""
    return lines(POLICY, "predicts", rule, classes)[0]


def drift_sentence(test: DriftTest, recent: Recent | None, *, knows_training: bool) -> str:
    """Describe cases of a test.

    Args:
        test: Such as that of the ranks of the acceptance scores.
        recent: Its latest cases, or those at its alarm.
        knows_training: True if the OOD score compares an image with those of the training.
    """
    return lines(DRIFT, "drift", test, recent, knows_training)[0]


def expected_sentences(errors: Expected, unit: str, *, drifted: bool) -> list[str]:
    """The expected errors of all images, and of the accepted ones, and whether to trust them.

    Args:
        errors: Of images without labels.
        unit: What a case is: a patient, a lesion, an image, or another group.
        drifted: True if the images were found to differ from the calibration cases.
    """
    return lines(DRIFT, "expected", errors, unit, drifted)


def performance_sentences(expected: ExpectedPerformance, deferral: Deferral) -> list[str]:
    """The expected errors, and whether to trust them, with the differences that were found."""
    return lines(DRIFT, "performance", expected, deferral)
