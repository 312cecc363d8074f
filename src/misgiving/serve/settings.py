"""Settings of the service."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from misgiving.errors import Parameter, require, require_choices

Role = Literal["send", "read", "operate", "metrics"]
"""Role of a key."""


def three_quarters(total: int) -> int:
    """The part of something shared that one client can take, at least 1.

    >>> three_quarters(256), three_quarters(1)
    (192, 1)
    """
    return max(1, total * 3 // 4)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Limits and behaviour of the service.

    Attributes:
        max_bytes: Largest file, in bytes.
        max_pixels: Largest image, in pixels.
        formats: Formats that are accepted, by Pillow's names.
        max_files: Files in one request.
        max_held_bytes: Memory for all requests in progress; one client (a key, or an address where
            there are no keys) can take three quarters of it, and of the queue.
        max_decoding_bytes: Memory for decoding one image; up to 16 are needed for each pixel.
        max_decoding_seconds: Processor time for decoding one image.
        queue: Images that may wait in the queue.
        timeout: Seconds for one request, including the time to receive it.
        threads: Threads of the model, and processes that decode; there is one more for clients that
            have used little of them. Default: one for each core.
        batch_size: Largest number of images that the model sees at once.
        recent_bytes: Memory for images that are kept for thumbnails.
        keep_images: Folder for image files. Default: they are not kept.
        keep_days: Delete cases after so many days, with their reviews and images, unless a blind
            case is open or an accepted answer was found wrong and nobody was told of it.
        audit_share: Share of the cases that is audited blind, drawn by group. It is fixed for the
            life of a policy; 0 turns audits off. Default: as the store has it for this policy, or
            for the last one, else 0.
        shadow: Decide and store, but tell everyone to defer, and have every case read blind: before
            the first policy of a site, or to compare another one.
        audit_days: Days after which a blind case without an answer is overdue.
        after_alarm: After an alarm of the audits, warn, or defer every image until it is lifted.
        look_again: Ask readers to look again where the model is certain of another class, after
            their blind answer.
        reviews: Cases that can be read in a day: the worklist has a line where they end.
        class_names: Long names by class, a JSON object or CSV lines such as MEL,melanoma. The page
            has them beside the classes.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "TIFF", "WEBP")
    max_files: int = 100
    max_held_bytes: int = 80_000_000
    max_decoding_bytes: int = 800_000_000
    max_decoding_seconds: float = 8.0
    queue: int = 256
    timeout: float = 30.0
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    batch_size: int = 16
    recent_bytes: int = 64_000_000
    keep_images: Path | None = None
    keep_days: float | None = None
    audit_share: float | None = None
    shadow: bool = False
    audit_days: float = 14.0
    after_alarm: Literal["warn", "defer"] = "defer"
    look_again: bool = False
    reviews: int | None = None
    class_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Needs Pillow, which --help does without.
        from misgiving.data.decoding import IMAGE_FORMATS, MAX_PIXELS, READ_ONLY

        for name in ("max_bytes", "max_pixels", "max_files", "queue", "threads", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "be at least 1")
        require(self, "timeout", 0 < self.timeout < math.inf, "be a number of seconds above 0")
        most, held = three_quarters(self.queue), three_quarters(self.max_held_bytes)
        require(
            self,
            "max_files",
            self.max_files <= most,
            *("be at most 3/4 of ", Parameter("queue"), f" ({most})"),
        )
        require(self, "max_bytes", self.max_bytes <= held, f"be at most {held}")
        formats = {*self.formats}
        writable = formats - {*READ_ONLY}  # of which a check writes an image
        is_possible = formats <= {*IMAGE_FORMATS} and writable
        names = f"{', '.join(IMAGE_FORMATS)}, and not {' or '.join(READ_ONLY)} alone"
        require(self, "formats", bool(is_possible), f"be some of {names}")
        require(self, "max_pixels", self.max_pixels <= MAX_PIXELS, f"be at most {MAX_PIXELS}")
        require_choices(self)
        if self.audit_share is not None:
            require(self, "audit_share", not self.shadow, "be left out with ", Parameter("shadow"))
            require(self, "audit_share", 0 <= self.audit_share <= 1, "be from 0 to 1")
        require(self, "reviews", self.reviews is None or self.reviews > 0, "be above 0")
        require(self, "audit_days", self.audit_days > 0, "be above 0")
        require(self, "keep_days", self.keep_days is None or self.keep_days > 0, "be above 0")
