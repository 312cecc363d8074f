"""`misgiving export`."""

import shlex
from pathlib import Path

from misgiving.cli.options import File, Folder, OpinionOfRun, check_options, command
from misgiving.cli.progress import progress_bars, say
from misgiving.cli.sources import named_places


@command
def export(
    model: Path,
    /,
    *,
    out: Folder,
    second_opinion: OpinionOfRun = None,
    overwrite: bool = False,
    preprocessing: File | None = None,
    predictions: File | None = None,
    policy: Folder | None = None,
) -> None:
    """Export a model as a bundle: a folder that makes decisions without torch.

    It contains one ONNX graph (`model.onnx`: images in [0, 1] to logits, predicted losses and
    features), one more for each second opinion that the policy uses, preprocessing, the policy with
    everything it needs, a model card (`README.md`, `card.json`), and checksums. Each graph is
    compared with its model before the bundle is written.

    An ONNX graph from elsewhere takes float32 images in [0, 1] (N x 3 x size x size) and gives
    `logits`; `features` and `predicted_losses` are found by the names of outputs. It needs
    --preprocessing and --policy. If predictions with a column `path` are given, up to 32 of its
    images are predicted again and compared.

    `predict` accepts a bundle in place of a run; in Python, use `misgiving.Bundle.load`.

    Example: misgiving export runs/derm --out derm.bundle

    Example: misgiving export net.onnx --preprocessing preprocessing.json --predictions held-out.csv
    --policy policy --out net.bundle

    Args:
        model: A folder that `train` wrote, or an ONNX graph.
        out: Folder to write.
        overwrite: Replace an existing bundle.
        preprocessing: Preprocessing of a graph's images, as config.json of a run has
            it.
        predictions: Predictions that a graph has made, to compare some again.
        policy: The policy that `calibrate` fitted to predictions of a graph.
    """
    if model.suffix.lower() == ".onnx":
        needed = ["preprocessing", "policy"]
        check_options("for an ONNX graph", needed=needed, unused=["second_opinion"])
    else:
        check_options("for a run", unused=["preprocessing", "predictions", "policy"])
    with progress_bars():
        if preprocessing is None or policy is None:
            from misgiving.bundle.export_run import export_run

            opinions = named_places("second_opinion", second_opinion)
            bundle = export_run(model, out, opinions=opinions, overwrite=overwrite)
        else:
            from misgiving.bundle.export import export_graph, read_preprocessing

            bundle = export_graph(
                model,
                out,
                preprocessing=read_preprocessing(preprocessing),
                policy=policy,
                predictions=predictions,
                overwrite=overwrite,
            )
    compared = bundle.card.get("compared")
    if compared is not None:
        say(f"{compared} images were predicted again and compared")
    for sentence in (bundle.card["what"], *bundle.card["targets"]):
        say(sentence)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    following = f"serve {shlex.quote(str(out))}"
    if bundle.policy is not None and bundle.policy.certificate.selection is not None:
        following = f"predict {shlex.quote(str(out))} IMAGES"
    say(f"Next: misgiving {following} (wrote {out}, {size:.1f} MB)")
