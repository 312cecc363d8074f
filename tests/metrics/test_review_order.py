import numpy as np
import pytest

from misgiving.metrics.review_order import review_order


def step_by_step(errors, features, diverse):
    """The definition, one image and one distance at a time."""
    units = [row / np.linalg.norm(row) for row in features]
    order, left = [], list(range(len(errors)))
    while left:
        values = []
        for one in left:
            distances = [np.linalg.norm(units[one] - units[other]) for other in order]
            spread = min(distances, default=2.0) if len(order) < diverse else 1.0
            values.append(errors[one] * spread)
        order.append(left.pop(int(np.argmax(values))))
    return order


@pytest.mark.parametrize("diverse", [0, 1, 7, 40, 100])
def test_the_order_is_the_one_of_the_definition(diverse):
    random = np.random.default_rng(diverse)
    errors, features = random.uniform(size=40), random.normal(size=(40, 5))
    expected = step_by_step(errors, features, diverse)
    assert review_order(errors, features, diverse=diverse).tolist() == expected


def test_of_copies_one_comes_early_and_the_others_last():
    random = np.random.default_rng(0)
    features = random.normal(size=(20, 8))
    features[10:15] = 3 * features[10]  # the same direction
    errors = random.uniform(0.1, 0.5, size=20)
    errors[10:15] = 0.9
    order = review_order(errors, features).tolist()
    assert order[0] == 10
    assert sorted(order[-4:]) == [11, 12, 13, 14]


def test_without_features_likely_errors_come_first_and_unknown_ones_before_them():
    errors = np.array([0.2, 0.9, np.nan, 0.2, 0.5])
    assert review_order(errors).tolist() == [2, 1, 4, 0, 3]


def test_features_without_a_direction_are_ordered_by_their_error():
    features = np.array([[1.0, 0.0], [0.0, 0.0], [np.nan, 1.0], [1.0, 0.01]])
    assert review_order(np.array([0.9, 0.2, 0.5, 0.8]), features).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_have_an_order(count):
    assert review_order(np.zeros(count), np.ones((count, 3))).tolist() == list(range(count))
