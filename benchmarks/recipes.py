"""Compare recipes of training by their errors on new images, over seeds.

    python benchmarks/recipes.py DATA OUT [--seeds 3] [--epochs 12] [--options=--weights=FILE]

Trains each recipe with each seed by `misgiving train`, and measures it by `misgiving evaluate` on
all images that it was not trained on. Runs that are in OUT already are kept, so that a stopped
benchmark resumes; minutes are of trainings that were not stopped. Prints a Markdown table with the
mean over the seeds and, in brackets, the value of each; AURC is that of MSP. A seed draws another
split, and so another set of new images.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from misgiving.files import read_json, write_json
from misgiving.results.formats import read_table
from misgiving.results.schema import Measurement

RECIPES = {
    "modern": ["--recipe=modern"],
    "modern, weights averaged": ["--recipe=modern", "--average-decay=0.999"],
    "paper": ["--recipe=paper"],
}
COMMON = ["--split=grouped", "--image-size=128", "--batch-size=32"]
BACKBONE = "tf_efficientnet_lite0"
COMMON += [f"--backbone={BACKBONE}"]
MEASURED = {
    "accuracy": ("", "accuracy"),
    "balanced accuracy": ("", "balanced_accuracy"),
    "AURC": ("msp", "aurc"),
}
MINUTES = "minutes.json"


def main() -> None:
    """Train, measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--options", default="", help="further options of `train`, with commas")
    asked = parser.parse_args()
    further = [f"--epochs={asked.epochs}", *filter(None, asked.options.split(","))]
    header = ("recipe", "backbone", *MEASURED, "minutes")
    print("| " + " | ".join(header) + " |", "|---" * len(header) + "|", sep="\n")
    for recipe, options in RECIPES.items():
        folders = [asked.out / f"{recipe}-{seed}" for seed in range(asked.seeds)]
        for seed, folder in enumerate(folders):
            make(folder, asked.data, [*COMMON, *options, *further, f"--seed={seed}"])
        print(f"| {recipe} | {BACKBONE} | {' | '.join(cells(folders))} |", flush=True)


def make(folder: Path, data: str, options: list[str]) -> None:
    """Train and measure, unless that is done."""
    if not folder.exists():
        resumes = bool([*folder.parent.glob(f"{folder.name}.*")])
        started = time.monotonic()
        command("train", data, f"--out={folder}", *options)
        seconds = None if resumes else time.monotonic() - started
        write_json(folder / MINUTES, {"minutes": seconds and seconds / 60})
    if not (folder / "evaluation").exists():
        command("evaluate", str(folder), data)


def command(*arguments: str) -> None:
    """Run a command of misgiving."""
    code = "from misgiving.cli import run; run()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"misgiving {' '.join(arguments)} failed:\n{done.stderr}")


def cells(folders: list[Path]) -> list[str]:
    """The mean of each measure over the seeds, and the value of each seed."""
    tables = [
        read_table(folder / "evaluation" / "measurements.csv", Measurement) for folder in folders
    ]
    values = {
        name: [row.value for table in tables for row in table if row[1:3] == key]
        for name, key in MEASURED.items()
    }
    shown = [
        f"{np.mean(of):.3f} ({', '.join(f'{one:.3f}' for one in of)})" for of in values.values()
    ]
    times = [read_json(folder / MINUTES, remedy="train again")["minutes"] for folder in folders]
    known = [minutes for minutes in times if minutes is not None]
    return [*shown, f"{np.median(known):.0f}" if known else "-"]


if __name__ == "__main__":
    main()
