"""Download published image sets: checked, and resumed where a transfer broke off."""

from misgiving.data.fetching.catalogue import CATALOGUE, PublishedFile, PublishedSet
from misgiving.data.fetching.fetch import Fetched, fetch
from misgiving.data.fetching.transfer import Patience

__all__ = ["CATALOGUE", "Fetched", "Patience", "PublishedFile", "PublishedSet", "fetch"]
