"""Detectors that are fitted on training predictions, and applied to new ones.

Features are reduced by PCA first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from misgiving.arrays import Evidence, Features, Mask, Taps, Values
from misgiving.errors import DataError, UsageError
from misgiving.scores.features import FEATURE_SCORES, Statistics, Training, principal_directions
from misgiving.scores.logits import LOGIT_SCORES, unit_vectors
from misgiving.scores.outputs import Outputs, TrainingOutputs
from misgiving.scores.probes import ClassProbes

OOD_DETECTORS = ("knn_layers", "knn")  # the default: the first one that can be fitted
WITHOUT_FEATURES = "max_logit"
CELLS = 2**22  # of a table of distances, which bounds the memory of scoring


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedDetectors:
    """Scores of `FEATURE_SCORES`, fitted on a training set.

    Attributes:
        directions: Orthonormal rows onto which features are projected.
        statistics: What each score keeps, by its name.
        probes: Class probes, for the error estimator; None where there are none.
    """

    directions: Float[np.ndarray, "directions width"] = field(
        default_factory=lambda: np.zeros((0, 0))
    )
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    probes: ClassProbes | None = None

    @classmethod
    def fit(
        cls, training: TrainingOutputs, names: Collection[str] = FEATURE_SCORES
    ) -> "FittedDetectors":
        """Fit scores on predictions for the training set, and never for another set.

        There are none without features.

        Args:
            training: Predictions for the images that the model was trained on.
            names: Which of `FEATURE_SCORES`, as far as the last layer and the predictions allow.
        """
        features, taps = training.features, training.taps
        if features is None:
            return cls()
        for name, values in {"features": features, "taps": taps}.items():
            if values is not None and not np.isfinite(values).all():
                raise UsageError(
                    f"training {name} contain NaN or infinity; train and predict again"
                )
        directions = principal_directions(features)
        wide = features.astype(np.float64)
        reduced = _reduce(training, wide, directions)
        inputs = {"reduced": reduced.features, "features": wide, "taps": taps}
        if taps is not None:
            inputs["layers"] = _layers(taps, reduced.features)
            widths = training.tap_widths or taps.shape[1:]
            reduced = reduced._replace(widths=(*widths, len(directions)))
        statistics = {
            name: score.fit(reduced._replace(features=values))
            for name, score in FEATURE_SCORES.items()
            if name in names
            and (values := inputs.get(score.reads)) is not None
            and not (score.needs_head and training.head is None)
        }
        probes = ClassProbes.fit(training)
        return cls(directions=directions, statistics=statistics, probes=probes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self.statistics)

    def only(self, names: Sequence[str], *, probes: bool = True) -> "FittedDetectors":
        """Keep these of the scores, as they were fitted, with or without the class probes."""
        return replace(
            self,
            statistics={name: self.statistics[name] for name in names},
            probes=self.probes if probes else None,
        )

    def lacking_columns(self, predictions: Outputs, *, predicted_losses: bool = False) -> list[str]:
        """Columns that are needed and that the predictions do not have, in words."""
        given = predictions.features, predictions.taps
        features, taps = (0 if array is None else array.shape[1] for array in given)
        width, channels = self.widths
        lacks = {
            "the averages of the taps": channels and taps != channels,
            f"the columns feature_0 to feature_{width - 1}": width and features != width,
            "the column predicted_loss": predicted_losses and predictions.predicted_losses is None,
        }
        return [columns for columns, is_lacking in lacks.items() if is_lacking]

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of features and of taps that are read; 0: none are."""
        widths = [self.directions.shape[1] if self.names else 0, 0]
        for name, fitted in self.statistics.items():
            if (reads := FEATURE_SCORES[name].reads) in ("taps", "layers"):
                beside = len(self.directions) if reads == "layers" else 0
                widths[1] = len(fitted["mean"]) - beside
        if self.probes is not None:
            widths[self.probes.reads_taps] = self.probes.width
        return widths[0], widths[1]

    def evidence(self, outputs: Outputs) -> Evidence | None:
        """Log-probabilities by the class probes; None without probes."""
        return None if self.probes is None else self.probes(outputs.features, outputs.taps)

    def __call__(self, outputs: Outputs) -> dict[str, Values]:
        """Score outputs of the same model; not finite where a score is not defined.

        Raises:
            UsageError: They lack what the scores or the class probes read.
        """
        if lacking := self.lacking_columns(outputs):
            raise UsageError(
                f"predictions lack {' and '.join(lacking)}, which the detectors were fitted on; "
                "use the same model"
            )
        if not self.statistics:
            return {}
        columns = {"features": outputs.features, "taps": outputs.taps}
        given = {name: values for name, values in columns.items() if values is not None}
        arrays = [array for fitted in self.statistics.values() for array in fitted.values()]
        rows = max(1, CELLS // max((len(array) for array in arrays if array.ndim), default=1))
        chunks = [
            self._score({name: values[at : at + rows] for name, values in given.items()})
            for at in range(0, max(1, len(outputs)), rows)
        ]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.names}

    def _score(self, given: Mapping[str, Float[np.ndarray, "n _"]]) -> dict[str, Values]:
        wide = {name: values.astype(np.float64) for name, values in given.items()}
        wide["reduced"] = wide["features"] @ self.directions.T
        if any(FEATURE_SCORES[name].reads == "layers" for name in self.names):
            wide["layers"] = _layers(wide["taps"], wide["reduced"])
        return {
            name: FEATURE_SCORES[name].score(fitted, wide[FEATURE_SCORES[name].reads])
            for name, fitted in self.statistics.items()
        }


