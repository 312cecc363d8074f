"""`misgiving export`."""

from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.options import RunFolder, command
from misgiving.cli.progress import progress_bars, say


@command
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder to write.")],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing bundle.")
    ] = False,
) -> None:
    """Export a run as a bundle: a folder that makes decisions without torch.

    It contains one ONNX graph (`model.onnx`: images in [0, 1] to logits, predicted losses and
    features), preprocessing, the policy with everything it needs, a model card (`card.md`,
    `card.json`), and checksums. The graph is compared with the model before the bundle is written.

    `predict` accepts a bundle in place of a run; in Python, use `misgiving.Bundle.load`.

    Example: misgiving export runs/derm --out derm.bundle
    """
    from misgiving.workflows.export import export_run

    with progress_bars():
        bundle = export_run(run, out, overwrite=overwrite)
    for sentence in (bundle.card["what"], *bundle.card["targets"]):
        say(sentence)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    say(f"wrote {out} ({size:.1f} MB)")
