"""Detectors fitted on a model's predictions for its training set: they need no images.

All are those of pytorch-ood, whose scores are higher for outliers; `FittedDetectors` turns the
sign, and nothing else does. Features are first reduced to their principal directions.

Left out of `FITTED`, though they too need only logits or features:

- DICE, ReAct, ASH, SCALE, VRA and LTS act on single units of the last layer, which PCA mixes.
- GMM has a covariance for each class: a rare class has fewer samples than there are directions.
- SHE must have seen every class predicted correctly, which a rare class may never be.
- OpenMax scores a sample differently beside others, and takes a Python loop over samples.
- pNML applies the last layer to normalised features, where its bias has another meaning.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from misgiving.errors import DataError, ExplainedError, UsageError
from misgiving.files import whole_file
from misgiving.registry import Registry
from misgiving.results.predictions import Head
from misgiving.scores.reduction import principal_directions, reduce
from misgiving.scores.training_outputs import TrainingOutputs, neighbours_of

BATCH = 1024  # samples scored at once, which bounds the memory of distances to the training set


def fit_detectors(
    training: TrainingOutputs, names: Sequence[str] | None = None, *, seed: int = 0
) -> "FittedDetectors":
    """Fit detectors on training predictions alone.

    Args:
        training: Predictions for the training part of a set, never for another part.
        names: Which of `FITTED`; all if None.
        seed: For detectors that draw random numbers (at present none does).
    """
    names = tuple(FITTED if names is None else dict.fromkeys(names))
    for name in names:
        FITTED[name]
    directions = principal_directions(training.features)
    return FittedDetectors(directions, reduce(training, directions), names, seed)


class FittedDetectors:
    """Confidences by every detector that was fitted; higher means more in-distribution.

    Args:
        directions: Rows onto which features are projected.
        training: What the detectors are fitted on, its features along `directions`.
        names: Which of `FITTED`.
        seed: For detectors that draw random numbers.
    """

    def __init__(
        self,
        directions: Float[np.ndarray, "directions width"],
        training: TrainingOutputs,
        names: Sequence[str],
        seed: int = 0,
    ) -> None:
        self.directions, self.training = directions, training
        self.names, self.seed = tuple(names), seed
        reduced = _tensors_of(training)
        self._outlierness = {name: _fit(name, reduced, seed) for name in self.names}

    def __call__(
        self, logits: Float[np.ndarray, "m classes"], features: Float[np.ndarray, "m width"]
    ) -> dict[str, Float[np.ndarray, " m"]]:
        """Score predictions of the same model; memory does not grow with their number."""
        self._check_shapes(logits, features)
        _check_values(logits, features)
        batches = [
            self._score(logits[start : start + BATCH], features[start : start + BATCH])
            for start in range(0, len(logits), BATCH)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.names}

    def only(self, names: Sequence[str]) -> "FittedDetectors":
        """These of the detectors, as they were fitted."""
        chosen = copy(self)
        chosen.names = tuple(names)
        chosen._outlierness = {name: self._outlierness[name] for name in names}
        return chosen

    def _check_shapes(
        self, logits: Float[np.ndarray, "m classes"], features: Float[np.ndarray, "m width"]
    ) -> None:
        if not 0 < len(logits) == len(features):
            raise UsageError(
                f"{len(logits)} logits and {len(features)} features; "
                "give one of each for at least one sample"
            )
        expected = (self.training.logits.shape[1], self.directions.shape[1])
        if (logits.shape[1], features.shape[1]) != expected:
            raise UsageError(
                f"{logits.shape[1]} classes and features of {features.shape[1]} values, but the "
                f"detectors were fitted on {expected[0]} and {expected[1]}; use the same model"
            )

    def _score(
        self, logits: Float[np.ndarray, "batch classes"], features: Float[np.ndarray, "batch width"]
    ) -> dict[str, Float[np.ndarray, " batch"]]:
        inputs = _tensor(logits), _tensor(features.astype(np.float64) @ self.directions.T)
        with torch.no_grad():
            return {
                name: _finite(name, -outlierness(*inputs).double().numpy())
                for name, outlierness in self._outlierness.items()
            }

    def save(self, path: Path) -> None:
        """Write what the detectors were fitted on as one safetensors file, whole or not at all."""
        arrays = {
            "directions": self.directions,
            "logits": self.training.logits,
            "features": self.training.features,
            "labels": self.training.labels,
            "head_weight": self.training.head.weight,
            "head_bias": self.training.head.bias,
        }
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        metadata = {"names": json.dumps(self.names), "seed": json.dumps(self.seed)}
        with whole_file(path) as partial:
            save_file(contiguous, partial, metadata)

    @classmethod
    def load(cls, path: Path) -> "FittedDetectors":
        """Read what `save` wrote and fit again, which gives the same scores.

        Raises:
            DataError: The file is missing or damaged.
        """
        try:
            arrays, metadata = _read(path)
            return cls(
                arrays.pop("directions"),
                TrainingOutputs(
                    head=Head(arrays.pop("head_weight"), arrays.pop("head_bias")), **arrays
                ),
                json.loads(metadata["names"]),
                json.loads(metadata["seed"]),
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not readable detectors ({error}); fit them again") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with safe_open(path, framework="np") as file:
        return load_file(path), dict(file.metadata() or {})


def _check_values(
    logits: Float[np.ndarray, "m classes"], features: Float[np.ndarray, "m width"]
) -> None:
    failed = np.count_nonzero(~np.isfinite(np.hstack([logits, features])).all(axis=1))
    if failed:
        raise UsageError(
            f"logits or features of {failed} of {len(logits)} samples are NaN or infinite; "
            "check the images and predict again"
        )


def _finite(name: str, confidences: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    failed = np.count_nonzero(~np.isfinite(confidences))
    if failed:
        raise DataError(
            f"{name}: {failed} of {len(confidences)} scores are not finite; "
            "check these predictions, or fit without this detector"
        )
    return confidences


class Reduced(NamedTuple):
    """What a detector is fitted on: float64 tensors, and labels without gaps."""

    logits: Float[Tensor, "n classes"]
    features: Float[Tensor, "n directions"]
    labels: Int[Tensor, " n"]
    weight: Float[Tensor, "classes directions"]
    bias: Float[Tensor, " classes"]

    @property
    def head(self) -> nn.Linear:
        """The head as a layer, in float32 as those detectors that ask for one compute."""
        classes, directions = self.weight.shape
        layer = nn.Linear(directions, classes).requires_grad_(False)
        layer.weight.copy_(self.weight)
        layer.bias.copy_(self.bias)
        return layer.float()


def _tensors_of(training: TrainingOutputs) -> Reduced:
    present = np.unique(training.labels, return_inverse=True)[1]  # Mahalanobis wants no gaps
    return Reduced(
        _tensor(training.logits),
        _tensor(training.features),
        torch.tensor(present),
        _tensor(training.head.weight),
        _tensor(training.head.bias),
    )


def _tensor(values: Float[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    """A float64 copy, aligned by torch whatever the array's place in a file was."""
    return torch.tensor(np.ascontiguousarray(values), dtype=torch.float64)


