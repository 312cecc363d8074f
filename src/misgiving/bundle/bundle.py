"""A bundle: from image files to decisions, with its files and its model card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.decisions import Decision, Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.policy_file import POLICY
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json
from misgiving.manifests import verify
from misgiving.predictions.network import GRAPH, ModelInputs, Network

FORMAT = 1
FACTS, CARD = "bundle.json", "card.json"
AGAIN = "run `misgiving export` again"


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """A trained model with everything that its decisions need; safe to share between threads.

    Attributes:
        network: From model inputs to logits, predicted losses and features.
        classes: Names of the classes, in the order of the logits.
        preprocessing: From an image file to a model input.
        estimates_losses: True where the loss estimator was trained.
        deferral: From the outputs of the network to decisions; None: every image is deferred.
        card: The model card.
        fingerprint: SHA-256 of weights, classes and preprocessing.
    """

    network: Callable[[ModelInputs], tuple[Float[np.ndarray, "n ..."], ...]]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    estimates_losses: bool
    deferral: Deferral | None
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
        deferral = Deferral.load(folder) if (folder / POLICY).is_file() else None
        if deferral is not None:
            deferral.check_model(fingerprint, classes)
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
            deferral=deferral,
            card=read_json(folder / CARD, remedy=AGAIN),
            fingerprint=fingerprint,
        )

    def model_input(self, data: bytes, name: str) -> UInt8[np.ndarray, "size size 3"]:
        """Preprocess an encoded image.

        Args:
            data: Such as the bytes of a JPEG file.
            name: Name of the image in an error.

        Raises:
            DataError: It cannot be decoded.
        """
        return self.preprocessing.from_file(data, name)

    def decide_inputs(self, inputs: ModelInputs) -> Decisions:
        """Decide for preprocessed images, in their order."""
        logits, predicted_losses, features, taps = self.network(inputs)
        losses = predicted_losses if self.estimates_losses else None
        if self.deferral is None:
            return Decisions.without_policy(self.classes, logits, losses)
        return self.deferral.decide_outputs(logits, features, losses, taps)

    def decide(self, images: Sequence[bytes], names: Sequence[str]) -> Sequence[Decision]:
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
        inputs = [self.model_input(data, name) for data, name in zip(images, names, strict=True)]
        return self.decide_inputs(np.stack(inputs))


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
            f"with it, and `misgiving export GRAPH.onnx --policy {folder}` makes a model to serve"
        )
    if not is_bundle(folder) and not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: neither a run nor a bundle; give a folder that `misgiving train` or "
            "`misgiving export` wrote"
        )
    return is_bundle(folder)
