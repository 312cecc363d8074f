"""Writing of a bundle: everything beside its graph."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from misgiving.bundle.bundle import CARD, FACTS, FORMAT, is_bundle
from misgiving.bundle.card import markdown
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.deferral import Deferral
from misgiving.errors import UsageError
from misgiving.files import write_json, write_text
from misgiving.manifests import seal
from misgiving.predictions.network import GRAPH

READABLE_CARD = "card.md"


def check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Check that nothing is replaced but a bundle, and only if that is asked for.

    Raises:
        UsageError: Something else is at `out`, or a bundle that is not to be replaced.
    """
    if out.exists() and not is_bundle(out):
        raise UsageError(f"{out}: exists and is not a bundle; choose another folder")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; replace it with `overwrite=True`")


def write_bundle(
    folder: Path,
    *,
    preprocessing: Preprocessing,
    estimates_losses: bool,
    fingerprint: str,
    classes: Sequence[str],
    deferral: Deferral | None,
    card: Mapping[str, Any],
) -> None:
    """Write everything else of a bundle beside the graph in `folder`, and seal it.

    Classes and thresholds are also put into the metadata of the graph, so that programs that read
    it find them without this package. Decisions need the calibrator, which is beside the graph.
    """
    facts = {
        "classes": list(classes),
        "fingerprint": fingerprint,
        "preprocessing": preprocessing.to_dict(),
    }
    settings = {} if deferral is None else _settings(deferral)
    _write_metadata(folder / GRAPH, facts | settings)
    write_json(folder / FACTS, {"format": FORMAT, "estimates_losses": estimates_losses, **facts})
    if deferral is not None:
        deferral.write(folder, used_alone=True)
    write_json(folder / CARD, dict(card))
    write_text(folder / READABLE_CARD, markdown(card))
    seal(folder)


def _settings(deferral: Deferral) -> dict[str, Any]:
    """Settings of a policy that decide, as JSON values."""
    certificate = deferral.certificate_
    threshold = certificate.accept_threshold
    return {
        "accept_threshold": "-inf" if threshold == -math.inf else threshold,  # not in JSON
        "ood_threshold": certificate.ood_threshold,
        "score": deferral.calibration_.score,
        "ood_detector": deferral.ood_detector_,
        **vars(deferral.rule_),
        "targets": dict(vars(certificate.targets)),
    }


def _write_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(path)
    values = {f"misgiving.{name}": json.dumps(value) for name, value in facts.items()}
    onnx.helper.set_model_props(model, values)
    onnx.save(model, path)
