import numpy as np
import pytest
import torch

from misgiving.data.batching import sampling_order, uninitialized
from misgiving.errors import UsageError

IMBALANCED = np.repeat([0, 1, 2], [9000, 900, 100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (700, 3, 50, 50)])
def test_memory_is_of_the_shape_and_kind_asked_for(shape, dtype):
    tensor = uninitialized(shape, dtype=dtype, device="cpu").fill_(7)
    assert (tensor.shape, tensor.dtype) == (shape, dtype)
    assert tensor.is_contiguous()
    assert (tensor == 7).all()


def test_memory_is_given_once():
    first, second = (uninitialized((4, 4), dtype=torch.float32, device="cpu") for _ in range(2))
    first.zero_()
    second.fill_(1)
    assert (first == 0).all()


def test_memory_is_where_it_is_asked_for():
    assert uninitialized((2, 2), dtype=torch.float32, device="meta").device.type == "meta"


@pytest.mark.parametrize(("weighted", "power"), [("inverse", 1.0), ("sqrt", 0.5)])
def test_classes_are_drawn_in_proportion_to_their_weights(weighted, power):
    order = sampling_order(IMBALANCED, class_weighted=weighted, seed=0, epoch=0)
    counts = np.array([9000.0, 900.0, 100.0])
    expected = counts * counts**-power / (counts * counts**-power).sum()
    drawn = np.bincount(IMBALANCED[order]) / len(order)
    assert len(order) == len(IMBALANCED)
    np.testing.assert_allclose(drawn, expected, atol=0.02)


def test_without_weights_every_sample_is_drawn_once():
    order = sampling_order(IMBALANCED, class_weighted="none", seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(len(IMBALANCED)))
    assert order.tolist() != sorted(order.tolist())


@pytest.mark.parametrize("weighted", ["inverse", "none"])
def test_seed_and_epoch_decide_the_order(weighted):
    def order(seed, epoch):
        return sampling_order(
            np.arange(50) % 3, class_weighted=weighted, seed=seed, epoch=epoch
        ).tolist()

    first = order(1, 2)
    torch.manual_seed(77)
    assert order(1, 2) == first
    others = [order(1, 3), order(2, 2), order(2, 1), order(0, 3), order(3, 0)]
    assert first not in others
    assert order(0, 3) != order(3, 0)


def test_drawing_an_order_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    sampling_order(IMBALANCED, class_weighted="inverse", seed=0, epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_an_unknown_weighting_lists_the_known_ones():
    with pytest.raises(UsageError, match="'balanced'; choose from inverse, sqrt, none"):
        sampling_order(IMBALANCED, class_weighted="balanced", seed=0, epoch=0)
