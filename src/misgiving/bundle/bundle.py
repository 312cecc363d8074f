"""A bundle: from image files to decisions, with its files and its model card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from pydantic import TypeAdapter
from scipy.special import softmax

from misgiving.data.decoding import Loaded
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.decisions import (
    Decision,
    Decisions,
    ScoredImages,
    defer_all,
    score_without_policy,
)
from misgiving.deferral.policy import Columns, Policy
from misgiving.deferral.policy_file import POLICY, PolicyFile
from misgiving.errors import DataError, Parameter, UsageError, explain_damage
from misgiving.files import read_json, verify
from misgiving.predictions.network import GRAPH, ModelInputs, Network
from misgiving.scores.outputs import Outputs

FORMAT = 1
FACTS, CARD = "bundle.json", "card.json"
EXPORT_AGAIN = "run `misgiving export` again"
FIELD_TYPES: dict[str, TypeAdapter[Any]] = {
    "classes": TypeAdapter(tuple[str, ...]),
    "fingerprint": TypeAdapter(str),
    "preprocessing": TypeAdapter(Preprocessing),
    "estimates_losses": TypeAdapter(bool),
}
"""Fields of a `Bundle` in `bundle.json`."""

T = TypeVar("T")
SquareInputs = tuple[UInt8[np.ndarray, "_ _ 3"], ...]
"""An image as the model sees it, and after it as each model of a second opinion does."""
Squares = UInt8[np.ndarray, "n _ _ 3"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Bundle:
    """A trained model with everything that its decisions need; safe to share between threads.

    Attributes:
        network: From model inputs to the outputs of the model.
        classes: Names of the classes, in the order of the logits.
        preprocessing: From an image file to a model input.
        estimates_losses: True where the loss estimator was trained.
        policy: From the outputs of the network to decisions; None: every image is deferred.
        card: The model card.
        fingerprint: SHA-256 of weights, classes and preprocessing.
        opinions: Models whose second opinions the policy uses, by name; they have no policy.
    """

    network: Callable[[ModelInputs], Outputs]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    estimates_losses: bool
    policy: Policy | None
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
        content = read_json(folder / FACTS, remedy=EXPORT_AGAIN, version=FORMAT)
        verify(folder, remedy=EXPORT_AGAIN)
        policy = PolicyFile.read(folder)[1] if (folder / POLICY).is_file() else None
        card = read_json(folder / CARD, remedy=EXPORT_AGAIN)

        def part(facts: Mapping[str, Any], graph: str, **values: Any) -> Bundle:
            valid = {key: kind.validate_python(facts[key]) for key, kind in FIELD_TYPES.items()}
            size, num_classes = valid["preprocessing"].image_size, len(valid["classes"])
            network = Network(folder / graph, size=size, num_classes=num_classes, threads=threads)
            return cls(network=network, **valid, **values)

        with explain_damage(folder / FACTS, remedy=EXPORT_AGAIN):
            opinions = {
                facts["name"]: part({**content, **facts}, graph, policy=None, card={})
                for graph, facts in content["opinions"].items()
            }
            bundle = part(content, GRAPH, policy=policy, card=card, opinions=opinions)
        if policy is not None:
            policy.check_model(bundle.fingerprint, bundle.classes, where=folder / POLICY)
        return bundle.tried(folder)

    def tried(self, folder: Path) -> "Bundle":
        """The same, or a DataError if it cannot score a blank image."""
        sides = (each.image_size for each in self.preprocessings)
        if self.policy is not None:
            models = {name: other.fingerprint for name, other in self.opinions.items()}
            self.policy.check_opinions(models)
        with explain_damage(folder / POLICY, remedy=EXPORT_AGAIN), np.errstate(all="ignore"):
            self.score_inputs(*(np.zeros((1, side, side, 3), dtype=np.uint8) for side in sides))
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
        loaded: Loaded = {}
        return tuple(each.from_file(data, name, loaded=loaded) for each in self.preprocessings)

    def decide_inputs(self, *inputs: Squares, columns: Columns | None = None) -> Decisions:
        """Decide for images as each model sees them (see `model_inputs`), in their order."""
        return self.decide_scored(self.score_inputs(*inputs), columns)

    def score_inputs(self, inputs: Squares, *others: Squares) -> ScoredImages:
        """Score images as each model sees them, of which decisions are made together."""
        outputs = self.network(inputs)
        opinions = {
            name: softmax(other.network(seen).logits.astype(np.float64), axis=1)
            for (name, other), seen in zip(self.opinions.items(), others, strict=True)
        }
        losses = outputs.predicted_losses if self.estimates_losses else None
        outputs = replace(outputs, predicted_losses=losses, opinions=opinions)
        return score_without_policy(outputs) if self.policy is None else self.policy.score(outputs)

    def decide_scored(self, scored: ScoredImages, columns: Columns | None = None) -> Decisions:
        """Decide for scored images, which are one batch, with cells by column for `for_each`.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        if self.policy is None:
            return defer_all(scored, self.classes)
        return self.policy.decide(scored, columns=columns)

    def decide(self, images: Sequence[bytes], names: Sequence[str]) -> Sequence[Decision]:
        """Decide for encoded images, in their order.

        Raises:
            DataError: One cannot be decoded; the message names it.
        """
        if not images:
            return []
        inputs = [self.model_inputs(data, name) for data, name in zip(images, names, strict=True)]
        return self.decide_inputs(*map(np.stack, zip(*inputs, strict=True)))


def used_opinions(policy: Policy | None, given: Mapping[str, T]) -> dict[str, T]:
    """Those of the second opinions, by name, that a policy uses; none without a policy.

    Raises:
        UsageError: One is missing.
    """
    used = () if policy is None else policy.calibration.needs_opinions
    for name in used:
        if name not in given:
            raise UsageError(
                f"the policy uses the second opinion of {name}; give that model as ",
                Parameter("second_opinion", f"{name}=RUN"),
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
