"""Web service: decides about images, stores cases, and shows a worklist for review. No torch."""
