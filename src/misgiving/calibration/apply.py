"""Fitted maps from logits and scores to probabilities and expected losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from scipy.special import expit, log_softmax, logit, logsumexp

from misgiving.arrays import Classes, Evidence, Logits, Members, Sums, Values
from misgiving.scores.outputs import logarithms_of

Scores = Mapping[str, Values]
"""Scores of each image by name; higher means more likely correct."""

Opinions = Mapping[str, Logits]
"""Probabilities of the classes by other models, by the names of these."""

CALIBRATED, ERROR_ESTIMATOR, SECOND_OPINION = "calibrated", "error_estimator", "second_opinion"
TOP_FIVE, PREDICTED_LOSS = "top_five", "predicted_loss"
LEARNED = (CALIBRATED, ERROR_ESTIMATOR, SECOND_OPINION, TOP_FIVE)
"""Names of the scores that are learned on the tuning set."""
RIVALS = 4  # the next classes, with which the predicted one makes five
Superclasses = tuple[int, ...]
"""Position of the superclass of each class, where superclasses are answered."""
LEAST_EXCESS = 2.0**-53  # that a largest probability or a predicted loss can be above 1 or 0


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Temperature scaling with class biases: softmax(z / T + b) of logits z.

    After Guo et al. (2017) and Alexandari et al. (2020). Balanced sampling and class weights shift
    the class frequencies that the softmax implies; the biases b shift them back.
    """

    temperature: float
    biases: tuple[float, ...]

    def logarithms(self, logits: Logits) -> Logits:
        """Logarithms of the probabilities."""
        scaled = logits / np.float64(self.temperature) + np.asarray(self.biases)
        return np.asarray(log_softmax(scaled, axis=1))


@dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A monotone map, linear between its knots and constant beyond them."""

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, inputs: Values) -> Values:
        return np.asarray(np.interp(inputs, self.knots, self.values))


@dataclass(frozen=True, kw_only=True)
class Line:
    """Log-odds that an answer is right, as a line of the evidence for it.

    Attributes:
        offset: At evidence 0.
        slope: Above 0, so that an answer with less evidence is never more likely to be right.
    """

    offset: float = 0.0
    slope: float = 1.0

    def __call__(self, evidence: Values) -> Values:
        return self.offset + self.slope * evidence

    def then(self, other: "Line") -> "Line":
        """The line that applies this one and then another."""
        offset = other.offset + other.slope * self.offset
        return Line(offset=offset, slope=other.slope * self.slope)


def evidence_of(score: str, values: Values) -> Values:
    """Scores of this name on the scale of log-odds, in the same order."""
    if score == "msp":
        return np.asarray(logit(values.clip(LEAST_EXCESS, 1 - LEAST_EXCESS)))
    if score == PREDICTED_LOSS:  # the loss of an answer of which the probability is exp(-loss)
        return np.asarray(-np.log(np.expm1((-values).clip(LEAST_EXCESS, 700))))
    return values


def answers_of(classes: Classes, superclasses: Superclasses | None) -> Classes:
    """Superclasses of these classes, or without superclasses the classes; unknown stays -1.

    >>> answers_of(np.array([2, 0, -1]), (1, 0, 0))
    array([ 0,  1, -1])
    """
    return classes if superclasses is None else np.append(superclasses, -1)[classes]


def log_sums(vectors: Logits, superclasses: Superclasses | None) -> Sums:
    """Log-probabilities of the answers: of superclasses, or without these of classes.

    >>> np.exp(log_sums(np.log([[0.5, 0.3, 0.2]]), (1, 0, 0))).round(3)
    array([[0.5, 0.5]])
    """
    if superclasses is None:
        return vectors
    members = np.array(superclasses)
    groups = [vectors[:, members == each] for each in range(members.max() + 1)]
    return np.stack([logsumexp(group, axis=1) for group in groups], axis=1)


def with_log_odds(
    vectors: Logits,
    predicted: Classes,
    log_odds: Values,
    superclasses: Superclasses | None = None,
) -> Logits:
    """Log-probabilities that give the answers these log-odds.

    The classes of the answer are scaled together, and so are the others.

    >>> thirds, predicted = np.log([[0.5, 0.3, 0.2]]), np.array([0])
    >>> np.exp(with_log_odds(thirds, predicted, np.log([3.0]))).round(3)
    array([[0.75, 0.15, 0.1 ]])
    >>> np.exp(with_log_odds(thirds, predicted, np.log([3.0]), (0, 1, 0))).round(3)
    array([[0.536, 0.25 , 0.214]])
    """
    answers = answers_of(predicted, superclasses)
    sums = log_sums(vectors, superclasses)
    own = np.take_along_axis(sums, answers[:, None], axis=1)
    others = -np.logaddexp(0, log_odds_of(sums, answers))[:, None]
    right, wrong = (-np.logaddexp(0, side * log_odds)[:, None] for side in (-1, 1))
    is_own = answers_of(np.arange(vectors.shape[1]), superclasses) == answers[:, None]
    return np.asarray(vectors - np.where(is_own, own, others) + np.where(is_own, right, wrong))


def members_of(scaling: Scaling, logits: Logits, evidence: Evidence) -> Members:
    """Log-probabilities by the calibrated softmax, and after it by each class probe."""
    return np.concatenate([scaling.logarithms(logits)[:, None], evidence], axis=1)


def log_odds_of(logits: Logits, predicted: Classes, rivals: int | None = None) -> Values:
    """Log-odds of the predicted classes against all others, or so many most probable others.

    Against all, they are ordered as the probability, without the ties of probabilities that round
    to 1. A network trained with label smoothing or mixup gives the improbable classes a share that
    says little of an error; without them, its errors are ranked better.

    >>> tail = np.log([[0.6, 0.1, 0.1, 0.1, 0.1], [0.5, 0.3, 0.2, 0.0001, 0.0001]])
    >>> np.exp(log_odds_of(tail, np.array([0, 0]), rivals=2)).round(3)
    array([3., 1.])
    """
    others, columns = logits.copy(), predicted[:, None]
    of_predicted = np.take_along_axis(others, columns, axis=1)[:, 0]
    np.put_along_axis(others, columns, -np.inf, axis=1)
    if rivals is not None and rivals < others.shape[1]:
        others = np.partition(others, -rivals, axis=1)[:, -rivals:]
    return np.asarray(of_predicted - logsumexp(others, axis=1))


def pooled(members: Members, weights: Sequence[float]) -> Logits:
    """Log-probabilities by the weighted mean of the members' probabilities (a linear pool)."""
    return np.asarray(logsumexp(members, axis=1, b=np.array(weights)[:, None]))


