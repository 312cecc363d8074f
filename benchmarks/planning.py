"""Compare what `misgiving plan` says before a training with what `calibrate` then certifies.

    python benchmarks/planning.py SHARED_DATA [--out TABLE.md]

SHARED_DATA holds `isic2019-half`, `isic2019-mini` and `ood` with folders of other images. Six data
sets are made of them and of the digits. On each, a small network is trained for a few epochs and
calibrated for a target that was named beforehand. Prints a Markdown table.
"""

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from misgiving.data.datasets import load_dataset
from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.multiple_testing import SHARE_OF_BEST
from misgiving.deferral.targets import Targets
from misgiving.files import write_text
from misgiving.training.recipes import RECIPES
from misgiving.workflows.calibrate import calibrate_run
from misgiving.workflows.plan import DataPlan, plan_data
from misgiving.workflows.train import prepare_training, train_run

SIDE = 16
FEWEST = 40  # images of a class
UNREACHABLE = 1e-4  # a target so low that `calibrate` names the smallest that it certifies
HEADER = (
    "data",
    "cases: plan, calibrate",
    "plan, if 0 / 1 / 3 / 5 % are wrong",
    "smallest certified",
    "plan for that",
    "target",
    "certified",
    "plan for that",
)


class Task(NamedTuple):
    """Data as the command names them, a target, and the length of the training."""

    title: str
    data: str
    max_error: float
    epochs: int = 3


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("place", type=Path, help="folder with the images")
    parser.add_argument("--out", type=Path, help="write the table here")
    asked = parser.parse_args()
    lines = [markdown(HEADER), markdown(("---",) * len(HEADER))]
    with tempfile.TemporaryDirectory() as folder:
        for number, task in enumerate(tasks(asked.place, Path(folder))):
            lines.append(markdown(compare(task, Path(folder, str(number)))))
            print(lines[-1], flush=True)
    if asked.out:
        write_text(asked.out, "\n".join(lines) + "\n")


def markdown(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def tasks(place: Path, folder: Path) -> Iterator[Task]:
    """Six data sets: easy and hard ones, with many and with few cases."""
    half = place / "isic2019-half"
    yield Task("digits", "digits", 0.1, epochs=15)
    yield Task("ISIC 2019, half", f"isic2019:{half}", 0.2)
    yield Task("ISIC 2019, mini", f"isic2019:{place / 'isic2019-mini'}", 0.2)
    yield Task("melanoma or not", f"table:{relabelled(half, folder, 'melanoma')}", 0.1)
    yield Task("part of the body", f"table:{relabelled(half, folder, 'site')}", 0.3)
    sources = folder / "sources"
    sources.mkdir()
    for source in sorted((place / "ood").iterdir()):
        (sources / source.name).symlink_to(source.resolve())
    yield Task("three kinds of images", f"folder:{sources}", 0.2, epochs=15)


def relabelled(isic: Path, folder: Path, what: str) -> Path:
    """A table of the images of an ISIC folder with other labels."""
    dataset = load_dataset(f"isic2019:{isic}")
    if what == "site":
        labels = list(dataset.metadata["site"])
    else:
        names = [dataset.classes[label] for label in dataset.labels]
        labels = ["melanoma" if name == "MEL" else "other" for name in names]
    paths = [isic.resolve() / "ISIC_2019_Training_Input" / f"{name}.jpg" for name in dataset.ids]
    table = folder / f"{what}.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "lesion"))
        counts = Counter(labels)
        rows = zip(paths, labels, dataset.groups, strict=True)
        writer.writerows(row for row in rows if row[1] and counts[row[1]] >= FEWEST)
    return table


def compare(task: Task, run: Path) -> tuple[str, ...]:
    """Cells of a row: the plan, and what is then certified."""
    targets = Targets(max_error=task.max_error)
    plan = plan_data(task.data, targets)
    images = {"image_size": SIDE}
    network = {"backbone": "vgg16_mini", "pretrained": False}
    configured = RECIPES["modern"].configure(
        images, network, {"epochs": task.epochs, "device": "cpu"}
    )
    cache = run.parent / "cache"
    train_run(prepare_training(task.data, **configured._asdict(), cache=cache), run)
    smallest, asked = (
        calibrate_run(
            run, task.data, Targets(max_error=target), cache=cache, device="cpu"
        ).policy.certificate
        for target in (UNREACHABLE, task.max_error)
    )
    return cells(task, plan, smallest, asked)


def cells(task: Task, plan: DataPlan, smallest: Certificate, asked: Certificate) -> tuple[str, ...]:
    """Cells of a row. A plan for something is its rate for so many accepted and wrong answers."""
    level = SHARE_OF_BEST * plan.outlook.targets.level
    found = smallest.smallest_certifiable
    accepted = found.accepted if found else 0
    scores = smallest.calibration_scores  # by falling score
    wrong = sum(
        [bad for bad, kept in zip(scores.wrong, scores.kept, strict=True) if kept][:accepted]
    )

    def planned(wrong: int, accepted: int) -> str:
        bound = float(upper_bound(wrong, accepted, level=level))
        return f"{100 * bound:.1f} % ({wrong} of {accepted})" if accepted else ""

    return (
        task.title,
        f"{plan.outlook.cases}, {smallest.cases}",
        " / ".join(f"{100 * rate.smallest:.1f}" for rate in plan.outlook.error),
        f"{100 * found.max_error:.1f} %" if found else "none",
        planned(wrong, accepted),
        f"{100 * task.max_error:g} %",
        f"{asked.accepted} of {asked.cases}" if asked.accepted else "no",
        planned(asked.wrong, asked.accepted),
    )


if __name__ == "__main__":
    main()
