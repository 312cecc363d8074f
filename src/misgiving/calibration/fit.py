"""Fitting of calibrators on the tuning set, on which no threshold is set later."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from threadpoolctl import threadpool_limits

from misgiving.arrays import Classes, Logits, Members, Names, Rows, Values
from misgiving.calibration.apply import (
    CALIBRATED,
    ERROR_ESTIMATOR,
    PREDICTED_LOSS,
    RIVALS,
    SECOND_OPINION,
    TOP_FIVE,
    Calibrator,
    Isotonic,
    Line,
    LinearPool,
    OpinionPool,
    Scaling,
    Scores,
    Superclasses,
    answers_of,
    evidence_of,
    log_odds_of,
    log_pool,
    log_sums,
    pooled,
    predicted_classes,
    with_log_odds,
)
from misgiving.metrics.aurc import RiskSteps, aurc, ties
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.logits import cross_entropy
from misgiving.scores.outputs import CONFIDENCE, logarithms_of

COMPARED = ("msp", "predicted_loss")  # scores that are not learned here
LEAST_GAIN = 0.01  # share of the AURC by which a score must be better than the probability
RIVALS_GAIN = 0.5  # the same for four next classes, over the root of the number of images
LINE_SCALE = 0.25  # standard deviation of the prior of a line's offset and slope, about 0 and 1
LINE_GAIN = 3.0  # of the penalised log-likelihood, that a line must bring
LINE_IMAGES = 100  # of fewer, those that are fitted without a fifth are too sure
CONFIDENCE_SCALE = 2.0  # the same, where the scale of a confidence is unknown
FLATTEST = 0.01  # slope of a line
FOLDS = 5
PRIOR_IMAGES = 20.0  # images that equal weights of the error estimator's classifiers are worth
MOST_STEPS, ENOUGH = 1000, 1e-9  # of its weights
OPINION_SCALE = 0.5  # standard deviation of the prior of the weights of opinions, about none
LOG_T_SCALE = 0.7  # standard deviation of the prior of log T
BIAS_FREEDOM = 10.0  # degrees of freedom of the prior of the biases, whose scale is 1
POOL_SCALE, POOL_FREEDOM = 0.1, 1e9  # nearly normal, as a mean needs small corrections alone

Folds = Sequence[tuple[Rows, Rows]]


def fit_scaling(
    logits: Logits, labels: Classes, *, scale: float = 1.0, freedom: float = BIAS_FREEDOM
) -> Scaling:
    """Fit temperature and biases by maximum likelihood with priors, of which this is the scale.

    The temperature's is log-normal: few images, all predicted right, say little about it. The
    biases' is a multivariate t with so many degrees of freedom: they are near 0 together, unless
    the images say otherwise, as for a classifier that was trained on other shares of the classes.
    """
    wide = logits.astype(np.float64)
    count, classes = wide.shape

    def objective(parameters: Values) -> tuple[float, Values]:
        log_t, biases = parameters[0], parameters[1:]
        loss, slopes = cross_entropy(wide / np.exp(log_t) + biases, labels)
        variance, squares = freedom * scale**2, (biases**2).sum()
        prior = (log_t / LOG_T_SCALE / scale) ** 2 / 2
        prior += (freedom + classes) / 2 * np.log1p(squares / variance)
        of_t = log_t / (LOG_T_SCALE * scale) ** 2 - (slopes * wide).sum() / np.exp(log_t)
        of_biases = (freedom + classes) / (variance + squares) * biases + slopes.sum(axis=0)
        return (prior + loss) / count, np.array([of_t, *of_biases]) / count

    solution = minimize(objective, np.zeros(1 + classes), jac=True, method="L-BFGS-B").x
    return Scaling(temperature=float(np.exp(solution[0])), biases=tuple(solution[1:].tolist()))


def fit_isotonic(inputs: Values, targets: Values, *, increasing: bool) -> Isotonic:
    """Isotonic regression: the monotone map with the least squared error.

    Args:
        inputs: Values to map.
        targets: Values to predict.
        increasing: True where larger inputs give larger values.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=increasing, out_of_bounds="clip")
    fitted.fit(inputs.astype(np.float64), targets.astype(np.float64))
    knots, values = fitted.X_thresholds_, fitted.y_thresholds_
    return Isotonic(knots=tuple(knots.tolist()), values=tuple(values.tolist()))


