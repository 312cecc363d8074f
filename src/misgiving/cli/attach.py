"""`misgiving attach`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from misgiving.cli.options import Cache, Data, Fields, Values, command
from misgiving.cli.progress import Bar, progress_bars, say, say_skipped
from misgiving.cli.train import SPLIT, show_last_epoch
from misgiving.files import check_replaceable
from misgiving.training.config import ATTACHED, AttachConfig, TrainingConfig

ESTIMATOR = Fields(
    TrainingConfig,
    (
        *("margin", "pairs", "reduction", "epochs", "batch_size", "learning_rate"),
        *("weight_decay", "seed", "device"),
    ),
    optional=True,
    defaults={"attach": ATTACHED},
)


@command
def attach(
    model: str,
    data: Data,
    *,
    out: Path,
    config: AttachConfig,
    training: Annotated[Values, ESTIMATOR],
    cache: Cache,
    overwrite: bool = False,
) -> None:
    """Give a classifier that was trained elsewhere a loss estimator.

    The classifier stays as it is: its logits are the same, bit for bit. DATA are labelled images
    that it was not trained on. They are split by group into a training, a tuning, a calibration and
    a test set; the estimator learns the losses of the training set, on activations that are
    computed once. These losses are held out, not cross-fitted: nothing of the classifier is
    trained. RUN is a run as `train` writes it, for `calibrate`, `evaluate`, `predict`, `export` and
    `serve`. Nothing is downloaded.

    Example: misgiving attach my-vit folder:photos --out runs/my-vit

    Args:
        model (MODEL): A folder of Hugging Face's format with an image classifier (config.json,
            model.safetensors, preprocessor_config.json), the name of a timm model, or
            torchvision:NAME; a model by name needs --weights.
        out (RUN): Folder to write the run to.
        overwrite: Replace RUN.
    """
    check_replaceable(out, SPLIT, overwrite=overwrite)

    from misgiving.training.attach import attach_run

    with progress_bars() as progress:
        checkpoint, images = attach_run(
            model,
            data,
            out,
            config=config,
            training=replace(ATTACHED, **training),
            cache=cache,
            on_image=Bar(progress, "preparing images").at,
            on_predicted=Bar(progress, "predicting").at,
        )
    say_skipped(images.skipped)
    say(f"the loss estimator reads {', '.join(map(str, checkpoint.model.taps))}")
    show_last_epoch(out)
    say(f"wrote {out}")