Outlierness = Callable[[Float[Tensor, "m classes"], Float[Tensor, "m directions"]], Tensor]
"""From logits and reduced features to pytorch-ood's scores, which are higher for outliers."""


def _fit(name: str, training: Reduced, seed: int) -> Outlierness:
    try:
        with _double_precision_and_seed(seed):
            return FITTED[name](training)
    except ExplainedError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:  # what pytorch-ood raises
        raise DataError(f"{name}: cannot be fitted ({error}); fit without it") from error


@contextmanager
def _double_precision_and_seed(seed: int) -> Iterator[None]:
    """Make torch's default float64, in which Mahalanobis allocates, and fix its random numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


def mahalanobis(training: Reduced) -> Outlierness:
    """Half the squared distance to the nearest class mean (Lee et al., 2018).

    Under one covariance of all classes, multiplied by the number of samples.
    """
    from pytorch_ood.detector import Mahalanobis

    return _of_features(Mahalanobis(None), training)


def relative_mahalanobis(training: Reduced) -> Outlierness:
    """Squared distance to the nearest class less that to all of them (Ren et al., 2021)."""
    from pytorch_ood.detector import RMD

    return _of_features(RMD(None), training)


def knn(training: Reduced) -> Outlierness:
    """Distance of unit features to the k-th nearest of training (Sun et al., 2022).

    The paper's k grows with the set, from 50 for CIFAR-10; k is 50, or a twentieth of the samples
    where that is less.
    """
    from pytorch_ood.detector import KNN

    k = neighbours_of(len(training.features))
    return _of_features(KNN(None, k=k, algorithm="brute"), training)


def vim(training: Reduced) -> Outlierness:
    """Virtual-logit matching (Wang et al., 2022); its residual is the later half of directions."""
    from pytorch_ood.detector import ViM

    d = training.features.shape[1] // 2
    return _of_features(ViM(None, d, training.weight, training.bias), training)


def nnguide(training: Reduced) -> Outlierness:
    """Energy times that of the ten most similar training samples (Park et al., 2023)."""
    from pytorch_ood.detector import NNGuide

    detector = NNGuide(None, training.head, k=min(10, len(training.features)))
    outlierness = _of_features(detector, training)
    return lambda logits, features: outlierness(logits, features.float())


def nci(training: Reduced) -> Outlierness:
    """Alignment of centred features with the predicted class's weights (Liu & Qin, 2025).

    Without the norm of the features, whose weight would have to be tuned.
    """
    from pytorch_ood.detector import NCI

    return _of_features(NCI(None, training.head), training)


def fdbd(training: Reduced) -> Outlierness:
    """Distance to the decision boundaries over that to the mean feature (Liu & Qin, 2024)."""
    from pytorch_ood.detector import fDBD

    return _of_features(fDBD(None, training.head), training)


def kl_matching(training: Reduced) -> Outlierness:
    """Divergence of the softmax from the nearest mean softmax of a class (Hendrycks et al., 2022).

    The paper takes those means on validation data; here they are of the training data.
    """
    from pytorch_ood.detector import KLMatching

    detector = KLMatching(None).fit_logits(training.logits)
    return lambda logits, _: detector.predict_logits(logits)


def _of_features(detector: Any, training: Reduced) -> Outlierness:
    detector.fit_features(training.features, training.labels)
    return lambda _, features: detector.predict_features(features)


FITTED: Registry[Callable[[Reduced], Outlierness]] = Registry(
    "fitted detector",
    mahalanobis=mahalanobis,
    relative_mahalanobis=relative_mahalanobis,
    knn=knn,
    vim=vim,
    nnguide=nnguide,
    nci=nci,
    fdbd=fdbd,
    kl_matching=kl_matching,
)
