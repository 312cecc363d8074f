"""Cases and reviews for the tests of the store."""

import random
from datetime import UTC, datetime, timedelta

from misgiving.serve.schemas import Case, Review

START = datetime(2026, 1, 1, tzinfo=UTC)
CHOICES = ("accept", "defer", "ood")


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
            "decision": drawn.choice(CHOICES),
            "reason": "because",
            "acceptance_score": 1 / 3,
            "ood_score": -2.0,
            "sha256": f"{number:064x}",
            "model_fingerprint": "b" * 64,
            "policy_fingerprint": None,
            "image_kept": False,
        }
        | values
    )


def review(note, **values):
    return Review(
        **{
            "verdict": "agree",
            "final_class": "MEL",
            "note": note,
            "reviewer": "A. B.",
            "reviewed_at": START,
        }
        | values
    )
