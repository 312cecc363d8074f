"""A frozen copy of a trained classifier with a loss estimator that is still to be trained."""

from collections.abc import Sequence
from copy import deepcopy

from torch import nn

from misgiving.models.joint import JointClassifier


def attach(
    module: nn.Module,
    *,
    taps: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    hidden: int = 128,
    reads_logits: bool = True,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> JointClassifier:
    """Give a trained classifier a loss estimator that is still to be trained.

    The classifier is a frozen copy: its logits are bit for bit those of the module in evaluation
    mode, and the module itself stays as it is, whatever happens to the copy. Train the estimator
    with `fit_estimator`, or in a loop of your own, on images that the classifier was not trained
    on: on those that it was, it makes too few errors to learn from.

    Args:
        module: Any module from images (N, 3, H, W) to logits.
        taps: As in `JointClassifier`.
        classes: Names of the classes, in the order of the logits.
        hidden: As in `JointClassifier`.
        reads_logits: As in `JointClassifier`, but on by default: it ranks losses better.
        image_size: As in `JointClassifier`.
        mean: As in `JointClassifier`.
        std: As in `JointClassifier`.

    Raises:
        UsageError: The module cannot be read, or has another number of classes.
        RuntimeError: It cannot be copied, because it holds tensors of an earlier call.
    """
    model = JointClassifier(
        deepcopy(module),
        None if classes is None else len(classes),
        taps=taps,
        hidden=hidden,
        reads_logits=reads_logits,
        image_size=image_size,
        mean=mean,
        std=std,
    )
    model.classes = None if classes is None else tuple(classes)
    return model.freeze_classifier().eval()
