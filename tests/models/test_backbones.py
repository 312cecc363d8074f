import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from misgiving.errors import DataError, UsageError
from misgiving.models.backbones import (
    create_backbone,
    default_taps,
    load_weights,
    normalisation,
    tap_channels,
)


def test_the_taps_of_vgg16_are_the_activations_after_convolutions_4_7_10_and_13():
    with torch.device("meta"):
        model = create_backbone("vgg16", num_classes=8)
    convolutions = [n for n, m in enumerate(model.features) if isinstance(m, nn.Conv2d)]
    tapped = [int(model.feature_info[tap]["module"].split(".")[1]) for tap in default_taps(model)]
    assert tapped == [convolutions[number - 1] + 1 for number in (4, 7, 10, 13)]  # their ReLUs
    assert all(isinstance(model.features[layer], nn.ReLU) for layer in tapped)
    assert tap_channels(model, default_taps(model)) == (128, 256, 512, 512)


def test_the_mini_vgg_has_the_convolutions_of_vgg16_and_its_taps():
    model = create_backbone("vgg16_mini", num_classes=3)
    convolutions = [n for n, m in enumerate(model.features) if isinstance(m, nn.Conv2d)]
    tapped = [int(model.feature_info[tap]["module"].split(".")[1]) for tap in default_taps(model)]
    assert len(convolutions) == 13
    assert tapped == [convolutions[number - 1] + 2 for number in (4, 7, 10, 13)]


def test_the_default_taps_elsewhere_are_the_last_four_levels():
    model = create_backbone("test_vit", num_classes=3)
    assert default_taps(model) == (2, 3, 4, 5)


def test_a_level_that_does_not_exist_is_refused():
    model = create_backbone("test_convnext", num_classes=3)
    with pytest.raises(UsageError, match=r"taps.*4.*0 to 3"):
        tap_channels(model, [0, 4])


def test_an_unknown_backbone_is_refused_with_similar_names():
    with pytest.raises(UsageError, match=r"resnet19.*resnet18"):
        create_backbone("resnet19", num_classes=3)


def test_a_backbone_with_two_heads_is_refused():
    with pytest.raises(UsageError, match=r"deit_tiny.*linear layer"):
        create_backbone("deit_tiny_distilled_patch16_224", num_classes=3)


def test_the_mini_vgg_has_no_pretrained_weights():
    with pytest.raises(UsageError, match="pretrained=False"):
        create_backbone("vgg16_mini", num_classes=3, pretrained=True)


def test_weights_that_cannot_be_fetched_are_explained(monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(UsageError, match=r"test_convnext.*no route to host.*weights"):
        create_backbone("test_convnext", num_classes=3, pretrained=True)


def test_normalisation_is_what_the_pretrained_weights_expect():
    model = create_backbone("tf_efficientnet_lite0", num_classes=3)
    assert normalisation(model) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def source():
    """Weights of the same backbone with another head, as ImageNet weights are."""
    return create_backbone("test_convnext", num_classes=1000).state_dict()


@pytest.fixture
def model():
    return create_backbone("test_convnext", num_classes=3)


def write_safetensors(state, folder):
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_torch(state, folder):
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize("write", [write_safetensors, write_torch])
def test_a_weights_file_fills_all_but_the_head(model, source, write, tmp_path):
    head = model.head.fc.weight.clone()
    report = load_weights(model, write(source, tmp_path))
    assert report.other_shape == ("head.fc.bias", "head.fc.weight")
    assert report.missing == report.unknown == ()
    assert torch.equal(model.head.fc.weight, head)
    for name in report.matched:
        assert torch.equal(model.state_dict()[name], source[name])


def test_the_report_counts_what_is_missing_and_unknown(model, source, tmp_path):
    source["another.layer"] = source.pop("stem.0.weight")
    report = load_weights(model, write_safetensors(source, tmp_path))
    assert (report.missing, report.unknown) == (("stem.0.weight",), ("another.layer",))
    assert "1 of the model are not in the file" in str(report)


def test_a_file_that_matches_nothing_is_refused(model, tmp_path):
    path = write_safetensors({"conv1.weight": torch.zeros(3)}, tmp_path)
    with pytest.raises(DataError, match=r"1 tensors.*conv1.weight.*stem"):
        load_weights(model, path)


def test_counters_alone_do_not_pass_for_weights(tmp_path):
    model = create_backbone("test_resnet", num_classes=3)
    counters = {n: t for n, t in model.state_dict().items() if n.endswith("num_batches_tracked")}
    with pytest.raises(DataError, match=r"weights\.safetensors.*none of its"):
        load_weights(model, write_safetensors(counters, tmp_path))


class Trap:
    """Would run code while being unpickled."""

    def __reduce__(self):
        return print, ("ran",)


def write_pickled_object(folder):
    torch.save({"weight": Trap()}, folder / "w.pth")
    return folder / "w.pth"


def write_text(folder):
    (folder / "w.safetensors").write_text("not weights")
    return folder / "w.safetensors"


def write_text_as_torch(folder):
    (folder / "w.pth").write_text("not weights")
    return folder / "w.pth"


def write_list(folder):
    torch.save([torch.zeros(2)], folder / "w.pth")
    return folder / "w.pth"


@pytest.mark.parametrize(
    "write", [write_pickled_object, write_text, write_text_as_torch, write_list, lambda f: f / "no"]
)
def test_a_file_that_is_no_state_dict_is_refused_and_runs_no_code(model, write, tmp_path, capsys):
    path = write(tmp_path)
    with pytest.raises(DataError, match=path.name):
        load_weights(model, path)
    assert "ran" not in capsys.readouterr().out
