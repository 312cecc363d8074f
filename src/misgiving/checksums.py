"""Checksums of files, of text and of JSON values."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from misgiving.files import check_ordinary


def sha256_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_chunks(chunks: Iterable[bytes]) -> str:
    """SHA-256 of data that need not be in memory at once."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 of text lines, each of which ends with a line feed."""
    return sha256_of_chunks(f"{line}\n".encode() for line in lines)


def sha256_of_json(content: Any) -> str:
    """SHA-256 of a JSON value, regardless of the order of its keys; NaN is a ValueError."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256_of(text.encode())


def sha256_of_file(path: Path) -> str:
    """SHA-256 of an ordinary file's content."""
    check_ordinary(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
