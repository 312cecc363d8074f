import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from corpus import Trap

from misgiving.data.datasets import load_dataset, medmnist
from misgiving.errors import DataError

SETS = ("train", "val", "test")


def packed_arrays(size=5, counts=(4, 2, 3), channels=(3,)):
    generator = np.random.default_rng(0)
    arrays = {}
    for name, count in zip(SETS, counts, strict=True):
        shape = (count, size, size, *channels)
        arrays[f"{name}_images"] = generator.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{name}_labels"] = generator.integers(0, 7, (count, 1), dtype=np.uint8)
    return arrays


def all_images(arrays):
    return np.concatenate([arrays[f"{name}_images"] for name in SETS])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_packed_images_are_those_that_numpy_reads(tmp_path, save, channels):
    arrays = packed_arrays(channels=channels)
    save(tmp_path / "set.npz", **arrays)
    dataset = load_dataset(f"medmnist:{tmp_path / 'set.npz'}")
    for index, expected in enumerate(all_images(arrays)):
        hashed = dataset.images[index].read()
        pixels = expected if channels else np.stack([expected] * 3, axis=-1)
        np.testing.assert_array_equal(hashed.image, pixels)
        assert hashed.hash == hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("block", [1, 1000])
def test_compressed_images_are_read_in_any_order_and_from_any_thread(tmp_path, monkeypatch, block):
    monkeypatch.setattr(medmnist, "BLOCK_BYTES", block)
    arrays = packed_arrays(size=9, counts=(40, 0, 7))
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    images = load_dataset(f"medmnist:{tmp_path / 'set.npz'}").images
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(47), 3))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda index: images[index].read().image, order.tolist()))
    np.testing.assert_array_equal(np.stack(read), all_images(arrays)[order])


def test_the_key_of_a_packed_image_changes_with_the_file_and_the_place(tmp_path):
    np.savez(tmp_path / "set.npz", **packed_arrays())
    images = load_dataset(f"medmnist:{tmp_path / 'set.npz'}").images
    keys = [image.key() for image in images]
    assert len(images) == len(set(keys)) == 9
    os.utime(tmp_path / "set.npz", ns=(1, 1))
    assert images[0].key() != keys[0]


def test_packed_sets_have_the_names_and_settings_that_suit_them(tmp_path):
    arrays = packed_arrays(counts=(7, 2, 1)) | {"train_labels": np.arange(7)}
    for name, classes, augmentation in (
        ("dermamnist_64.npz", "AKIEC BCC BKL DF MEL NV VASC", "dermoscopy"),
        ("pathmnist.npz", "ADI BACK DEB LYM MUC MUS NORM", "none"),
        ("other.npz", "0 1 2 3 4 5 6", "none"),
    ):
        np.savez(tmp_path / name, **arrays)
        dataset = load_dataset(f"medmnist:{tmp_path / name}")
        assert dataset.classes == tuple(classes.split())
        assert dataset.augmentation == augmentation
        assert dataset.sets == ("train",) * 7 + ("validation",) * 2 + ("test",)
        square = dataset.preprocessing(dataset.images[0].read().image)
        np.testing.assert_array_equal(square, arrays["train_images"][0])


def changed(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("val_labels"),
        changed("val_images", lambda a: a / 255),
        changed("val_images", lambda a: a[:, :4, :4]),
        changed("val_images", np.asfortranarray),
        changed("val_labels", lambda a: np.array([Trap()] * len(a))),
        changed("val_images", lambda a: a[:1]),
        changed("val_labels", lambda a: a * 0 + 7),
        changed("val_labels", lambda a: a.astype(int) - 9),
    ],
)
def test_a_packed_file_that_cannot_be_used_is_named_in_one_line(tmp_path, damage):
    arrays = packed_arrays()
    damage(arrays)
    path = tmp_path / "dermamnist.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(DataError, match=r"dermamnist\.npz: [^\n]*$"):
        load_dataset(f"medmnist:{path}")


@pytest.mark.parametrize("seed", range(20))
def test_a_packed_file_that_is_damaged_or_cut_off_gives_one_line(tmp_path, seed):
    np.savez_compressed(tmp_path / "set.npz", **packed_arrays(size=12))
    data = bytearray((tmp_path / "set.npz").read_bytes())
    generator = np.random.default_rng(seed)
    if seed < 3:
        data = data[: seed * len(data) // 3]
    for place in generator.integers(0, len(data), 30 * bool(data)):
        data[place] ^= int(generator.integers(1, 256))
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"set\.npz: [^\n]*$"):
        read_all(f"medmnist:{tmp_path / 'set.npz'}")


def read_all(spec):
    dataset = load_dataset(spec)
    for index in range(len(dataset)):
        dataset.images[index].read()
