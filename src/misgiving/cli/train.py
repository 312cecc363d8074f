"""`misgiving train` and `misgiving attach`: commands that write a run.

Every field of a configuration in `Fields` is an option, and its values arrive as a dictionary of
those that are given; the settings of the recipe are in place of the others.
"""

import shlex
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

from misgiving.cli.options import Cache, Data, Fields, Run, Values, check_options, command
from misgiving.cli.progress import (
    Bar,
    Steps,
    progress_bars,
    say,
    say_skipped,
    silence_all_but_first_process,
)
from misgiving.cli.sources import load_data, say_split
from misgiving.files import check_replaceable, default_cache
from misgiving.training.config import (
    ATTACHED,
    RECIPES,
    AttachConfig,
    DataConfig,
    ModelConfig,
    RecipeName,
    TrainingConfig,
)

if TYPE_CHECKING:
    from misgiving.training.train_run import TrainingSetup

SPLIT = "split.csv"  # which only a run has
MIN_TUNING_GROUPS = 100  # in the tuning set

IMAGE_OPTIONS = Fields(DataConfig, defaults={k: v.images for k, v in RECIPES.items()})
NETWORK_OPTIONS = Fields(ModelConfig, defaults={k: v.model for k, v in RECIPES.items()})
TRAINING_OPTIONS = Fields(TrainingConfig, defaults={k: v.training for k, v in RECIPES.items()})
OF_TRAINING = (
    *("margin", "pairs", "reduction", "epochs", "batch_size", "learning_rate"),
    "weight_decay",
)
ESTIMATOR_OPTIONS = Fields(
    TrainingConfig,
    ("auxiliary", *OF_TRAINING, "seed", "device"),
    defaults={"attach": replace(ATTACHED, auxiliary="none")},
)


@partial(command, brief=True)
def train(
    data: Data,
    /,
    *,
    out: Run,
    images: Annotated[Values, IMAGE_OPTIONS],
    network: Annotated[Values, NETWORK_OPTIONS],
    training: Annotated[Values, TRAINING_OPTIONS],
    cache: Cache = None,
    strict: bool = False,
    recipe: RecipeName = "modern",
    overwrite: bool = False,
) -> None:
    """Train a classifier together with its loss estimator.

    Splits DATA (or takes its split), trains, and writes RUN. The same command resumes a
    stopped training.

    Example: misgiving train isic2019:ISIC_2019 --out runs/joint

    Args:
        out: Folder of the run.
        strict: Fail if files of DATA are ignored, or class folders have no images.
        recipe: Settings for what is not given: a small strong network (modern), or Section 4.1.
        overwrite: Replace RUN, or RUN.unfinished.safetensors of another training.
    """
    configured = RECIPES[recipe].configure(images, network, training)
    check_replaceable(out, SPLIT, overwrite=overwrite)
    if configured.training.devices * configured.training.nodes > 1:
        silence_all_but_first_process()

    from misgiving.data.splits import leakage_of, split_of
    from misgiving.report.rendering import lines
    from misgiving.training.train_run import prepare_training, train_run

    dataset = load_data(data, strict=strict)
    with progress_bars("stopped; the same command resumes") as progress:
        setup, first_model = prepare_training(
            dataset,
            configured,
            cache=cache or default_cache(),
            on_image=Bar(progress, "preparing images").at,
            on_weights=lambda unfilled, unknown: say(
                f"weights: {len(unfilled)} tensors of the model are not in the file or have "
                f"another shape, {len(unknown)} are unknown"
            ),
        )
        say_skipped(setup.images.skipped)
        _say_sets(setup, configured.images.split)
        say(f"augmentation: {setup.augmentation} (--augment none|light|dermoscopy changes it)")
        tuning = len({*setup.images_of("tune").units.tolist()})
        if 0 < tuning < MIN_TUNING_GROUPS:
            doubt = f"{tuning} groups (or images) to tune on, fewer than {MIN_TUNING_GROUPS}"
            say(f"Warning: {doubt}; add images, or tune on more: --split-shares 60/10/20/10.")
        train_run(
            setup,
            first_model,
            out,
            overwrite=overwrite,
            on_step=Steps(progress, "training").show,
            on_epoch=lambda record: say(
                f"epoch {record.epoch}/{configured.training.epochs}: validation accuracy "
                f"{100 * record.accuracy:.1f} %, loss {record.primary_loss:.3f}"
                + configured.training.estimates_losses
                * f", rank correlation with predicted losses {record.rank_correlation:.2f}"
            ),
            on_resume=lambda epoch, step: say(f"resuming in epoch {epoch}, after step {step}"),
        )
    measured = setup.evaluation_sets.measured
    leakage = leakage_of(split_of(setup.images, setup.sets), measured)
    say(*lines("leakage.txt", "shared", leakage, measured))
    say(f"wrote {out}")
    say(f"Next: {shlex.join(['misgiving', 'calibrate', str(out), data, '--max-error', '0.05'])}")


