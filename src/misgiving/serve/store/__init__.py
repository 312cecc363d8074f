"""Where cases and reviews are kept."""

from misgiving.serve.store.queries import Filter, Order, Page
from misgiving.serve.store.store import Store

__all__ = ["Filter", "Order", "Page", "Store"]
