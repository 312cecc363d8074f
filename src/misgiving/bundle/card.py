"""Model cards: a model, its data, targets and limits, as JSON values and as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

LIMITS = (
    "The guarantee holds for images drawn as the calibration images were: the same population, "
    "devices and preparation.",
    "`misgiving serve` tests whether the acceptance scores, the OOD scores and the accepted share "
    "still match those of the calibration set. It does not test whether predictions are correct, "
    "and cannot see a change that moves none of the three. `misgiving predict` makes such tests on "
    "the images of one command.",
    "It is not a medical device and has no regulatory clearance.",
    "A probability is always that of one of the model's classes: an image of another kind gets one "
    "too. Detection of OOD images is not guaranteed.",
    "Scores agree with those of the trained model to about four digits: an image exactly at a "
    "threshold may be decided differently.",
    "ODIN needs gradients and is not in the bundle.",
)
NO_GUARANTEE = "Nothing is certified: no policy was calibrated, and every image is deferred."
DECIDES = "By its policy it accepts an image, defers it, or calls it out-of-distribution."
DEFERS = "It has no policy and defers every image."


def markdown(card: Mapping[str, Any]) -> str:
    """The card for people to read."""
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
    """A table of which no text leaves its cell."""
    cells = [
        [" ".join(text.split()).replace("|", "\\|") for text in row]
        for row in (header, ["---"] * len(header), *rows)
    ]
    return [f"| {' | '.join(row)} |" for row in cells]
