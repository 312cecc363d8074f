from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from misgiving import JointClassifier, attach
from misgiving.errors import UsageError
from misgiving.models.joint import evaluated

CLASSES = ["a", "b", "c"]
LAST = nn.Flatten(), nn.Linear(4 * 14 * 14, 3)  # behind a convolution of 16 pixels


class InPlace(nn.Module):
    """A convolution whose output the next layer changes in place; one layer is called twice."""

    def __init__(self, classes=3):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, classes)

    def forward(self, images):
        hidden = self.relu(self.norm(self.first(images)))
        hidden = self.relu(self.twice(self.relu(self.twice(hidden))))
        return self.head(self.drop(hidden.mean(dim=(2, 3))))


class ChannelsLast(nn.Module):
    """Blocks whose outputs are (N, H, W, C), with as many channels as rows if asked to."""

    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 2, stride=2)
        self.block = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, images):
        return self.head(self.block(self.embed(images).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


class Wrapped(nn.Module):
    """Gives the logits of another module in another form."""

    def __init__(self, module, form):
        super().__init__()
        self.module, self.form = module, form

    def forward(self, images):
        return self.form(self.module(images))


def noise(count=2, side=16, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def learned_statistics(module):
    """The module after its batch normalisation has seen images, in the mode it was in."""
    with torch.no_grad():
        module.train()(noise(16))
    return module.eval()


def attached(module=None, taps=("first", "twice"), **options):
    module = learned_statistics(InPlace()) if module is None else module
    return attach(module, taps=taps, image_size=16, **options)


def network(name, **options):
    torch.manual_seed(0)
    return getattr(torchvision.models, name)(num_classes=3, **options).eval()


TORCHVISION = [
    ("resnet18", ["layer3", "layer4"], 64),
    ("mobilenet_v3_small", ["features.4", "features.12"], 64),
    ("swin_t", ["features.1", "features.7.1"], 64),
    ("squeezenet1_1", ["features.5", "features.12"], 64),
]


@pytest.mark.parametrize(("name", "taps", "side"), TORCHVISION)
def test_the_logits_of_a_torchvision_model_stay_bit_for_bit_the_same(name, taps, side):
    module, images = network(name), noise(side=side)
    model = attach(module, taps=taps, classes=CLASSES, image_size=side)
    with torch.no_grad():
        expected = module(images)
        logits, predicted_losses, _, averages = model.full_output(images)
        assert torch.equal(logits, expected)
        assert torch.equal(model(images).logits, expected)
        assert torch.equal(model.classify(images), expected)
    assert predicted_losses.shape == (2,)
    assert averages.shape == (2, sum(model.reader.channels))


def test_averages_are_of_outputs_before_a_change_in_place_and_of_the_last_call():
    model, images = attached(), noise()
    with torch.no_grad():
        net = model.backbone
        first = net.first(images)
        last = net.twice(net.twice(net.norm(first).relu()).relu())
        expected = torch.cat([first.mean(dim=(2, 3)), last.mean(dim=(2, 3))], dim=1)
        torch.testing.assert_close(model.full_output(images)[-1], expected)
    assert (expected[:, :4] < 0).any()  # which the rectifier would have removed


def test_channels_that_come_last_and_tokens_are_found():
    module, images = ChannelsLast().eval(), noise()
    model = attached(module, taps=["embed", "block"])
    with torch.no_grad():
        embedded = module.embed(images)
        last = module.block(embedded.permute(0, 2, 3, 1))
        expected = [embedded.mean(dim=(2, 3)), last.mean(dim=(1, 2))]
        torch.testing.assert_close(model.full_output(images)[-1], torch.cat(expected, dim=1))
    assert model.reader.axes == (1, 3)
    module = torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 8).eval()
    model, seen = attached(module, taps=["encoder.layers.encoder_layer_1"]), []
    module.encoder.layers[1].register_forward_hook(lambda *call: seen.append(call[-1]))
    module(images)
    torch.testing.assert_close(model.full_output(images)[-1], seen[0].mean(dim=1))
    assert seen[0].shape == (2, 17, 8)


def test_features_are_the_input_of_the_last_linear_layer_or_averages_of_the_last_tap():
    """The latter where the layer's output is not the logits."""
    model = attached()
    output = model(noise())
    expected = output.features @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(output.logits, expected)
    assert model.head is model.backbone.head
    for form in (lambda logits: 1 * logits, lambda logits: logits.mul_(2)):
        module = Wrapped(learned_statistics(InPlace()), form)
        model = attached(module, taps=["module.first", "module.twice"])
        *_, features, averages = model.full_output(noise())
        assert model.head is None
        assert torch.equal(features, averages[:, 4:])


FORMS = (
    lambda logits: (logits, None),
    lambda logits: [logits],
    lambda logits: SimpleNamespace(logits=logits, hidden_states=None),
    lambda logits: {"hidden": logits + 1, "logits": logits},
)


def test_logits_are_found_in_a_tuple_and_in_a_record_and_a_tap_in_a_tuple():
    module, images = learned_statistics(InPlace()), noise()
    for form in FORMS:
        model = attached(Wrapped(module, form), taps=["module.first"])
        assert torch.equal(model(images).logits, module(images))
    body = Wrapped(nn.Conv2d(3, 4, 3), lambda activations: (None, activations))
    network = nn.Sequential(body, Wrapped(nn.Identity(), itemgetter(1)), *LAST).eval()
    model = attached(network, taps=["0"])
    expected = network[0].module(images).mean(dim=(2, 3))
    torch.testing.assert_close(model.full_output(images)[-1], expected)


def state_of(module):
    return {
        "weights": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "modes": [part.training for part in module.modules()],
        "gradients": [weight.requires_grad for weight in module.parameters()],
        "hooks": [len(part._forward_hooks) for part in module.modules()],
        "grads": [weight.grad for weight in module.parameters()],
        "layout": [weight.stride() for weight in module.parameters()],
    }


def assert_same_state(found, expected):
    weights = expected.pop("weights")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.pop("weights").items())
    assert found == expected


def test_the_callers_module_and_the_attached_one_leave_each_other_alone():
    module = learned_statistics(InPlace()).train()
    module.norm.eval()
    module.first.weight.requires_grad_(False)
    before = state_of(module)
    model = attached(module, classes=CLASSES)
    assert (model.training, model.classes) == (False, tuple(CLASSES))
    optimizer = torch.optim.SGD(model.train().parameters(), 0.1)
    model(noise()).predicted_losses.sum().backward()
    optimizer.step()
    assert_same_state(state_of(module), before)
    expected = model.eval()(noise()).logits
    with torch.no_grad():
        module.head.weight.add_(1)
    assert torch.equal(model(noise()).logits, expected)


def test_a_frozen_classifier_stays_in_evaluation_mode_while_the_estimator_trains():
    model, images = attached(), noise()
    model.train()
    before = state_of(model.backbone)
    output = model(images)
    assert torch.equal(output.logits, model(images).logits)  # no dropout
    output.predicted_losses.sum().backward()
    assert_same_state(state_of(model.backbone), before)  # no statistics, no gradients
    assert model.loss_estimator.training
    assert all(weight.grad is not None for weight in model.loss_estimator.parameters())


def test_joint_training_sends_the_estimators_gradient_into_the_module():
    """It is that of the estimator, written out."""
    module = InPlace()
    model = JointClassifier(module, taps=["first"], image_size=16).train()
    assert model.backbone is module
    model(noise(), detach_taps=True).predicted_losses.sum().backward()
    assert module.first.weight.grad is None
    model(noise()).predicted_losses.sum().backward()
    assert module.first.weight.grad.abs().sum() > 0
    assert module.twice.weight.grad is None
    module = InPlace().double().eval()
    model = JointClassifier(module, taps=["first", "twice"], image_size=16)
    images = noise().double()
    found = torch.autograd.grad(model(images).predicted_losses.sum(), module.first.weight)
    first = module.first(images)
    hidden = module.norm(first).relu()
    last = module.twice(module.twice(hidden).relu())
    averages = [first.mean(dim=(2, 3)), last.mean(dim=(2, 3))]
    expected = torch.autograd.grad(model.loss_estimator(averages).sum(), module.first.weight)
    torch.testing.assert_close(found, expected)


def test_weights_keep_the_modules_names_and_no_hook_stays():
    """After reading the module has its modes and statistics, too."""
    module = InPlace().train()
    module.norm.eval()
    before = state_of(module)
    model = JointClassifier(module, taps=["first"], image_size=16)
    assert_same_state(state_of(module), before)
    model(noise())
    with pytest.raises(RuntimeError):
        model.reader(module, torch.zeros(1, 5, 16, 16))
    names = {name for name in model.state_dict() if name.startswith("backbone.")}
    assert names == {f"backbone.{name}" for name in module.state_dict()}
    assert not any(part._forward_hooks for part in model.modules())


def test_threads_that_share_a_model_get_the_activations_of_their_own_images():
    model = attached()
    batches = [noise(seed=seed) for seed in range(4)]
    expected = [evaluated(model, map(model.full_output, [batch]))[-1] for batch in batches]

    def work(batch):
        with torch.no_grad():
            return [model.full_output(batch)[-1] for _ in range(20)][-1]

    with ThreadPoolExecutor(len(batches)) as pool:
        found = [*pool.map(work, batches)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_in_mixed_or_half_precision_the_estimator_is_in_single_precision():
    model = attached(reads_logits=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(noise())
    torch.testing.assert_close(
        output.predicted_losses.float(), model(noise()).predicted_losses, rtol=0.1, atol=0.05
    )
    model = attached(learned_statistics(InPlace()).bfloat16())
    output = model(noise())  # in single precision, as the library reads images
    assert output.logits.equal(model(noise().bfloat16()).logits)
    assert output.logits.equal(model.classify(noise()))
    assert output.logits.dtype == torch.bfloat16
    assert output.predicted_losses.dtype == torch.float32
    for training in (True, False):
        model.train(training)
        outputs = evaluated(model, map(model.full_output, [noise().bfloat16()]))
        assert {tensor.dtype for tensor in outputs} == {torch.float32}
        assert model.training is training


DEFAULTS = [
    (lambda: network("resnet18"), "layer{}", (1, 2, 3, 4)),
    (lambda: nn.Sequential(nn.BatchNorm2d(3), network("resnet18")), "1.layer{}", (1, 2, 3, 4)),
    (
        lambda: torchvision.models.VisionTransformer(32, 8, 5, 2, 16, 32, num_classes=3),
        "encoder.layers.encoder_layer_{}",
        (1, 2, 3, 4),
    ),
    (lambda: ChannelsLast().eval(), "{}", ("embed", "block")),  # has no blocks of one class
]


@pytest.mark.parametrize(("make", "pattern", "levels"), DEFAULTS)
def test_by_default_the_last_four_blocks_or_layers_with_weights_are_read(make, pattern, levels):
    assert attach(make(), image_size=32).taps == tuple(map(pattern.format, levels))


def after_convolution(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *layers)


REFUSED = [
    (InPlace, {"taps": ["frist"]}, "try first"),
    (InPlace, {"taps": ["unused"]}, "'unused'"),
    (InPlace, {"classes": ["a", "b"]}, "3 logits"),
    (InPlace, {"mean": [0.5] * 3}, "std"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), {}, "image_size"),
    (after_convolution, {"taps": None}, "(2, 4, 14, 14)"),
    (lambda: Wrapped(InPlace(), lambda _: "cat"), {}, "str"),
]


@pytest.mark.parametrize(("make", "options", "culprit"), REFUSED)
def test_a_module_that_cannot_be_read_so_is_refused_in_one_line(make, options, culprit):
    with pytest.raises(UsageError) as failure:
        attached(make(), **options)
    assert culprit in str(failure.value)
    assert "\n" not in str(failure.value)


def test_the_size_of_the_images_is_what_the_module_notes():
    for name, value in (
        ("pretrained_cfg", {"input_size": (3, 16, 16)}),  # as timm notes it
        ("image_size", 16),  # as torchvision does
    ):
        module = after_convolution(*LAST).eval()
        setattr(module, name, value)
        assert attach(module, taps=["0"]).reader.num_classes == 3
