"""Records that the store keeps and the API returns."""

import math
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from misgiving.decisions.decision import Outcome

NO_NUL = r"^[^\x00]*$"  # PostgreSQL cannot store NUL


def zulu(time: datetime) -> str:
    """Format in UTC and with fixed width, so that texts sort as times do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time must be in the years 1 to 9999 in UTC") from error


def _finite_or_none(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Moment = Annotated[datetime, PlainSerializer(zulu)]
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
Number = Annotated[float | None, BeforeValidator(_finite_or_none)]


class Record(BaseModel):
    """An immutable value."""

    model_config = ConfigDict(frozen=True)


Verdict = Literal["agree", "override", "none", "ungradable", "unsure"]
VERDICT = (
    "On the model's class; or that it is none of the classes, that the image cannot be judged, or "
    "that the reviewer is unsure."
)


class Review(Record):
    """A person's verdict on a case."""

    verdict: Verdict = Field(description=VERDICT)
    final_class: str | None = Field(description="The class after this review; null: it names none.")
    note: str = Field(description="Free text; may be empty.")
    reviewer: str = Field(description="Name as given; may be empty.")
    reviewed_at: Moment = Field(
        description="Later than that of the case's earlier reviews, even if a clock is behind."
    )


class Case(Record):
    """The decision for one image; null where the model gives no value or no finite number."""

    id: str = Field(description="Ids increase with time.")
    received: Moment
    name: str = Field(description="File name as sent. Show it as text: it is not escaped.")
    predicted_class: str
    probability: Number = Field(description="Of the predicted class.")
    probabilities: dict[str, Number] = Field(description="By class.")
    error_probability: Number = Field(description="Probability that the predicted class is wrong.")
    expected_loss: Number = Field(description="Cross-entropy, in nats.")
    predicted_loss: Number = Field(
        description="Higher means that the prediction is more likely wrong; has no unit."
    )
    ood_p_value: Number = Field(
        description="Share of images like the calibration set that look at least as unusual."
    )
    decision: Outcome
    reason: str = Field(description="Explanation of the decision.")
    acceptance_score: Number = Field(description="Higher means more likely correct.")
    ood_score: Number = Field(description="Lower means more likely out-of-distribution.")
    sha256: str = Field(description="Hash of the file.")
    model_fingerprint: str
    policy_fingerprint: str | None
    image_kept: bool = Field(description="True if the service stores the file.")
    place: int | None = Field(default=None, description="In the list of `serve --cases`, from 1.")
    remark: str | None = Field(default=None, description="What this list says of the image.")
    reviewed: bool = False
    review: Review | None = Field(default=None, description="The last review.")

    @property
    def doubt(self) -> float:
        """Sort key of the worklist: the error probability, or the closest value to it.

        A case without any finite probability comes first.
        """
        if self.error_probability is not None:
            return self.error_probability
        return 2.0 if self.probability is None else 1.0 - self.probability


class CaseWithHistory(Case):
    """A case with all its reviews."""

    reviews: list[Review] = Field(description="Oldest first.")


class DecidedCase(Record):
    """The values of a case that the drift tests use."""

    number: int = Field(description="In the order of arrival.")
    received: Moment
    decision: Outcome
    acceptance_score: Number
    ood_score: Number
    sha256: str
