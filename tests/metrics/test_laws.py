"""Laws that hold for every metric: order, names, weights, undefined values, refused arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DISTINCT, generators, heights

from misgiving.errors import UsageError
from misgiving.metrics import calibration, classification, loss_estimation
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import RiskCoverage

CLASSES = 4
COVERAGES = [0.1, 0.25, 0.5, 0.55, 0.8, 1.0]


def samples(random, count=9):
    """Arrays of one set on coarse grids, so that many values are tied."""
    labels = random.integers(CLASSES, size=count)
    true = np.round(random.exponential(size=count), 1)
    return {
        "labels": labels,
        "answers": np.where(random.random(count) < 0.5, labels, random.integers(CLASSES)),
        "probabilities": (1 + random.multinomial(8, np.ones(CLASSES) / 4, size=count)) / 12,
        "predicted": np.round(true + random.normal(size=count), 1),
        "true": true,
        "confidences": random.integers(DISTINCT, size=count) / 2,
        "shares": random.integers(17, size=count) / 16,
        "errors": np.arange(count) % 3 == 1,  # also the out-of-distribution samples
    }


drawn_samples = st.builds(samples, generators(), st.integers(2, 12))


def of_arrays(measure, *arrays, **options):
    return lambda of, **weights: measure(*(of[array] for array in arrays), **options, **weights)


def of_curve(*calls):
    """Measures of risk over coverage, by name and arguments; several in a last axis."""

    def measured(of, weights=None):
        curve = RiskCoverage(of["confidences"], of["true"], weights)
        found = [getattr(curve, name)(*arguments) for name, *arguments in calls]
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)

    return measured


def balanced_aurc(of, weights=None):
    curve = RiskCoverage(of["confidences"], of["true"], weights)
    return curve.balanced_aurc(of["labels"], num_classes=CLASSES)


def of_sets(of, weights=None):
    sides = [of["errors"] == outlier for outlier in (False, True)]
    each = [None if weights is None else weights[..., side] for side in sides]
    confidences = [of["confidences"][side] for side in sides]
    found = ood_metrics(*confidences, inlier_weights=each[0], outlier_weights=each[1])
    return np.stack([*found.values()], axis=-1)


OF_CONFIDENCES = {
    **{name: of_curve((name,)) for name in ("aurc", "excess_aurc", "augrc")},
    "balanced_aurc": balanced_aurc,
    "risks": of_curve(*(("risk_at_coverage", share) for share in COVERAGES)),
    "coverages": of_curve(*(("coverage_at_risk", risk) for risk in (0.0, 0.3, 0.5, 0.7, 1.0, 5.0))),
    "error_auroc": of_arrays(loss_estimation.error_auroc, "confidences", "errors"),
    "ood": of_sets,
}
ANSWERS = {"num_classes": CLASSES}
WEIGHTED = OF_CONFIDENCES | {
    "sensitivities": of_arrays(classification.sensitivities, "labels", "answers", **ANSWERS),
    "accuracy": of_arrays(classification.accuracy, "labels", "answers"),
    "balanced_accuracy": of_arrays(
        classification.balanced_accuracy, "labels", "answers", **ANSWERS
    ),
    "spearman": of_arrays(loss_estimation.spearman, "predicted", "true"),
}
UNWEIGHTED = {
    "macro_auroc": of_arrays(classification.macro_auroc, "labels", "probabilities"),
    **{
        name: of_arrays(getattr(loss_estimation, name), "predicted", "true")
        for name in ("order_agreement", "spread_ratio", "r_squared")
    },
}
OF_PROBABILITIES = {
    name: of_arrays(getattr(calibration, name), "probabilities", "labels")
    for name in ("brier_score", "negative_log_likelihood", "classwise_calibration_error")
}


def error_of(*arrays, **options):
    return calibration.reliability(*arrays, **options).error


OF_BINS = {
    f"{bins} bins of {scheme}": of_arrays(error_of, "shares", "errors", bins=bins, scheme=scheme)
    for scheme in ("mass", "width")
    for bins in (1, 2, 7, 20)
}
MEASURES = WEIGHTED | UNWEIGHTED | OF_PROBABILITIES | OF_BINS
OF_CLASSES = ("accuracy", "balanced_accuracy", "macro_auroc", "balanced_aurc", *OF_PROBABILITIES)
OF_ORDER = ("spearman", "order_agreement")
OF_RANKS = ("aurc", "excess_aurc", "risks")  # depend on the number of samples


def changed(drawn, change):
    return {name: change(values) for name, values in drawn.items()}


@pytest.mark.parametrize("name", MEASURES)
@given(drawn_samples, generators())
def test_the_order_of_samples_changes_no_measure(name, drawn, random):
    order = random.permutation(len(drawn["labels"]))
    found = MEASURES[name](changed(drawn, lambda values: values[order]))
    np.testing.assert_allclose(found, MEASURES[name](drawn), atol=1e-12)


@pytest.mark.parametrize("name", sorted({*MEASURES} - {*OF_RANKS}))
@given(drawn_samples, st.integers(2, 4))
def test_repeating_every_sample_changes_no_measure(name, drawn, times):
    found = MEASURES[name](changed(drawn, lambda values: np.repeat(values, times, axis=0)))
    np.testing.assert_allclose(found, MEASURES[name](drawn), atol=1e-12)


@pytest.mark.parametrize("name", OF_CLASSES)
@given(drawn_samples, st.permutations(range(CLASSES)))
def test_the_names_of_the_classes_change_no_measure(name, drawn, names):
    renamed = {key: np.array(names)[drawn[key]] for key in ("labels", "answers")}
    columns = drawn["probabilities"][:, np.argsort(names)]
    found = MEASURES[name](drawn | renamed | {"probabilities": columns})
    np.testing.assert_allclose(found, MEASURES[name](drawn), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        *((name, "confidences") for name in OF_CONFIDENCES),
        *((name, array) for name in OF_ORDER for array in ("predicted", "true")),
        ("macro_auroc", "probabilities"),
    ],
)
@given(drawn_samples, heights(12))
def test_no_strictly_increasing_map_changes_a_measure_of_order(name, array, drawn, steps):
    ranks = np.unique(drawn[array], return_inverse=True)[1].reshape(drawn[array].shape)
    found = MEASURES[name](drawn | {array: steps[ranks]})
    np.testing.assert_equal(found, MEASURES[name](drawn))


@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(name, seed):
    random = np.random.default_rng(seed)
    drawn, weights = samples(random), random.poisson(1, size=(2, 5, 9))
    weights[..., :2] += 1  # neither set is empty
    weighted = MEASURES[name](drawn, weights=weights)
    for row in np.ndindex(2, 5):
        copies = changed(drawn, lambda values, row=row: np.repeat(values, weights[row], axis=0))
        np.testing.assert_allclose(weighted[row], MEASURES[name](copies), atol=1e-12)


def one_set():
    return samples(np.random.default_rng(0))


@pytest.mark.parametrize("name", WEIGHTED)
def test_without_any_weight_a_measure_is_undefined(name):
    assert np.isnan(MEASURES[name](one_set(), weights=np.zeros((2, 9)))).all()


@pytest.mark.parametrize("name", OF_RANKS)
def test_fractions_of_a_sample_are_refused_where_samples_are_whole(name):
    with pytest.raises(UsageError):
        MEASURES[name](one_set(), weights=np.full(9, 0.5))


@pytest.mark.parametrize(
    "weights", [np.full(9, -1.0), np.full(9, np.nan), np.full(9, np.inf), np.ones((5, 3))]
)
@pytest.mark.usefixtures("as_in_use")
def test_weights_that_are_no_counts_of_the_samples_are_refused(weights):
    with pytest.raises(UsageError, match="weights"):
        MEASURES["accuracy"](one_set(), weights=weights)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("name", sorted({*MEASURES} - {"ood"}))
def test_arrays_of_other_lengths_are_refused_and_so_are_no_samples(name):
    drawn = one_set()
    short = {key: drawn[key][:8] for key in ("answers", "probabilities", "true", "errors")}
    for other in (drawn | short, changed(drawn, lambda values: values[:0])):
        with pytest.raises(UsageError):
            MEASURES[name](other)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("macro_auroc", "probabilities"),
        *((name, "predicted") for name in ("spearman", "order_agreement", "r_squared")),
        *((name, "confidences") for name in ("aurc", "excess_aurc", "augrc", "error_auroc")),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_position(name, array, value):
    drawn = one_set()
    drawn[array][3] = value
    with pytest.raises(UsageError, match=f"{array} is not finite at position 3"):
        MEASURES[name](drawn)


@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("sensitivities", "answers"),
        *((n, "labels") for n in ("macro_auroc", "balanced_aurc")),
        *((n, "labels") for n in OF_PROBABILITIES),
    ],
)
def test_a_class_outside_the_range_is_named_with_its_position(name, array, label):
    drawn = one_set()
    drawn[array][1] = label
    with pytest.raises(UsageError, match=f"class {label} at position 1"):
        MEASURES[name](drawn)


def test_single_precision_is_measured_as_double():
    drawn = one_set()
    single = {key: drawn[key].astype(np.float32) for key in ("predicted", "true")}
    double = {key: values.astype(np.float64) for key, values in single.items()}
    assert MEASURES["r_squared"](single) == MEASURES["r_squared"](double)


def test_weights_may_be_as_large_as_their_type():
    found = MEASURES["augrc"](one_set(), weights=np.full(9, 2**62))
    assert found == pytest.approx(MEASURES["augrc"](one_set()))
