import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from standin import Standin, picture, sent

from misgiving.deferral.decisions import Decision
from misgiving.serve.routes.cases import COVERED_AT_ONCE, GREY, MAP_CELLS, _saliency
from misgiving.serve.service import KeptImages
from misgiving.serve.store import Store


def test_a_thumbnail_is_what_the_model_saw_for_a_while_and_no_image_is_kept_by_default(
    serving, tmp_path
):
    client = serving(recent_bytes=3 * 16 * 16 * 3)
    url = f"/cases/{sent(client)['id']}"
    thumbnail = np.asarray(Image.open(io.BytesIO(client.get(f"{url}/thumbnail").content)))
    assert thumbnail.shape == (16, 16, 3)
    assert abs(thumbnail.astype(int) - 128).max() <= 2
    assert client.get(f"{url}/image").status_code == 404
    assert {path.suffix for path in tmp_path.iterdir()} <= {".sqlite", ".sqlite-wal", ".sqlite-shm"}
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
    options = {"keep_images": tmp_path / "kept", "formats": ("PNG", "GIF")}
    client = serving(**options, recent_bytes=0)  # on disk only
    case = sent(client, picture(kind="GIF") + b"<script>alert(1)</script>", "page.html")
    thumbnail, image = (f"/cases/{case['id']}/{part}" for part in ("thumbnail", "image"))
    assert client.get(image).headers["content-type"] == "image/gif"
    for path in (thumbnail, image):
        assert client.get(path).headers["cache-control"] == "private, max-age=86400"
    client.app.state.service.model.fingerprint = "e" * 64
    assert client.get(thumbnail).headers["cache-control"] == "no-store"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux tells what was forced")
def test_file_and_folders_are_durable_before_the_response(tmp_path, monkeypatch):
    forced = []

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else None
        forced.append((path, names))

    monkeypatch.setattr(os, "fsync", fsync)
    kept = tmp_path / "kept"
    KeptImages(kept).write("ab12", b"content")
    assert (tmp_path, ["kept"]) in forced
    assert (kept, ["ab"]) in forced
    assert [path for path, names in forced if names is None and path.suffix == ".partial"]
    assert forced[-1] == (kept / "ab", ["ab12"])


def test_saliency_agrees_with_scalar_loops_and_asks_for_bounded_batches():
    random, size, sizes = np.random.default_rng(0), 48, []
    model_input = random.integers(256, size=(size, size, 3), dtype=np.uint8)
    weights = random.random((size, size))  # of the red of each pixel

    def share(image):
        return float((image[..., 0] / 255 * weights).mean())

    def decide_inputs(inputs):
        sizes.append(len(inputs))
        return [Decision.model_construct(probabilities={"light": share(x)}) for x in inputs]

    drops = np.empty((MAP_CELLS, MAP_CELLS))
    for cell in np.ndindex(MAP_CELLS, MAP_CELLS):
        covered = model_input.copy()
        for pixel in np.ndindex(size, size):
            gaps = (np.array(pixel) + 0.5) * MAP_CELLS / size - (np.array(cell) + 0.5)
            if max(abs(gaps)) < 1:
                covered[pixel] = GREY
        drops[cell] = share(model_input) - share(covered)
    model, before = Standin(), model_input.copy()
    model.decide_inputs = decide_inputs
    answer = _saliency(model, "light", (model_input,))
    np.testing.assert_allclose(answer.drops, drops, rtol=1e-12)
    assert answer.probability == share(model_input)
    assert (max(sizes), sum(sizes)) == (COVERED_AT_ONCE, MAP_CELLS**2 + 1)
    np.testing.assert_array_equal(model_input, before)


def test_saliency_has_no_number_that_is_not_finite_and_needs_the_model_of_the_case(serving):
    client = serving()
    url = f"/cases/{sent(client, picture(colour=(255, 0, 0)))['id']}/saliency"
    red = client.get(url).json()
    assert (red["probability"], red["drops"][0][0]) == (None, None)
    client.app.state.service.model.fingerprint = "e" * 64
    assert client.get(url).status_code == 409
