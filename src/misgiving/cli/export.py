"""`misgiving export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from misgiving.cli.failures import options_of, with_options
from misgiving.cli.options import Context, command
from misgiving.cli.progress import progress_bars, say
from misgiving.errors import UsageError

if TYPE_CHECKING:
    from misgiving.bundle.bundle import Bundle

GRAPH = "ONNX graph"


@command
def export(
    context: Context,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|GRAPH.onnx", help="A folder that `train` wrote, or an ONNX graph."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Preprocessing of the graph's images, as config.json of a run has it.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Predictions that the graph has made, to compare some again.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The policy that `calibrate` fitted to predictions of the graph.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
) -> None:
    """Export a model as a bundle: a folder that makes decisions without torch.

    It contains one ONNX graph (`model.onnx`: images in [0, 1] to logits, predicted losses and
    features), preprocessing, the policy with everything it needs, a model card (`card.md`,
    `card.json`), and checksums. The graph is compared with the model before the bundle is written.

    An ONNX graph from elsewhere takes float32 images in [0, 1] (N x 3 x size x size) and gives
    `logits`; `features` and `predicted_losses` are found by the names of outputs. It needs
    --preprocessing and --policy. If predictions with a column `path` are given, up to 32 of its
    images are predicted again and compared.

    `predict` accepts a bundle in place of a run; in Python, use `misgiving.Bundle.load`.

    Example: misgiving export runs/derm --out derm.bundle

    Example: misgiving export net.onnx --preprocessing preprocessing.json --predictions held-out.csv
    --policy policy --out net.bundle
    """
    with progress_bars():
        bundle = _export(
            model,
            out,
            overwrite,
            {"preprocessing": preprocessing, "predictions": predictions, "policy": policy},
        )
    compared = bundle.card.get("compared")
    if compared is not None:
        say(f"{compared} images were predicted again and compared")
    for sentence in (bundle.card["what"], *bundle.card["targets"]):
        say(with_options(sentence, options_of(context)))
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    say(f"wrote {out} ({size:.1f} MB)")


def _export(model: Path, out: Path, overwrite: bool, files: dict[str, Path | None]) -> "Bundle":
    is_graph = model.suffix.lower() == ".onnx"
    for name, path in files.items():
        if is_graph and path is None and name != "predictions":
            raise UsageError(f"{model}: an ONNX graph needs `{name}`")
        if not is_graph and path is not None:
            raise UsageError(f"`{name}` is for an ONNX graph, and {model} is none")
    if not is_graph:
        from misgiving.bundle.export_run import export_run

        return export_run(model, out, overwrite=overwrite)
    from misgiving.bundle.export_graph import export_graph, read_preprocessing

    return export_graph(
        model,
        out,
        preprocessing=read_preprocessing(cast(Path, files["preprocessing"])),
        policy=cast(Path, files["policy"]),
        predictions=files["predictions"],
        overwrite=overwrite,
    )
