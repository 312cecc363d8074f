"""Settings of the service."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from misgiving.configuration import option, require
from misgiving.errors import UsageError

MIN_KEY_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and behaviour of the service.

    Fields without an option:

    - `max_held_bytes`: memory for all requests in progress.
    - `max_decoded_bytes`: memory for all images that are being decoded; a larger one is decoded
      alone.
    - `batch_size`: images that the model sees at once, at most.
    - `linger`: seconds that a first image waits for others to join its batch.
    - `recent_bytes`: memory for images that are kept for thumbnails.
    - `api_key`: the key that clients must send; None: only this machine is served, without a key.
    """

    max_bytes: int = option(20_000_000, "Largest file, in bytes.", panel="Limits")
    max_pixels: int = option(
        50_000_000,
        "Largest image, in pixels. Decoding takes up to 30 bytes for each pixel; images wait for "
        "memory.",
        panel="Limits",
    )
    max_files: int = option(100, "Files in one request.", panel="Limits")
    max_held_bytes: int = 500_000_000
    max_decoded_bytes: int = 1_500_000_000
    queue: int = option(256, "Images that may wait in the queue.", panel="Limits")
    timeout: float = option(
        30.0, "Seconds for one request, including the time to receive it.", panel="Limits"
    )
    threads: int = option(
        default_factory=lambda: os.cpu_count() or 1,
        text="Threads that decode images, and threads of the model. Default: one for each core.",
        panel="Machine",
    )
    batch_size: int = 16
    linger: float = 0.002
    recent_bytes: int = 64_000_000
    keep_images: Path | None = option(
        None, "Folder for image files. Default: they are not kept.", metavar="FOLDER"
    )
    api_key: str | None = field(default=None, repr=False)
    log_names: bool = option(False, "Log the names of files as well.")

    def __post_init__(self) -> None:
        from misgiving.data.decoding import MAX_PIXELS  # needs Pillow, which --help does without

        for name in ("max_bytes", "max_pixels", "max_files", "queue", "threads", "batch_size"):
            require(self, name, getattr(self, name) >= 1, "be at least 1")
        require(self, "timeout", 0 < self.timeout < math.inf, "be a number of seconds above 0")
        require(self, "max_files", self.max_files <= self.queue, f"fit into `queue` ({self.queue})")
        held = self.max_held_bytes
        require(self, "max_bytes", self.max_bytes <= held, f"be at most {held}")
        require(self, "max_pixels", self.max_pixels <= MAX_PIXELS, f"be at most {MAX_PIXELS}")
        if self.api_key is not None and len(self.api_key) < MIN_KEY_LENGTH:
            raise UsageError(
                f"the API key is shorter than {MIN_KEY_LENGTH} characters; make one with: "
                "openssl rand -hex 32"
            )
