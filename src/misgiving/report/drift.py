"""Tests for drift, and the performance that is expected without labels, in words."""

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.drift import DriftTest, Recent
from misgiving.deferral.expected_performance import Expected, ExpectedPerformance
from misgiving.report.rendering import sentences

WORDS = "drift.txt"


def drift_sentence(test: DriftTest, recent: Recent | None, *, knows_training: bool) -> str:
    """Describe cases of a test.

    Args:
        test: Such as that of the ranks of the acceptance scores.
        recent: Its latest cases, or those at its alarm.
        knows_training: True if the OOD score compares an image with those of the training.
    """
    return sentences(WORDS, "drift", test, recent, knows_training)[0]


def expected_sentences(errors: Expected, unit: str, *, drifted: bool) -> list[str]:
    """The expected errors of all images, and of the accepted ones, and whether to trust them.

    Args:
        errors: Of images without labels.
        unit: What a case is: a patient, a lesion, an image, or another group.
        drifted: True if the images were found to differ from the calibration cases.
    """
    return sentences(WORDS, "expected", errors, unit, drifted)


def performance_sentences(expected: ExpectedPerformance, deferral: Deferral) -> list[str]:
    """The expected errors, and whether to trust them, with the differences that were found."""
    return sentences(WORDS, "performance", expected, deferral)
