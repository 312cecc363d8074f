"""Catalogue of the image sets that can be fetched, which `catalogue.toml` describes."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

from misgiving.configuration import Registry


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a published set.

    Attributes:
        name: Name here and on a mirror.
        urls: Addresses; the next is tried where one fails.
        size: In bytes; None where no source gives it.
        md5: In hexadecimal; None where no source gives it.
    """

    name: str
    urls: tuple[str, ...]
    size: int | None = None
    md5: str | None = None

    @property
    def is_archive(self) -> bool:
        """True for a zip archive, which is unpacked into a folder of its name."""
        return self.name.endswith(".zip")

    @property
    def result(self) -> str:
        """Name of the resulting file or folder."""
        return self.name.removesuffix(".zip")


@dataclass(frozen=True, kw_only=True)
class PublishedSet:
    """A set of images as its authors publish it.

    Attributes:
        description: Content and size, and unknown facts about its source.
        licence: Terms of use.
        citation: Publications that its authors ask to cite.
        data: Name of the fetched set in other commands; `{folder}` is the folder it is in.
        files: Its files.
    """

    description: str
    licence: str
    citation: str
    data: str
    files: tuple[PublishedFile, ...]


def _catalogue() -> dict[str, PublishedSet]:
    sets = tomllib.loads((files(__package__) / "catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: PublishedSet(
            **{
                **values,
                "files": tuple(
                    PublishedFile(**{**file, "urls": tuple(file["urls"])})
                    for file in values["files"]
                ),
            }
        )
        for name, values in sets.items()
    }


CATALOGUE: Registry[PublishedSet] = Registry("data set", **_catalogue())
"""All sets that can be fetched, by name."""
