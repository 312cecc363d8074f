"""What several commands have in common: arguments, options, and the console."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


def process_number() -> int:
    """More than 0 in a process that only helps another one with its command."""
    return max(int(found) if (found := os.environ.get(name, "")).isdigit() else 0 for name in RANKS)


console = Console(
    stderr=True, highlight=False, markup=False, emoji=False, quiet=process_number() > 0
)

DATA_HELP = (
    "`digits`, `folder:FOLDER` (a folder per class), `table:FILE.csv` (columns path, label, "
    "optional group), `isic2019:FOLDER`, `ham10000:FOLDER` (the official layouts) or "
    "`medmnist:FILE.npz`."
)
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `train` wrote.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where prepared images are kept. Default: misgiving in the user's cache folder.",
        rich_help_panel="Data",
    ),
]
OnBadImage = Annotated[
    str,
    typer.Option(
        metavar="fail|skip",
        help="Images that cannot be read: look at all, list them and fail; or skip them, say how "
        "many and which, and keep a record of it.",
        rich_help_panel="Data",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel="Machine")]

Devices = Annotated[
    int,
    typer.Option(
        help="Processes on this machine that share the work, one for each device.",
        rich_help_panel="Machine",
    ),
]
Nodes = Annotated[
    int,
    typer.Option(
        help="Machines that share the work, with --devices processes each; started by torchrun or "
        "SLURM, or with MASTER_ADDR and NODE_RANK set.",
        rich_help_panel="Machine",
    ),
]

Split = Annotated[
    str,
    typer.Option(
        help="paper (stratified random, by image) or grouped (by lesion and near duplicate, into "
        "train, tune, calibrate and test).",
        rich_help_panel="Data",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def say(text: str) -> None:
    """Tell the person something, on standard error; long lines are left to the terminal."""
    console.print(text, soft_wrap=True)


def cache_folder(cache: Path | None) -> Path:
    """The given folder for prepared images, or the default one."""
    from misgiving.data.loading import default_cache

    return cache or default_cache()
