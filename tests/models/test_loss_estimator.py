import math

import torch

from misgiving.models.joint import LossEstimator, shape_of_logits


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


def test_an_activation_gets_the_gradient_of_its_average():
    estimator = LossEstimator(channels=(2, 3), hidden=4).double()
    taps = [torch.randn(3, 2, 4, 5), torch.randn(3, 3, 2, 2)]
    taps = [tap.double().requires_grad_() for tap in taps]
    assert torch.autograd.gradcheck(lambda *taps: estimator(taps), taps)
    assert torch.autograd.gradgradcheck(lambda *taps: estimator(taps), taps)


def test_a_gradient_with_its_channels_last_keeps_them_there():
    estimator = LossEstimator(channels=(8,), hidden=4)
    image = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    gradients = []
    tapped = image * 1.0
    tapped.register_hook(gradients.append)  # called with the sum of both gradients
    after = tapped * 2.0
    (estimator([tapped]).sum() + after.square().sum()).backward()
    assert gradients[0].is_contiguous(memory_format=torch.channels_last)
