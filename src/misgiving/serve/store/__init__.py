"""Database of cases and reviews."""

from misgiving.serve.store.case_store import (
    CaseFilter,
    ExpectedReview,
    NewerReviewError,
    Order,
    Page,
    Store,
)

__all__ = ["CaseFilter", "ExpectedReview", "NewerReviewError", "Order", "Page", "Store"]
