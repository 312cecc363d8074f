"""The format of decisions: a table, or a file that FiftyOne or Label Studio imports.

FiftyOne's file is a `FiftyOneImageClassificationDataset`: one label per image, with the decision,
its reason and its numbers as attributes. Label Studio's is a list of tasks with a predicted
annotation each, in the order of review, beside a labelling configuration. Images that could not be
read are in neither. The command line reads its options from here, so NumPy is imported only where
it is used.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import quoteattr

from misgiving.configuration import option
from misgiving.errors import UsageError
from misgiving.files import refuse_unwritable, write_json, write_text
from misgiving.manifests import sha256_of
from misgiving.results.decision_tables import (
    POLICY_COLUMNS,
    DecisionRow,
    DecisionTable,
    writer_for,
)

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

QUESTION, IMAGE = "class", "image"  # names of the tags in the labelling configuration
ATTRIBUTES = ("predicted_loss", *POLICY_COLUMNS)
TASK_COLUMNS = ("path", "predicted_class", *ATTRIBUTES)
PREFIXES = {"fiftyone": "/", "label-studio": "/data/local-files/?d="}
PANEL = "Other tools"


class DecisionSource(NamedTuple):
    """The model that decided, and what it saw.

    Attributes:
        classes: Names of its classes.
        fingerprint: Of the model and its policy.
        features: Of images by their position in the table; those that are known.
    """

    classes: tuple[str, ...]
    fingerprint: str
    features: "Mapping[int, Float[np.ndarray, ' width']]"

    @property
    def version(self) -> str:
        """Name of model and policy for tools that keep the predictions of several."""
        return f"misgiving {sha256_of(self.fingerprint.encode())[:12]}"


@dataclass(frozen=True, kw_only=True)
class DecisionFormat:
    """The format of a file of decisions, and the addresses of images in it.

    Attributes:
        format: `table` for the kind of table that the file's suffix says, or another tool.
        image_root: Folder that the other tool knows as `image_url`.
        image_url: Address of that folder; None for the tool's own address of local files.
    """

    format: Literal["table", "fiftyone", "label-studio"] = option(
        "table", "`table`, or a .json file that FiftyOne or Label Studio imports.", panel=PANEL
    )
    image_root: Path = option(
        Path("/"), "Folder that the other tool knows as PREFIX.", panel=PANEL, metavar="FOLDER"
    )
    image_url: str | None = option(
        None,
        "Address of this folder in the other tool, such as https://host/images/ or s3://bucket/. "
        "Default: / for FiftyOne, /data/local-files/?d= for Label Studio.",
        panel=PANEL,
        metavar="PREFIX",
    )

    @property
    def ordered(self) -> bool:
        """True if a tool shows the images in the order of the file, which needs their features."""
        return self.format == "label-studio"

    def beside(self, out: Path) -> list[Path]:
        """Other files that are written with a file: the labelling configuration."""
        return [out.with_suffix(".xml")] if self.format == "label-studio" else []

    def refuse(self, out: Path | None, images: Sequence[Path], *, resume: bool) -> None:
        """Refuse what cannot be written, before the decisions are made.

        Args:
            out: The file; None for the screen.
            images: Files, and folders.
            resume: Whether earlier decisions, without features, are to be used.

        Raises:
            UsageError: The file's name, or an image's place, does not go with the format; or the
                file cannot be written.
        """
        if self.format != "table":
            self._refuse_for_tool(out, images, resume=resume)
        elif self != DecisionFormat():
            raise UsageError("`image_root` and `image_url` are for another tool's `format`")
        elif out is not None:
            writer_for(out)
        if out is not None:
            refuse_unwritable(out)

    def _refuse_for_tool(self, out: Path | None, images: Sequence[Path], *, resume: bool) -> None:
        if out is None or out.suffix.lower() != ".json":
            raise UsageError(f"`format` {self.format} needs `out`, a file that ends in .json")
        if resume and self.ordered:
            raise UsageError(
                f"`resume` does not go with `format` {self.format}, whose order needs the features "
                "of all images; leave it out"
            )
        for path in images:
            self.address(path)

    def address(self, path: str | Path) -> str:
        """The address of an image in another tool, quoted where it is part of a web address.

        Raises:
            UsageError: The image is not in `image_root`.
        """
        image, root = (Path(os.path.normpath(Path(p).absolute())) for p in (path, self.image_root))
        if not image.is_relative_to(root):
            raise UsageError(f"{path}: is not in `image_root` {self.image_root}; give one above it")
        prefix = PREFIXES[self.format] if self.image_url is None else self.image_url
        relative, parts = image.relative_to(root).as_posix(), urlsplit(prefix)
        if parts.scheme in ("http", "https") or parts.query:
            relative = quote(os.fsencode(relative))
        return prefix + ("" if prefix.endswith(("/", "=")) else "/") + relative

    def write(self, out: Path, table: DecisionTable, source: DecisionSource) -> None:
        """Write the file and those beside it, each whole or not at all."""
        if self.format == "table":
            writer_for(out)(out, table)
        else:
            _WRITERS[self.format](self, out, list(table.decisions), source)


def _write_fiftyone(
    file_format: DecisionFormat, out: Path, decisions: Sequence[DecisionRow], source: DecisionSource
) -> None:
    labels = {
        file_format.address(row.path): {
            "label": row.predicted_class,
            "confidence": row.probability,
            "attributes": {**_known(row, ATTRIBUTES), "model_version": source.version},
        }
        for row in decisions
        if row.unreadable is None
    }
    write_json(out, {"classes": source.classes, "labels": labels})


def _write_label_studio(
    file_format: DecisionFormat, out: Path, decisions: Sequence[DecisionRow], source: DecisionSource
) -> None:
    shown = {"reason": ""}  # where it is not known
    tasks = [
        {
            "data": {IMAGE: file_format.address(row.path)} | shown | _known(row, TASK_COLUMNS),
            "predictions": [_prediction(row, source.version)],
        }
        for row in in_review_order(decisions, source.features)
    ]
    (configuration,) = file_format.beside(out)
    write_text(configuration, labelling_configuration(source.classes))
    write_json(out, tasks)


def _prediction(row: DecisionRow, version: str) -> dict[str, Any]:
    """A predicted annotation; an image that is called OOD shows none of the classes."""
    choice = {
        "from_name": QUESTION,
        "to_name": IMAGE,
        "type": "choices",
        "value": {"choices": [row.predicted_class]},
    }
    return {
        "model_version": version,
        "score": row.probability or 0.0,
        "result": [] if row.decision == "ood" else [choice],
    }


def _known(row: DecisionRow, names: Sequence[str]) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def in_review_order(
    decisions: Sequence[DecisionRow], features: "Mapping[int, Float[np.ndarray, ' width']]"
) -> list[DecisionRow]:
    """Images that could be read: likely errors first, and no near copies in a row.

    Args:
        decisions: On images.
        features: By position; the order is by error alone if those of an image are missing.
    """
    import numpy as np

    from misgiving.metrics.review_order import review_order

    read = [row for row, decision in enumerate(decisions) if decision.unreadable is None]
    errors = np.array([_error_probability(decisions[row]) for row in read])
    known = bool(read) and all(row in features for row in read)
    order = review_order(errors, np.stack([features[row] for row in read]) if known else None)
    return [decisions[read[position]] for position in order]


def _error_probability(row: DecisionRow) -> float:
    """As the policy says, or else by the probability of the class; NaN where neither is known."""
    if row.error_probability is not None:
        return row.error_probability
    return math.nan if row.probability is None else 1 - row.probability


def labelling_configuration(classes: Sequence[str]) -> str:
    """Label Studio's configuration for naming one of these classes, with the reason above it."""
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in classes)
    return (
        "<View>\n"
        '  <Header value="$reason" size="5"/>\n'
        f'  <Image name="{IMAGE}" value="${IMAGE}" zoom="true"/>\n'
        f'  <Choices name="{QUESTION}" toName="{IMAGE}" choice="single" required="true">\n'
        f"{choices}\n"
        "  </Choices>\n"
        "</View>\n"
    )


_WRITERS: dict[
    str, Callable[[DecisionFormat, Path, Sequence[DecisionRow], DecisionSource], None]
] = {"fiftyone": _write_fiftyone, "label-studio": _write_label_studio}