def default_ood_detector(detectors: FittedDetectors) -> str:
    """The OOD score of a policy where none is chosen; it needs no OOD image, and no gradient."""
    return next((name for name in OOD_DETECTORS if name in detectors.names), WITHOUT_FEATURES)


def all_scores(outputs: Outputs, detectors: FittedDetectors | None = None) -> dict[str, Values]:
    """Scores of logits, the negated predicted loss, and fitted detectors where given, by name.

    Raises:
        DataError: Detectors are given and outputs or scores of an image are not finite.
    """
    if detectors is not None:
        _check_finite("logits, features or taps", outputs.finite)
    scores = scores_of_outputs(outputs, detectors)
    for name in () if detectors is None else scores:
        _check_finite(f"scores of {name}", np.isfinite(scores[name]))
    return scores


def _check_finite(name: str, finite: Mask) -> None:
    if not finite.all():
        raise DataError(
            f"{name} are NaN or infinite for {np.count_nonzero(~finite)} of {len(finite)} images; "
            "check the images and predict again"
        )


def scores_of_outputs(
    outputs: Outputs, detectors: FittedDetectors | None = None
) -> dict[str, Values]:
    """Every score of a model's outputs, by name; not finite where a score is not defined.

    `predicted_loss` is negated here, so that it is a confidence like the others.
    """
    scores = {name: score(outputs.logits) for name, score in LOGIT_SCORES.items()}
    if outputs.kind == "probabilities":
        del scores["energy"]  # the logarithm of their sum, which is 1 but for rounding
    if outputs.predicted_losses is not None:
        scores["predicted_loss"] = -outputs.predicted_losses.astype(np.float64)
    return scores if detectors is None else scores | detectors(outputs)


def _layers(taps: Taps, reduced: Features) -> Float[np.ndarray, "n columns"]:
    """Taps, and after them the reduced features as unit vectors."""
    return np.hstack([taps, unit_vectors(reduced)])


def _reduce(
    training: TrainingOutputs, features: Features, directions: Float[np.ndarray, "directions width"]
) -> Training:
    """Change to coordinates along `directions`, about the features' own origin.

    Angles (knn) are measured at that origin; the other scores do not depend on it. The
    head's bias includes its response to the mean feature outside the directions.
    """
    classes, width = training.logits.shape[1], features.shape[1]
    weight, bias = np.zeros((classes, width)), np.zeros(classes)
    if training.head is not None:
        weight, bias = (values.astype(np.float64) for values in training.head)
    mean = features.mean(axis=0)
    outside = mean - mean @ directions.T @ directions
    return Training(
        features=features @ directions.T,
        labels=training.labels,
        head={"weight": weight @ directions.T, "bias": bias + weight @ outside},
    )