def _say_sets(setup: "TrainingSetup", split: str) -> None:
    """Say what became of a published split, and which copies contradict each other."""
    images, pairs = setup.images, setup.contradictions
    if split == "grouped":
        say_split(images, setup.sets.tolist())
    elif images.sets:
        say(f"Warning: the split of the data is not used with --split {split}.")
    if pairs:
        first = " and ".join(images.ids[row] for row in pairs[0])
        say(
            f"Warning: copies with different labels: {len(pairs)}, first {first}; "
            "`misgiving data check` lists them."
        )


@partial(command, brief=True)
def attach(
    model: str,
    data: Data,
    /,
    *,
    out: Run,
    classifier: AttachConfig,
    training: Annotated[Values, ESTIMATOR_OPTIONS],
    cache: Cache = None,
    strict: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a run of a classifier that was trained elsewhere.

    The classifier stays as it is: its logits are the same, bit for bit. DATA are labelled images
    that it was not trained on. They are split by group: 30 % are for OOD detection and the error
    estimator (train), 15 % for tuning, 45 % for calibration, 10 % for the test; or as DATA names
    sets. With --auxiliary ranking, a loss estimator is trained, too, on the shares of `train`: 70,
    5, 15 and 10 %. RUN is a run as `train` writes it, for `calibrate`, `evaluate`, `predict`,
    `export` and `serve`. Nothing is downloaded.

    Example: misgiving attach my-vit folder:photos --out runs/my-vit

    Args:
        model: A folder of Hugging Face's format with an image classifier (config.json,
            model.safetensors, preprocessor_config.json), the name of a timm model, or
            torchvision:NAME; a model by name needs --weights.
        out: Folder of the run.
        strict: Fail if files of DATA are ignored, or class folders have no images.
        overwrite: Replace RUN.
    """
    check_replaceable(out, SPLIT, overwrite=overwrite)
    training = {"auxiliary": "none", **training}
    if training["auxiliary"] == "none":
        check_options("with --auxiliary none", unused=[*OF_TRAINING, "reads_logits"])

    from misgiving.training.attach import attach_run

    dataset = load_data(data, strict=strict)
    with progress_bars() as progress:
        checkpoint, images = attach_run(
            model,
            dataset,
            out,
            config=classifier,
            training=replace(ATTACHED, **training),
            cache=cache or default_cache(),
            on_image=Bar(progress, "preparing images").at,
            on_predicted=Bar(progress, "predicting").at,
            on_accuracy=lambda right, count: say(
                f"right on {right} of {count} images ({right / count:.0%}); if too few, look at "
                "--image-size, --crop, --mean, --std and --classes"
            ),
        )
    say_skipped(images.skipped)
    say_split(images, checkpoint.split.sets)
    say(f"reads {', '.join(map(str, checkpoint.model.taps))}")
    if not checkpoint.estimates_losses:
        say("no label was spent on a loss estimator; --auxiliary ranking trains one")
    say(f"wrote {out}")
