"""One job with each library that can do it: answer where at most 5 % of the answers are wrong.

A logistic regression of scikit-learn's digits, fitted on few of them, so that a tenth of its
answers is wrong. In each draw 600 other digits set the threshold, and the rest is answered. `lines`
are those that a user writes from the fitted classifier to the answers. A target is missed where
more than 5 % of the answers are wrong: of about 1,000 digits this is in part chance, alike for all.
MAPIE's controller gets thresholds at quantiles of the confidence; with its own grid, of which the
highest accept nothing, it finds none. MAPIE needs `pip install --group benchmarks`.
"""

import inspect
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from misgiving import Deferral, SelectiveClassifier

DRAWS, TRAINING, CASES, TARGET = 400, 120, 600, 0.05
DEFERRED = -1


def misgiving_confident(classifier: Any, X: Any, y: Any, new: Any) -> Any:
    """`misgiving`, with confidence."""
    frozen = FrozenEstimator(classifier)
    return SelectiveClassifier(frozen, max_error=0.05, random_state=0).fit(X, y).predict(new)


def misgiving_average(classifier: Any, X: Any, y: Any, new: Any) -> Any:
    """`misgiving`, on average."""
    deferral = Deferral(max_error=0.05, guarantee="average")
    return (
        SelectiveClassifier(FrozenEstimator(classifier), deferral=deferral).fit(X, y).predict(new)
    )


def mapie_precision(classifier: Any, X: Any, y: Any, new: Any) -> Any:
    """MAPIE, precision of the answer as a binary risk."""
    from mapie.risk_control import BinaryClassificationController

    confidence = classifier.predict_proba(X).max(axis=1)
    controller = BinaryClassificationController(
        lambda rows: np.stack([1 - (p := classifier.predict_proba(rows).max(axis=1)), p], axis=1),
        risk="precision",
        target_level=0.95,
        confidence_level=0.95,
        list_predict_params=np.quantile(confidence, np.linspace(0, 0.99, 100)),
    ).calibrate(X, (classifier.predict(X) == y).astype(int))
    if controller.best_predict_param is None:
        return np.full(len(new), DEFERRED)
    return np.where(controller.predict(new) == 1, classifier.predict(new), DEFERRED)


def mapie_sets(classifier: Any, X: Any, y: Any, new: Any) -> Any:
    """MAPIE, prediction sets that hold one class."""
    from mapie.classification import SplitConformalClassifier

    sets = SplitConformalClassifier(classifier, confidence_level=0.95, prefit=True)
    answers, members = sets.conformalize(X, y).predict_set(new)
    return np.where(members[:, :, 0].sum(axis=1) == 1, answers, DEFERRED)


def scikit_learn_alone(classifier: Any, X: Any, y: Any, new: Any) -> Any:
    """scikit-learn alone, the threshold with 5 % errors on the cases."""
    confidence, right = classifier.predict_proba(X).max(axis=1), classifier.predict(X) == y
    order = np.argsort(-confidence)
    errors = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    met = np.flatnonzero(errors <= 0.05)
    threshold = confidence[order][met[-1]] if len(met) else np.inf
    return np.where(
        classifier.predict_proba(new).max(axis=1) >= threshold, classifier.predict(new), DEFERRED
    )


WAYS: tuple[Callable[..., Any], ...] = (
    misgiving_confident,
    misgiving_average,
    mapie_precision,
    mapie_sets,
    scikit_learn_alone,
)


def lines_of(way: Callable[..., Any]) -> int:
    """Lines of code of a way, without its first, its docstring and empty ones."""
    code = inspect.getsource(way).partition('"""\n')[2]
    return sum(bool(line.strip()) for line in code.splitlines())


def main() -> None:
    """Print the table."""
    digits, labels = load_digits(return_X_y=True)
    digits = digits / 16
    found = defaultdict(list)
    for draw in range(DRAWS):
        train, rest, of_train, of_rest = train_test_split(
            digits, labels, train_size=TRAINING, stratify=labels, random_state=draw
        )
        classifier = LogisticRegression().fit(train, of_train)
        cases, new, of_cases, truth = train_test_split(
            rest, of_rest, train_size=CASES, random_state=draw
        )
        for way in WAYS:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answers = way(classifier, cases, of_cases, new)
            seconds = time.perf_counter() - start
            given = answers != DEFERRED
            wrong = float((answers != truth)[given].mean()) if given.any() else 0.0
            found[way].append((given.mean(), wrong, wrong > TARGET, seconds))
    print("| | lines | seconds | answered | wrong of these | target missed |")
    print("|---" * 6 + "|")
    for way in WAYS:
        coverage, wrong, missed, _ = np.mean(found[way], axis=0)
        seconds = np.median([row[-1] for row in found[way]])
        name = (way.__doc__ or "").rstrip(".")
        numbers = f"{seconds:.2f} | {coverage:.3f} | {wrong:.3f} | {missed:.2f}"
        print(f"| {name} | {lines_of(way)} | {numbers} |")


if __name__ == "__main__":
    main()
