"""Settings and provenance of a run in words."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from misgiving.errors import visible
from misgiving.report.published import title
from misgiving.results.schema import Settings, SplitLeakage

SECTIONS = {"generalization": "4.1", "ood_detection": "4.2 and 4.3"}


def listed(values: Iterable[object]) -> str:
    """Values in words.

    >>> listed([1, 0.0014, 1e-5]), listed([])
    ('1, 0.0014, 1e-05', 'none')
    """
    texts = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return ", ".join(texts) or "none"


def count(number: int, things: str) -> str:
    """A number of things, in the singular where there is one.

    >>> count(2, "sources"), count(1, "sources")
    ('2 sources', '1 source')
    """
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


PAIRS = {"all": "all ordered pairs of the batch", "halves": "image i with image B - 1 - i"}
TARGETS = {
    "trained": "the loss as trained on, with class weights",
    "plain": "the plain cross-entropy",
}
MEANS = {
    "weighted": "divided by the sum of the weights",
    "plain": "divided by the number of images",
}
WEIGHTINGS = {
    "inverse": "inverse to the frequency",
    "sqrt": "inverse to the square root of the frequency",
    "none": "none",
}
CRITERIA = {"auroc": "highest AUROC", "fpr_at_tpr95": "lowest FPR@TPR95"}


def open_choices(settings: Settings) -> dict[str, str]:
    """The choices that the paper leaves open, as taken in this run."""
    training = settings.training
    multiple = training["estimator_rate"]
    rate = "the classifier's" if multiple == 1 else f"{multiple:g} times the classifier's"
    aupr = "count-based precision, trapezoid (average precision is in results.csv)"
    return {
        "margin of Eq. 1": f"{training['margin']:g}",
        "pairs of Eq. 1": PAIRS[training["pairs"]],
        "reduction of Eq. 1": _reduction(training),
        "ties of true losses": "count as -1, as Eq. 1 says",
        "gradient of the estimator into the backbone": "always, but never in detached",
        "target of the estimator": TARGETS[training["target"]],
        "mean of the weighted cross-entropy": MEANS[training["primary_mean"]],
        "class weights of the loss": WEIGHTINGS[training["class_weights"]],
        "class weights of the sampler": WEIGHTINGS[training["sampling"]],
        "learning rate of the estimator": rate,
        "pooling before the 128-unit layers": "global average",
        "checkpoint": f"{training['keep']} epoch",
        "learning-rate decay in 4.2 and 4.3": "as in 4.1",
        "strengths of the augmentation": augmentation(settings),
        "criterion of ODIN's tuning": CRITERIA[settings.odin.criterion],
        "ODIN's perturbed image": "not clipped to [0, 1]",
        "AUPR": aupr,
    }


def _reduction(training: Mapping[str, Any]) -> str:
    batch = training["batch_size"]
    pairs = batch * (batch - 1) if training["pairs"] == "all" else batch // 2
    if training["reduction"] == "sum":
        return "sum, as printed"
    return f"mean (the sum, as printed, is {pairs:,} times as large at a batch of {batch})"


def run_settings(settings: Settings, *, unit: str = "group") -> dict[str, str]:
    """The settings of the data, the images, the network and the training."""
    training, images = settings.training, settings.preprocessing
    return {
        "data": settings.data,
        "classes of 4.1": listed(settings.classes),
        "in-distribution classes of 4.2 and 4.3": listed(settings.in_distribution),
        "unseen classes of 4.3": listed(settings.unseen),
        "split": split(settings, unit),
        "monitored set": settings.monitored_set,
        "tuning set": settings.tuning_set,
        "measured set": settings.measured_set,
        "OOD set that ODIN is tuned on": title(settings.odin.tuning_set),
        "ODIN temperatures": listed(settings.odin.temperatures),
        "ODIN epsilons": listed(settings.odin.epsilons),
        "models": listed(settings.models),
        "trials": f"{settings.trials}, from seed {settings.seed}",
        **(
            {"learning rates tried": listed(settings.learning_rates)}
            if len(settings.learning_rates) > 1
            else {}
        ),
        "backbone": settings.model["backbone"],
        "initial weights": weights(settings),
        "image size": f"{images['image_size']} px",
        "optimiser": f"Adam, beta1 {training['beta1']:g}, "
        f"weight decay {training['weight_decay']:g}",
        "learning rate": f"{training['learning_rate']:g}, times {training['decay_factor']:g} "
        f"every {training['decay_every']} epochs",
        "epochs": str(training["epochs"]),
        "batch size": str(training["batch_size"]),
        "dropout": f"{settings.model['dropout']:g}",
        "auxiliary weight (Eq. 2)": f"{training['auxiliary_weight']:g}",
        "crop": f"{images['crop']:g}",
        "colour constancy": str(images["color_constancy"]),
        "augmentation": augmentation(settings),
        "device and precision": f"{training['device']}, {training['precision']}",
    }


def augmentation(settings: Settings) -> str:
    """The strength of each kind of augmentation."""
    return ", ".join(
        f"{name} {('no', 'yes')[value] if isinstance(value, bool) else f'{value:g}'}"
        for name, value in settings.augmentation.items()
    )


def weights(settings: Settings) -> str:
    """The weights that training starts from."""
    if settings.model["weights"]:
        return str(settings.model["weights"])
    return "ImageNet weights of timm" if settings.model["pretrained"] else "random"


def split(settings: Settings, unit: str) -> str:
    """The split of the images; `unit` is the word for a group of them."""
    if settings.split == "grouped":
        return f"by {unit} and near duplicate, into train, tune, calibrate, test"
    return f"by image, {100 * settings.validation_share:g} % validation"


def leakage(found: Iterable[SplitLeakage], measured: str) -> list[str]:
    """Groups and identical images that sets share; trials that share the same stand together."""
    trials: dict[tuple[str, str], list[int]] = {}
    for one in found:
        trials.setdefault((one.experiment, one.sentence(measured)), []).append(one.trial)
    return [
        f"{SECTIONS[experiment]}, trial{'s' * (len(numbers) > 1)} {listed(numbers)}: {sentence}"
        for (experiment, sentence), numbers in trials.items()
    ]


def remarks(settings: Settings) -> Iterator[str]:
    """Remarks on how the numbers were made."""
    yield from settings.notes
    measured, ood = settings.measured_set, settings.odin.tuning_set
    if settings.tuning_set != measured:
        yield (
            f"ODIN is tuned on the in-distribution images of the {settings.tuning_set} set and on "
            f"{ood}. The {measured} set, on which nothing was chosen, is the in-distribution side "
            "of every row."
        )
    else:
        yield (
            f"ODIN is tuned on the {measured} images and on {ood}, as in the paper. The same "
            f"{measured} images are the in-distribution side of every other row, which makes "
            "those rows slightly optimistic too; untuned ODIN is not affected."
        )
    yield f"After each epoch, training is monitored on the {settings.monitored_set} set."
    yield (
        "ODIN without OOD images takes the highest temperature of the grid, and the epsilon with "
        "the highest mean confidence on in-distribution images alone (Hsu et al., 2020)."
    )
    yield (
        "Bootstrap intervals resample groups of images, the same in every trial that shares them, "
        "and trials with replacement; with few trials they understate the variation between "
        "trials, so that claims are judged by t-intervals over trials."
    )
    for size in settings.sizes:
        yield (
            f"{SECTIONS[size.experiment]}: of {size.images} images, {size.trained} are trained on "
            f"and {size.measured} are measured in each trial."
        )
    for name in dict.fromkeys(image.set for image in settings.skipped):
        images = [visible(skipped.image) for skipped in settings.skipped if skipped.set == name]
        yield f"left out of {name}, as unreadable: {', '.join(images)}"
