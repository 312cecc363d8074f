import numpy as np
import pytest

from misgiving.serve.routes.case_images import CELLS, GREY, occlusion


def in_loops(square, share, cells):
    """By how much the share drops, one pixel and one patch after another."""
    size = len(square)
    drops = np.empty((cells, cells))
    for row in range(cells):
        for column in range(cells):
            covered = square.copy()
            for y in range(size):
                for x in range(size):
                    near = [
                        abs((at + 0.5) * cells / size - (cell + 0.5)) < 1
                        for at, cell in ((y, row), (x, column))
                    ]
                    if all(near):
                        covered[y, x] = GREY
            drops[row, column] = share(square) - share(covered)
    return drops


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_drops_are_those_of_scalar_loops_whatever_the_batch(batch):
    square = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    weights = np.random.default_rng(1).random((32, 32))

    def share(one):
        return float((one[..., 0] / 255 * weights).mean())

    found = occlusion(square, lambda some: [share(one) for one in some], cells=4, batch=batch)
    np.testing.assert_allclose(found, in_loops(square, share, 4), rtol=1e-12)


def test_no_more_squares_are_asked_at_once_than_the_batch_and_one_for_each_cell():
    asked = []

    def probabilities_of(squares):
        asked.append(len(squares))
        return [0.5] * len(squares)

    occlusion(np.zeros((24, 24, 3), dtype=np.uint8), probabilities_of, batch=10)
    assert max(asked) == 10
    assert sum(asked) == CELLS**2 + 1


def test_the_part_that_matters_stands_out_and_the_image_is_left_as_it_was():
    square = np.zeros((64, 64, 3), dtype=np.uint8)
    square[40:48, 8:16] = 255
    before = square.copy()
    found = occlusion(square, lambda some: (some == 255).mean(axis=(1, 2, 3)).tolist())
    assert np.unravel_index(found.argmax(), found.shape) == (5, 1)
    assert (found[:3] == 0).all()
    np.testing.assert_array_equal(square, before)
