"""Detectors in numpy, for where there is no torch: scores of logits, and of fitted statistics.

Each score is that of the same name in `LOGIT_SCORES` or `FITTED`, and tests hold it to that. ViM is
left out: its residual begins amid eigenvectors of a float32 covariance, which two libraries do not
share to the last digits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from scipy.special import entr, logsumexp, softmax

from misgiving.errors import DataError
from misgiving.files import whole_file
from misgiving.registry import Registry
from misgiving.scores.training_outputs import TrainingOutputs, neighbours_of

Logits = Float[np.ndarray, "n classes"]
Features = Float[np.ndarray, "n width"]
Reduced = Float[np.ndarray, "n directions"]
Scores = Float[np.ndarray, " n"]
Statistics = Mapping[str, Shaped[np.ndarray, "..."]]
"""What a detector keeps of the training part, by name."""

RIDGE = 1e-6  # pytorch-ood's, on the diagonal of a scatter matrix
SIMILAR = 10  # training samples that guide `nnguide`
SMALLEST_NORM, SMALLEST_DISTANCE = 1e-12, 1e-8  # pytorch-ood's


def _max_softmax(logits: Logits) -> Scores:
    return np.asarray(softmax(logits, axis=1).max(axis=1))


def _energy(logits: Logits) -> Scores:
    return np.asarray(logsumexp(logits, axis=1))


def _max_logit(logits: Logits) -> Scores:
    return np.asarray(logits.max(axis=1))


def _negative_entropy(logits: Logits) -> Scores:
    return -np.asarray(entr(softmax(logits, axis=1)).sum(axis=1))


def _gen(logits: Logits) -> Scores:
    p = softmax(logits, axis=1).clip(1e-7, 1 - 1e-7)
    return -np.asarray(((p * (1 - p)) ** 0.1).mean(axis=1))


def _max_logit_norm(logits: Logits) -> Scores:
    return np.asarray(_unit(logits - logits.mean(axis=1, keepdims=True)).max(axis=1))


PORTABLE_LOGIT_SCORES: Registry[Callable[[Logits], Scores]] = Registry(
    "score of logits",
    msp=_max_softmax,
    energy=_energy,
    max_logit=_max_logit,
    entropy=_negative_entropy,
    gen=_gen,
    max_logit_norm=_max_logit_norm,
)
"""From float64 logits to confidences."""


class Portable(NamedTuple):
    """A detector in two halves.

    Attributes:
        fit: What to keep of the training part, whose features are reduced.
        score: Confidences by that, from float64 logits and reduced features.
    """

    fit: Callable[[TrainingOutputs], Statistics]
    score: Callable[[Statistics, Logits, Reduced], Scores]


def _unit(vectors: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n width"]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / norms.clip(min=SMALLEST_NORM))


def _fit_knn(training: TrainingOutputs) -> Statistics:
    return {
        "neighbours": _unit(training.features),
        "k": np.array(neighbours_of(len(training.features))),
    }


def _score_knn(of: Statistics, _: Logits, features: Reduced) -> Scores:
    """Minus the distance to the k-th nearest.

    That one is found by inner products, and its distance taken from the difference, which rounding
    does not blur where both nearly agree.
    """
    unit, k = _unit(features), of["k"].item()
    nearest = np.argpartition(unit @ of["neighbours"].T, -k, axis=1)[:, -k]
    return -np.asarray(np.linalg.norm(unit - of["neighbours"][nearest], axis=1))


def _precision(centred: Float[np.ndarray, "n directions"]) -> Float[np.ndarray, "_ _"]:
    """Inverse of the scatter matrix, which is not divided by the number of samples."""
    return np.asarray(np.linalg.inv(centred.T @ centred + RIDGE * np.eye(centred.shape[1])))


def _fit_mahalanobis(training: TrainingOutputs) -> Statistics:
    present = np.unique(training.labels, return_inverse=True)[1]
    groups = [training.features[present == label] for label in range(present.max() + 1)]
    means = np.stack([group.mean(axis=0) for group in groups])
    return {"means": means, "precision": _precision(training.features - means[present])}


def _fit_relative(training: TrainingOutputs) -> Statistics:
    mean = training.features.mean(axis=0)
    return {
        **_fit_mahalanobis(training),
        "all_mean": mean,
        "all_precision": _precision(training.features - mean),
    }


def _squared(
    features: Reduced,
    mean: Float[np.ndarray, " directions"],
    precision: Float[np.ndarray, "directions directions"],
) -> Scores:
    centred = features - mean
    return np.asarray(((centred @ precision) * centred).sum(axis=1))


def _nearest_class(of: Statistics, features: Reduced) -> Scores:
    """Squared Mahalanobis distance to the nearest class mean."""
    distances = [_squared(features, mean, of["precision"]) for mean in of["means"]]
    return np.asarray(np.min(distances, axis=0))


def _score_mahalanobis(of: Statistics, _: Logits, features: Reduced) -> Scores:
    return -0.5 * _nearest_class(of, features)


def _score_relative(of: Statistics, _: Logits, features: Reduced) -> Scores:
    everything = _squared(features, of["all_mean"], of["all_precision"])
    return np.asarray(everything - _nearest_class(of, features))


def _head(training: TrainingOutputs) -> Statistics:
    return {"weight": training.head.weight, "bias": training.head.bias}


def _head_logits(of: Statistics, features: Reduced) -> Logits:
    return np.asarray(features @ of["weight"].T + of["bias"])


def _fit_nnguide(training: TrainingOutputs) -> Statistics:
    energies = _energy(_head_logits(_head(training), training.features))
    return {**_head(training), "guides": _unit(training.features) * energies[:, None]}


def _score_nnguide(of: Statistics, _: Logits, features: Reduced) -> Scores:
    similarities = _unit(features) @ of["guides"].T
    count = min(SIMILAR, similarities.shape[1])
    guidance = np.partition(similarities, -count, axis=1)[:, -count:].mean(axis=1)
    return np.asarray(guidance * _energy(_head_logits(of, features)))


def _fit_about_mean(training: TrainingOutputs) -> Statistics:
    return {**_head(training), "mean": training.features.mean(axis=0)}


def _score_nci(of: Statistics, _: Logits, features: Reduced) -> Scores:
    centred = features - of["mean"]
    chosen = of["weight"][_head_logits(of, features).argmax(axis=1)]
    return np.asarray((centred * chosen).sum(axis=1) / np.linalg.norm(centred, axis=1))


def _score_fdbd(of: Statistics, _: Logits, features: Reduced) -> Scores:
    logits, weight = _head_logits(of, features), of["weight"]
    apart = np.linalg.norm(weight[:, None] - weight, axis=2) + np.eye(len(weight))
    gaps = logits.max(axis=1, keepdims=True) - logits
    boundaries = (gaps / apart[logits.argmax(axis=1)]).sum(axis=1) / (len(weight) - 1)
    distances = np.linalg.norm(features - of["mean"], axis=1)
    return np.asarray(boundaries / distances.clip(min=SMALLEST_DISTANCE))


def _fit_kl_matching(training: TrainingOutputs) -> Statistics:
    probabilities = softmax(training.logits, axis=1)
    chosen = probabilities.argmax(axis=1)
    means = [probabilities[chosen == label].mean(axis=0) for label in np.unique(chosen)]
    return {"typical": np.stack(means)}


def _score_kl_matching(of: Statistics, logits: Logits, _: Reduced) -> Scores:
    probabilities = softmax(logits, axis=1)
    with np.errstate(divide="ignore"):
        log_typical = np.log(of["typical"]).clip(min=np.finfo(np.float64).min)
    plogp = -entr(probabilities).sum(axis=1, keepdims=True)
    return -np.asarray((plogp - probabilities @ log_typical.T).min(axis=1))


PORTABLE: Registry[Portable] = Registry(
    "detector that needs no torch",
    mahalanobis=Portable(_fit_mahalanobis, _score_mahalanobis),
    relative_mahalanobis=Portable(_fit_relative, _score_relative),
    knn=Portable(_fit_knn, _score_knn),
    nnguide=Portable(_fit_nnguide, _score_nnguide),
    nci=Portable(_fit_about_mean, _score_nci),
    fdbd=Portable(_fit_about_mean, _score_fdbd),
    kl_matching=Portable(_fit_kl_matching, _score_kl_matching),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class PortableDetectors:
    """Confidences of logits, and by detectors that were fitted; higher = more in-distribution.

    Attributes:
        directions: Rows onto which features are projected.
        statistics: What each detector keeps of the training part.
    """

    directions: Float[np.ndarray, "directions width"]
    statistics: Mapping[str, Statistics]

    @classmethod
    def fit(
        cls,
        directions: Float[np.ndarray, "directions width"],
        training: TrainingOutputs,
        names: Sequence[str],
    ) -> "PortableDetectors":
        """Fit these of `PORTABLE` on a training part whose features lie along `directions`."""
        return cls(
            directions=directions, statistics={name: PORTABLE[name].fit(training) for name in names}
        )

    def __call__(self, logits: Logits, features: Features) -> dict[str, Scores]:
        """Every score; NaN or infinite where a detector has none for an image."""
        wide = logits.astype(np.float64)
        reduced = features.astype(np.float64) @ self.directions.T
        scores = {name: score(wide) for name, score in PORTABLE_LOGIT_SCORES.items()}
        with np.errstate(divide="ignore", invalid="ignore"):
            return scores | {
                name: PORTABLE[name].score(of, wide, reduced)
                for name, of in self.statistics.items()
            }

    def save(self, path: Path) -> None:
        """Write one safetensors file, whole or not at all."""
        arrays = {"directions": self.directions}
        for name, statistics in self.statistics.items():
            arrays |= {f"{name}/{key}": value for key, value in statistics.items()}
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        with whole_file(path) as partial:
            save_file(contiguous, partial, {"names": json.dumps(list(self.statistics))})

    @classmethod
    def load(cls, path: Path) -> "PortableDetectors":
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing or damaged.
        """
        try:
            with safe_open(path, framework="np") as file:
                names = json.loads((file.metadata() or {})["names"])
            arrays = load_file(path)
            directions = arrays.pop("directions")
            return cls(
                directions=directions, statistics={name: _under(name, arrays) for name in names}
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not readable detectors ({error}); export again") from error


def _under(name: str, arrays: Statistics) -> Statistics:
    """Statistics of one detector, refused where it is not known."""
    PORTABLE[name]
    return {
        place.removeprefix(f"{name}/"): array
        for place, array in arrays.items()
        if place.startswith(f"{name}/")
    }
