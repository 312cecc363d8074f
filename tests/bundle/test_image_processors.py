import io
import json

import numpy as np
import pytest
import transformers
from PIL import Image

from misgiving.bundle.graph_interface import GraphInterface, read_interface
from misgiving.bundle.image_processors import KINDS
from misgiving.bundle.wrapped_graph import ImageInput, pixel_map
from misgiving.errors import DataError

SQUARE, LARGER = {"height": 16, "width": 16}, {"height": 20, "width": 20}
EDGE = {"shortest_edge": 20}
PLAIN = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": SQUARE,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}


def pixels(interface, data):
    """What a graph gets: the square of a bundle, and the first nodes of the wrapped graph."""
    square = interface.preprocessing(interface.image_size).from_file(data, "image")
    side = interface.image_size
    weight, bias = pixel_map(ImageInput("x", "FLOAT", None, 3, side, "nchw"), interface)
    return (square / 255 @ weight.T + bias).transpose(2, 0, 1)


def png(height, width):
    random, buffer = np.random.default_rng(0), io.BytesIO()
    values = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


SETTINGS = {
    "by default": {},
    "bicubic": {"resample": Image.Resampling.BICUBIC},
    "not normalised": {"do_normalize": False},
    "from -1 to 1": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "not scaled": {"do_rescale": False},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gets_the_pixels_of_the_image_processor(tmp_path, kind, settings):
    sizes = {"ViT": {"size": SQUARE}, "Siglip": {"size": SQUARE}, "DeiT": {"size": LARGER}}
    sizes["ConvNext"] = {"size": EDGE, "crop_pct": 0.85}
    size = sizes.get(kind, {"size": EDGE}) | {"crop_size": SQUARE}
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**size, **settings)
    processor.save_pretrained(tmp_path)
    interface = read_interface(tmp_path / "preprocessor_config.json", {})
    for shape in ((37, 64), (64, 37), (9, 23)):
        data = png(*shape)
        theirs = processor(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
        largest = np.abs(theirs).max()
        np.testing.assert_allclose(pixels(interface, data), theirs, atol=2e-6 * largest, rtol=1e-5)


def test_a_large_image_of_convnext_is_not_cropped(tmp_path):
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384}, crop_pct=0.8)
    processor.save_pretrained(tmp_path)
    interface = read_interface(tmp_path / "preprocessor_config.json", {})
    data = png(300, 401)
    theirs = processor(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixels(interface, data), theirs, atol=1e-5)


def test_options_take_precedence(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(PLAIN))
    found = read_interface(path, {"interpolation": "lanczos", "outputs": "softmax"})
    assert found == GraphInterface(
        image_size=16,
        crop=1.0,
        crop_shape="squashed",
        interpolation="lanczos",
        scale=1.0,
        mean=(0.5, 0.4, 0.3),
        std=(0.5, 0.6, 0.7),
        outputs="softmax",
    )


REFUSED = {
    "image_processor_type": ("LevitImageProcessor", "LevitImageProcessor, and the known ones are"),
    "do_resize": (False, "do_resize is off"),
    "do_rescale": (None, "do_rescale is missing; save the image processor again"),
    "do_pad": (True, "do_pad is True, which is not supported"),
    "do_thumbnail": (True, "do_thumbnail is True, which is not supported"),
    "rescale_offset": (True, "rescale_offset is True"),
    "size_divisor": (32, "size_divisor is 32"),
    "size": ({"height": 16, "width": 20}, "size is {'height': 16, 'width': 20}; a bundle takes sq"),
    "resample": (5, "resample is 5; choose from 0 to 4"),
    "image_mean": ([0.5, 0.5], "image_mean is [0.5, 0.5]; give one number, or one for each"),
    "image_std": ([0.5, 0, 0.5], "`std` must be above 0"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_a_bundle_cannot_do_is_refused_by_its_key(tmp_path, key):
    value, message = REFUSED[key]
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(PLAIN | {key: value}))
    with pytest.raises(DataError) as failure:
        read_interface(path, {})
    assert str(failure.value).startswith(f"{path}: ")
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 224}, "size is 224; a bundle takes squares"),
        ({"size": {"longest_edge": 20}}, "size is {'longest_edge': 20}"),
        ({"size": EDGE}, "size is a shortest_edge without do_center_crop"),
        ({"size": {"shortest_edge": None}}, "shortest_edge is None; give a number above zero"),
        ({"size": {"height": 0, "width": 0}}, "size is 0; give a number above zero"),
        ({"size": {"height": "a", "width": "a"}}, "size is a; give a number above zero"),
        ({"size": EDGE, "crop_pct": "x"}, "crop_pct is x; give a number above zero"),
        ({"do_center_crop": True, "crop_size": -4}, "crop_size is -4; give a number above zero"),
        ({"rescale_factor": None}, "rescale_factor is None; give a number above zero"),
        ({"do_center_crop": True}, "crop_size is None; a bundle takes squares"),
        ({"do_center_crop": True, "crop_size": LARGER}, "crop_size is 20, and size only 16"),
    ],
)
def test_sizes_that_give_no_squares_are_refused(tmp_path, changes, says):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(PLAIN | changes))
    with pytest.raises(DataError) as failure:
        read_interface(path, {})
    assert says in str(failure.value)
