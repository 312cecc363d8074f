"""The web service: answers images, keeps cases, and shows a person what to look at. No torch."""

from misgiving.serve.app import create_app
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store

__all__ = ["Settings", "Store", "create_app"]
