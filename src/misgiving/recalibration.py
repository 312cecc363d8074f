"""What scores mean: class probabilities, expected losses and probabilities of error.

A network's softmax is rarely a probability, and a loss that was predicted by ranking has an order
but no scale. Both are given a meaning on the *tune* part, which no threshold is set on later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from misgiving.errors import DataError
from misgiving.metrics.selective import aurc

Values = Float[np.ndarray, " n"]
Confidences = Mapping[str, Values]
"""By the score's name; higher = rather right."""

COMBINATION = "combination"
COMBINED = ("msp", "entropy", "max_logit", "energy", "knn", "predicted_loss")
SINGLE = ("msp", "entropy", "max_logit", "predicted_loss")
FOLDS = 5
PENALTIES = (0.01, 0.1, 1.0)  # inverse strengths
FEWEST_OF_EACH = 10  # wrong and right answers from which a combination can be learned
PRIOR_SCALE = 3.0  # standard deviation of the prior of log T and of a class's bias, in nats


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Class probabilities softmax(z / T + b) from logits z (Guo et al., 2017, with biases).

    Balanced sampling and class weights shift what the softmax takes for the classes' shares; the
    biases b shift it back. They change probabilities alone: the predicted class stays that of the
    largest logit, for which training has weighed the classes.
    """

    temperature: float
    biases: tuple[float, ...]

    def __call__(self, logits: Float[np.ndarray, "n classes"]) -> Float[np.ndarray, "n classes"]:
        scaled = logits / np.float64(self.temperature) + np.asarray(self.biases)
        return np.asarray(softmax(scaled, axis=1))

    @classmethod
    def fit(
        cls, logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
    ) -> "Scaling":
        """The most probable scaling: least negative log-likelihood, and a weak prior.

        The prior keeps finite the bias of a class that has few or no cases, and the temperature
        where every answer is right.
        """
        wide = logits.astype(np.float64)
        count, classes = wide.shape
        truth = np.eye(classes)[labels]

        def objective(parameters: Values) -> tuple[float, Values]:
            inverse, biases = np.exp(-parameters[0]), parameters[1:]
            log_probabilities = log_softmax(wide * inverse + biases, axis=1)
            slope = np.exp(log_probabilities) - truth
            value = -log_probabilities[truth > 0].sum() + (parameters**2).sum() / 2 / PRIOR_SCALE**2
            slopes = np.array([-(slope * wide).sum() * inverse, *slope.sum(axis=0)])
            return float(value) / count, (slopes + parameters / PRIOR_SCALE**2) / count

        found = minimize(objective, np.zeros(classes + 1), jac=True, method="L-BFGS-B").x
        return cls(temperature=float(np.exp(found[0])), biases=tuple(found[1:].tolist()))


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A monotone map, linear between its knots and constant beyond them."""

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, inputs: Values) -> Values:
        return np.asarray(np.interp(inputs, self.knots, self.values))

    @classmethod
    def fit(
        cls, inputs: Values, targets: Values, *, increasing: bool, margin: float = 0.0
    ) -> "Isotonic":
        """Least squares among monotone maps (pool adjacent violators).

        Args:
            inputs: What is mapped.
            targets: What it should give in the mean.
            increasing: Whether larger inputs give larger values.
            margin: Keeps probabilities this far from 0 and 1, which few samples cannot show.
        """
        fitted = IsotonicRegression(increasing=increasing, out_of_bounds="clip")
        fitted.fit(inputs.astype(np.float64), targets.astype(np.float64))
        values = fitted.y_thresholds_
        if margin:
            values = values.clip(margin, 1 - margin)
        return cls(knots=tuple(fitted.X_thresholds_.tolist()), values=tuple(values.tolist()))


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Probability of error as a logistic function of standardised confidences."""

    names: tuple[str, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def __call__(self, confidences: Confidences) -> Values:
        """Minus the log-odds of an error: a confidence, of which no two differ by rounding only."""
        table = _table(confidences, self.names)
        standard = (table - np.asarray(self.centres)) / np.asarray(self.scales)
        return np.asarray(-(standard @ np.asarray(self.weights) + self.intercept))

    @classmethod
    def fit(
        cls,
        confidences: Confidences,
        wrong: Bool[np.ndarray, " n"],
        groups: Shaped[np.ndarray, " n"],
    ) -> "Combination":
        """Penalised maximum likelihood; the penalty is cross-validated over groups."""
        names = tuple(name for name in COMBINED if name in confidences)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            {"logisticregression__C": PENALTIES},
            scoring="neg_log_loss",
            cv=list(GroupKFold(FOLDS).split(wrong, groups=groups)),
        )
        scaler, logistic = search.fit(_table(confidences, names), wrong).best_estimator_
        return cls(
            names=names,
            centres=tuple(scaler.mean_.tolist()),
            scales=tuple(scaler.scale_.tolist()),
            weights=tuple(logistic.coef_[0].tolist()),
            intercept=float(logistic.intercept_[0]),
        )


def _table(confidences: Confidences, names: Sequence[str]) -> Float[np.ndarray, "n columns"]:
    missing = [name for name in names if name not in confidences]
    if missing:
        raise DataError(f"the scores lack {', '.join(missing)}; predict with the model's estimator")
    return np.column_stack([confidences[name] for name in names]).astype(np.float64)


def combined_out_of_fold(
    confidences: Confidences, wrong: Bool[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]
) -> Values | None:
    """The combination's confidence in each sample, learned on the other groups alone.

    None where there are too few groups, errors or right answers to learn from.
    """
    scores = np.empty(len(wrong))
    if len(np.unique(groups)) < 2 * FOLDS:
        return None
    for kept, left_out in GroupKFold(FOLDS).split(wrong, groups=groups):
        if not _can_learn(wrong[kept], groups[kept]):
            return None
        learned = Combination.fit(_rows(confidences, kept), wrong[kept], groups[kept])
        scores[left_out] = learned(_rows(confidences, left_out))
    return scores


def _rows(
    confidences: Confidences, rows: Int[np.ndarray, " _"]
) -> dict[str, Float[np.ndarray, " _"]]:
    return {name: values[rows] for name, values in confidences.items()}


def _can_learn(wrong: Bool[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]) -> bool:
    """Whether each fold's rest has right and wrong answers, and enough of them."""
    if min(wrong.sum(), (~wrong).sum()) < FEWEST_OF_EACH:
        return False
    folds = GroupKFold(FOLDS).split(wrong, groups=groups)
    return all(0 < wrong[kept].sum() < len(kept) for kept, _ in folds)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the scores of one model mean, learned on its tune part.

    Attributes:
        scaling: Class probabilities from logits.
        score: The confidence that the policy accepts by.
        combination: Learned; None where there was too little to learn from.
        error: From the chosen confidence to the probability of error.
        loss: From the negated predicted loss to the expected cross-entropy in nats; None without.
        tried: AURC of every score on the tune part, out of fold for the combination.
        samples: Size of the tune part.
    """

    scaling: Scaling
    score: str
    combination: Combination | None
    error: Isotonic
    loss: Isotonic | None
    tried: Mapping[str, float]
    samples: int

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the confidences that this rests on."""
        of_score = () if self.score == COMBINATION else (self.score,)
        combined = () if self.combination is None else self.combination.names
        return (*of_score, *combined, *(() if self.loss is None else ("predicted_loss",)))

    def scores(self, confidences: Confidences) -> Values:
        """The confidence that the policy accepts by: higher = rather right."""
        return self.with_combination(confidences)[self.score].astype(np.float64)

    def with_combination(self, confidences: Confidences) -> Confidences:
        """The confidences, and that of the learned combination where there is one."""
        if self.combination is None:
            return confidences
        return {**confidences, COMBINATION: self.combination(confidences)}

    def error_probabilities(self, confidences: Confidences) -> Values:
        """Probability that the answer is wrong."""
        return self.error(self.scores(confidences))

    def expected_losses(self, confidences: Confidences) -> Values | None:
        """Expected cross-entropy in nats; None for a model without a trained estimator."""
        return None if self.loss is None else self.loss(confidences["predicted_loss"])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Estimate":
        """Inverse of `to_dict`.

        Raises:
            KeyError, TypeError: It is not what `to_dict` gave.
        """
        parts = {"scaling": Scaling, "combination": Combination, "error": Isotonic}
        parts["loss"] = Isotonic
        made = {
            name: None if values[name] is None else kind(**_tuples(values[name]))
            for name, kind in parts.items()
        }
        return cls(**{**values, **made})


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def fit_estimate(
    confidences: Confidences,
    logits: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
) -> Estimate:
    """Learn on the tune part what scores mean, and which of them to accept by.

    The learned combination is accepted by if, and only if, its AURC out of fold is lower than that
    of every single score; else the single score with the lowest.

    Args:
        confidences: Of the tune part, by name, among them some of `SINGLE` and `COMBINED`.
        logits: Of the classes.
        labels: True classes.
        groups: Lesions: samples of one stay in one fold.

    Raises:
        DataError: There are too few samples, or a score is not finite.
    """
    used = {
        name: confidences[name] for name in dict.fromkeys(SINGLE + COMBINED) if name in confidences
    }
    _refuse_unusable(used)
    wrong = logits.argmax(axis=1) != labels
    combined = combined_out_of_fold(used, wrong, groups)
    candidates = {name: used[name] for name in SINGLE if name in used}
    if combined is not None:
        candidates[COMBINATION] = combined
    tried = {name: float(aurc(values, wrong)) for name, values in candidates.items()}
    score = min(tried, key=lambda name: tried[name])
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return Estimate(
        scaling=Scaling.fit(logits, labels),
        score=score,
        combination=None if combined is None else Combination.fit(used, wrong, groups),
        error=Isotonic.fit(
            candidates[score], wrong * 1.0, increasing=False, margin=1 / (len(wrong) + 2)
        ),
        loss=_loss_map(used, losses),
        tried=tried,
        samples=len(labels),
    )


def _loss_map(confidences: Confidences, losses: Values) -> Isotonic | None:
    predicted = confidences.get("predicted_loss")
    return None if predicted is None else Isotonic.fit(predicted, losses, increasing=False)


def _refuse_unusable(confidences: Confidences) -> None:
    for name, values in confidences.items():
        if len(values) < 2:
            raise DataError(f"the tune part has {len(values)} images; give more to learn from")
        if not np.isfinite(values).all():
            position = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(
                f"{name} is not finite at position {position} of the tune part; predict again"
            )