def predicted_classes(
    vectors: Logits,
    weights: Float[np.ndarray, " answers"] | Sequence[float] | None,
    logits: Logits,
    superclasses: Superclasses | None = None,
) -> Classes:
    """The class whose probability times its weight is largest; without weights, by logit.

    With superclasses, it is the most probable class of the superclass of which this holds.

    >>> half, weights = np.log([[0.4, 0.3, 0.2, 0.1]]), np.ones(2)
    >>> predicted_classes(half, weights, half, (0, 1, 1, 0))
    array([0])
    >>> predicted_classes(half, weights, half, (0, 1, 1, 1))
    array([1])
    """
    values = logits if weights is None else vectors
    sums = log_sums(values, superclasses)
    answers = (sums if weights is None else sums + np.log(weights)).argmax(axis=1)
    if superclasses is None:
        return np.asarray(answers)
    is_own = np.array(superclasses) == answers[:, None]
    return np.asarray(np.where(is_own, values, -np.inf).argmax(axis=1))


@dataclass(frozen=True, kw_only=True)
class LinearPool:
    """A weighted mean of several classifiers' probabilities, calibrated again.

    A mean of calibrated probabilities is underconfident (Ranjan and Gneiting, 2010).

    Attributes:
        weights: Of the classifiers; they sum to 1.
        scaling: Of the logarithms of the mean.
    """

    weights: tuple[float, ...]
    scaling: Scaling

    def __call__(self, members: Members) -> Logits:
        """Log-probabilities of each class."""
        return self.scaling.logarithms(pooled(members, self.weights))


def log_pool(members: Members, weights: Float[np.ndarray, " members"]) -> Logits:
    """Log-probabilities proportional to the weighted sum of the members' (a logarithmic pool)."""
    return np.asarray(log_softmax(np.einsum("nmc,m->nc", members, weights), axis=1))


