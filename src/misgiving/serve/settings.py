"""What the service allows, and how it works."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from misgiving.data.decoding import MAX_PIXELS
from misgiving.errors import UsageError

SHORTEST_KEY = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and habits of the service.

    Attributes:
        max_bytes: Of one file.
        max_pixels: Of one image, as its header says.
        max_files: In one request.
        max_held_bytes: Of all requests that are being answered, together.
        max_decoded_bytes: Of all images that are being decoded, together; one that takes more is
            decoded alone.
        queue: Images that may wait for their answer.
        timeout: Seconds for one request, the sending of its body included.
        threads: That decode images.
        batch_size: Images that the model sees at once, at most.
        linger: Seconds that a first image waits for others to join its batch.
        recent_bytes: Of squares that are kept in memory for thumbnails.
        keep_images: Where image files are kept; None: they are not.
        api_key: What clients must send; None: nothing, and only this machine may ask.
        log_names: Whether log lines name files.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_files: int = 100
    max_held_bytes: int = 500_000_000
    max_decoded_bytes: int = 1_500_000_000
    queue: int = 256
    timeout: float = 30.0
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    batch_size: int = 16
    linger: float = 0.002
    recent_bytes: int = 64_000_000
    keep_images: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    log_names: bool = False

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_files", "queue", "threads", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{_option(name)} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.timeout < math.inf:
            raise UsageError(f"--timeout must be a number of seconds above 0, got {self.timeout:g}")
        self._refuse_what_never_fits()
        if self.api_key is not None and len(self.api_key) < SHORTEST_KEY:
            raise UsageError(
                f"the API key is shorter than {SHORTEST_KEY} characters; make one with: "
                "openssl rand -hex 32"
            )

    def _refuse_what_never_fits(self) -> None:
        if self.max_files > self.queue:
            raise UsageError(
                f"--max-files {self.max_files} would never fit into --queue {self.queue}; "
                "lower the first or raise the second"
            )
        if self.max_bytes > self.max_held_bytes:
            raise UsageError(
                f"--max-bytes must be at most {self.max_held_bytes}, got {self.max_bytes}"
            )
        if self.max_pixels > MAX_PIXELS:
            raise UsageError(f"--max-pixels must be at most {MAX_PIXELS}, got {self.max_pixels}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
