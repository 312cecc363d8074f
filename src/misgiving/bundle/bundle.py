"""A bundle: from image files to decisions, with its files and its model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from misgiving.bundle.graph_files import write_metadata
from misgiving.calibration.apply import Calibrator
from misgiving.data.preprocessing import Preprocessing
from misgiving.decisions.decision import Decision
from misgiving.decisions.engine import POLICY, DecisionEngine
from misgiving.deferral.policy import DeferralPolicy
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.evaluation.network import GRAPH, Network, Squares
from misgiving.files import read_json, write_json, write_text
from misgiving.manifests import seal, verify

FORMAT = 5
FACTS, CARD, READABLE = "bundle.json", "card.json", "card.md"
AGAIN = "run `misgiving export` again"

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


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """A trained model with everything that its decisions need; safe to share between threads.

    Attributes:
        network: From squares to logits, predicted losses and features.
        classes: Names of the classes, in the order of the logits.
        preprocessing: From an image file to a square.
        estimates_losses: True where the loss estimator was trained.
        engine: From the outputs of the network to decisions.
        card: The model card.
        fingerprint: SHA-256 of weights, classes and preprocessing.
    """

    network: Network
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    estimates_losses: bool
    engine: DecisionEngine
    card: Mapping[str, Any]
    fingerprint: str

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> "Bundle":
        """Read a bundle, refused unless every file is as it was written.

        Args:
            folder: Written by `misgiving export`.
            threads: Of one run of the graph; None for as many as there are cores.

        Raises:
            DataError: It is not a bundle, or a file is missing, changed, extra or damaged.
        """
        folder = Path(folder)
        if not is_bundle(folder):
            raise DataError(
                f"{folder}: not a bundle (it has no {FACTS}); give a folder that `misgiving "
                "export` wrote"
            )
        facts = read_json(folder / FACTS, remedy=AGAIN, version=FORMAT)
        verify(folder, remedy=AGAIN)
        with explain_damage(folder / FACTS, remedy=AGAIN):
            classes = tuple(facts["classes"])
            preprocessing = Preprocessing.from_dict(facts["preprocessing"])
            estimates_losses, fingerprint = facts["estimates_losses"], facts["fingerprint"]
        engine = DecisionEngine(classes=classes)
        if (folder / POLICY).is_file():
            engine = DecisionEngine.load(folder)
        if engine.policy is not None:
            engine.policy.refuse_other_model(fingerprint)
        engine.refuse_other_classes(classes)
        return cls(
            network=Network(
                folder / GRAPH,
                size=preprocessing.image_size,
                num_classes=len(classes),
                threads=threads,
            ),
            classes=classes,
            preprocessing=preprocessing,
            estimates_losses=estimates_losses,
            engine=engine,
            card=read_json(folder / CARD, remedy=AGAIN),
            fingerprint=fingerprint,
        )

    @property
    def calibrator(self) -> Calibrator | None:
        """From scores to probabilities; None without a policy."""
        return self.engine.calibrator

    @property
    def policy(self) -> DeferralPolicy | None:
        """The deferral policy; None where none was calibrated."""
        return self.engine.policy

    def square(self, data: bytes, name: str) -> UInt8[np.ndarray, "size size 3"]:
        """Preprocess an encoded image.

        Args:
            data: Such as the bytes of a JPEG file.
            name: Name of the image in an error.

        Raises:
            DataError: It cannot be decoded.
        """
        return self.preprocessing.from_file(data, name)

    def decide_squares(self, squares: Squares) -> list[Decision]:
        """Decide for preprocessed images, in their order."""
        logits, predicted_losses, features, taps = self.network(squares)
        losses = predicted_losses if self.estimates_losses else None
        return self.engine.decide(logits, features, losses, taps)

    def decide(self, images: Sequence[bytes], names: Sequence[str]) -> list[Decision]:
        """Decide for encoded images, in their order.

        Raises:
            DataError: One cannot be decoded; the message names it.
        """
        if len(images) != len(names):
            raise UsageError(
                f"got {len(images)} images but {len(names)} names; give one name per image"
            )
        if not images:
            return []
        squares = [self.square(data, name) for data, name in zip(images, names, strict=True)]
        return self.decide_squares(np.stack(squares))


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Refuse to write a bundle in place of anything, or of a bundle that is not to be replaced."""
    if out.exists() and not is_bundle(out):
        raise UsageError(f"{out}: exists and is not a bundle; choose another folder")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; replace it with `overwrite=True`")


def write_bundle(
    folder: Path,
    *,
    preprocessing: Preprocessing,
    estimates_losses: bool,
    fingerprint: str,
    engine: DecisionEngine,
    card: Mapping[str, Any],
) -> None:
    """Write everything else of a bundle beside the graph in `folder`, and seal it.

    Classes and thresholds are also put into the metadata of the graph.
    """
    described = {"classes": list(engine.classes), "fingerprint": fingerprint}
    if engine.policy is not None:
        described |= engine.policy.settings()
    write_metadata(folder / GRAPH, described | {"preprocessing": preprocessing.to_dict()})
    facts = {
        "format": FORMAT,
        "classes": list(engine.classes),
        "preprocessing": preprocessing.to_dict(),
        "estimates_losses": estimates_losses,
        "fingerprint": fingerprint,
    }
    write_json(folder / FACTS, facts)
    engine.save(folder)
    write_json(folder / CARD, dict(card))
    write_text(folder / READABLE, _readable(card))
    seal(folder)


def _readable(card: Mapping[str, Any]) -> str:
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


def is_bundle(folder: Path) -> bool:
    """True for a folder that claims to be a bundle, whole or damaged."""
    return (folder / FACTS).is_file()


def is_bundle_not_run(folder: Path) -> bool:
    """True for a bundle and False for a run, without importing what loads a run.

    Raises:
        DataError: It is neither.
    """
    if not is_bundle(folder) and (folder / POLICY).is_file():
        raise DataError(
            f"{folder}: a policy, not a model; `misgiving predict` takes a file of predictions "
            f"with it, and `misgiving export GRAPH.onnx --policy {folder} --out BUNDLE` makes a "
            "model to serve"
        )
    if not is_bundle(folder) and not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: neither a run nor a bundle; give a folder that `misgiving train` or "
            "`misgiving export` wrote"
        )
    return is_bundle(folder)
