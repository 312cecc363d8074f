"""Fitted maps from logits and scores to probabilities and expected losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax, logsumexp, softmax

from misgiving.scores.probes import Evidence

Logits = Float[np.ndarray, "n classes"]
Values = Float[np.ndarray, " n"]
Classes = Int[np.ndarray, " n"]
Members = Float[np.ndarray, "n members classes"]
"""Log-probabilities of each class by each classifier of a mixture."""
ByClass = Float[np.ndarray, " classes"]
Scores = Mapping[str, Values]
"""Scores of each image by name; higher means more likely correct."""

CALIBRATED, COMBINATION, ERROR_ESTIMATOR = "calibrated", "combination", "error_estimator"
LEARNED = (CALIBRATED, COMBINATION, ERROR_ESTIMATOR)
"""Names of the scores that are learned on the tuning set."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Temperature scaling with class biases: softmax(z / T + b) of logits z.

    After Guo et al. (2017) and Alexandari et al. (2020). Balanced sampling and class weights shift
    the class frequencies that the softmax implies; the biases b shift them back.
    """

    temperature: float
    biases: tuple[float, ...]

    def __call__(self, logits: Logits) -> Logits:
        return np.asarray(softmax(self.logarithms(logits), axis=1))

    def log_odds(self, logits: Logits, predicted: Classes) -> Values:
        """Log-odds of the named classes against all others."""
        return log_odds_of(self.logarithms(logits), predicted)

    def logarithms(self, logits: Logits) -> Logits:
        """Logarithms of the probabilities, up to a constant of each row."""
        return np.asarray(logits / np.float64(self.temperature) + np.asarray(self.biases))


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A monotone map, linear between its knots and constant beyond them."""

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, inputs: Values) -> Values:
        return np.asarray(np.interp(inputs, *self._arrays))

    @cached_property
    def _arrays(self) -> tuple[Values, Values]:
        """Converted once: a map has thousands of knots, and is applied to every batch."""
        return np.array(self.knots), np.array(self.values)


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Logistic regression of errors on standardised scores."""

    names: tuple[str, ...]
    centres: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def __call__(self, scores: Scores) -> Values:
        """Negated log-odds of an error: ordered as probabilities, without ties by rounding."""
        centred = columns(scores, self.names) - np.asarray(self.centres)
        return np.asarray(
            -((centred / np.asarray(self.scales)) @ np.asarray(self.weights) + self.intercept)
        )


def members_of(scaling: Scaling, logits: Logits, evidence: Evidence) -> Members:
    """Log-probabilities by the calibrated softmax, and after it by each class probe."""
    calibrated = log_softmax(scaling.logarithms(logits), axis=1)
    return np.concatenate([calibrated[:, None], evidence], axis=1)


def log_odds_of(logits: Logits, predicted: Classes) -> Values:
    """Log-odds of the named classes against all others.

    Ordered as their probability, without the ties of probabilities that round to 1.
    """
    others, columns = logits.copy(), predicted[:, None]
    of_predicted = np.take_along_axis(others, columns, axis=1)[:, 0]
    np.put_along_axis(others, columns, -np.inf, axis=1)
    return np.asarray(of_predicted - logsumexp(others, axis=1))


def named_classes(scaling: Scaling, weights: ByClass | None, logits: Logits) -> Classes:
    """Name the class whose probability times its weight is largest; without weights, by logit."""
    if weights is None:
        return np.asarray(logits.argmax(axis=1))
    return np.asarray((scaling.logarithms(logits) + np.log(weights)).argmax(axis=1))


def columns(scores: Scores, names: Sequence[str]) -> Float[np.ndarray, "n columns"]:
    """The named scores as columns of a table."""
    return np.column_stack([scores[name] for name in names]).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """Maps from the scores of one model to probabilities, fitted on its tuning set.

    Attributes:
        scaling: From logits to class probabilities.
        weights: Factor of each class's probability when a class is named; None: by the logits.
        combination: From several scores to one; None where too little is known to learn it.
        error_estimator: Weights of the calibrated softmax and of each class probe in a mean of
            their class probabilities (a linear opinion pool), which sum to 1; None without probes.
        score: Name of the acceptance score.
        error: From the acceptance score to the probability of an error.
        loss: From the negated predicted loss to the expected cross-entropy in nats; None for a
            model without a loss estimator.
        tried: AURC of every candidate score on the tuning set; out of fold for learned scores.
        samples: Size of the tuning set.
    """

    scaling: Scaling
    weights: tuple[float, ...] | None
    combination: Combination | None
    error_estimator: tuple[float, ...] | None
    score: str
    error: Isotonic
    loss: Isotonic | None
    tried: Mapping[str, float]
    samples: int

    def predict(self, logits: Logits) -> Classes:
        """The class that is named for each image."""
        weights = None if self.weights is None else np.array(self.weights)
        return named_classes(self.scaling, weights, logits)

    def with_learned(
        self, scores: Scores, logits: Logits, evidence: Evidence | None = None
    ) -> Scores:
        """Add the learned scores to these: log-odds that the named class is right.

        There is no `error_estimator` without the evidence that it reads.
        """
        predicted = self.predict(logits)
        learned = {**scores, CALIBRATED: self.scaling.log_odds(logits, predicted)}
        if self.error_estimator is not None and evidence is not None:
            members = members_of(self.scaling, logits, evidence)
            weights = np.array(self.error_estimator)[:, None]
            pooled = np.asarray(logsumexp(members, axis=1, b=weights))
            learned[ERROR_ESTIMATOR] = log_odds_of(pooled, predicted)
        if self.combination is not None:
            learned[COMBINATION] = self.combination(learned)
        return learned

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the scores that must be given."""
        combined = () if self.combination is None else self.combination.names
        used = (self.score, *combined, *(() if self.loss is None else ("predicted_loss",)))
        return tuple(name for name in used if name not in LEARNED)

    @property
    def needs_evidence(self) -> bool:
        """True where the acceptance score reads the class probes."""
        return self.score == ERROR_ESTIMATOR

    def acceptance_scores(
        self, scores: Scores, logits: Logits, evidence: Evidence | None = None
    ) -> Values:
        """The scores that the policy accepts by; higher means more likely correct."""
        return self.with_learned(scores, logits, evidence)[self.score].astype(np.float64)

    def probabilities(self, logits: Logits, predicted: Classes, errors: Values) -> Logits:
        """Class probabilities in which the named class has 1 - its error probability.

        The other classes share the error probability in the proportion of their own.
        """
        shown, columns = self.scaling(logits), predicted[:, None]
        np.put_along_axis(shown, columns, 0.0, axis=1)
        rest = shown.sum(axis=1, keepdims=True)
        equal = np.full_like(shown, 1 / (shown.shape[1] - 1))  # where the others round to 0
        shares = np.divide(shown, rest, out=equal, where=rest > 0)
        probabilities: Logits = shares * errors[:, None]
        np.put_along_axis(probabilities, columns, 1 - errors[:, None], axis=1)
        return probabilities

    def predict_classes(self, logits: Logits, errors: Values) -> tuple[Classes, Classes, Logits]:
        """The class that is named, the most probable one after scaling, and probabilities.

        These agree with the errors. Where an error is NaN, they are the scaled ones; where a logit
        is not finite, NaN.
        """
        predicted, probabilities = logits.argmax(axis=1), np.full(logits.shape, np.nan)
        most_probable = predicted.copy()
        finite = np.isfinite(logits).all(axis=1)
        wide = logits[finite].astype(np.float64)
        predicted[finite] = self.predict(wide)
        most_probable[finite] = self.scaling.logarithms(wide).argmax(axis=1)
        probabilities[finite] = self.scaling(wide)
        judged = finite & np.isfinite(errors)
        probabilities[judged] = self.probabilities(
            logits[judged].astype(np.float64), predicted[judged], errors[judged]
        )
        return predicted, most_probable, probabilities
