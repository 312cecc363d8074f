"""Tests for drift, and the performance that is expected without labels, in words."""

from typing import NamedTuple

from misgiving.deferral.drift import DriftTest, Recent
from misgiving.deferral.expected_performance import (
    ExpectedError,
    ExpectedErrors,
    ExpectedPerformance,
)

SMALL = 0.1  # a difference from the usual mean rank that is described as "a little"
NO_CASE = "No case has arrived yet."
DISTRUST = "Do not trust this: the images differ from the calibration cases."
COMPARED = {"acceptance": "acceptance scores", "ood": "OOD scores"}


class RankWording(NamedTuple):
    """Phrases in which the ranks of a score are described."""

    subject: str
    lower: str
    higher: str
    scores: str


SCORES = RankWording("The model is", "less sure", "more sure", "The model's scores")
FAMILIARITY = RankWording(
    "The images are",
    "less like the training images",
    "more like the training images",
    "The images' familiarity scores",
)
OOD_SCORES = RankWording("The OOD scores are", "lower", "higher", "The OOD scores")


def drift_sentence(test: DriftTest, recent: Recent | None, *, knows_training: bool) -> str:
    """Describe cases of a test.

    Args:
        test: Such as that of the ranks of the acceptance scores.
        recent: Its latest cases, or those at its alarm.
        knows_training: True if the OOD score compares an image with those of the training.
    """
    if recent is None or recent.mean is None:
        return NO_CASE
    if test.expected is not None:
        lower, upper = test.expected
        return (
            f"{_percent(recent.mean)} of the last {recent.cases} cases are accepted; "
            f"{_percent(lower)} to {_percent(upper)} are expected from the calibration cases."
        )
    words = SCORES
    if test.name == "familiarity":
        words = FAMILIARITY if knows_training else OOD_SCORES
    return _ranks(words, recent.cases, recent.mean, recent.spread or 0.0)


def _ranks(words: RankWording, cases: int, location: float, spread: float) -> str:
    """Describe recent ranks by their mean, or by their spread where the mean is usual."""
    usual = abs(location - 0.5) < SMALL
    if usual and abs(spread - 0.5) > abs(location - 0.5):
        little = "a little " if abs(spread - 0.5) < SMALL else ""
        where = "at the ends" if spread > 0.5 else "in the middle"
        return (
            f"{words.scores} of the last {cases} cases gather {little}{where} of all earlier "
            f"scores: on average they rank {_percent(spread)} of the way from the middle to an "
            "end, where 50 % is usual."
        )
    little = "a little " if usual else ""
    return (
        f"{words.subject} {little}{words.higher if location > 0.5 else words.lower} in the last "
        f"{cases} cases than before: on average they rank at {_percent(location)}, where 50 % "
        "is usual."
    )


def expected_sentences(errors: ExpectedErrors) -> list[str]:
    """The expected errors of all images, and of the accepted ones."""
    sentences = [f"Expected without labels: {_expected(errors.everything)} images."]
    if errors.accepted is not None:
        sentences.append(f"Of those accepted: {_expected(errors.accepted)}.")
    return sentences


def _expected(error: ExpectedError) -> str:
    return (
        f"{100 * (1 - error.error):.1f} % right ({100 * (1 - error.upper):.1f} to "
        f"{100 * (1 - error.lower):.1f} %) of {error.images}"
    )


def performance_sentences(expected: ExpectedPerformance) -> list[str]:
    """The expected errors, and whether to trust them."""
    knows_training = expected.compares_with_training
    differ = [
        *(
            drift_sentence(test, test.alarmed_with, knows_training=knows_training)
            for test in expected.alarms
        ),
        *(
            f"The distribution of their {COMPARED[name]} differs from that of the calibration "
            f"cases by up to {100 * gap:.0f} percentage points."
            for name, gap in expected.gaps.items()
        ),
    ]
    last = " ".join([DISTRUST, *differ]) if differ else trust(expected.unit)
    return [*expected_sentences(expected.errors), last]


def trust(unit: str) -> str:
    """Sentences on the images for which an estimate holds, where no difference was found.

    Args:
        unit: What a case is: a patient, a lesion, an image, or another group.
    """
    one = "" if unit == "image" else f" one of each {unit},"
    return (
        f"This holds for images drawn like the calibration cases,{one} from which no difference "
        "was found. A change that leaves the scores alone, such as another mix of classes, is not "
        "seen."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
