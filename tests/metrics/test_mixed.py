import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from misgiving.errors import UsageError
from misgiving.metrics.mixed import mixed_aurc, mixed_auroc
from misgiving.metrics.selective import aurc


@pytest.fixture
def images():
    """Confidences with ties within and between the sets, and errors."""
    random = np.random.default_rng(0)
    errors = random.random(40) < 0.3
    inliers = (random.normal(1.0 - errors, 1.0) * 4).round() / 4
    outliers = (random.normal(-0.5, 1.0, size=25) * 4).round() / 4
    return inliers, errors, outliers


def risk_at(mass, samples):
    """Mean failure of the most confident samples of this total weight, a tie being shared out."""
    failed, before = 0.0, 0.0
    for confidence in sorted({sample[0] for sample in samples}, reverse=True):
        weight = sum(w for c, _, w in samples if c == confidence)
        failures = sum(w for c, failure, w in samples if c == confidence and failure)
        if before + weight >= mass:
            return (failed + failures * (mass - before) / weight) / mass
        before, failed = before + weight, failed + failures
    return failed / mass


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_mixed_aurc_is_the_mean_risk_over_coverages(images, share):
    inliers, errors, outliers = images
    samples = [(c, bool(e), (1 - share) / 40) for c, e in zip(inliers, errors, strict=True)]
    samples += [(c, True, share / 25) for c in outliers]
    steps = 4000
    mean = sum(risk_at((step + 0.5) / steps, samples) for step in range(steps)) / steps
    assert mixed_aurc(inliers, errors, outliers, ood_share=share) == pytest.approx(mean, abs=1e-5)


def test_mixed_aurc_is_the_limit_of_aurc_with_every_sample_repeated(images):
    inliers, errors, outliers = images
    repeats = np.repeat([25 * 2000, 40 * 2000], [40, 25])  # so that half of the images are OOD
    failures = np.concatenate([errors, np.ones(25, dtype=bool)])
    found = aurc(np.concatenate([inliers, outliers]), failures, weights=repeats)
    assert mixed_aurc(inliers, errors, outliers, ood_share=0.5) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_mixed_auroc_is_that_of_scikit_learn_with_weights(images, share):
    inliers, errors, outliers = images
    expected = roc_auc_score(
        [*~errors, *[False] * 25],
        [*inliers, *outliers],
        sample_weight=[(1 - share) / 40] * 40 + [share / 25] * 25,
    )
    found = mixed_auroc(inliers, errors, outliers, ood_share=share)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_perfect_order_has_an_area_of_one_however_weights_are_rounded():
    """Five images and seven OOD images in this share sum to a little more than one."""
    errors = np.array([True, False, False, False, False])
    found = mixed_auroc(np.arange(1.0, 6.0), errors, np.linspace(0.0, 0.5, 7), ood_share=0.25)
    assert found == 1.0


def test_without_ood_images_in_the_mixture_only_errors_count(images):
    inliers, errors, outliers = images
    expected = roc_auc_score(~errors, inliers)
    assert mixed_auroc(inliers, errors, outliers, ood_share=0.0) == pytest.approx(expected)
    alone = mixed_aurc(inliers, errors, outliers, ood_share=0.0)
    assert alone == mixed_aurc(inliers, errors, outliers[:1] + 9, ood_share=0.0)


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan])
def test_a_share_that_leaves_no_inlier_is_refused(images, share):
    with pytest.raises(UsageError, match="ood_share"):
        mixed_aurc(*images, ood_share=share)
