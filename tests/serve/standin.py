"""A simple model for tests: its decision follows from the mean colour of an image."""

import io
import math

import numpy as np
from PIL import Image

from misgiving.bundle.bundle import Bundle
from misgiving.data.decoding import decode
from misgiving.data.preprocessing import Preprocessing
from misgiving.deferral.decisions import Decision

CLASSES = ("dark", "light")
PREPROCESSING = Preprocessing(image_size=16, color_constancy="none")
KEY = "a-key-of-the-tests-0123456789"
NO_TIMEOUT = 3600.0  # seconds; a machine that stalls for longer than the default is no failure


class Standin(Bundle):
    """The probability of "light" is the share of blue; green images are OOD, red ones give NaN."""

    classes, card, fingerprint, deferral = CLASSES, {"name": "standin"}, "f" * 64, None
    __setattr__ = object.__setattr__  # tests change some

    def __init__(self):
        """Needs no graph."""

    def model_input(self, data, name):
        return PREPROCESSING(decode(data, name))

    def decide_inputs(self, inputs):
        return [decision_of(model_input) for model_input in inputs]


def decision_of(model_input):
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
