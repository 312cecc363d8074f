"""Deferral policies with finite-sample guarantees: accept, defer or call out-of-distribution."""
