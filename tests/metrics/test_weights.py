"""Laws that hold for every metric of one set: weights, undefined values, refused arguments."""

import numpy as np
import pytest

from misgiving.errors import UsageError
from misgiving.metrics import classification, loss_estimation
from misgiving.metrics.selective import RiskCoverage

CLASSES = 4
COVERAGES = [0.1, 0.25, 0.5, 0.55, 0.8, 1.0]
LOSSES = ["spearman", "order_agreement", "spread_ratio", "r_squared"]
RISKS = [0.0, 0.3, 0.5, 0.7, 1.0, 5.0]


def samples(seed, count=9):
    """Arrays of one set on coarse grids, so that many values are tied."""
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    true = np.round(random.exponential(size=count), 1)
    return {
        "labels": labels,
        "answers": np.where(random.random(count) < 0.5, labels, random.integers(CLASSES)),
        "probabilities": random.integers(1, 6, size=(count, CLASSES)) / 10,
        "predicted": np.round(true + random.normal(size=count), 1),
        "true": true,
        "confidences": random.integers(3, size=count) / 2,
        "errors": random.random(count) < 0.4,
    }


def of_classes(name, *arrays, **options):
    measure = getattr(classification, name)
    return lambda of, weights=None: measure(
        *(of[array] for array in arrays), weights=weights, **options
    )


def of_losses(name, first="predicted", second="true"):
    measure = getattr(loss_estimation, name)
    return lambda of, weights=None: measure(of[first], of[second], weights=weights)


def of_order(name, *arguments, errors="true"):
    def measured(of, weights=None):
        curve = RiskCoverage(of["confidences"], of[errors], weights)
        return getattr(curve, name)(*arguments)

    return measured


def balanced_aurc(of, weights=None):
    curve = RiskCoverage(of["confidences"], of["true"], weights)
    return curve.balanced_aurc(of["labels"], num_classes=CLASSES)


OF_CONFIDENCES = {
    **{name: of_order(name) for name in ("aurc", "excess_aurc", "augrc")},
    "balanced_aurc": balanced_aurc,
    **{f"risk at {share}": of_order("risk_at_coverage", share) for share in COVERAGES},
    **{f"coverage at {risk}": of_order("coverage_at_risk", risk) for risk in RISKS},
    "error_auroc": of_losses("error_auroc", "confidences", "errors"),
}
MEASURES = {
    "sensitivities": of_classes("sensitivities", "labels", "answers", num_classes=CLASSES),
    "accuracy": of_classes("accuracy", "labels", "answers"),
    "balanced_accuracy": of_classes("balanced_accuracy", "labels", "answers", num_classes=CLASSES),
    "macro_auroc": of_classes("macro_auroc", "labels", "probabilities"),
    **{name: of_losses(name) for name in LOSSES},
    **OF_CONFIDENCES,
}
OF_WHOLE_SAMPLES = ["order_agreement", "aurc", "excess_aurc", "risk at 0.5"]


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(name, seed):
    drawn = samples(seed)
    weights = np.random.default_rng(seed).poisson(1, size=(2, 5, 9))
    weighted = MEASURES[name](drawn, weights)
    for row in np.ndindex(2, 5):
        copies = {key: np.repeat(values, weights[row], axis=0) for key, values in drawn.items()}
        np.testing.assert_allclose(weighted[row], MEASURES[name](copies), atol=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_without_any_weight_a_measure_is_undefined(name):
    assert np.isnan(MEASURES[name](samples(0), np.zeros((2, 9)))).all()


@pytest.mark.parametrize("name", [*MEASURES][1:])
def test_without_weights_a_measure_is_a_plain_float(name):
    assert type(MEASURES[name](samples(0))) is float


@pytest.mark.parametrize("name", OF_CONFIDENCES)
def test_a_measure_depends_on_the_order_of_confidences_only(name):
    drawn = samples(0)
    stretched = drawn | {"confidences": np.exp(drawn["confidences"])}
    assert MEASURES[name](stretched) == MEASURES[name](drawn)


@pytest.mark.parametrize("name", OF_WHOLE_SAMPLES)
def test_fractions_of_a_sample_are_refused_where_samples_are_whole(name):
    with pytest.raises(UsageError):
        MEASURES[name](samples(0), np.full(9, 0.5))


@pytest.mark.parametrize(
    "weights", [np.full(9, -1.0), np.full(9, np.nan), np.full(9, np.inf), np.ones((5, 3))]
)
@pytest.mark.usefixtures("as_in_use")
def test_weights_that_are_no_counts_of_the_samples_are_refused(weights):
    with pytest.raises(UsageError, match="weights"):
        MEASURES["accuracy"](samples(0), weights)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("name", MEASURES)
def test_arrays_of_other_lengths_are_refused_and_so_are_no_samples(name):
    drawn = samples(0)
    short = {key: values[:8] if key in ("answers", "probabilities", "true", "errors") else values
             for key, values in drawn.items()}  # fmt: skip
    for other in (short, {key: values[:0] for key, values in drawn.items()}):
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
    drawn = samples(0)
    drawn[array][3] = value
    with pytest.raises(UsageError, match=f"{array} is not finite at position 3"):
        MEASURES[name](drawn)


@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize(
    ("name", "array"),
    [("sensitivities", "answers"), ("macro_auroc", "labels"), ("balanced_aurc", "labels")],
)
def test_a_class_outside_the_range_is_named_with_its_position(name, array, label):
    drawn = samples(0)
    drawn[array][1] = label
    with pytest.raises(UsageError, match=f"class {label} at position 1"):
        MEASURES[name](drawn)


@pytest.mark.parametrize(
    ("measure", "errors"),
    [(loss_estimation.error_auroc, [0.0, 0.7]), (RiskCoverage, [0.1, -0.1])],
)
def test_errors_that_are_none_are_refused(measure, errors):
    with pytest.raises(UsageError, match="errors"):
        measure(np.array([0.1, 0.2]), np.array(errors))


def test_single_precision_is_measured_as_double():
    drawn = samples(0)
    single = {key: drawn[key].astype(np.float32) for key in ("predicted", "true")}
    double = {key: values.astype(np.float64) for key, values in single.items()}
    assert MEASURES["r_squared"](single) == MEASURES["r_squared"](double)


def test_weights_may_be_as_large_as_their_type():
    drawn = samples(0)
    assert MEASURES["augrc"](drawn, np.full(9, 2**62)) == pytest.approx(MEASURES["augrc"](drawn))