def fit_line(evidence: Values, right: Values, *, scale: float = np.inf) -> tuple[Line, float]:
    """Fit a line of log-odds by maximum likelihood, with a normal prior about offset 0 and slope 1.

    Args:
        evidence: Log-odds of being right, or a score on their scale.
        right: 1 where an answer is right, or the probability that it is.
        scale: Standard deviation of the prior; infinite: none.

    Returns:
        The line, and what the penalised log-likelihood gains over that of the evidence itself.
    """

    def objective(parameters: Values) -> tuple[float, Values]:
        away = parameters - (0, 1)
        log_odds = parameters[0] + parameters[1] * evidence
        slopes = expit(log_odds) - right
        loss = (np.logaddexp(0, log_odds) - right * log_odds).sum() + (away**2).sum() / 2 / scale**2
        return loss, np.array([slopes.sum(), slopes @ evidence]) + away / scale**2

    start = np.array([0.0, 1.0])
    bounds = [(None, None), (FLATTEST, None)]
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds)
    offset, slope = solution.x.tolist()
    return Line(offset=offset, slope=slope), float(objective(start)[0] - solution.fun)


def choose_line(evidence: Values, log_odds: Values, right: Values) -> Line:
    """Choose a line from evidence to log-odds: near those by the probabilities, if they differ.

    Args:
        evidence: For each answer, on the scale of log-odds.
        log_odds: By the calibrated probabilities.
        right: 1 where an answer is right.
    """
    given = Line()
    if not np.array_equal(evidence, log_odds):
        given, _ = fit_line(evidence, expit(log_odds))
    bent, gain = fit_line(given(evidence), right, scale=LINE_SCALE)
    is_needed = given != Line() or (gain > LINE_GAIN and len(right) >= LINE_IMAGES)
    return given.then(bent) if is_needed else given


def fit_error_estimator(members: Members, labels: Classes) -> LinearPool:
    """Fit the classifiers' weights, and then the scaling of their mean, to the true classes.

    The weights maximise the likelihood, with a Dirichlet prior of equal weights that is worth
    `PRIOR_IMAGES` images, by expectation maximisation. They are fitted to classes, of which every
    image shows one, and not to errors, of which a tuning set has few.
    """
    logs = members[np.arange(len(labels)), :, labels]
    likelihoods = np.exp(logs - logs.max(axis=1, keepdims=True))
    equal = np.full(logs.shape[1], 1 / logs.shape[1])
    weights = equal
    for _ in range(MOST_STEPS):
        shares = likelihoods * weights
        shares /= shares.sum(axis=1, keepdims=True)
        before = weights
        weights = (shares.sum(axis=0) + PRIOR_IMAGES * equal) / (len(labels) + PRIOR_IMAGES)
        if np.abs(weights - before).max() < ENOUGH:
            break
    fitted = tuple(weights.tolist())
    scaling = fit_scaling(pooled(members, fitted), labels, scale=POOL_SCALE, freedom=POOL_FREEDOM)
    return LinearPool(weights=fitted, scaling=scaling)


def fit_opinion_weights(members: Members, labels: Classes) -> Float[np.ndarray, " members"]:
    """Exponents of a logarithmic pool, none below 0, by maximum likelihood.

    A prior about 1, 0, ... shrinks them towards the first member alone.
    """
    alone, count = np.eye(members.shape[1])[0], len(labels)

    def objective(weights: Values) -> tuple[float, Values]:
        loss, slopes = cross_entropy(np.einsum("nmc,m->nc", members, weights), labels)
        away = weights - alone
        prior = (away**2).sum() / 2 / OPINION_SCALE**2
        of_weights = np.einsum("nc,nmc->m", slopes, members) + away / OPINION_SCALE**2
        return (prior + loss) / count, of_weights / count

    bounds = [(0, None)] * len(alone)
    return np.asarray(minimize(objective, alone, jac=True, method="L-BFGS-B", bounds=bounds).x)


