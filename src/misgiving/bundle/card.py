"""The model card: what a bundle is, targets, and does not promise."""

from collections.abc import Mapping, Sequence
from typing import Any

CARD, READABLE = "card.json", "card.md"

LIMITS = (
    "What is promised holds for images that come as the calibration cases came: the same "
    "population, devices and preparation.",
    "`misgiving serve` tests whether the scores, the likeness to the training images and the share "
    "that is accepted still are like those of the calibration cases. Whether answers are right is "
    "not tested, nor is a change that moves none of the three; `misgiving predict` tests nothing.",
    "It is not a medical device, and no regulator has looked at it.",
    "A probability is that of the model's own classes: an image of another kind has one too. That "
    "OOD images are told apart is not promised.",
    "Scores agree with those of the trained model to about four digits: an image that lies "
    "exactly at a threshold may be decided otherwise.",
    "ODIN needs gradients, and is not in the bundle.",
)
NO_PROMISE = "Nothing is promised: no policy was calibrated, and every answer is deferred."


def readable(card: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    sections = {
        "What it targets": _bullets(card["targets"]),
        "What it does not promise": _bullets(card["limits"]),
        "Trained on": [f"{card['data']['name']}, in images of each class:", "", *_counts(card)],
        "How": _facts(
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
        [part, *(str(of.get(name, 0)) for name in card["classes"])] for part, of in counts.items()
    ]
    return _table(["part", *card["classes"]], rows)


def _facts(values: Mapping[str, object]) -> list[str]:
    return _table(["", ""], [[name, str(value)] for name, value in values.items()])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(header)
    return [f"| {' | '.join(map(_cell, row))} |" for row in (header, rule, *rows)]


def _cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|")
