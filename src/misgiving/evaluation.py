"""Run a model once over a set into `Predictions`; all that is measured is a function of those."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import log_softmax

from misgiving.data.loading import ImageSet, batches
from misgiving.detectors import LOGIT_SCORES
from misgiving.errors import DataError, UsageError
from misgiving.files import whole_file
from misgiving.metrics.classification import (
    accuracy,
    balanced_accuracy,
    macro_auroc,
    sensitivities,
)
from misgiving.metrics.loss_estimation import (
    error_auroc,
    order_agreement,
    r_squared,
    spearman,
    spread_ratio,
)
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import aurc
from misgiving.models.joint import JointClassifier, outputs_of

Confidences = Float[np.ndarray, " n"]
Measured = float | Float[np.ndarray, ""] | Int[np.ndarray, ""] | np.generic


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model says about each image of a set, as arrays on the CPU.

    Attributes:
        logits: Class scores before the softmax.
        features: Input of the last linear layer.
        predicted_losses: Higher = rather wrong; None where the estimator was not trained.
        labels: True classes as positions in `classes`.
        ids: What each image is called.
        groups: The unit that is resampled: lesion, source picture, or the image itself.
        classes: Names of the classes, in the order of the logits.
    """

    logits: Float[np.ndarray, "n classes"]
    features: Float[np.ndarray, "n width"]
    predicted_losses: Float[np.ndarray, " n"] | None
    labels: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

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
        """Where the predicted class is not the true one."""
        wrong: Bool[np.ndarray, " n"] = self.choices != self.labels
        return wrong

    def true_losses(self, class_weights: Sequence[float] | None = None) -> Float[np.ndarray, " n"]:
        """Cross-entropy of each image, in float64, times its class's weight where given."""
        losses: Float[np.ndarray, " n"] = -self._log_probabilities[
            np.arange(len(self)), self.labels
        ]
        return losses if class_weights is None else losses * np.asarray(class_weights)[self.labels]

    def confidences(self) -> dict[str, Confidences]:
        """Every confidence that needs no images: of the logits, and the negated predicted loss."""
        logits = torch.from_numpy(self.logits).double()
        scores = {name: score(logits).numpy() for name, score in LOGIT_SCORES.items()}
        if self.predicted_losses is not None:
            scores["predicted_loss"] = -self.predicted_losses.astype(np.float64)
        return scores

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
        names = {"ids": self.ids, "groups": self.groups, "classes": self.classes}
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
            arrays, names = load_file(path), _read_metadata(path)
            return cls(
                logits=arrays["logits"],
                features=arrays["features"],
                predicted_losses=arrays.get("predicted_losses"),
                labels=arrays["labels"],
                ids=tuple(json.loads(names["ids"])),
                groups=tuple(json.loads(names["groups"])),
                classes=tuple(json.loads(names["classes"])),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not readable predictions ({error}); predict again") from error


def _read_metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})


def predict(
    model: JointClassifier,
    images: ImageSet,
    *,
    batch_size: int = 64,
    estimates_losses: bool = True,
) -> Predictions:
    """Run a model once over a set, in evaluation mode, on the device where the model is.

    Args:
        model: The classifier with its loss estimator.
        images: The set.
        batch_size: Images in one forward pass.
        estimates_losses: False where the estimator was not trained: predicted losses are then None.
    """
    if not len(images):
        raise UsageError("there are no images to predict")
    output = outputs_of(model, image_batches(images, batch_size, device_of(model)))
    return Predictions(
        logits=output.logits.numpy(),
        features=output.features.numpy(),
        predicted_losses=output.predicted_losses.numpy() if estimates_losses else None,
        labels=np.asarray(images.labels),
        ids=images.ids,
        groups=images.groups,
        classes=images.classes,
    )


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device


def image_batches(
    images: ImageSet, batch_size: int = 64, device: str | torch.device = "cpu"
) -> Iterator[Float[torch.Tensor, "batch 3 height width"]]:
    """The images of a set alone, in order, as float batches in [0, 1]."""
    return (batch.images for batch in batches(images, batch_size=batch_size, device=device))


class Measurement(NamedTuple):
    """One value: of a metric, on a data set, by a detector (empty where none applies)."""

    dataset: str
    detector: str
    metric: str
    value: float


def measure_classification(predictions: Predictions, dataset: str) -> list[Measurement]:
    """Accuracy, balanced accuracy, sensitivity per class, macro AUROC, and the count of errors."""
    labels, choices, classes = predictions.labels, predictions.choices, predictions.classes
    per_class = sensitivities(labels, choices, num_classes=len(classes))
    values = {
        "accuracy": accuracy(labels, choices),
        "balanced_accuracy": balanced_accuracy(labels, choices, num_classes=len(classes)),
        "auroc": macro_auroc(labels, predictions.probabilities),
        "errors": predictions.errors.sum(),
        "images": len(predictions),
        **{f"sensitivity/{name}": value for name, value in zip(classes, per_class, strict=True)},
    }
    return _measurements(dataset, "", values)


def measure_loss_estimation(
    predictions: Predictions, dataset: str, *, class_weights: Sequence[float] | None = None
) -> list[Measurement]:
    """How well the predicted loss, and MSP beside it, order images by loss and tell errors apart.

    `spearman` and `order_agreement` are against the loss that the estimator was trained on, with
    `class_weights`; those against the plain cross-entropy end in `_plain`. For MSP the predicted
    loss is the negated confidence.
    """
    trained, plain = predictions.true_losses(class_weights), predictions.true_losses()
    measurements: list[Measurement] = []
    for detector, confidences in predictions.confidences().items():
        if detector not in ("predicted_loss", "msp"):
            continue
        values = _ordering(-confidences, trained, plain)
        values["error_auroc"] = error_auroc(confidences, predictions.errors)
        values["aurc"] = aurc(confidences, predictions.errors)
        if detector == "predicted_loss":
            values["spread_ratio"] = spread_ratio(-confidences, trained)
            values["r_squared"] = r_squared(-confidences, trained)
        measurements += _measurements(dataset, detector, values)
    return measurements


def _ordering(
    predicted: Float[np.ndarray, " n"],
    trained: Float[np.ndarray, " n"],
    plain: Float[np.ndarray, " n"],
) -> dict[str, Measured]:
    return {
        "spearman": spearman(predicted, trained),
        "spearman_plain": spearman(predicted, plain),
        "order_agreement": order_agreement(predicted, trained),
        "order_agreement_plain": order_agreement(predicted, plain),
    }


def measure_ood(
    inliers: Float[np.ndarray, " n_in"],
    outliers: Float[np.ndarray, " n_out"],
    *,
    dataset: str,
    detector: str,
) -> list[Measurement]:
    """The five OOD metrics, in-distribution as positives, with average precision beside AUPR."""
    return _measurements(dataset, detector, ood_metrics(inliers, outliers))


def _measurements(dataset: str, detector: str, values: Mapping[str, Measured]) -> list[Measurement]:
    return [
        Measurement(dataset, detector, metric, float(value))
        for metric, value in values.items()
        if not math.isnan(float(value))
    ]