@dataclass(frozen=True, kw_only=True)
class OpinionPool:
    """Judges a model's answers by its own and other models' probabilities of the classes.

    Their logarithmic pool (Genest and Zidek, 1986): a product of powers of the probabilities.

    Attributes:
        scalings: Calibrates each of the other models, by name.
        weights: Exponents: of the model itself, and after it of the others. 1, 0, ... changes
            nothing.
        models: Fingerprints of the other models that are known, by name.
    """

    scalings: Mapping[str, Scaling]
    weights: tuple[float, ...]
    models: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, own: Logits, opinions: Opinions) -> Logits:
        """Log-probabilities of each class, from the model's own and the others' probabilities."""
        others = [
            scaling.logarithms(logarithms_of(opinions[name].astype(np.float64)))
            for name, scaling in self.scalings.items()
        ]
        return log_pool(np.stack([own, *others], axis=1), np.array(self.weights))


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """From the outputs of one model to class probabilities and scores, fitted on its tuning set.

    Attributes:
        scaling: From logits to class probabilities.
        weights: Factor of each answer's probability when one is predicted; None: by the logits.
        error_estimator: Pool of the calibrated softmax and each class probe; None where it could
            not be fitted, or has no part in the probabilities beside opinions.
        score: Name of the acceptance score; with `rivals`, of the score whose probabilities it
            compares.
        loss: From the negated predicted loss to the expected cross-entropy in nats; None for a
            model without a loss estimator.
        tried: AURC of every candidate score on the tuning set; out of fold for learned scores.
        samples: Size of the tuning set.
        opinions: Judges the answers together with other models; None: none is used.
        opinion_worth: By how much these lower the AURC of the tuning set, out of fold; None
            without any. It is an estimate from few errors, and can be negative by chance.
        rivals: Number of the most probable other classes that the acceptance score compares the
            predicted one with; None: all.
        line: From the acceptance score to the error probability.
        superclasses: Where these are answered: being right, the score and the error probability
            are then of the superclass, and the predicted class is its most probable one.
    """

    scaling: Scaling
    weights: tuple[float, ...] | None
    error_estimator: LinearPool | None
    score: str
    loss: Isotonic | None
    tried: Mapping[str, float]
    samples: int
    opinions: OpinionPool | None = None
    opinion_worth: float | None = None
    rivals: int | None = None
    line: Line = Line()
    superclasses: Superclasses | None = None

    def answers_of(self, classes: Classes) -> Classes:
        """The answers that these classes are or belong to."""
        return answers_of(classes, self.superclasses)

    def sums(self, probabilities: Logits) -> Sums:
        """Probabilities of the answers."""
        if self.superclasses is None:
            return probabilities
        return probabilities @ np.eye(max(self.superclasses) + 1)[list(self.superclasses)]

    @property
    def acceptance_score(self) -> str:
        """Name of the acceptance score among the candidates."""
        return self.score if self.rivals is None else TOP_FIVE

    @property
    def needs_evidence(self) -> bool:
        """True where the class probes are part of the probabilities."""
        judged = self.score == SECOND_OPINION and self.error_estimator is not None
        return self.score == ERROR_ESTIMATOR or judged

    @property
    def needs_opinions(self) -> tuple[str, ...]:
        """Names of the other models whose probabilities must be given."""
        return () if self.opinions is None else tuple(self.opinions.scalings)

    def log_odds_at(self, scores: Values) -> Values:
        """Log-odds that an answer with this acceptance score is right; they rise with it."""
        return self.line(evidence_of(self.score, scores))

    def error_at(self, scores: Values) -> Values:
        """Error probability of an answer with this acceptance score."""
        return np.asarray(expit(-self.log_odds_at(scores)))

    def log_probabilities(self, logits: Logits, evidence: Evidence | None = None) -> Logits:
        """Logarithms of the model's own probabilities by class, by which a class is predicted.

        They are those of the error estimator where it is used, and else those of the calibrated
        softmax.
        """
        if self.needs_evidence and self.error_estimator is not None and evidence is not None:
            return self.error_estimator(members_of(self.scaling, logits, evidence))
        return self.scaling.logarithms(logits)

    def with_learned(
        self,
        scores: Scores,
        logits: Logits,
        evidence: Evidence | None = None,
        predicted: Classes | None = None,
        opinions: Opinions | None = None,
    ) -> Scores:
        """Add the learned scores to these: log-odds that the answer is right.

        There is no `error_estimator` without the evidence that it reads, and no `second_opinion`
        without opinions.
        """
        own = self.log_probabilities(logits, evidence)
        if predicted is None:
            predicted = predicted_classes(own, self.weights, logits, self.superclasses)
        learned = {**scores, CALIBRATED: self._log_odds(self.scaling.logarithms(logits), predicted)}
        if self.error_estimator is not None and evidence is not None:
            members = members_of(self.scaling, logits, evidence)
            learned[ERROR_ESTIMATOR] = self._log_odds(self.error_estimator(members), predicted)
        if self.opinions is not None and opinions is not None:
            own = self.opinions(own, opinions)
            learned[SECOND_OPINION] = self._log_odds(own, predicted)
        return {**learned, TOP_FIVE: self._log_odds(own, predicted, RIVALS)}

    def _log_odds(self, vectors: Logits, predicted: Classes, rivals: int | None = None) -> Values:
        return log_odds_of(log_sums(vectors, self.superclasses), self.answers_of(predicted), rivals)

    def judge(
        self,
        scores: Scores,
        logits: Logits,
        evidence: Evidence | None = None,
        opinions: Opinions | None = None,
    ) -> tuple[Logits, Classes, Values]:
        """Probabilities by class, predicted classes, and the scores that the policy accepts by.

        The error probability is one minus that of the answer, and never falls as the score falls.
        Opinions are part of the probabilities, and never change the predicted class.
        """
        wide = logits.astype(np.float64)
        vectors = self.log_probabilities(wide, evidence)
        predicted = predicted_classes(vectors, self.weights, wide, self.superclasses)
        if self.opinions is not None and opinions is not None:
            vectors = self.opinions(vectors, opinions)
        if self.score in LEARNED:
            accepted_by = self._log_odds(vectors, predicted, self.rivals)
        else:
            accepted_by = scores[self.score].astype(np.float64)
        if self.score not in LEARNED or self.rivals or self.line != Line():
            log_odds = self.log_odds_at(accepted_by)
            vectors = with_log_odds(vectors, predicted, log_odds, self.superclasses)
        return np.exp(vectors), predicted, accepted_by


def error_probabilities(probabilities: Sums, predicted: Classes) -> Values:
    """One minus the probability of the predicted answer; NaN where it is."""
    of_predicted = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
    return np.asarray((1 - of_predicted).clip(0, 1))
