import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from trained_elsewhere import picture, resnet, save_pretrained, vit

from misgiving.errors import DataError, UsageError
from misgiving.training.attach import attach
from misgiving.training.trained_models import USUAL_PREPARATIONS, load_hugging_face, load_named

SQUARE = {"height": 16, "width": 16}
LARGER, SHORTER = {"height": 20, "width": 20}, {"shortest_edge": 20}


PROCESSORS = {
    "bilinear": ("ViT", {"size": SQUARE}),
    "bicubic": ("Siglip", {"size": SQUARE}),
    "resized and cropped": ("Bit", {"size": SHORTER, "crop_size": SQUARE}),
    "squashed and cropped": ("DeiT", {"size": LARGER, "crop_size": SQUARE}),
    "by a share": ("ConvNext", {"size": {"shortest_edge": 16}, "crop_pct": 0.8}),
    "another scale": ("ViT", {"size": SQUARE, "rescale_factor": 1 / 127.5, "do_normalize": False}),
}


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS.values(), ids=PROCESSORS)
def test_logits_are_those_of_the_model_through_its_own_image_processor(tmp_path, kind, settings):
    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    module = vit()
    trained = load_hugging_face(save_pretrained(tmp_path / "model", module, processor))
    model = attach(trained.module, image_size=16, mean=trained.source.mean, std=trained.source.std)
    for size in ((37, 64), (64, 37), (300, 201), (9, 23)):
        picture(*size).save(buffer := io.BytesIO(), "JPEG", quality=95)
        theirs = processor(Image.open(buffer), return_tensors="pt")["pixel_values"]
        square = trained.preprocessing.from_file(buffer.getvalue(), "image")
        ours = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            expected, found = module(theirs).logits, model(ours).logits
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_classes_and_architecture_are_the_models_own_and_half_precision_becomes_single(tmp_path):
    half = load_hugging_face(save_pretrained(tmp_path / "half", vit().bfloat16()))
    for module in (half.module, half.source.build()):
        assert {weight.dtype for weight in module.parameters()} == {torch.float32}
    trained = load_hugging_face(save_pretrained(tmp_path / "model", vit()))
    assert trained.classes == ("a", "b", "c")
    assert trained.name == "ViTForImageClassification"
    images = torch.rand(2, 3, 16, 16)
    built = trained.source.build().eval()
    built.load_state_dict(trained.module.state_dict())
    assert torch.equal(built(images).logits, vit()(images).logits)
    json.dumps(trained.source.config)


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save(vit().state_dict(), folder / "pytorch_model.bin")


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
FLIPPED = {"image_processor_type": "MobileViTImageProcessor", "do_flip_channel_order": True}
FLIPPED |= {"do_center_crop": False, "do_normalize": False}
BROKEN = {
    "pickled weights": pickled,
    "no image processor": lambda at: (at / PROCESSOR).unlink(),
    "no classifier": lambda at: vit().vit.save_pretrained(at),
    "damaged weights": lambda at: (at / "model.safetensors").write_bytes(b"x" * 100),
    "code of its own": (CONFIG, {"model_type": "own", "auto_map": {"AutoConfig": "x.Y"}}),
    "several classes": (CONFIG, {"problem_type": "multi_label_classification"}),
    "images of any size": (PROCESSOR, {"do_resize": False}),
    "images that are not square": (PROCESSOR, {"size": {"height": 16, "width": 20}}),
    "swapped channels": (PROCESSOR, FLIPPED),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path, change):
    folder = save_pretrained(tmp_path / "model", vit())
    if callable(change):
        change(folder)
    else:
        name, settings = change
        merged = json.loads((folder / name).read_text()) | settings
        (folder / name).write_text(json.dumps(merged))
    with pytest.raises(DataError) as failure:
        load_hugging_face(folder)
    assert str(folder) in str(failure.value)
    assert "\n" not in str(failure.value)


def of_torchvision():
    from torchvision.models import ResNet18_Weights

    return "torchvision:resnet18", resnet(), ResNet18_Weights.DEFAULT.transforms()


def of_timm():
    import timm
    from timm.data import create_transform, resolve_data_config

    module = timm.create_model("test_vit", num_classes=3).eval()
    return "test_vit", module, create_transform(**resolve_data_config({}, model=module))


@pytest.mark.parametrize("make", [of_torchvision, of_timm])
def test_a_named_model_gives_its_logits_through_its_own_preprocessing(make, tmp_path):
    name, module, prepare = make()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    trained = load_named(name, tmp_path / "weights.pt", ["a", "b", "c"])
    model = attach(trained.module, mean=trained.source.mean, std=trained.source.std)
    for size in ((233, 301), (500, 317)):
        image = picture(*size)
        square = trained.preprocessing(np.asarray(image))
        with torch.no_grad():
            found = model(torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255).logits
            expected = module(prepare(image)[None])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


SQUASHED = [
    ("convnextv2_nano.fcmae_ft_in22k_in1k_384", None),
    ("tf_efficientnetv2_b3.in21k_ft_in1k", None),  # crops 240 of 266 pixels
    ("tf_efficientnetv2_b3.in21k_ft_in1k", 63),  # 63 of 70, so that 3.5 pixels are rounded
]


@pytest.mark.parametrize(("name", "side"), SQUASHED)
def test_images_that_timm_squashes_are_those_of_timm(name, side):
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    preprocessing = USUAL_PREPARATIONS["timm"](name, 3, side)[0]
    wanted = resolve_data_config({}, pretrained_cfg=get_pretrained_cfg(name).to_dict())
    if side:
        wanted["input_size"] = (3, side, side)
    prepare = create_transform(**wanted | {"mean": (0,) * 3, "std": (1,) * 3})
    for size in ((600, 300), (301, 777)):
        image = picture(*size)
        expected = np.rint(255 * prepare(image).numpy().transpose(1, 2, 0))
        np.testing.assert_array_equal(preprocessing(np.asarray(image)), expected)


def test_a_named_model_without_its_own_weights_is_refused(tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save(resnet().state_dict(), weights)
    for name, file, classes, culprit in (
        ("resnet18", None, "abc", "resnet18"),
        ("torchvision:resnet19", weights, "abc", "resnet19"),
        ("keras:resnet50", weights, "abc", "keras"),
        ("torchvision:ssd300_vgg16", weights, "abc", "ssd300_vgg16"),  # a detector
        ("torchvision:resnet18", weights, "abcd", "resnet18"),
    ):
        with pytest.raises((UsageError, DataError), match=culprit):
            load_named(name, file, list(classes))
