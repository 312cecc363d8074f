"""How a person is told of images that cannot be read."""

import sys
from collections.abc import Sequence
from pathlib import Path

from misgiving.cli.options import cache_folder, say
from misgiving.errors import BadImage
from misgiving.files import write_csv

SHOWN = 50  # on the screen


def say_skipped(bad: Sequence[BadImage]) -> None:
    """Say which images were left out, if any."""
    if bad:
        noun = "image" if len(bad) == 1 else "images"
        say(f"left out: {len(bad)} {noun} that cannot be read")
        list_bad_images(bad)


def list_bad_images(bad: Sequence[BadImage]) -> None:
    """A line for each; the whole of a long list goes into a file, as screens forget."""
    for one in bad[:SHOWN]:
        sys.stderr.write(f"  {one}\n")
    if len(bad) > SHOWN:
        place = cache_folder(None) / "bad-images.csv"
        sys.stderr.write(f"  and {len(bad) - SHOWN} more; {_written(bad, place)}\n")


def _written(bad: Sequence[BadImage], place: Path) -> str:
    try:
        write_csv(place, BadImage._fields, bad)
    except Exception as failure:  # this is said of a failure already
        return f"the whole list cannot be written to {place} ({failure})"
    return f"all of them are in {place}"
