"""A bundle: from image files to decisions, with its files and its model card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import TypeAdapter
from scipy.special import softmax

from misgiving.data.decoding import Decoded
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.decisions import NUMBERS, Decision, Decisions, Logits, Values
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.policy_file import POLICY, PolicyFile
from misgiving.deferral.scoring import check_opinions
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json, write_json, write_text
from misgiving.manifests import README, seal, verify
from misgiving.predictions.network import GRAPH, ModelInputs, Network
from misgiving.report.rendering import certificate_sentences

FORMAT = 1
FACTS, CARD = "bundle.json", "card.json"
AGAIN = "run `misgiving export` again"
KINDS: dict[str, TypeAdapter[Any]] = {
    "classes": TypeAdapter(tuple[str, ...]),
    "fingerprint": TypeAdapter(str),
    "preprocessing": TypeAdapter(Preprocessing),
    "estimates_losses": TypeAdapter(bool),
}
"""Fields of a `Bundle` in `bundle.json`."""

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

T = TypeVar("T")
SquareInputs = tuple[UInt8[np.ndarray, "_ _ 3"], ...]
"""An image as the model sees it, and after it as each model of a second opinion does."""
Squares = UInt8[np.ndarray, "n _ _ 3"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """A trained model with everything that its decisions need; safe to share between threads.

    Attributes:
        network: From model inputs to logits, predicted losses, features and tap averages.
        classes: Names of the classes, in the order of the logits.
        preprocessing: From an image file to a model input.
        estimates_losses: True where the loss estimator was trained.
        deferral: From the outputs of the network to decisions; None: every image is deferred.
        card: The model card.
        fingerprint: SHA-256 of weights, classes and preprocessing.
        opinions: Models whose second opinions the policy uses, by name; they have no policy.
    """

    network: Callable[[ModelInputs], tuple[Float[np.ndarray, "n ..."], ...]]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    estimates_losses: bool
    deferral: Deferral | None
    card: Mapping[str, Any]
    fingerprint: str
    opinions: Mapping[str, "Bundle"] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path, *, threads: int | None = None) -> "Bundle":
        """Read a bundle, refused unless every file is as it was written.

        Args:
            folder: Written by `misgiving export`.
            threads: Of one run of the graph; None for as many as there are cores.

        Raises:
            DataError: It is not a bundle, or a file is missing, changed, extra or damaged.
        """
        folder = Path(folder)
        content = read_json(folder / FACTS, remedy=AGAIN, version=FORMAT)
        verify(folder, remedy=AGAIN)
        deferral = Deferral.load(folder) if (folder / POLICY).is_file() else None
        card = read_json(folder / CARD, remedy=AGAIN)

        def part(facts: Mapping[str, Any], graph: str, **values: Any) -> Bundle:
            valid = {key: kind.validate_python(facts[key]) for key, kind in KINDS.items()}
            size, num_classes = valid["preprocessing"].image_size, len(valid["classes"])
            network = Network(folder / graph, size=size, num_classes=num_classes, threads=threads)
            return cls(network=network, **valid, **values)

        with explain_damage(folder / FACTS, remedy=AGAIN):
            opinions = {
                facts["name"]: part({**content, **facts}, graph, deferral=None, card={})
                for graph, facts in content["opinions"].items()
            }
            bundle = part(content, GRAPH, deferral=deferral, card=card, opinions=opinions)
        if deferral is not None:
            deferral.check_model(bundle.fingerprint, bundle.classes, where=folder / POLICY)
        return bundle.tried(folder)

    def tried(self, folder: Path) -> "Bundle":
        """The same, or a DataError if it cannot decide on a blank image."""
        sides = (each.image_size for each in self.preprocessings)
        if self.deferral is not None:
            models = {name: other.fingerprint for name, other in self.opinions.items()}
            check_opinions(self.deferral.calibration_, models)
        with explain_damage(folder / POLICY, remedy=AGAIN), np.errstate(all="ignore"):
            blank = (np.zeros((1, side, side, 3), dtype=np.uint8) for side in sides)
            self.score_inputs(*blank).by_threshold(0.0)[0]
        return self

    @property
    def preprocessings(self) -> tuple[Preprocessing, ...]:
        """That of the model, and after it that of each model of a second opinion."""
        return (self.preprocessing, *(each.preprocessing for each in self.opinions.values()))

    def model_inputs(self, data: bytes, name: str) -> SquareInputs:
        """Preprocess an encoded image, such as the bytes of a JPEG file, for each model.

        Raises:
            DataError: It cannot be decoded; the message has its name.
        """
        loaded: dict[int, Decoded] = {}
        return tuple(each.from_file(data, name, loaded=loaded) for each in self.preprocessings)

    def decide_inputs(self, *inputs: Squares) -> Decisions:
        """Decide for images as each model sees them (see `model_inputs`), in their order."""
        scored = self.score_inputs(*inputs)
        if self.deferral is None:
            return scored
        return scored.by_threshold(
            self.deferral.certificate_.batch_threshold(*scored.judged, seed=self.deferral.seed)
        )

    def undecided(self, **columns: Any) -> Decisions:
        """Decisions with these columns, without a decision yet."""
        if self.deferral is None:
            return Decisions.undecided(self.classes, **columns)
        return self.deferral.undecided(**columns)

    def score_inputs(self, inputs: Squares, *others: Squares) -> Decisions:
        """Predict the classes of preprocessed images, and score them, without a decision yet."""
        logits, predicted_losses, features, taps = self.network(inputs)
        losses = predicted_losses if self.estimates_losses else None
        if self.deferral is None:
            return without_policy(self.classes, logits, losses)
        opinions = {
            name: softmax(other.network(seen)[0].astype(np.float64), axis=1)
            for (name, other), seen in zip(self.opinions.items(), others, strict=True)
        }
        return self.deferral.score_outputs(logits, features, losses, taps, opinions)

    def decide(self, images: Sequence[bytes], names: Sequence[str]) -> Sequence[Decision]:
        """Decide for encoded images, in their order.

        Raises:
            DataError: One cannot be decoded; the message names it.
        """
        if not images:
            return []
        inputs = [self.model_inputs(data, name) for data, name in zip(images, names, strict=True)]
        return self.decide_inputs(*map(np.stack, zip(*inputs, strict=True)))


def without_policy(
    classes: Sequence[str], logits: Logits, predicted_losses: Values | None = None
) -> Decisions:
    """Defer every image, because no policy is calibrated for the model."""
    probabilities = np.full(logits.shape, np.nan)
    finite = np.isfinite(logits).all(axis=1)
    probabilities[finite] = softmax(logits[finite].astype(np.float64), axis=1)
    missing: dict[str, Any] = {name: np.full(len(logits), np.nan) for name in NUMBERS}
    if predicted_losses is not None:
        missing["predicted_loss"] = predicted_losses
    return Decisions.undecided(
        classes, predicted=logits.argmax(axis=1), probabilities=probabilities, **missing
    )


def used_opinions(deferral: Deferral | None, given: Mapping[str, T]) -> dict[str, T]:
    """Those of the second opinions, by name, that a policy uses; none without a policy.

    Raises:
        UsageError: One is missing.
    """
    used = () if deferral is None else deferral.calibration_.needs_opinions
    for name in used:
        if name not in given:
            raise UsageError(
                f"the policy uses the second opinion of {name}; give that model as "
                f"`second_opinion` {name}=RUN"
            )
    return {name: given[name] for name in used}


def is_bundle(folder: Path) -> bool:
    """True for a bundle and False for a run, without importing what loads a run.

    Raises:
        DataError: It is neither.
    """
    if not (folder / FACTS).is_file() and not (folder / "config.json").is_file():
        raise DataError(
            f"{folder}: neither a run nor a bundle; give a folder that `misgiving train` or "
            "`misgiving export` wrote (a policy takes a file of predictions instead)"
        )
    return (folder / FACTS).is_file()


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

    The arguments are as in `Bundle`; `card` describes the model, its data and its making, and
    `opinions` has name, fingerprint and preprocessing of the models of second opinions, by graph.
    """
    facts = {
        "classes": list(classes),
        "fingerprint": fingerprint,
        "preprocessing": asdict(preprocessing),
        "opinions": opinions or {},
    }
    write_json(folder / FACTS, {"format": FORMAT, "estimates_losses": estimates_losses, **facts})
    if deferral is not None:
        PolicyFile.of(deferral).write(folder, deferral.used_detectors)
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
