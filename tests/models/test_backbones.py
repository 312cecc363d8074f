import pickle
from unittest.mock import Mock

import pytest
import timm
import torch
from corpus import Trap
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from refusals import naming
from safetensors.torch import save_file
from torch import nn

from misgiving.errors import DataError, UsageError
from misgiving.models import backbones
from misgiving.models.backbones import create_backbone, load_weights
from misgiving.models.joint import read_timm


@pytest.mark.parametrize(("name", "behind"), [("vgg16", 1), ("vgg16_mini", 2)])  # their ReLUs
def test_the_taps_of_vgg16_are_the_activations_after_convolutions_4_7_10_and_13(name, behind):
    with torch.device("meta"):
        model = create_backbone(name, num_classes=8)
    read = read_timm(model)
    convolutions = [n for n, m in enumerate(model.features) if isinstance(m, nn.Conv2d)]
    tapped = [int(model.feature_info[tap]["module"].split(".")[1]) for tap in read.taps]
    assert len(convolutions) == 13
    assert tapped == [convolutions[number - 1] + behind for number in (4, 7, 10, 13)]
    assert all(isinstance(model.features[layer], nn.ReLU) for layer in tapped)
    assert read.channels == (128, 256, 512, 512) or name == "vgg16_mini"


def test_levels_that_do_not_exist_or_do_not_ascend_are_refused():
    model = create_backbone("test_convnext", num_classes=3)
    for taps in ([0, 4], [-1, 0], [1, 0], [1, 1]):
        with pytest.raises(UsageError):
            read_timm(model, taps)
    assert read_timm(create_backbone("test_vit", num_classes=3)).taps == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "pretrained", "culprit"),
    [
        ("resnet19", False, "resnet18"),
        ("test_convnext.r2024_in1k", False, "test_convnext"),
        ("deit_tiny_distilled_patch16_224", False, "deit_tiny"),  # has two heads
        ("vgg16_mini", True, "pretrained=False"),
        ("test_convnext", True, "no route to host"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_refused(monkeypatch, name, pretrained, culprit):
    if pretrained:
        failure = Mock(side_effect=OSError("no route to host"))
        monkeypatch.setattr(timm, "create_model", failure)
    with pytest.raises(UsageError, match=culprit):
        create_backbone(name, num_classes=3, pretrained=pretrained)


NO_SERVICE = Mock(return_value=Mock(head=Mock(return_value=Mock(status_code=503))))


@pytest.mark.parametrize("get_session", [Mock(side_effect=OSError), NO_SERVICE])
def test_weights_that_cannot_be_downloaded_are_a_line_without_retries(monkeypatch, get_session):
    def create(*_, **__):
        assert constants.HF_HUB_OFFLINE
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(backbones, "get_session", get_session)
    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(UsageError, check=naming("weights", "pretrained")):
        create_backbone("test_convnext", num_classes=3, pretrained=True)
    assert not constants.HF_HUB_OFFLINE


def write_safetensors(state, folder):
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_torch(state, folder):
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize("write", [write_safetensors, write_torch])
def test_a_weights_file_fills_what_matches_and_the_rest_is_named(write, tmp_path):
    """The weights are of another head, as ImageNet weights are."""
    model = create_backbone("test_convnext", num_classes=3)
    source = create_backbone("test_convnext", num_classes=1000).state_dict()
    source["another.layer"] = source.pop("stem.0.weight")
    head = model.head.fc.weight.clone()
    unfilled, unknown = load_weights(model, write(source, tmp_path))
    assert unfilled == ["head.fc.bias", "head.fc.weight", "stem.0.weight"]
    assert unknown == ["another.layer"]
    assert torch.equal(model.head.fc.weight, head)
    for name, weight in model.state_dict().items():
        assert name in unfilled or torch.equal(weight, source[name])


PICKLE, PICKLED = pickle.dumps({"weight": Trap()}), (".safetensors", ".bin", ".pt", ".pth")


def counters_of(model):
    return {n: t for n, t in model.state_dict().items() if n.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"conv1.weight": torch.zeros(3)}, path),
        lambda path: save_file(counters_of(create_backbone("test_resnet", num_classes=3)), path),
        lambda path: torch.save({"weight": Trap()}, path.with_suffix(".pth")),
        lambda path: torch.save([torch.zeros(2)], path.with_suffix(".pth")),
        lambda path: torch.save(nn.Linear(2, 2), path.with_suffix(".pth")),
        lambda path: torch.save(
            {"weight": Trap()}, path.with_suffix(".pt"), _use_new_zipfile_serialization=False
        ),
        *(lambda path, s=s: path.with_suffix(s).write_bytes(PICKLE) for s in PICKLED),
        lambda path: path.write_text("not weights"),
        lambda path: path.with_suffix(".pth").write_text("not weights"),
        lambda _: None,
    ],
)
def test_a_file_without_weights_of_the_model_is_refused_and_runs_no_code(write, tmp_path):
    write(tmp_path / "w.safetensors")
    path = next(tmp_path.iterdir(), tmp_path / "none.pth")
    with pytest.raises(DataError, match=path.name):
        load_weights(create_backbone("test_resnet", num_classes=3), path)
