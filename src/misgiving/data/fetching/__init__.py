"""Download of published image sets, with checks and resumption."""

from misgiving.data.fetching.catalogue import CATALOGUE, PublishedFile, PublishedSet
from misgiving.data.fetching.fetch import Fetched, fetch
from misgiving.data.fetching.transfer import Patience

__all__ = ["CATALOGUE", "Fetched", "Patience", "PublishedFile", "PublishedSet", "fetch"]
