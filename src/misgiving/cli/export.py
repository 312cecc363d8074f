"""`misgiving export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from misgiving.bundle.graph_interface import GraphInterface, read_interface
from misgiving.cli.calibrate import OodDetector
from misgiving.cli.failures import options_of, with_options
from misgiving.cli.options import Context, Fields, Values, command, seed_option
from misgiving.cli.progress import progress_bars, say
from misgiving.decisions.rules import DecisionRule
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError

if TYPE_CHECKING:
    from misgiving.workflows.export_graph import ExportedGraph

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
    interface: Annotated[Values, Fields(GraphInterface, optional=True)],
    policy_settings: Annotated[
        Values, Fields(Targets, optional=True), Fields(DecisionRule, optional=True)
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Predictions that this graph has made, to calibrate a policy on.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The policy, which `calibrate` has fitted to such predictions.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Classes in the order of the graph's outputs. Default: that of the predictions.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Settings of the graph's images, input and outputs, by the names of the options "
            "below, such as image_size; or preprocessor_config.json of Hugging Face. Options take "
            "precedence.",
            rich_help_panel=GRAPH,
        ),
    ] = None,
    ood_detector: Annotated[
        OodDetector | None,
        typer.Option(
            metavar="NAME",
            help="Score that detects OOD images. Default: knn with features, or else max_logit.",
            rich_help_panel="Targets",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        seed_option("Seed for drawing one image per group.", panel="Targets"),
    ] = None,
) -> None:
    """Export a model as a bundle: a folder that makes decisions without torch.

    It contains one ONNX graph (`model.onnx`: images in [0, 1] to logits, predicted losses and
    features), preprocessing, the policy with everything it needs, a model card (`card.md`,
    `card.json`), and checksums. The graph is compared with the model before the bundle is written.

    A graph from any other framework (GRAPH.onnx) needs predictions that it has made, or a policy
    that was calibrated on them, and a description of its input and outputs. It is run before the
    bundle is written. If the predictions have a column `image`, up to 32 of its images are
    predicted again and compared.

    `predict` accepts a bundle in place of a run; in Python, use `misgiving.Bundle.load`.

    Example: misgiving export runs/derm --out derm.bundle

    Example: misgiving export net.onnx --predictions held-out.csv --max-error 0.05 --mean
    0.485,0.456,0.406 --std 0.229,0.224,0.225 --crop 0.875 --out net.bundle
    """
    fitted = {"ood_detector": ood_detector, "seed": seed}
    policy_settings |= {name: value for name, value in fitted.items() if value is not None}
    files: Values = {"predictions": predictions, "policy": policy, "classes": classes}
    files |= {"preprocessing": preprocessing}
    with progress_bars():
        if model.suffix.lower() == ".onnx":
            bundle, summary = _export_graph(
                model, out, interface, policy_settings, overwrite=overwrite, **files
            )
        else:
            from misgiving.workflows.export import export_run

            options = files | interface | policy_settings
            given = [name for name, value in options.items() if value is not None]
            if given:
                raise UsageError(f"`{given[0]}` is for an ONNX graph, and {model} is none")
            bundle, summary = export_run(model, out, overwrite=overwrite), []
    for sentence in (*summary, bundle.card["what"], *bundle.card["targets"]):
        say(with_options(sentence, options_of(context)))
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    say(f"wrote {out} ({size:.1f} MB)")


def _export_graph(
    graph: Path,
    out: Path,
    interface: Values,
    policy_settings: Values,
    *,
    classes: str | None,
    preprocessing: Path | None,
    **files: Any,
) -> "ExportedGraph":
    from misgiving.workflows.deferral import Deferral
    from misgiving.workflows.export_graph import export_graph

    if policy_settings and "max_error" not in policy_settings:
        raise UsageError(
            f"`{next(iter(policy_settings))}` is for a new policy; give its `max_error` as well"
        )
    if "costs" in policy_settings:
        policy_settings = {"rule": "costs", **policy_settings}
    return export_graph(
        graph,
        out,
        interface=read_interface(preprocessing, interface),
        deferral=Deferral(**policy_settings) if policy_settings else None,
        classes=None if classes is None else [name.strip() for name in classes.split(",")],
        **files,
    )
