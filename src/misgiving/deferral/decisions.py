"""What a policy says of one image, and why."""

from typing import Literal, NamedTuple

Verdict = Literal["accept", "defer", "ood"]

NOT_FINITE = "the model gave no finite score, so the answer is deferred"
NOTHING_KEEPS = "no threshold keeps what was promised, so every answer is deferred"
AT_LIMIT = (
    "exactly at the limit below which images are out-of-distribution, so the answer is deferred"
)
ALL_ACCEPTED = "all answers are accepted"


class Decision(NamedTuple):
    """What becomes of one image.

    Attributes:
        decision: "accept", "defer" or "ood".
        reason: Why, in words.
        p_value: Share of images like the calibration cases that look no more familiar, at most;
            None without a detector.
    """

    decision: Verdict
    reason: str
    p_value: float | None


def told_apart(value: float, limit: float) -> tuple[str, str]:
    """Both in as many digits as it takes to see that they differ, and no fewer than two.

    >>> told_apart(0.31, 0.12), told_apart(0.12304, 0.12301)
    (('0.31', '0.12'), ('0.12304', '0.12301'))
    """
    for digits in range(2, 17):
        texts = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        if texts[0] != texts[1] or value == limit:
            return texts
    return repr(value), repr(limit)


def why_ood(share_no_higher: float, p_value: float) -> str:
    """The reason of an OOD image.

    >>> why_ood(0.008, 0.009)
    'less like the training images than all but 0.8 % of the calibration cases (p = 0.009)'
    """
    likeness = "less like the training images than all"
    but = f" but {100 * share_no_higher:.2g} % of the" if share_no_higher else ""
    return f"{likeness}{but} calibration cases (p = {p_value:.2g})"


def why_by_error(error: float, limit: float, *, accepted: bool) -> str:
    """The reason in terms of the probability that the answer is wrong.

    >>> why_by_error(0.31, 0.12, accepted=False)
    'probability of error 0.31 is above 0.12, up to which answers are accepted'
    """
    of_image, highest = told_apart(error, limit)
    relation = "within" if accepted else "above"
    return (
        f"probability of error {of_image} is {relation} {highest}, up to which answers are accepted"
    )


def why_by_score(score: float, threshold: float, *, accepted: bool) -> str:
    """The reason in terms of the score itself.

    >>> why_by_score(0.4, 0.75, accepted=False)
    'score 0.40 is below 0.75, from which on answers are accepted'
    """
    of_image, lowest = told_apart(score, threshold)
    relation = "at least" if accepted else "below"
    return f"score {of_image} is {relation} {lowest}, from which on answers are accepted"
