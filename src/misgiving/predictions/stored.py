"""Predictions of a run for a data set, which are stored in its folder: a file for each set."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from misgiving.checkpoint import Checkpoint
from misgiving.data.cache import ImageSet
from misgiving.errors import DataError, UsageError
from misgiving.files import sha256_of
from misgiving.predictions.inference import (
    OnImage,
    fingerprint_of,
    kept_network,
    odin_scores,
    predictions_of,
)
from misgiving.predictions.network import Network
from misgiving.predictions.record import Predictions
from misgiving.scores.odin import Odin
from misgiving.scores.outputs import concatenated

FOLDER = "predictions"  # in a run
ODIN = "odin_default"


class StoredPredictions:
    """Predictions of a run, each made once.

    Args:
        run: The folder of the run.
        checkpoint: The run, on the device where it is to compute.
        on_image: Called with the number of predicted images and of all of a set.
    """

    def __init__(self, run: Path, checkpoint: Checkpoint, on_image: OnImage | None = None) -> None:
        self.run, self.checkpoint, self.on_image = run, checkpoint, on_image
        self.model = fingerprint_of(checkpoint)

    def of_sets(
        self,
        data: str,
        sources: Sequence[ImageSet],
        sets: Sequence[str],
        chosen: Collection[str] | None = None,
        *,
        odin: bool = False,
    ) -> Predictions:
        """Predictions for the images of the chosen sets, in the order of the sources.

        Args:
            data: Name of the data, by which the files are found.
            sources: The images; the second source has its own files.
            sets: Set of each image of all sources.
            chosen: Sets to predict; None: all.
            odin: Add the scores by ODIN with its defaults, which runs the model again.
        """
        folder = self.run / FOLDER / sha256_of(data.encode())[:16]
        names = np.array(sets, dtype=str)
        rows = np.flatnonzero(np.isin(names, [*({*sets} if chosen is None else chosen)]))
        network = kept_network(self.checkpoint, len(rows), self.run)
        first, parts, positions = 0, [], []
        for number, images in enumerate(sources):
            own = rows[(rows >= first) & (rows < first + len(images))]
            for name in dict.fromkeys(names[own].tolist()):
                members = own[names[own] == name]
                path = folder / f"{name or 'new'}{'_elsewhere' * number}.npz"
                part = self._of_set(images.select(members - first), path, network, odin=odin)
                parts.append(replace(part, sets=(name,) * len(members)))
                positions.append(members)
            first += len(images)
        return concatenated(parts).select(np.argsort(np.concatenate(positions)))

    def _of_set(
        self, images: ImageSet, path: Path, network: Network | None, *, odin: bool
    ) -> Predictions:
        """Predictions of one set: the outputs in this file, or else new ones.

        Images in the file have the same content, and may have other labels, names and groups.
        """
        predictions, report = None, self.on_image
        with suppress(DataError):  # there are none, or they are damaged
            stored = Predictions.read(path)
            same = (stored.model, stored.hashes) == (self.model, images.hashes)
            predictions = stored if same and (ODIN in stored.scores or not odin) else None
        if predictions is None:
            predictions = predictions_of(self.checkpoint, images, on_image=report, network=network)
            if odin:
                scores = odin_scores(self.checkpoint, images, [Odin()], on_image=report)
                predictions = replace(predictions, scores={ODIN: scores[Odin()]})
            with suppress(OSError, UsageError):  # a run that cannot be written to can be used
                predictions.write(path)
        return replace(
            predictions,
            labels=np.asarray(images.labels),
            ids=images.ids,
            groups=images.groups,
            group_columns=images.group_columns,
            scores=predictions.scores if odin else {},  # as other sets may have none
            class_weights=self.checkpoint.class_weights,
        )
