"""The deployable: a folder with one ONNX graph and all that answers need, without torch."""

from misgiving.bundle.answers import NO_POLICY, Answer, Rules, answers_of
from misgiving.bundle.bundle import Bundle
from misgiving.bundle.network import Network, Outputs
from misgiving.bundle.storage import FORMAT, is_bundle, is_bundle_not_run

__all__ = [
    "FORMAT",
    "NO_POLICY",
    "Answer",
    "Bundle",
    "Network",
    "Outputs",
    "Rules",
    "answers_of",
    "is_bundle",
    "is_bundle_not_run",
]
