"""Web service: decides about images, stores cases, and shows a worklist for review. No torch."""

from misgiving.serve.app import create_app
from misgiving.serve.settings import Settings
from misgiving.serve.store import Store

__all__ = ["Settings", "Store", "create_app"]
