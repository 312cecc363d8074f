"""`misgiving export`."""

from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.options import RunFolder, say
from misgiving.cli.progress import progress_bars


def export(
    run: RunFolder,
    out: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="The folder to write.", show_default=False)
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there, and nothing else.")
    ] = False,
) -> None:
    """Write a run as a bundle: a folder that answers without torch.

    In it: one ONNX graph (`model.onnx`: images in [0, 1] to logits, predicted losses and features),
    preprocessing, the policy with all that it rests on, a model card (`card.md`, `card.json`), and
    the checksums of all of them. The graph is compared with the model before anything is kept.

    `predict` takes a bundle where it takes a run; from Python it is `misgiving.Bundle.load`.

    Example: misgiving export runs/derm --out derm.bundle
    """
    from misgiving.workflows.export import export_run

    with progress_bars():
        bundle = export_run(run, out, overwrite=overwrite)
    for sentence in (bundle.card["what"], *bundle.card["targets"]):
        say(sentence)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    say(f"wrote {out} ({size:.1f} MB)")
