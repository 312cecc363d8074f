import threading

import numpy as np
import pytest
from calibrated import Calibrated
from standin import decision_of, picture

from misgiving.serve.routes import case_images
from misgiving.serve.routes.case_images import CELLS, GREY, occlusion


def in_loops(square, share, cells):
    """The drops, by loops over patches and pixels."""
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
def test_drops_agree_with_scalar_loops_for_any_batch_size(batch):
    square = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    weights = np.random.default_rng(1).random((32, 32))

    def share(one):
        return float((one[..., 0] / 255 * weights).mean())

    def shares(squares):
        return [share(one) for one in squares]

    found = occlusion(square, share(square), shares, cells=4, batch_size=batch)
    np.testing.assert_allclose(found, in_loops(square, share, 4), rtol=1e-12)


def test_batches_are_limited_and_hold_one_square_for_each_cell():
    asked = []

    def probabilities_of(squares):
        asked.append(len(squares))
        return [0.5] * len(squares)

    occlusion(np.zeros((24, 24, 3), dtype=np.uint8), 0.5, probabilities_of, batch_size=10)
    assert max(asked) == 10
    assert sum(asked) == CELLS**2


def test_the_important_region_stands_out_and_the_image_is_unchanged():
    square = np.zeros((64, 64, 3), dtype=np.uint8)
    square[40:48, 8:16] = 255
    before = square.copy()
    found = occlusion(square, 1 / 64, lambda some: (some == 255).mean(axis=(1, 2, 3)).tolist())
    assert np.unravel_index(found.argmax(), found.shape) == (5, 1)
    assert (found[:3] == 0).all()
    np.testing.assert_array_equal(square, before)


@pytest.fixture
def client(serving):
    return serving(Calibrated())


def sent(client, image, name="a.png"):
    answer = client.post("/decisions", files=[("files", (name, image, "image/png"))])
    return answer.json()["results"][0]["case"]


def test_saliency_is_the_drop_in_probability_under_a_grey_patch(client):
    case = sent(client, picture(0.05))
    found = client.get(f"/cases/{case['id']}/saliency").json()
    square = np.full((16, 16, 3), round(255 * 0.05), dtype=np.uint8)
    covered = square.copy()
    covered[1:5, 3:7] = 128  # row 1, column 2: pixels 2 and 3, 4 and 5, and one more on each side
    shares = [decision_of(one).probabilities["dark"] for one in (square, covered)]
    assert found["drops"][1][2] == pytest.approx(shares[0] - shares[1])
    assert (found["predicted_class"], found["probability"]) == ("dark", pytest.approx(shares[0]))


def test_saliency_needs_the_image(serving):
    client = serving(Calibrated(), recent_bytes=0)
    case = sent(client, picture(0.05))
    answer = client.get(f"/cases/{case['id']}/saliency")
    assert (answer.status_code, "keep_images" in answer.json()["detail"]) == (404, True)


def test_saliency_of_another_models_case_is_refused(client):
    case = sent(client, picture(0.05))
    client.app.state.service.model.fingerprint = "e" * 64
    answer = client.get(f"/cases/{case['id']}/saliency")
    assert (answer.status_code, "another model" in answer.json()["detail"]) == (409, True)


def test_saliency_without_a_finite_probability_is_refused(client):
    case = sent(client, picture(colour=(255, 0, 0)))
    answer = client.get(f"/cases/{case['id']}/saliency")
    assert (answer.status_code, "finite" in answer.json()["detail"]) == (422, True)


def test_saliency_maps_computed_at_once_are_limited(client, monkeypatch):
    case = sent(client, picture(0.05))
    monkeypatch.setattr(case_images, "_saliency_slots", threading.BoundedSemaphore(1))
    with case_images._saliency_slots:
        answer = client.get(f"/cases/{case['id']}/saliency")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert client.get(f"/cases/{case['id']}/saliency").status_code == 200
