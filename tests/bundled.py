"""A run with a policy, made without training, and squares to ask it about."""

from dataclasses import replace

import numpy as np
import torch
from coloured import coloured_set

from misgiving.calibration.fit import fit_calibrator
from misgiving.checkpoint import Architecture, Checkpoint, TrainingData, save
from misgiving.data.preprocessing import Preprocessing
from misgiving.data.splits import split_of
from misgiving.deferral.deferral import Deferral
from misgiving.predictions.inference import predictions_of
from misgiving.scores.detectors import FittedDetectors

SIDE = 16


def noisy_set(size, seed, side=SIDE):
    """Coloured images under so much noise that some are taken for another class."""
    images = coloured_set(size, side=side, seed=seed)
    random = np.random.default_rng(seed)
    veil = random.integers(0, 256, images.images.shape)
    share = random.uniform(0.1, 1, (size, 1, 1, 1))
    mixed = share * images.images + (1 - share) * veil
    return replace(images, images=mixed.astype(np.uint8))


def checkpoint(**options):
    """A network whose last layer is set to the nearest of its classes' mean features."""
    torch.manual_seed(0)
    architecture = Architecture(
        **{"backbone": "vgg16_mini", "num_classes": 3, "image_size": SIDE, "reads_logits": True}
        | options
    )
    images = noisy_set(150, seed=0, side=architecture.image_size)
    model = _normalised(architecture.build(), images).eval()
    made = Checkpoint(
        model=model,
        architecture=architecture,
        classes=images.classes,
        preprocessing=Preprocessing(image_size=architecture.image_size, crop=0.9),
        split=split_of(images, np.repeat(["train", "validation"], [100, 50])),
        class_weights=(1.0, 1.0, 1.0),
        estimates_losses=True,
        data=TrainingData(name="folder:coloured", fingerprint=images.fingerprint),
        settings={"training": {"epochs": 0}},
    )
    _set_head(model, images)
    return made


def _normalised(model, images):
    """Batch normalisation by these images: the features of others then differ, as trained ones."""
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over what is seen
    with torch.no_grad():
        model.train()(pixels)
    return model


def _set_head(model, images):
    predictions = predictions_of(model, images)
    features, labels = predictions.features, predictions.labels
    means = np.stack([features[labels == label].mean(axis=0) for label in range(3)])
    about = means - means.mean(axis=0)
    scale = 10 / (about**2).sum()
    head = model.backbone.get_classifier()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(about * scale))
        head.bias.copy_(torch.from_numpy(-(about @ means.mean(axis=0)) * scale))


def policy_of(made, *, ood_detector="knn", score=None, guarantee="confident"):
    """Its policy, calibrated on drawn images."""
    train, tune, calibration = (
        predictions_of(made, noisy_set(size, seed=seed))
        for seed, size in enumerate((150, 300, 300))
    )
    detectors = FittedDetectors.fit(train)
    fitted = None
    if score is not None:
        fitted = fit_calibrator(tune, detectors, np.ones(3))
        fitted = fitted._replace(calibrator=replace(fitted.calibrator, score=score))
    deferral = Deferral(
        max_error=0.45, max_ood_false_alarms=0.1, ood_detector=ood_detector, guarantee=guarantee
    )
    return deferral.certify(tune, calibration, detectors=detectors, fitted=fitted)


def write_run(folder, made, deferral=None):
    """A run folder, with its policy where it has one."""
    save(folder, made)
    if deferral is not None:
        deferral.save(folder / "policy")
    return folder
