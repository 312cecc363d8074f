"""What is kept of an image, and what the API says of it: one record for both."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

Outcome = Literal["accept", "defer", "ood"]
Share = Annotated[float, Field(ge=0, le=1)]


def zulu(moment: datetime) -> str:
    """In UTC, of one width, so that texts are ordered as moments are."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(zulu)]


class Record(BaseModel):
    """A value that does not change."""

    model_config = ConfigDict(frozen=True)


class Review(Record):
    """What a person said of a case."""

    verdict: Literal["agree", "override"] = Field(description="Whether the model's class stands.")
    final_class: str = Field(description="The class that holds after this review.")
    note: str = Field(description="In the reviewer's words; may be empty.")
    reviewer: str = Field(description="Who it was, as given; may be empty.")
    reviewed_at: Moment


class Case(Record):
    """One image that was answered; null where the model says nothing, or no finite number."""

    id: str = Field(description="Ids increase with time.")
    received: Moment
    name: str = Field(description="As the sender called it. Show it as text: it is not escaped.")
    predicted_class: str
    probability: float | None = Field(description="Of the predicted class.")
    probabilities: dict[str, float | None] = Field(description="Of each class.")
    error_probability: float | None = Field(description="That the predicted class is wrong.")
    expected_loss: float | None = Field(description="Cross-entropy, in nats.")
    predicted_loss: float | None = Field(description="Higher = rather wrong; has no unit.")
    ood_p_value: float | None = Field(
        description="Share of images like the calibration cases that look as unusual or more so."
    )
    decision: Outcome
    reason: str = Field(description="Why, in words.")
    score: float | None = Field(description="What is accepted by; higher = rather right.")
    ood_score: float | None = Field(description="Lower = more likely out-of-distribution.")
    sha256: str = Field(description="Of the file.")
    model_fingerprint: str
    policy_fingerprint: str | None
    image_kept: bool = Field(description="Whether the file can be fetched.")
    reviewed: bool = False
    review: Review | None = Field(default=None, description="The last one.")

    @property
    def doubt(self) -> float:
        """What the worklist is ordered by: the probability of error, or what comes closest to it.

        An answer without any finite probability comes before all others.
        """
        if self.error_probability is not None:
            return self.error_probability
        return 2.0 if self.probability is None else 1.0 - self.probability


class CaseWithHistory(Case):
    """A case with all that was said of it."""

    reviews: list[Review] = Field(description="All reviews, the first one first.")


class Decided(Record):
    """What drift is told by."""

    number: int = Field(description="In the order of arrival.")
    received: Moment
    decision: Outcome
    score: float | None
    ood_score: float | None
    sha256: str
