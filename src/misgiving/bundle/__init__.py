"""The deployable: a folder with one ONNX graph and all that decisions need, without torch."""

from misgiving.bundle.bundle import Bundle
from misgiving.bundle.network import Network
from misgiving.bundle.storage import FORMAT, is_bundle, is_bundle_not_run

__all__ = ["FORMAT", "Bundle", "Network", "is_bundle", "is_bundle_not_run"]
