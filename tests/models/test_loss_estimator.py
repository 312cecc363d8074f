import torch

from misgiving.models.loss_estimator import LossEstimator


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
