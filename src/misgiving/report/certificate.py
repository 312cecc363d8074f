"""A policy in words: what it certifies, how it was fitted, and what weakens the guarantee."""

from collections.abc import Mapping, Sequence

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.settings import DecisionRule
from misgiving.report.rendering import sentences

WORDS = "certificate.txt"


def summarize(deferral: Deferral) -> list[str]:
    """Sentences on how a policy was fitted, and on what it certifies."""
    return [*fitting_sentences(deferral), *certificate_sentences(deferral)]


def certificate_sentences(deferral: Deferral) -> list[str]:
    """Sentences on targets, observations and limits of the guarantee."""
    return sentences(WORDS, "certified", deferral)


def naming_sentence(rule: DecisionRule, classes: tuple[str, ...]) -> str:
    """Sentence on the class that is named, with the costs that decide it, if any."""
    return sentences(WORDS, "naming", rule, classes)[0]


def warnings(deferral: Deferral) -> list[str]:
    """Sentences on what weakens the guarantee."""
    return sentences(WORDS, "warnings", deferral)


def fitting_sentences(deferral: Deferral) -> list[str]:
    """Sentences on the images and the scores that a policy was fitted with."""
    return sentences(WORDS, "fitted", deferral)


def left_out_sentences(counts: Mapping[str, int]) -> list[str]:
    """Sentences on images of the sets `train`, `test` and `excluded` that were not used."""
    return sentences(WORDS, "left_out", counts)


def unit_sentences(columns: Sequence[str], images: int, ungrouped: int) -> list[str]:
    """Sentences on the unit of a guarantee, and on what it leaves dependent.

    Args:
        columns: Those that define the groups.
        images: Number of all.
        ungrouped: Number of those that are a group of their own.
    """
    return sentences(WORDS, "unit", columns, images, ungrouped)
