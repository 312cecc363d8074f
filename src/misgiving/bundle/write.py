"""Write a bundle beside its graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from misgiving.bundle.bundle import CARD, FACTS, FORMAT, Bundle
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.deferral import Deferral
from misgiving.files import README, seal, write_json, write_text
from misgiving.report.rendering import certificate_sentences

LIMITS = (
    "The guarantee holds for images drawn as the calibration images were: the same population, "
    "devices and preparation.",
    "`misgiving serve` tests whether the acceptance scores, the OOD scores and the accepted share "
    "still match those of the calibration set. It does not test whether predictions are correct, "
    "and cannot see a change that moves none of the three. `misgiving predict` makes such tests on "
    "the images of one command.",
    "It is not a medical device and has no regulatory clearance.",
    "A probability is always that of one of the model's classes: an image of another kind gets one "
    "too. Detection of OOD images is not guaranteed.",
    "Scores agree with those of the trained model to about four digits: an image exactly at a "
    "threshold may be decided differently.",
    "ODIN needs gradients and is not in the bundle.",
)
NO_GUARANTEE = "Nothing is certified: no policy was calibrated, and every image is deferred."
DECIDES = "By its policy it accepts an image, defers it, or calls it out-of-distribution."
DEFERS = "It has no policy and defers every image."


def write_bundle(
    folder: Path,
    *,
    preprocessing: Preprocessing,
    estimates_losses: bool,
    fingerprint: str,
    classes: Sequence[str],
    deferral: Deferral | None,
    card: Mapping[str, Any],
    opinions: Mapping[str, Mapping[str, Any]] | None = None,
) -> Bundle:
    """Write everything else of a bundle beside the graphs in `folder`, seal it, and read it.

    The arguments are as in `Bundle`; `deferral` has the policy, `card` describes the model, its
    data and its making, and `opinions` has name, fingerprint and preprocessing of the models of
    second opinions, by graph.
    """
    facts = {
        "classes": list(classes),
        "fingerprint": fingerprint,
        "preprocessing": asdict(preprocessing),
        "opinions": opinions or {},
    }
    write_json(folder / FACTS, {"format": FORMAT, "estimates_losses": estimates_losses, **facts})
    if deferral is not None:
        deferral.write(folder, deferral.policy_.used_detectors)
    what = f"{card['what']} {DEFERS if deferral is None else DECIDES}"
    if opinions:
        names = ", ".join(each["name"] for each in opinions.values())
        what += f" Second opinions help to judge its answers: {names}."
    card = {
        **card,
        **facts,
        "what": what,
        "targets": [NO_GUARANTEE] if deferral is None else certificate_sentences(deferral),
        "limits": [*card.get("limits", ()), *LIMITS],
    }
    write_json(folder / CARD, card)
    templates = Environment(
        loader=PackageLoader("misgiving.bundle", "."), undefined=StrictUndefined, trim_blocks=True
    )
    # no text leaves its cell of a table
    templates.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    seal(folder)
    write_text(folder / README, templates.get_template("card.jinja").render(card))
    return Bundle.load(folder)
