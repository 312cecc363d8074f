"""Cases and their reviews: records, the tables that store them, and queries."""

import hmac
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, get_origin

import sqlalchemy as sa
from pydantic import BaseModel, Field, PlainSerializer
from sqlalchemy import Column, Text, func

from misgiving.deferral.decisions import Decision, Outcome
from misgiving.errors import without_none

ANY_READER = "\0"  # sees what any reader has answered; no client can give this name
READER_NAME = "Name of who asks: a case is blind until this reader has answered."
FIRST_PLACE = 3.0  # before all error probabilities
CASES_PER_DRAW = 20  # of a group, of which the first are a unit of the audits
MAX_NUMBER = 2**63 - 1  # that a database can hold
MAX_NOTES = 100  # of one reader on a case, and that somebody was told of it
OBJECTIONS = ("override", "none")  # verdicts that find the model's answer wrong
CORRECTION_TIME = timedelta(seconds=30)  # in which a reader's next word makes the last one a slip


def folded(name: str) -> str:
    """A name for comparisons: in lower case, and letters with accents as one character."""
    return unicodedata.normalize("NFC", name.casefold())


def uniform(secret: str, text: str) -> float:
    """A number from 0 to 1 that only the secret and the text tell."""
    digest = hmac.digest(secret.encode(), text.encode(), "sha256")
    return int.from_bytes(digest[:8]) / 2**64


def zulu(time: datetime) -> str:
    """Format in UTC and with fixed width, so that texts sort as times do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(zulu)]
StorableText = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # PostgreSQL cannot store NUL
Verdict = Annotated[
    Literal["agree", "override", "none", "ungradable", "unsure", "withdraw"],
    Field(
        description="On the model's class; or that it is none of the classes, that the image "
        "cannot be judged, or that the reviewer is unsure or takes back the last review."
    ),
]
OverrideReason = Literal["image quality", "not visible", "atypical", "other finding", "other"]
Standing = Literal[
    "right", "wrong", "ungradable", "unconfirmed"
]  # of an answer, by those of blind readers


class Review(BaseModel):
    """A person's verdict on a case."""

    verdict: Verdict
    final_class: str | None = Field(description="The class after this review; null: it names none.")
    override_reason: OverrideReason | None = Field(
        default=None, description="Of a reviewer who chose another class."
    )
    note: str = Field(description="Free text; may be empty.")
    reviewer: str = Field(description="Name as given; may be empty.")
    reviewed_at: Moment = Field(
        description="Later than the case's earlier reviews and notes, even if a clock is behind."
    )
    blind: bool = Field(
        default=False, description="Given before its reviewer could see the model's answer."
    )


def blind_answers(reviews: Sequence[Review]) -> list[Review]:
    """The last blind answer of each reader: one that was corrected in time does not count."""
    return [*{folded(each.reviewer.strip()): each for each in reviews if each.blind}.values()]


def classes_against(reviews: Sequence[Review]) -> list[str | None]:
    """Classes of the blind answers that find the model's wrong; None: none of the classes."""
    against = [each for each in blind_answers(reviews) if each.verdict in OBJECTIONS]
    return [review.final_class for review in against]


def standing(reviews: Sequence[Review]) -> Standing | None:
    """Judge a model's answer by the blind answers to its case; None without any.

    The first reader who agrees settles it; after one who does not, two of a kind do.
    """
    verdicts = [review.verdict for review in blind_answers(reviews)]
    right, wrong = verdicts.count("agree"), len(classes_against(reviews))
    if wrong >= 2:
        return "wrong"
    if right >= 2 or (right and not wrong):
        return "right"
    if verdicts.count("ungradable") >= 2:
        return "ungradable"
    return "unconfirmed" if verdicts else None


def without_withdrawn(reviews: Sequence[Review]) -> list[Review]:
    """The reviews that nobody took back, oldest first."""
    lasting = list[Review]()
    for review in reviews:
        if review.verdict == "withdraw":
            lasting.pop()
        else:
            lasting.append(review)
    return lasting


class Told(BaseModel):
    """A note that somebody was told of an accepted answer that was found wrong."""

    told_by: str = Field(description="Name of the operator who answers for it.")
    told_at: Moment
    note: str = Field(description="Who was told, and how; may be empty.")


class BlindCase(BaseModel):
    """A case whose decision this reader may not see before answering."""

    id: str = Field(description="Ids increase with time.")
    received: Moment
    name: str = Field(description="File name as sent. Show it as text: it is not escaped.")
    image_kept: bool = Field(description="True if the service stores the file.")
    blind: Literal[True] = True
    position: float = Field(description="Random place among the blind cases, which come first.")
    classes: list[str] = Field(description="From which the reader chooses.")
    metadata: dict[str, Any] | None = Field(default=None, description="As its sender gave it.")
    answer: Review | None = Field(
        default=None,
        description="The reader's own, which can be corrected until this reader opens another "
        "case, or 30 seconds have passed. Only then does it count and the decision appear.",
    )


