"""The two files of a policy: `policy.json`, and `policy.safetensors` with its detectors."""

import json
from collections import defaultdict
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from misgiving.calibration.apply import Calibrator
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.identities import Cases
from misgiving.deferral.policy import Policy
from misgiving.deferral.targets import DecisionRule
from misgiving.errors import explain_damage
from misgiving.files import read_json, sha256_of_file, sha256_of_json, whole_file, write_json
from misgiving.scores.detectors import FittedDetectors, default_ood_detector
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.outputs import Outputs
from misgiving.scores.probes import ClassProbes, Probe

POLICY, DETECTORS = "policy.json", "policy.safetensors"
POLICY_FOLDER = "policy"  # in a run
ASKED = ("max_ood_false_alarms", "ood_detector")  # of which a policy has what is in force
DETECTOR_FACTS, PROBES = "facts", "probes"  # in the file of the detectors
AGAIN = "run `misgiving calibrate` again"


class PolicyFile(BaseModel):
    """Schema of `policy.json`.

    Attributes:
        model: Fingerprint or name of the model that the policy is for.
        unit: The unit of the guarantee: a patient, a lesion, a case, or another group.
        kind: Of the outputs: `logits` or `probabilities`.
        max_ood_false_alarms: As it was asked for; that of the certificate's targets is in force.
        ood_detector: The name that was asked for; None: the default.
        cases: The cases that it was fitted on.
        detectors: SHA-256 of `policy.safetensors`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, ser_json_inf_nan="strings", allow_inf_nan=False
    )

    format: Literal[1] = 1
    model: str
    unit: str
    kind: Literal["logits", "probabilities", "confidence"]
    rule: DecisionRule
    max_ood_false_alarms: float | None
    ood_detector: str | None
    seed: int
    calibration: Calibrator
    finer: Calibrator | None = None
    certificate: Certificate
    cases: Cases
    detectors: str

    @model_validator(mode="after")
    def _check_lengths(self) -> "PolicyFile":
        """Check that the columns of each table of cases are of one length."""
        columns = attrgetter("scores", "errors", "kept", "error_probabilities")
        images = attrgetter("images.scores", "images.kept", "ood_scores")
        identified = attrgetter("tuning", "calibration")(self.cases)
        finer = filter(None, [self.certificate.finer])
        own = (self.certificate, *self.certificate.by_value.values(), *finer)
        tables = *map(columns, own), images(self.certificate)
        if any(len(each.scores) != each.cases for each in own):
            raise ValueError("a certificate has not as many rows as cases")
        for table in (*tables, *(vars(each).values() for each in identified)):
            if len({*map(len, table)}) > 1:
                raise ValueError("columns of cases differ in length")
        return self

    @classmethod
    def read(cls, folder: str | Path) -> tuple["PolicyFile", Policy]:
        """Read both files in the folder of a policy, run or bundle, and the policy that they hold.

        It decides on blank outputs first, so that one that cannot decide is refused here.

        Raises:
            DataError: A file is missing, damaged, of another format, or was changed after it was
                written.
        """
        folder = Path(folder)
        folder = folder if (folder / POLICY).is_file() else folder / POLICY_FOLDER
        path = folder / POLICY
        content = read_json(path, remedy=AGAIN)
        checksum = content.pop("checksum", None)
        with explain_damage(path, remedy=AGAIN):
            file = cls.model_validate(content)
            if sha256_of_json(content) != checksum:
                raise ValueError("changed after it was written")
        with explain_damage(folder / DETECTORS, remedy=AGAIN):
            if sha256_of_file(folder / DETECTORS) != file.detectors:
                raise ValueError("changed after it was written")
        detectors = load_detectors(folder / DETECTORS)
        shared = {name: x for name, x in file if name in Policy.__dataclass_fields__}
        ood_detector = file.ood_detector or default_ood_detector(detectors)
        policy = Policy(**{**shared, "detectors": detectors, "ood_detector": ood_detector})
        with explain_damage(path, remedy=AGAIN), np.errstate(all="ignore"):
            if policy.certificate.cases:  # else it is a draw
                # above the limit of a draw there may be too few for a batch
                policy.decide(
                    _blank_outputs(policy), threshold=0.0 if policy.certificate.pool else None
                )[0]
        return file, policy


def write_policy(folder: Path, policy: Policy, *, cases: Cases, **given: Any) -> None:
    """Write both files of a policy into a folder that exists, each whole or not at all.

    Args:
        folder: The folder.
        policy: With the detectors to write.
        cases: The cases that it was fitted on.
        given: The parameters of `ASKED`, as they were given.
    """
    save_detectors(policy.detectors, folder / DETECTORS)
    shared = {name: x for name, x in vars(policy).items() if name in PolicyFile.model_fields}
    given |= {"cases": cases, "detectors": sha256_of_file(folder / DETECTORS)}
    # with text for infinity, which JSON lacks
    content = json.loads(PolicyFile(**shared | given).model_dump_json())
    write_json(folder / POLICY, content | {"checksum": sha256_of_json(content)}, compact=True)


def save_detectors(detectors: FittedDetectors, path: Path) -> None:
    """Write one safetensors file, whole or not at all."""
    probes = {} if detectors.probes is None else detectors.probes.probes
    tables = {f"{PROBES}/{name}": probe._asdict() for name, probe in probes.items()}
    arrays: dict[str, Any] = {"directions": detectors.directions}
    if detectors.probes is not None:
        arrays[f"{PROBES}/width"] = detectors.probes.width
    for name, table in {**detectors.statistics, **tables}.items():
        arrays |= {f"{name}/{key}": value for key, value in table.items()}
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    facts = {"names": detectors.names, PROBES: [*probes]}
    with whole_file(path) as partial:
        # one entry: the order of several is another in each file
        save_file(contiguous, partial, {DETECTOR_FACTS: json.dumps(facts)})


def load_detectors(path: Path) -> FittedDetectors:
    """Read a file that `save_detectors` wrote.

    Raises:
        DataError: The file is missing or damaged, or has other scores or infinite values.
    """
    with explain_damage(path, remedy=AGAIN):
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {}).get(DETECTOR_FACTS, "{}"))
        tables: dict[str, dict[str, Any]] = defaultdict(dict)
        for key, array in load_file(path).items():
            if not np.isfinite(array).all():
                raise ValueError("an array is not finite")
            owner, _, name = key.rpartition("/")
            tables[owner][name] = array
        if unknown := {*facts["names"]} - {*FEATURE_SCORES}:
            raise ValueError(f"unknown scores {unknown}")
        probes = {}
        for name in facts[PROBES]:
            table = tables[f"{PROBES}/{name}"]
            probes[name] = Probe(int(table["first"]), table["weight"], table["bias"])
        return FittedDetectors(
            directions=tables[""]["directions"],
            statistics={name: tables[name] for name in facts["names"]},
            probes=ClassProbes(probes=probes) if probes else None,
        )


def _blank_outputs(policy: Policy) -> Outputs:
    widths = (len(policy.classes), *policy.used_detectors.widths)
    logits, features, taps = (np.zeros((policy.certificate.min_batch, x)) for x in widths)
    return Outputs(
        logits=logits,
        features=features,
        taps=taps,
        predicted_losses=logits[:, 0],
        opinions=dict.fromkeys(policy.calibration.needs_opinions, logits),
        kind=policy.kind,
    )
