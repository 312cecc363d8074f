"""Settings and provenance of a run in words."""

from collections.abc import Iterator, Mapping

from misgiving.errors import visible
from misgiving.report.published import title
from misgiving.results.schema import Settings, SplitLeakage

UNKNOWN = "?"
SECTIONS = {"generalization": "4.1", "ood_detection": "4.2 and 4.3"}


def label(name: str) -> str:
    """A name of a table or of the settings as a reader sees it.

    >>> label("unseen/BKL"), label("odin_epsilons"), label("nct")
    ('unseen: BKL', 'ODIN epsilons', 'NCT')
    """
    return title(name).replace("odin", "ODIN")


def in_words(value: object) -> str:
    """A setting in words.

    >>> in_words([1, 0.0014, 1e-5]), in_words(True), in_words({"beta_1": 0.9})
    ('1, 0.0014, 1e-05', 'yes', 'beta 1 0.9')
    """
    if isinstance(value, Mapping):
        return "; ".join(f"{label(str(key))} {in_words(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(in_words, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return {"True": "yes", "False": "no", "None": "none"}.get(str(value), str(value))


def count(number: object, things: str) -> str:
    """A number of things, in the singular where there is one.

    >>> count(2, "sources"), count(1, "sources")
    ('2 sources', '1 source')
    """
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


def open_choices(settings: Settings) -> dict[str, str]:
    """The choices that the paper leaves open, and those taken in this run."""
    training = settings.training
    joint = training["joint_epochs"]
    pairs = {"all": "all ordered pairs of the batch", "halves": "image i with image B - 1 - i"}
    return {
        "margin of Eq. 1": f"{training['margin']:g}",
        "pairs of Eq. 1": pairs[training["pairs"]],
        "reduction of Eq. 1": training["reduction"],
        "ties of true losses": "count as -1, as Eq. 1 says",
        "gradient of the estimator into the backbone": (
            "always; never in detached"
            if joint is None
            else f"in the first {joint} epochs; never in detached"
        ),
        "target of the estimator": {
            "trained": "the loss as trained on, with class weights",
            "plain": "the plain cross-entropy",
        }[training["target"]],
        "mean of the weighted cross-entropy": training["primary_mean"],
        "class weights of the loss": training["class_weights"],
        "class weights of the sampler": training["sampling"],
        "estimator's learning rate": f"{training['estimator_rate']:g} x the classifier's",
        "pooling before the 128-unit layers": "global average",
        "checkpoint": f"{training['keep']} epoch",
        "ODIN's perturbed image": "not clipped to [0, 1]",
        "AUPR": "count-based precision, trapezoid; average precision is in results.csv",
    }


def training_settings(settings: Settings) -> dict[str, str]:
    """The settings of the training and of the images."""
    training, images = settings.training, settings.preprocessing
    return {
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
        "augmentation": ", ".join(
            f"{name} {value}" for name, value in settings.augmentation.items()
        ),
        "device and precision": f"{training['device']}, {training['precision']}",
    }


def weights(settings: Settings) -> str:
    """The weights that training starts from."""
    if settings.model["weights"]:
        return str(settings.model["weights"])
    return "ImageNet weights of timm" if settings.model["pretrained"] else "random"


def split(settings: Settings) -> str:
    """The split of the images."""
    if settings.split == "grouped":
        return "by group (such as a lesion) and near duplicate, into train, tune, calibrate, test"
    return f"by image, {settings.validation_share:.0%} validation"


def leakage(found: SplitLeakage, measured: str) -> str:
    """Groups and identical images that the sets of a trial share."""
    start = f"{SECTIONS[found.experiment]}, trial {found.trial}: "
    if found.separate:
        return (
            f"{start}no group and no identical image is in two sets "
            f"({found.measured_images} images in {measured})"
        )
    return (
        f"{start}{found.shared_groups} groups have images in more than one set; of "
        f"{found.measured_images} {measured} images, {found.leaking_images} have another image of "
        "their group, or a copy, in the training set"
    )


def remarks(settings: Settings) -> list[str]:
    """Remarks on how the numbers were made."""
    return [*settings.notes, *_remarks(settings)]


def _remarks(settings: Settings) -> Iterator[str]:
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
            "these slightly optimistic too; untuned ODIN is not affected."
        )
    yield f"After each epoch, training is monitored on the {settings.monitored_set} set."
    yield (
        "ODIN without OOD data takes the highest temperature of the grid, and the epsilon with the "
        "highest mean confidence on in-distribution images alone (Hsu et al., 2020)."
    )
    yield (
        "Intervals resample groups of images, the same in every trial that shares them, and "
        "trials with replacement; with few trials they understate the variation between trials."
    )
    for size in settings.sizes:
        yield (
            f"{SECTIONS[size.experiment]}: of {size.images} images, {size.trained} are trained on "
            f"and {size.measured} are measured in each trial."
        )
    for name in dict.fromkeys(image.set for image in settings.skipped):
        images = [visible(skipped.image) for skipped in settings.skipped if skipped.set == name]
        yield f"left out of {name}, as unreadable: {', '.join(images)}"