class Case(Decision):
    """The decision for one image; null where the model gives no value or no finite number."""

    id: str = Field(description="Ids increase with time.")
    received: Moment
    name: str = Field(description="File name as sent. Show it as text: it is not escaped.")
    group: str | None = Field(default=None, description="Lesion or patient, as its sender said.")
    value: str | None = Field(
        default=None,
        description="Of the column of which each value has a threshold, as its sender said.",
    )
    sha256: str = Field(description="Hash of the file.")
    model_fingerprint: str
    policy_fingerprint: str | None
    image_kept: bool = Field(description="True if the service stores the file.")
    place: int | None = Field(default=None, description="In the list of `serve --cases`, from 1.")
    remark: str | None = Field(default=None, description="What this list says of the image.")
    metadata: dict[str, Any] | None = Field(
        default=None, description="As its sender gave it; it is shown, and decides nothing."
    )
    shadow: bool = Field(
        default=False, description="Everyone is told to defer, whatever the policy decided."
    )
    reviewed: bool = False
    review: Review | None = Field(default=None, description="The last review.")
    # No response has these: some would tell which blind cases are accepted.
    sent_by: str | None = Field(default=None, exclude=True)  # name of the key
    pixels: str = Field(default="", exclude=True)  # hash of the image at the size of the model
    is_copy: bool = Field(default=False, exclude=True)  # of an image that the policy has seen
    repeat: int | None = Field(default=None, exclude=True)  # earlier cases of its group
    audited: bool = Field(default=False, exclude=True)
    blind: bool = Field(default=False, exclude=True)  # for the reader who asks
    position: float | None = Field(default=None, exclude=True)

    def as_told(self) -> "Case":
        """The case as everyone is told it."""
        return self.model_copy(update=IN_SHADOW) if self.shadow else self

    def as_sent(self, sender: str) -> "Case":
        """The case as a sender is told it: not whether it is blind, as most reviewed ones are.

        Nor what another sender said of the same file.
        """
        update: dict[str, Any] = {"blind": False, "reviewed": False, "review": None}
        if self.sent_by != sender:
            update |= {"name": "", "group": None, "metadata": None}
        return self.model_copy(update=update)

    @property
    def listed_decision(self) -> Outcome:
        """The decision in the worklist, where blind cases lie among the deferred."""
        return "defer" if self.blind or self.shadow else self.decision

    @property
    def expected_error(self) -> float:
        """Sort key of the worklist: the error probability, also where it is not shown.

        Blind cases come first, at random places, and then those without any finite probability.
        """
        if self.blind and self.position is not None:
            return FIRST_PLACE + self.position
        probability = self.probabilities.get(self.predicted_class)
        if self.error_probability is not None:
            return self.error_probability
        return 2.0 if probability is None else 1.0 - probability


class CaseWithHistory(Case):
    """A case with a page of its reviews."""

    reviews: list[Review] = Field(description="The latest before the cursor; oldest first.")
    cursor: str | None = Field(default=None, description="Of the reviews before these, if any.")


class CaseQuery(BaseModel, populate_by_name=True):
    """Conditions on cases, and their order; None or empty means no condition."""

    decisions: list[Outcome] = Field(
        default=[], alias="decision", description="One or more decisions."
    )
    reviewed: bool | None = Field(default=None, description="Has a review.")
    mine: bool = Field(default=False, description="Only cases that the reader who asks has read.")
    predicted_class: StorableText | None = Field(
        default=None, alias="class", max_length=255, description="The predicted class."
    )
    group: StorableText | None = Field(
        default=None, max_length=255, description="Lesion or patient; finds no blind case."
    )
    name: StorableText | None = Field(
        default=None,
        max_length=255,
        description="Part of the name, in upper or lower case.",
    )
    arrived_after: int | None = Field(
        default=None, ge=0, le=MAX_NUMBER, description="Arrived after an earlier `last_arrival`."
    )
    reviewed_after: int | None = Field(
        default=None, ge=0, le=MAX_NUMBER, description="Reviewed after an earlier `last_review`."
    )
    reader: StorableText = Field(default="", max_length=200, description=READER_NAME)
    order: Literal["expected_error", "newest", "listed"] = Field(
        default="expected_error",
        description="Blind cases and then the most likely errors, newest first, or as in the list "
        "of `serve --cases`.",
    )


IN_SHADOW = {"decision": "defer", "reason": "in shadow, every image is deferred"}
"""Values that everyone is told of a case that was decided in shadow."""
LAST_PLACE = 2**31 - 1  # of a case that is in no list
STORE_TABLES = sa.MetaData()


def _number() -> Column[int]:
    integer = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return Column("number", integer, sa.Identity(always=True), primary_key=True)