def group_folds(groups: Names) -> list[tuple[Rows, Rows]]:
    """Positions that are kept and left out, for each fold; a group is in one fold.

    None where there are too few groups.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2 * FOLDS:
        return []
    return list(GroupKFold(FOLDS).split(groups, groups=groups))


def fit_opinions(
    own: Logits, tuning: Predictions, folds: Folds
) -> tuple[OpinionPool | None, Logits]:
    """Fit a pool to the model's cross-fitted log-probabilities; also give its own, cross-fitted.

    There is no pool where it does not make the true classes of the tuning set more likely by more
    than a factor e for each opinion (Akaike, 1974).
    """
    opinions, labels, vectors = tuning.opinions, tuning.labels, np.empty_like(own)
    logits = [logarithms_of(each.astype(np.float64)) for each in opinions.values()]
    members = [own, *(_cross_fitted_scaling(each, labels, folds) for each in logits)]
    stacked = np.stack(members, axis=1)
    for kept, left_out in folds:
        weights = fit_opinion_weights(stacked[kept], labels[kept])
        vectors[left_out] = log_pool(stacked[left_out], weights)
    weights, alone = fit_opinion_weights(stacked, labels), fit_opinion_weights(own[:, None], labels)
    gains = log_pool(stacked, weights) - log_pool(own[:, None], alone)
    if gains[np.arange(len(labels)), labels].sum() <= len(opinions):
        return None, vectors
    pool = OpinionPool(
        scalings={x: fit_scaling(each, labels) for x, each in zip(opinions, logits, strict=True)},
        weights=tuple(weights.tolist()),
        models=tuning.opinion_models,
    )
    return pool, vectors


def _cross_fitted_scaling(logits: Logits, labels: Classes, folds: Folds) -> Logits:
    """Calibrated log-probabilities of each image, fitted on the other folds, or on all."""
    vectors, everything = np.empty_like(logits), np.arange(len(labels))
    for kept, left_out in folds or [(everything, everything)]:
        others = fit_scaling(logits[kept], labels[kept])
        vectors[left_out] = others.logarithms(logits[left_out])
    return vectors


def _fit_estimator(
    members: Members, logits: Logits, labels: Classes, units: Names, folds: Folds
) -> tuple[LinearPool, Logits]:
    """Fit the error estimator to cross-fitted members; also give its vectors, cross-fitted.

    The calibrated softmax is cross-fitted within each fold, too: the probes have not seen the
    images that weigh them, and neither may it.
    """
    vectors = np.empty_like(logits)
    for kept, left_out in folds:
        seen = members[kept]
        seen[:, 0] = _cross_fitted_scaling(logits[kept], labels[kept], group_folds(units[kept]))
        vectors[left_out] = fit_error_estimator(seen, labels[kept])(members[left_out])
    return fit_error_estimator(members, labels), vectors


class Fitted(NamedTuple):
    """A calibrator, and the tuning set as images that it was not fitted on.

    Attributes:
        calibrator: Fitted on the whole tuning set.
        vectors: Log-probabilities by class of each tuning image, cross-fitted.
        predicted: The class of each tuning image, cross-fitted.
        candidates: All scores that could be the acceptance score; learned ones cross-fitted.
    """

    calibrator: Calibrator
    vectors: Logits
    predicted: Classes
    candidates: Scores

    @property
    def scores(self) -> Values:
        """The acceptance score of each tuning image, cross-fitted."""
        return self.candidates[self.calibrator.acceptance_score].astype(np.float64)

    def with_line(self, right: Values) -> "Fitted":
        """Fit the line from the acceptance score to the error probability.

        Args:
            right: 1 where the answer is right.
        """
        groups = self.calibrator.superclasses
        evidence = evidence_of(self.calibrator.score, self.scores)
        answers = answers_of(self.predicted, groups)
        line = choose_line(evidence, log_odds_of(log_sums(self.vectors, groups), answers), right)
        if line == Line():
            return self
        vectors = with_log_odds(self.vectors, self.predicted, line(evidence), groups)
        return self._replace(calibrator=replace(self.calibrator, line=line), vectors=vectors)


def _area(confidences: Values, wrong: Values) -> float:
    """AURC of a candidate score."""
    return float(aurc(RiskSteps.of(ties(-confidences), wrong, np.ones_like(wrong))))


def _fit_confidence(tuning: Predictions) -> Fitted:
    logits, predicted = tuning.logits.astype(np.float64), tuning.choices
    scores, right = log_odds_of(logits, predicted), (predicted == tuning.labels).astype(np.float64)
    scale = scores.std() + 1e-12
    line, _ = fit_line((scores - scores.mean()) / scale, right, scale=CONFIDENCE_SCALE)
    line = Line(offset=-scores.mean() / scale, slope=1 / scale).then(line)
    calibrator = Calibrator(
        scaling=Scaling(temperature=1.0, biases=(0.0,) * logits.shape[1]),
        weights=None,
        error_estimator=None,
        score=CALIBRATED,
        loss=None,
        tried={CALIBRATED: _area(scores, 1 - right)},
        samples=len(right),
        line=line,
    )
    vectors = with_log_odds(log_softmax(logits, axis=1), predicted, line(scores))
    return Fitted(calibrator, vectors, predicted, {CALIBRATED: scores})


# for so few numbers, threads take longer to meet than to work
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def fit_calibrator(
    tuning: Predictions,
    detectors: FittedDetectors,
    weights: Float[np.ndarray, " answers"] | None = None,
    superclasses: Superclasses | None = None,
) -> Fitted:
    """Fit all maps on the tuning set, and choose the acceptance score.

    The acceptance score is the error estimator where it gives the true classes of images that it
    was not fitted on a higher likelihood than the calibrated softmax. Otherwise it is the latter
    (out of fold), unless the predicted loss has an AURC that is lower by `LEAST_GAIN`: with more
    candidates, such as MSP, chance decides where errors are few.
    Second opinions take its place where they make the true classes more likely. Where that lowers
    the AURC by more than chance would, the predicted class is compared with the next four alone.

    Args:
        tuning: Images to fit on; those of one group are in one fold.
        detectors: With the class probes, fitted on the training set.
        weights: Factor of each answer's probability when one is predicted; None: by the logits.
        superclasses: Where these are answered: probabilities are fitted to the classes all the
            same, and the scores are compared by the answers.

    Of a confidence alone, only the line from it to the error probability is fitted.

    Raises:
        DataError: Outputs are not finite.
    """
    if tuning.kind == CONFIDENCE:
        return _fit_confidence(tuning)
    scores = all_scores(tuning, detectors.only(()))
    logits, labels, units = tuning.logits.astype(np.float64), tuning.labels, tuning.units
    evidence, loss = detectors.evidence(tuning), scores.get("predicted_loss")
    folds, truth, estimator = group_folds(units), (np.arange(len(labels)), labels), None
    vectors = _cross_fitted_scaling(logits, labels, folds)
    learned = {CALIBRATED: vectors}
    if evidence is not None and folds:
        members = np.concatenate([vectors[:, None], evidence], axis=1)
        estimator, learned[ERROR_ESTIMATOR] = _fit_estimator(members, logits, labels, units, folds)
    mixes = estimator is not None and learned[ERROR_ESTIMATOR][truth].sum() > vectors[truth].sum()
    vectors = learned[ERROR_ESTIMATOR] if mixes else vectors
    predicted = predicted_classes(vectors, weights, logits, superclasses)
    answers = answers_of(predicted, superclasses)
    candidates = {name: scores[name] for name in COMPARED if name in scores}
    sums = {name: log_sums(each, superclasses) for name, each in learned.items()}
    candidates |= {name: log_odds_of(each, answers) for name, each in sums.items()}
    pool, wrong = None, (answers != answers_of(labels, superclasses)).astype(np.float64)
    if tuning.opinions and folds:
        pool, joint = fit_opinions(vectors, tuning, folds)
        vectors = joint if pool is not None else vectors
        candidates[SECOND_OPINION] = log_odds_of(log_sums(joint, superclasses), answers)
    if folds and (of_answers := log_sums(vectors, superclasses)).shape[1] > 1 + RIVALS:
        candidates[TOP_FIVE] = log_odds_of(of_answers, answers, RIVALS)
    tried = {name: _area(confidences, wrong) for name, confidences in candidates.items()}
    better = tried.get(PREDICTED_LOSS, np.inf) < (1 - LEAST_GAIN) * tried[CALIBRATED]
    score = ERROR_ESTIMATOR if mixes else PREDICTED_LOSS if better else CALIBRATED
    worth = tried[score] - tried[SECOND_OPINION] if SECOND_OPINION in tried else None
    score = score if pool is None else SECOND_OPINION
    least = RIVALS_GAIN / math.sqrt(len(labels))
    truncates = tried.get(TOP_FIVE, np.inf) < (1 - least) * tried[score]
    score = CALIBRATED if truncates and score == PREDICTED_LOSS else score
    calibrator = Calibrator(
        scaling=fit_scaling(logits, labels),
        weights=None if weights is None else tuple(weights.tolist()),
        error_estimator=estimator if mixes or pool is None else None,
        score=score,
        loss=None if loss is None else fit_isotonic(loss, tuning.true_losses(), increasing=False),
        tried=tried,
        samples=len(labels),
        opinions=pool,
        opinion_worth=worth,
        rivals=RIVALS if truncates else None,
        superclasses=superclasses,
    )
    return Fitted(calibrator, vectors, predicted, candidates).with_line(1 - wrong)
