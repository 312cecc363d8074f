"""Where cases and reviews are kept."""

from misgiving.serve.store.queries import Filter, Order, Page
from misgiving.serve.store.store import Known, NewerReviewError, Store

__all__ = ["Filter", "Known", "NewerReviewError", "Order", "Page", "Store"]