def _columns(model: type[BaseModel]) -> Iterator[Column[Any]]:
    """A column for each field that is no record of another table."""
    types = {bool: sa.Boolean, int: sa.Integer, float: sa.Double, dict: sa.JSON}
    for name, field in model.model_fields.items():
        kind = without_none(field.annotation)
        if kind is not Review:
            column = types.get(get_origin(kind) or kind, Text)
            optional = kind is not field.annotation
            yield Column(name, column, nullable=optional, primary_key=name == "id")


CASES = sa.Table(
    "cases",
    STORE_TABLES,
    *_columns(Case),
    Column("expected_error", sa.Double, nullable=False),
    Column("folded_name", Text, nullable=False),
    Column("listed_decision", Text, nullable=False),
    sa.Index("cases_by_expected_error", "expected_error", "id"),
    sa.Index("cases_by_decision", "listed_decision", "reviewed", "blind", "id"),
    sa.Index(
        "cases_by_class",
        *("predicted_class", "expected_error", "id", "listed_decision", "reviewed", "blind"),
    ),
    sa.Index("cases_by_audit", "policy_fingerprint", "audited", "listed_decision", "received"),
    sa.Index("cases_by_name", "folded_name", "id"),  # has all that a search reads
    sa.Index("cases_by_group", "group", "policy_fingerprint", "shadow", "repeat"),
    sa.Index("ix_cases_sha256", "sha256"),
    sa.Index("cases_by_pixels", "pixels", "is_copy"),
    sa.Index("cases_by_repeat", "policy_fingerprint", "repeat", "group"),
)
# A number in the query itself, as SQLite does not find the index by a parameter.
LISTED = -func.coalesce(CASES.c.place, sa.literal_column(str(LAST_PLACE)))
sa.Index("cases_by_place", LISTED, CASES.c.id)


def _review_columns() -> Iterator[Column[Any]]:
    yield _number()
    yield Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False)
    yield from _columns(Review)
    yield Column("folded_reviewer", Text, nullable=False)


REVIEWS = sa.Table(
    "reviews",
    STORE_TABLES,
    *_review_columns(),
    sa.Index("reviews_by_case", "case_id", "number"),
    sa.Index("reviews_by_reader", "folded_reviewer", "blind", "case_id"),
    sqlite_autoincrement=True,
)
PENDING = sa.Table(
    "pending_answers",
    STORE_TABLES,
    *_review_columns(),
    Column("settles_at", Text, nullable=False),
    sqlite_autoincrement=True,
)
"""Blind answers that their readers can still correct; all of them become reviews."""

ARRIVALS = sa.Table(
    "arrivals",
    STORE_TABLES,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False, unique=True),
    sqlite_autoincrement=True,
)
"""Cases in the order of their arrival in the database: clocks of several machines differ."""

AUDITS = sa.Table(
    "audits",
    STORE_TABLES,
    Column("policy_fingerprint", Text, primary_key=True),
    Column("share", sa.Double, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("secret", "since")),
    Column("target", sa.Double),
    Column("among", Text),
)
"""The share of a policy's cases that is audited, for its life, and the key that draws them."""

DELETED = sa.Table(
    "deleted_cases",
    STORE_TABLES,
    Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, Text, nullable=False) for name in ("policy_fingerprint", "received")),
    *(Column(name, Text) for name in ("group", "standing", "answered")),
    Column("decision", Text, nullable=False),
    *(Column(name, sa.Boolean, nullable=False) for name in ("audited", "tested", "shadow")),
    *(Column(name, sa.Double) for name in ("acceptance_score", "ood_score")),
)
"""Outcomes and scores of deleted cases, for audits and drift tests, in the order of arrival."""

TOLD = sa.Table(
    "told",
    STORE_TABLES,
    _number(),
    Column("case_id", sa.ForeignKey(CASES.c.id), nullable=False),
    *_columns(Told),
    sa.Index("told_by_case", "case_id", "number"),
    sqlite_autoincrement=True,
)
"""Notes on accepted answers that were found wrong; none is ever changed."""

RESUMPTIONS = sa.Table(
    "resumptions",
    STORE_TABLES,
    _number(),
    Column("policy_fingerprint", sa.ForeignKey(AUDITS.c.policy_fingerprint), nullable=False),
    *(Column(name, Text, nullable=False) for name in ("reason", "resumed_at")),
    sqlite_autoincrement=True,
)
"""By which an operator lifted an alarm of the audits."""

KEYS = sa.Table(
    "keys",
    STORE_TABLES,
    _number(),
    *(Column(name, Text, nullable=False) for name in ("name", "role", "made_at")),
    Column("hash", Text, nullable=False, unique=True),
    Column("revoked_at", Text),
    sqlite_autoincrement=True,
)
SESSIONS = sa.Table(
    "sessions",
    STORE_TABLES,
    Column("hash", Text, primary_key=True),
    Column("key_number", sa.ForeignKey(KEYS.c.number), nullable=False),
    Column("used_at", Text, nullable=False),
)
"""Sessions of browsers that have signed in with a key."""

PINGS = sa.Table("pings", STORE_TABLES, Column("time", Text, primary_key=True))
"""Written to check that the database stores anything."""
