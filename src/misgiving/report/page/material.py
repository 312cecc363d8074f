"""What a reproduction folder holds for the report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from misgiving.errors import DataError
from misgiving.report import tables
from misgiving.report.figures import MAX_EXAMPLES, Examples, Picture
from misgiving.report.page.markup import UNKNOWN, count, label
from misgiving.report.tables import Epoch, Interval, Result

Facts = Mapping[str, Any]


class Material(NamedTuple):
    """All that the report is made from; `settings` and `datasets` are the JSON files' objects."""

    results: list[Result]
    intervals: list[Interval]
    histories: list[Epoch]
    settings: Facts
    datasets: Mapping[str, Facts]
    examples: list[Examples]

    @property
    def tuned(self) -> set[str]:
        """The sets that ODIN was tuned on."""
        named = {row.dataset for row in self.intervals if row.tuned}
        return named | {str(self.settings.get("tuning_set", ""))}

    @property
    def classes(self) -> list[str]:
        """The classes of Section 4.1 in the order of the data."""
        return [str(name) for name in self.settings.get("classes", ())]


def read_material(folder: Path) -> Material:
    """Read the folder; only `results.csv` must be there, but nothing may be damaged."""
    datasets = _read_json(folder / "datasets.json")
    return Material(
        results=tables.read_results(folder),
        intervals=tables.read_intervals(folder),
        histories=tables.read_histories(folder),
        settings=_read_json(folder / "settings.json"),
        datasets=datasets,
        examples=_read_examples(folder / "examples", datasets),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise _unusable(path, reason) from reason
    if not isinstance(content, dict):
        raise _unusable(path, "it holds no object")
    return content


def _unusable(path: Path, reason: object) -> DataError:
    return DataError(f"{path} cannot be used: {reason}; run `misgiving reproduce` again")


def _read_examples(folder: Path, datasets: Mapping[str, Facts]) -> list[Examples]:
    found = []
    for name, facts in datasets.items():
        paths = sorted((folder / name.replace("/", "-")).glob("*.png"), key=_place)
        pictures = [_read_picture(path) for path in paths[:MAX_EXAMPLES]]
        if pictures:
            caption = (
                f"{facts.get('contents', '')}; {count(facts.get('images', UNKNOWN), 'images')}"
            )
            found.append(Examples(label(name), caption, pictures))
    return found


def _place(path: Path) -> tuple[int, str]:
    return len(path.stem), path.stem  # 2.png comes before 10.png


def _read_picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as reason:
        raise _unusable(path, reason) from reason
