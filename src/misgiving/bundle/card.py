"""The model card of a bundle: what it is, what is certified, and its limits."""

from collections.abc import Mapping, Sequence
from typing import Any

CARD, READABLE = "card.json", "card.md"

LIMITS = (
    "The guarantee holds for images drawn as the calibration images were: the same population, "
    "devices and preparation.",
    "`misgiving serve` tests whether the acceptance scores, the OOD scores and the accepted share "
    "still match those of the calibration set. It does not test whether predictions are correct, "
    "and cannot see a change that moves none of the three; `misgiving predict` tests nothing.",
    "It is not a medical device and has no regulatory clearance.",
    "A probability is always that of one of the model's classes: an image of another kind gets one "
    "too. Detection of OOD images is not guaranteed.",
    "Scores agree with those of the trained model to about four digits: an image exactly at a "
    "threshold may be decided differently.",
    "ODIN needs gradients and is not in the bundle.",
)
NO_GUARANTEE = "Nothing is certified: no policy was calibrated, and every image is deferred."


def readable(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    sections = {
        "Targets": _bullets(card["targets"]),
        "Limits": _bullets(card["limits"]),
        "Training data": [f"{card['data']['name']}, images of each class:", "", *_counts(card)],
        "Training": _facts(
            {
                "backbone": card["architecture"]["backbone"],
                **card["training"],
                **card["preprocessing"],
            }
        ),
        "Versions": _facts(card["versions"]),
        "Fingerprints": _facts({"model": card["fingerprint"], "data": card["data"]["fingerprint"]}),
    }
    lines = ["# Model card", "", card["what"]]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _bullets(sentences: Sequence[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences]


def _counts(card: Mapping[str, Any]) -> list[str]:
    counts: Mapping[str, Mapping[str, int]] = card["class_counts"]
    rows = [
        [set_name, *(str(images.get(name, 0)) for name in card["classes"])]
        for set_name, images in counts.items()
    ]
    return _table(["set", *card["classes"]], rows)


def _facts(values: Mapping[str, object]) -> list[str]:
    return _table(["", ""], [[name, str(value)] for name, value in values.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(header)
    return [f"| {' | '.join(map(_cell, row))} |" for row in (header, rule, *rows)]


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
