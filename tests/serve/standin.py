"""A simple model whose decision follows from the mean colour, with and without a policy; cases."""

import csv
import io
import json
import math
import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from policies import certify, decided, policy_with

from misgiving.bundle.bundle import Bundle
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.decisions import Decision
from misgiving.deferral.sentences import certificate_sentences
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import ScoredCases
from misgiving.serve.app import address, create_app, listen, run
from misgiving.serve.case import Case, Review
from misgiving.serve.keys import Keys
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store
from misgiving.training.allocator import return_freed_memory

CLASSES = ("dark", "light")
PREPROCESSING = Preprocessing(image_size=16, color_constancy="none")
NO_TIMEOUT = 3600.0  # seconds; a machine that stalls for longer than the default is no failure
TARGETS = Targets(max_error=0.1, max_ood_false_alarms=0.05)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Standin(Bundle):
    """The probability of "light" is the share of blue; green images are OOD, red ones give NaN."""

    classes, card, fingerprint, policy = CLASSES, {"name": "standin"}, "f" * 64, None
    preprocessing, opinions = PREPROCESSING, {}
    __setattr__ = object.__setattr__  # tests change some

    def __init__(self):
        """Needs no graph."""

    def decide_inputs(self, inputs, **_):
        return [self.decision_of(model_input) for model_input in inputs]

    def decision_of(self, model_input):
        red, green, blue = (float(value) for value in model_input.mean(axis=(0, 1)))
        light = blue / 255
        if red > blue + 50:
            light = float("nan")
        error = min(light, 1 - light)
        ood = green > blue + 50
        decision = "ood" if ood else "accept" if error < 0.2 else "defer"
        known = not math.isnan(light)
        return Decision(
            predicted_class=CLASSES[int(light >= 0.5)],
            probability=max(light, 1 - light),
            probabilities={"dark": 1 - light, "light": light},
            error_probability=error if known else None,
            expected_loss=-float(np.log(1 - error)) if error < 1 else None,
            predicted_loss=None,
            ood_p_value=0.001 if ood else 0.5,
            decision=decision,
            reason=f"probability of error {error:.2f}",
            acceptance_score=1 - error if known else None,
            ood_score=float(-green),
        )


def cases_like_the_standins(count, seed):
    """Scores from 0.5 to 1; higher ones are less often wrong, and most images are not green."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.5, 1, count)
    ood_scores, risks = -random.uniform(0, 255, count), 1.6 * (1 - scores) ** 1.5
    wrong, labels = random.random(count) < risks, random.integers(2, size=count)
    return ScoredCases(
        scores=scores,
        ood_scores=ood_scores,
        error_probabilities=1 - scores,
        predicted=np.where(wrong, 1 - labels, labels),
        labels=labels,
        acceptable=np.ones(count, dtype=bool),
    )


def made_policy(targets=TARGETS, classes=CLASSES, guarantee="confident", **fields):
    sets = cases_like_the_standins(400, 1), cases_like_the_standins(500, 2)
    certificate = certify(*sets, targets, guarantee, classes)
    return policy_with(certificate, score="predicted_loss", **fields)


class Calibrated(Standin):
    """Decides by its policy; its scores still follow from the mean colour."""

    def __init__(self, deferral=None):
        self.deferral = deferral or made_policy()
        self.policy = self.deferral.policy_
        self.card = self.card | {"targets": certificate_sentences(self.deferral)}

    def decision_of(self, model_input):
        decision = super().decision_of(model_input)
        numbers = decision.acceptance_score, decision.ood_score, decision.error_probability
        by_policy = decided(
            self.deferral,
            *(math.nan if number is None else number for number in numbers),
            predicted=CLASSES.index(decision.predicted_class),
            probabilities=np.array([*decision.probabilities.values()], dtype=float),
        )
        changed = ("decision", "reason", "ood_p_value")
        changed = {name: getattr(by_policy, name) for name in changed}
        return decision.model_copy(update=changed | {"answer": decision.predicted_class})


def picture(level=0.5, size=(40, 30), kind="PNG", colour=None):
    """An encoded image of one grey level, or of a colour."""
    shade = colour or (round(255 * level),) * 3
    file = io.BytesIO()
    Image.new("RGB", size, shade).save(file, kind)
    return file.getvalue()


def sent(client, data=None, name="lesion.png"):
    """The case of an image that is sent to a service."""
    files = {"files": (name, picture() if data is None else data)}
    return client.post("/decisions", files=files).json()["results"][0]["case"]


def with_key(place, role, name="Ann"):
    """Headers with a new key to a store."""
    with closing(Store.open(str(place))) as store:
        key, _ = Keys(store).add(name, role)
    return {"Authorization": f"Bearer {key}"}


def rows_of(response):
    """Rows of a CSV file that a service sends."""
    return list(csv.DictReader(io.StringIO(response.text, newline="")))


def case(number, **values):
    """A case at this second; everything else is random, with many ties."""
    drawn = random.Random(number)
    error = drawn.choice([0.1, 0.2, 0.3, None])
    return Case(
        **{
            "id": f"{number:032x}",
            "received": START + timedelta(seconds=number),
            "name": f"{number}.jpg",
            "predicted_class": drawn.choice(["MEL", "NV"]),
            "probability": 0.7,
            "probabilities": {"MEL": 0.7, "NV": 0.3},
            "error_probability": error,
            "expected_loss": 0.5,
            "predicted_loss": -1.5,
            "ood_p_value": 0.04,
            "decision": drawn.choice(["accept", "defer", "ood"]),
            "reason": "because",
            "acceptance_score": 1 / 3,
            "ood_score": -2.0,
            "sha256": f"{number:064x}",
            "pixels": f"{number:064x}",
            "model_fingerprint": "b" * 64,
            "policy_fingerprint": None,
            "image_kept": False,
        }
        | values
    )


def review(note, **values):
    fixed = {"verdict": "agree", "final_class": "MEL", "reviewer": "A. B.", "reviewed_at": START}
    return Review(note=note, **fixed | values)


def serve(place, options):
    """Serve the stand-in with settings, as JSON; prints its URL."""
    given = json.loads(options)
    if "keep_images" in given:
        given["keep_images"] = Path(given["keep_images"])
    settings = ServiceSettings(**{"threads": 1, "timeout": NO_TIMEOUT} | given)
    listener = listen("127.0.0.1", 0, location=place)
    return_freed_memory()
    model = Calibrated() if settings.audit_share else Standin()
    app = create_app(model, Store.open(place), settings)
    print(address(listener), flush=True)
    run(app, listener)
