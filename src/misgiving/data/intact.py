"""Whether prepared images are as they were written: disks fail, and files get edited."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.errors import DataError
from misgiving.manifests import crc32_of


class Checksums:
    """Checks every stored image against its checksum, once, when it is first read.

    To read a whole set before anything is done with it would take longer than many commands do.

    Args:
        record: The file that says what is stored; it is removed where an image is damaged, so that
            the set is prepared anew the next time.
        values: The checksum of each stored image.
    """

    def __init__(self, record: Path, values: Int[np.ndarray, " stored"]) -> None:
        self._record, self._values = record, values
        self._seen = np.zeros(len(values), dtype=bool)

    def check(
        self, rows: Int[np.ndarray, " m"], pixels: UInt8[np.ndarray, "m size size 3"]
    ) -> None:
        """Refuse pixels that are not those that were stored in these rows.

        Raises:
            DataError: An image was changed.
        """
        for position in np.flatnonzero(~self._seen[rows]):
            if crc32_of(pixels[position].tobytes()) != self._values[rows[position]]:
                self._refuse()
        self._seen[rows] = True

    def _refuse(self) -> None:
        folder = self._record.parent
        try:
            self._record.unlink(missing_ok=True)
            remedy = "run the same command again to prepare the images anew"
        except OSError:  # a cache that is for reading only
            remedy = "remove that folder and run the same command again"
        raise DataError(f"{folder}: a prepared image is not as it was written; {remedy}")
