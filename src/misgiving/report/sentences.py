"""A policy in words: what it may certify, its fit and certificate, drift, expected performance."""

from collections.abc import Mapping, Sequence

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.drift import DriftTest, Expected, ExpectedPerformance, Recent
from misgiving.deferral.planning import CertificationOutlook
from misgiving.deferral.settings import DecisionRule
from misgiving.predictions.record import Predictions
from misgiving.report.rendering import lines

POLICY, DRIFT, PLAN = "policy.txt", "drift.txt", "plan.txt"


def summarize(deferral: Deferral) -> list[str]:
    """Sentences on how a policy was fitted, and on what it certifies."""
    return [*lines(POLICY, "fitted", deferral), *certificate_sentences(deferral)]


def certificate_sentences(deferral: Deferral) -> list[str]:
    """Sentences on targets, observations and limits of the guarantee."""
    return lines(POLICY, "certified", deferral)


def naming_sentence(rule: DecisionRule, classes: tuple[str, ...]) -> str:
    """Sentence on the class that is named, with the costs that decide it, if any."""
    return lines(POLICY, "naming", rule, classes)[0]


def left_out_sentences(counts: Mapping[str, int]) -> list[str]:
    """Sentences on images of the sets `train`, `test` and `excluded` that were not used."""
    return lines(POLICY, "left_out", counts)


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


def plan_sentences(
    name: str,
    images: Predictions,
    calibration: Predictions,
    outlook: CertificationOutlook,
    needs: Mapping[str, int | None],
    *,
    most: int,
    origin: str,
) -> list[str]:
    """Sentences on a calibration set before there is a policy, and on its targets.

    Args:
        name: Of the data.
        images: All of them.
        calibration: Those to certify with.
        outlook: What they can certify.
        needs: Cases that each target lacks; None for more than `most`.
        most: Number of cases up to which enough were sought.
        origin: Of the calibration set: `split` as for a training, `drawn`, or `named` by the data.
    """
    return lines(PLAN, "planned", name, images, calibration, outlook, needs, most, origin)


def training_sentences(
    outlook: CertificationOutlook,
    columns: Sequence[str],
    images: int,
    rarest: Sequence[tuple[str, int]],
) -> list[str]:
    """Two sentences for a training: its calibration set with the rarest classes, and the limits."""
    return lines(PLAN, "training", outlook, columns, images, rarest)
