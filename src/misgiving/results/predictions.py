"""Arrays of a set of images, in one file each: the outputs of a model, and scores by detector."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from scipy.special import log_softmax

from misgiving.errors import DataError, explain_damage
from misgiving.files import whole_file


class Head(NamedTuple):
    """The last linear layer of a model."""

    weight: Float[np.ndarray, "classes width"]
    bias: Float[np.ndarray, " classes"]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The outputs of a model for each image of a set, as arrays on the CPU.

    Attributes:
        logits: Class scores before the softmax.
        features: Input of the last linear layer.
        predicted_losses: Higher means more likely wrong; None where the estimator was not trained.
        labels: True classes as positions in `classes`.
        ids: Name of each image.
        groups: The unit that is resampled: lesion, source picture, or the image itself.
        classes: Names of the classes, in the order of the logits.
        head: The last linear layer; None where the model has none of that kind.
        model: Fingerprint of the model's weights; empty where unknown.
        taps: Averages of the activations that the loss estimator reads, side by side; None where
            there are none.
        tap_widths: Columns of each tap; empty where unknown.
    """

    logits: Float[np.ndarray, "n classes"]
    features: Float[np.ndarray, "n width"]
    predicted_losses: Float[np.ndarray, " n"] | None
    labels: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    head: Head | None = None
    model: str = ""
    taps: Float[np.ndarray, "n channels"] | None = None
    tap_widths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Int[np.ndarray, " _"]) -> "Predictions":
        """Predictions for these images alone, in this order."""
        losses, taps = self.predicted_losses, self.taps
        return replace(
            self,
            logits=self.logits[rows],
            features=self.features[rows],
            predicted_losses=None if losses is None else losses[rows],
            labels=self.labels[rows],
            ids=tuple(self.ids[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
            taps=None if taps is None else taps[rows],
        )

    @property
    def choices(self) -> Int[np.ndarray, " n"]:
        """The predicted class of each image."""
        choices: Int[np.ndarray, " n"] = self.logits.argmax(axis=1)
        return choices

    @property
    def probabilities(self) -> Float[np.ndarray, "n classes"]:
        """Softmax of the logits, in float64."""
        probabilities: Float[np.ndarray, "n classes"] = np.exp(self._log_probabilities)
        return probabilities

    @property
    def errors(self) -> Bool[np.ndarray, " n"]:
        """True for each image whose predicted class is not the true one."""
        wrong: Bool[np.ndarray, " n"] = self.choices != self.labels
        return wrong

    def true_losses(self, class_weights: Sequence[float] | None = None) -> Float[np.ndarray, " n"]:
        """Cross-entropy of each image, in float64, times its class's weight where given."""
        losses: Float[np.ndarray, " n"] = -self._log_probabilities[
            np.arange(len(self)), self.labels
        ]
        return losses if class_weights is None else losses * np.asarray(class_weights)[self.labels]

    @property
    def _log_probabilities(self) -> Float[np.ndarray, "n classes"]:
        log_probabilities: Float[np.ndarray, "n classes"] = log_softmax(
            self.logits.astype(np.float64), axis=1
        )
        return log_probabilities

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        arrays = {"logits": self.logits, "features": self.features, "labels": self.labels}
        if self.predicted_losses is not None:
            arrays["predicted_losses"] = self.predicted_losses
        if self.taps is not None:
            arrays["taps"] = self.taps
        if self.head is not None:
            arrays |= {"head_weight": self.head.weight, "head_bias": self.head.bias}
        names: dict[str, tuple[str, ...] | tuple[int, ...]]
        names = {"ids": self.ids, "groups": self.groups, "classes": self.classes}
        names |= {"model": (self.model,), "tap_widths": self.tap_widths}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with whole_file(path) as partial:
            save_file(contiguous, partial, {key: json.dumps(value) for key, value in names.items()})

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or damaged.
        """
        try:
            with safe_open(path, framework="np") as file:
                names = file.metadata() or {}
            arrays = load_file(path)
            return cls(
                logits=arrays["logits"],
                features=arrays["features"],
                predicted_losses=arrays.get("predicted_losses"),
                labels=arrays["labels"],
                ids=tuple(json.loads(names["ids"])),
                groups=tuple(json.loads(names["groups"])),
                classes=tuple(json.loads(names["classes"])),
                head=Head(arrays["head_weight"], arrays["head_bias"])
                if "head_weight" in arrays
                else None,
                model="".join(json.loads(names.get("model", "[]"))),
                taps=arrays.get("taps"),
                tap_widths=tuple(json.loads(names.get("tap_widths", "[]"))),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not readable predictions ({error}); predict again") from error


def predictions_path(folder: Path, name: str) -> Path:
    """The file of a unit's predictions for a set."""
    return folder / "predictions" / f"{name}.safetensors"


Scores = Mapping[str, Float[np.ndarray, " _"]]  # sets differ in size


class ScoredSet(NamedTuple):
    """The confidences of a set by detector, and the group of each image."""

    scores: Scores
    groups: tuple[str, ...]


def save_scores(folder: Path, name: str, scores: Scores, groups: tuple[str, ...]) -> None:
    """Keep the confidences of one set, so that intervals need no model."""
    arrays = {detector: np.ascontiguousarray(values) for detector, values in scores.items()}
    with whole_file(scores_path(folder, name)) as partial:
        save_file(arrays, partial, {"groups": json.dumps(groups)})


def load_scores(folder: Path, name: str) -> ScoredSet:
    """Read what `save_scores` kept.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = scores_path(folder, name)
    with (
        explain_damage(path, remedy="delete the folder of this unit and run it again"),
        safe_open(path, framework="np") as file,
    ):
        scores = {detector: file.get_tensor(detector) for detector in file.keys()}  # noqa: SIM118  # not a dict
        return ScoredSet(scores, tuple(json.loads(file.metadata()["groups"])))


def scores_path(folder: Path, name: str) -> Path:
    """The file of a set's confidences."""
    return folder / "scores" / f"{name.replace('/', '-')}.safetensors"
