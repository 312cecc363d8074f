import math

import pytest
import torch
from huggingface_hub import ModelCard, hub_mixin
from huggingface_hub.errors import EntryNotFoundError
from refusals import naming
from safetensors.torch import load_file, save_file

from misgiving.errors import DataError, UsageError
from misgiving.models.joint import JointClassifier, LossEstimator, evaluated, shape_of_logits

FAMILIES = ["vgg16_mini", "test_vit", "test_convnext", "test_resnet", "test_efficientnet"]


def build(backbone="vgg16_mini", **options):
    usual = {"num_classes": 5, "pretrained": False, "image_size": 64, "dropout": 0.0}
    return JointClassifier(backbone, **usual | options)


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 64)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_logits_are_those_of_the_backbone_and_of_its_last_layer_on_the_features(backbone, images):
    model = build(backbone).eval()
    output = model(images)
    classifier = model.backbone.get_classifier()
    expected = output.features @ classifier.weight.T + classifier.bias
    torch.testing.assert_close(output.logits, expected)
    assert (output.logits.shape, output.predicted_losses.shape) == ((2, 5), (2,))
    settings = {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # of a backbone without weights
    settings |= getattr(model.backbone, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
    expected = model.backbone((images - mean) / std)
    torch.testing.assert_close(output.logits, expected)
    torch.testing.assert_close(model.classify(images), expected)


def seeded_model(seed, **options):
    torch.manual_seed(seed)
    return build(**options).eval()


def test_the_estimator_follows_the_seed_and_changes_neither_backbone_nor_random_numbers(images):
    plain, after = seeded_model(3, taps=()), torch.rand(4)
    model, after_estimator = seeded_model(3), torch.rand(4)
    assert torch.equal(after, after_estimator)
    found = model.backbone.state_dict()
    assert all(
        torch.equal(found[name], value) for name, value in plain.backbone.state_dict().items()
    )
    assert plain(images).predicted_losses.isnan().all()
    assert plain.full_output(images)[-1].shape == (2, 0)
    models = *(seeded_model(seed) for seed in (3, 1)), build()  # the last in a row
    heads = [one.loss_estimator.head.weight for one in (model, *models)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[2], heads[3])
    reading = seeded_model(3, reads_logits=True)
    assert reading.loss_estimator.projections[-1].in_features == 5 + 2
    assert len(reading.loss_estimator.projections) == len(model.taps) + 1
    torch.testing.assert_close(reading(images).logits, model(images).logits, rtol=0, atol=0)
    assert not torch.equal(reading(images).predicted_losses, model(images).predicted_losses)


def test_a_transformer_is_built_for_the_size_of_the_images_and_dropout_is_the_backbones(images):
    model = build("test_vit", image_size=96).eval()
    assert model(torch.rand(1, 3, 96, 96)).logits.shape == (1, 5)
    model = build("test_convnext", dropout=0.5).train()
    assert not torch.equal(model(images).logits, model(images).logits)


def test_impossible_settings_are_refused():
    for backbone, name, value in (
        ("vgg16_mini", "dropout", 1.0),
        ("vgg16_mini", "hidden", 0),
        ("vgg16_mini", "num_classes", 1),
        ("test_vit", "image_size", 8),
    ):
        with pytest.raises(UsageError, check=naming(name)):
            build(backbone, **{name: value})


def test_outputs_over_batches_are_those_of_calls_with_the_averages_of_the_taps(images):
    """Mode and random numbers stay as they were."""
    model, before = build(dropout=0.5).train(), torch.random.get_rng_state()
    frozen = model.backbone.eval()
    few = evaluated(model, (model(batch)[:2] for batch in [images]))
    all_of_them = evaluated(model, map(model.full_output, [images[:1], images[1:]]))
    assert (model.training, frozen.training) == (True, False)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(few, all_of_them[:2])
    with torch.no_grad():
        called = model.eval()(images)
        taps = model.backbone.forward_intermediates(
            model.normalise(images), indices=list(model.taps), intermediates_only=True
        )
    averages = torch.cat([tap.flatten(2).mean(dim=2) for tap in taps], dim=1)
    for found, expected in zip(all_of_them, (*called, averages), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_estimator_is_the_papers_figure_1_written_out():
    estimator = LossEstimator(channels=(2, 3), hidden=4).double()
    taps = [torch.randn(5, 2, 6, 6).double(), torch.randn(5, 3, 2, 2).double()]
    expected = []
    for sample in range(5):
        joined = []
        for tap, layer in zip(taps, estimator.projections, strict=True):
            pooled = [channel.sum() / channel.numel() for channel in tap[sample]]
            for unit in range(4):
                products = [w * p for w, p in zip(layer.weight[unit], pooled, strict=True)]
                joined.append(max(torch.tensor(0.0).double(), sum(products) + layer.bias[unit]))
        weights = estimator.head.weight[0]
        total = sum(w * j for w, j in zip(weights, joined, strict=True))
        expected.append(total + estimator.head.bias[0])
    torch.testing.assert_close(estimator(taps), torch.stack(expected))


def test_the_tap_of_logits_is_its_definition_and_sends_no_gradient_to_the_classifier():
    logits = [[0.3, -1.2, 2.0], [1.0, 1.0, 1.0]]
    expected = []
    for row in logits:
        log_sum = math.log(sum(math.exp(value) for value in row))
        log_probabilities = sorted((value - log_sum for value in row), reverse=True)
        entropy = -sum(math.exp(value) * value for value in log_probabilities)
        expected.append([*log_probabilities, entropy, log_sum])
    found = shape_of_logits(torch.tensor(logits, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    logits = torch.randn(2, 3, requires_grad=True)
    estimator = LossEstimator(channels=(2,), hidden=4, num_classes=3)
    activation = torch.randn(2, 2, 5, 5, requires_grad=True)
    estimator([activation], logits).sum().backward()
    assert logits.grad is None
    assert activation.grad.abs().sum() > 0


@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_model_comes_back_from_its_folder_as_hugging_face_writes_it(backbone, images, tmp_path):
    model = build(backbone, reads_logits=True).eval()
    model._hub_mixin_config["pretrained"] = True  # no ImageNet weights are fetched for it again
    model.save_pretrained(tmp_path, model_card_kwargs={"license": "mit"})
    again = JointClassifier.from_pretrained(tmp_path)
    assert all(map(torch.equal, again(images), model(images)))
    facts = ModelCard.load(tmp_path / "README.md").data
    assert (facts.library_name, facts.pipeline_tag) == ("misgiving", "image-classification")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["loss_estimator.head.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError):
        JointClassifier.from_pretrained(tmp_path)


def test_pickled_weights_from_the_hub_are_not_loaded(monkeypatch, tmp_path):
    build().save_pretrained(tmp_path)

    def download(*, filename, **_):
        if filename == "model.safetensors":
            raise EntryNotFoundError(filename)
        return tmp_path / filename

    monkeypatch.setattr(hub_mixin, "hf_hub_download", download)
    with pytest.raises(DataError):
        JointClassifier.from_pretrained("some/model")
