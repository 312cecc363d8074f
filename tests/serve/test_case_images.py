"""Images of a case: thumbnail, file and saliency map; files on disk are durable and private."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from calibrated import Calibrated
from PIL import Image
from standin import decision_of, picture, sent

from misgiving.serve.case_images import CELLS, GREY, ImageFiles, occlusion
from misgiving.serve.store import Store


def test_the_thumbnail_is_what_the_model_saw_and_the_image_is_not_kept_by_default(client, tmp_path):
    url = f"/cases/{sent(client)['id']}"
    response = client.get(f"{url}/thumbnail")
    thumbnail = np.asarray(Image.open(io.BytesIO(response.content)))
    assert response.headers["content-type"] == "image/jpeg"
    assert thumbnail.shape == (16, 16, 3)
    assert abs(thumbnail.astype(int) - 128).max() <= 2
    assert client.get(f"{url}/image").status_code == 404
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".sqlite", ".sqlite-wal", ".sqlite-shm"}
    assert picture() not in b"".join(path.read_bytes() for path in files)


def test_thumbnails_of_older_cases_are_forgotten(serving):
    client = serving(recent_bytes=3 * 16 * 16 * 3)
    cases = [sent(client, picture(level / 10)) for level in range(5)]
    statuses = [client.get(f"/cases/{case['id']}/thumbnail").status_code for case in cases]
    assert statuses == [404, 404, 200, 200, 200]


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


def drops_in_loops(model_input, share, cells):
    """The drops, by loops over patches and pixels."""
    size = len(model_input)
    drops = np.empty((cells, cells))
    for cell in np.ndindex(cells, cells):
        covered = model_input.copy()
        for pixel in np.ndindex(size, size):
            gaps = [
                (at + 0.5) * cells / size - (on + 0.5) for at, on in zip(pixel, cell, strict=True)
            ]
            if max(map(abs, gaps)) < 1:
                covered[pixel] = GREY
        drops[cell] = share(model_input) - share(covered)
    return drops


def test_saliency_agrees_with_scalar_loops_for_any_batch_size():
    model_input = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    weights, before = np.random.default_rng(1).random((32, 32)), model_input.copy()

    def share(image):
        return float((image[..., 0] / 255 * weights).mean())

    def shares(inputs):
        sizes.append(len(inputs))
        return [share(image) for image in inputs]

    expected = drops_in_loops(model_input, share, 4)
    for batch_size in (1, 7, 100):
        sizes = []
        drops = occlusion(model_input, share(model_input), shares, cells=4, batch_size=batch_size)
        np.testing.assert_allclose(drops, expected, rtol=1e-12)
        assert (max(sizes), sum(sizes)) == (min(batch_size, 16), 16)
    np.testing.assert_array_equal(model_input, before)


def test_saliency_is_the_drop_in_probability_under_a_grey_patch(serving):
    client = serving(Calibrated())

    def saliency(case):
        return client.get(f"/cases/{case['id']}/saliency")

    case = sent(client, picture(0.05))
    answer = saliency(case).json()
    model_input = np.full((16, 16, 3), round(255 * 0.05), dtype=np.uint8)
    covered = model_input.copy()
    covered[1:5, 3:7] = 128  # row 1, column 2: pixels 2 and 3, 4 and 5, and one more on each side
    shares = [decision_of(image).probabilities["dark"] for image in (model_input, covered)]
    assert np.shape(answer["drops"]) == (CELLS, CELLS)
    assert answer["drops"][1][2] == pytest.approx(shares[0] - shares[1])
    assert (answer["predicted_class"], answer["probability"]) == ("dark", pytest.approx(shares[0]))
    red = saliency(sent(client, picture(colour=(255, 0, 0)))).json()
    assert (red["probability"], red["drops"][0][0]) == (None, None)
    client.app.state.service.model.fingerprint = "e" * 64
    assert saliency(case).status_code == 409
