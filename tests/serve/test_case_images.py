"""Images of a case: thumbnail, file and saliency map; files on disk are durable and private."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standin import Calibrated, Standin, picture, sent

from misgiving.deferral.decisions import Decision
from misgiving.serve.routes.cases import BATCH_SIZE, CELLS, GREY, _saliency
from misgiving.serve.service import ImageFiles
from misgiving.serve.store import Store


def test_a_thumbnail_is_what_the_model_saw_for_a_while_and_no_image_is_kept_by_default(
    serving, tmp_path
):
    client = serving(recent_bytes=3 * 16 * 16 * 3)
    url = f"/cases/{sent(client)['id']}"
    response = client.get(f"{url}/thumbnail")
    thumbnail = np.asarray(Image.open(io.BytesIO(response.content)))
    assert response.headers["content-type"] == "image/jpeg"
    assert thumbnail.shape == (16, 16, 3)
    assert abs(thumbnail.astype(int) - 128).max() <= 2
    assert client.get(f"{url}/image").status_code == 404
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".sqlite", ".sqlite-wal", ".sqlite-shm"}
    cases = [sent(client, picture(level / 10)) for level in range(4)]
    statuses = [client.get(f"/cases/{case['id']}/thumbnail").status_code for case in cases]
    assert statuses == [404, 200, 200, 200]


def test_kept_images_are_private_and_survive_a_restart(serving, tmp_path, sqlite_place):
    case = sent(serving(keep_images=tmp_path / "kept"))
    options = {"store": Store.open(sqlite_place), "keep_images": tmp_path / "kept"}
    again, url = serving(**options), f"/cases/{case['id']}"
    image = again.get(f"{url}/image")
    assert (image.content, image.headers["content-type"]) == (picture(), "image/png")
    assert again.get(f"{url}/thumbnail").status_code == 200
    options["store"] = Store.open(sqlite_place)
    refused = serving(**options, max_pixels=9).get(f"{url}/thumbnail")
    assert (refused.status_code, "more than 9 pixels" in refused.json()["detail"]) == (422, True)
    kept = [tmp_path / "kept", *(tmp_path / "kept").rglob("*")]
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in kept}
    assert modes == {(True, 0o700), (False, 0o600)}
    (tmp_path / "kept" / case["sha256"][:2] / case["sha256"]).unlink()
    assert again.get(f"{url}/image").status_code == 404


def test_the_media_type_follows_from_the_content_and_another_models_view_is_not_cached(
    serving, tmp_path
):
    client = serving(keep_images=tmp_path / "kept", recent_bytes=0)  # on disk only
    case = sent(client, picture(kind="GIF") + b"<script>alert(1)</script>", "page.html")

    def caching(part):
        answer = client.get(f"/cases/{case['id']}/{part}")
        return answer.status_code, answer.headers["cache-control"]

    image = client.get(f"/cases/{case['id']}/image")
    assert image.headers["content-type"] == "image/gif"
    cached = "private, max-age=86400"
    assert [caching("thumbnail"), caching("image")] == [(200, cached)] * 2
    client.app.state.service.model.fingerprint = "e" * 64
    assert [caching("thumbnail"), caching("image")] == [(200, "no-store"), (200, cached)]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells what was forced")
def test_file_and_folders_are_durable_before_the_response(tmp_path, monkeypatch):
    forced = []

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else None
        forced.append((path, names))

    monkeypatch.setattr(os, "fsync", fsync)
    sha256 = hashlib.sha256(b"content").hexdigest()
    ImageFiles(tmp_path / "kept").write(sha256, b"content")
    folder = tmp_path / "kept" / sha256[:2]
    assert (tmp_path, ["kept"]) in forced
    assert (tmp_path / "kept", [sha256[:2]]) in forced
    assert [path for path, names in forced if names is None and path.suffix == ".partial"]
    assert forced[-1] == (folder, [sha256])


class Weighted(Standin):
    """The probability of "light" is the mean of the red pixels, each with a weight of its own."""

    weights = np.random.default_rng(1).random((48, 48))

    def __init__(self):
        self.sizes = []

    def decide_inputs(self, inputs):
        self.sizes.append(len(inputs))
        nothing = dict.fromkeys(Decision._fields)
        return [Decision(**nothing | {"probabilities": {"light": self.share(x)}}) for x in inputs]

    def share(self, image):
        return float((image[..., 0] / 255 * self.weights).mean())


def drops_in_loops(model, model_input):
    """The drops, by loops over patches and pixels."""
    size, drops = len(model_input), np.empty((CELLS, CELLS))
    for cell in np.ndindex(CELLS, CELLS):
        covered = model_input.copy()
        for pixel in np.ndindex(size, size):
            gaps = [
                (at + 0.5) * CELLS / size - (on + 0.5) for at, on in zip(pixel, cell, strict=True)
            ]
            if max(map(abs, gaps)) < 1:
                covered[pixel] = GREY
        drops[cell] = model.share(model_input) - model.share(covered)
    return drops


def test_saliency_agrees_with_scalar_loops_and_asks_for_bounded_batches():
    model_input = np.random.default_rng(0).integers(256, size=(48, 48, 3), dtype=np.uint8)
    model, before = Weighted(), model_input.copy()
    answer = _saliency(model, "light", model_input)
    np.testing.assert_allclose(answer.drops, drops_in_loops(model, model_input), rtol=1e-12)
    assert answer.probability == model.share(model_input)
    assert (max(model.sizes), sum(model.sizes)) == (BATCH_SIZE, CELLS**2 + 1)
    np.testing.assert_array_equal(model_input, before)


def test_saliency_has_no_number_that_is_not_finite_and_needs_the_model_of_the_case(serving):
    client = serving(Calibrated())

    def saliency(case):
        return client.get(f"/cases/{case['id']}/saliency")

    case = sent(client, picture(0.05))
    answer = saliency(case).json()
    assert (answer["predicted_class"], answer["probability"]) == ("dark", pytest.approx(242 / 255))
    assert answer["drops"][1][2] == pytest.approx(115 / 255 * 16 / 256)  # 4 by 4 pixels
    red = saliency(sent(client, picture(colour=(255, 0, 0)))).json()
    assert (red["probability"], red["drops"][0][0]) == (None, None)
    client.app.state.service.model.fingerprint = "e" * 64
    assert saliency(case).status_code == 409
