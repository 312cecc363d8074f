"""A bundle in use: from image files to answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from misgiving.bundle.answers import Answer, Rules, answers_of
from misgiving.bundle.card import CARD, READABLE, readable
from misgiving.bundle.network import GRAPH, Network, Outputs, Squares
from misgiving.bundle.storage import FACTS, FORMAT, damage_explained, read_facts, read_json
from misgiving.calibrators import Estimate
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral import DeferralPolicy
from misgiving.errors import DataError, UsageError
from misgiving.files import write_json, write_text
from misgiving.manifests import seal


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """A trained model with all that its answers need; any number of threads may ask it.

    Attributes:
        network: From squares to logits, predicted losses and features.
        classes: Names of the classes, in the order of the logits.
        preprocessing: What an image goes through before the model.
        estimates_losses: Whether the loss estimator was trained.
        rules: Decide; None where no policy was calibrated.
        card: What the model is, was trained on, targets, and does not promise.
        fingerprint: SHA-256 of weights, classes and preprocessing.
    """

    network: Network
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    estimates_losses: bool
    rules: Rules | None
    card: Mapping[str, Any]
    fingerprint: str

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> "Bundle":
        """Read a bundle, refused unless it is as it was written.

        Args:
            folder: Written by `misgiving export`.
            threads: Of one run of the graph; None for as many as there are cores.

        Raises:
            DataError: It is no bundle, or a file of it is missing, changed, extra or damaged.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        with damage_explained(folder / FACTS):
            classes = tuple(facts["classes"])
            preprocessing = Preprocessing.from_dict(facts["preprocessing"])
            estimates_losses, fingerprint = facts["estimates_losses"], facts["fingerprint"]
        rules = Rules.load(folder)
        if rules is not None:
            _refuse_other_policy(rules.policy, classes, fingerprint)
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
            rules=rules,
            card=read_json(folder / CARD),
            fingerprint=fingerprint,
        )

    @property
    def policy(self) -> DeferralPolicy | None:
        """Decides; None where none was calibrated."""
        return None if self.rules is None else self.rules.policy

    @property
    def estimate(self) -> Estimate | None:
        """What scores mean; None where no policy was calibrated."""
        return None if self.rules is None else self.rules.estimate

    def square(self, data: bytes, name: str) -> UInt8[np.ndarray, "size size 3"]:
        """An encoded image as the model sees it.

        Args:
            data: Such as the bytes of a JPEG file.
            name: What to call it in an error.

        Raises:
            DataError: It cannot be decoded.
        """
        return self.preprocessing.from_file(data, name)

    def outputs(self, squares: Squares) -> Outputs:
        """What the model says of preprocessed images."""
        logits, predicted_losses, features = self.network(squares)
        losses = predicted_losses if self.estimates_losses else None
        return Outputs(logits=logits, features=features, predicted_losses=losses)

    def answer_squares(self, squares: Squares) -> list[Answer]:
        """Answers for preprocessed images, in their order."""
        outputs = self.outputs(squares)
        if self.rules is None:
            return answers_of(outputs, self.classes, None, None)
        scaling = self.rules.estimate.scaling
        return answers_of(outputs, self.classes, self.rules(outputs), scaling)

    def answer(self, images: Sequence[bytes], names: Sequence[str]) -> list[Answer]:
        """Answers for encoded images, in their order.

        Raises:
            DataError: One cannot be decoded; it is called by its name.
        """
        if len(images) != len(names):
            raise UsageError(f"{len(images)} images and {len(names)} names; give each one name")
        if not images:
            return []
        squares = [self.square(data, name) for data, name in zip(images, names, strict=True)]
        return self.answer_squares(np.stack(squares))


def write_bundle(
    folder: Path,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    estimates_losses: bool,
    fingerprint: str,
    rules: Rules | None,
    card: Mapping[str, Any],
) -> None:
    """Put beside the graph in `folder` all else that makes it a bundle, and seal it."""
    facts = {
        "format": FORMAT,
        "classes": list(classes),
        "preprocessing": preprocessing.to_dict(),
        "estimates_losses": estimates_losses,
        "fingerprint": fingerprint,
    }
    write_json(folder / FACTS, facts)
    if rules is not None:
        rules.save(folder)
    write_json(folder / CARD, dict(card))
    write_text(folder / READABLE, readable(card))
    seal(folder)


def _refuse_other_policy(policy: DeferralPolicy, classes: Sequence[str], fingerprint: str) -> None:
    policy.refuse_other_model(fingerprint)
    if policy.classes != tuple(classes):
        raise DataError("the bundle's policy is for other classes; run `misgiving export` again")
