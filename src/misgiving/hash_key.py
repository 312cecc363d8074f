"""The key by which identities, such as a patient's, are hashed before they become groups."""

import hmac
import os
import secrets
import warnings
from pathlib import Path

from misgiving.errors import DataError
from misgiving.files import locked, whole_file

KEY_BYTES = 32
HASHED_LETTERS = 32  # of a hashed identity: 128 bits


def hash_key_file() -> Path:
    """File of the key: MISGIVING_HASH_KEY, or misgiving/hash.key in the user's settings."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(os.environ.get("MISGIVING_HASH_KEY") or folder / "misgiving" / "hash.key")


def hashed(identity: str) -> str:
    """HMAC-SHA256 of an identity, empty for none: only who has the key can find out whose it is.

    The key is made at first use. With another, the same identity has another hash.

    Raises:
        DataError: The key is too short.
    """
    if not identity:
        return ""
    if not (file := hash_key_file()).exists():
        _make(file)
    key = file.read_bytes().strip()
    if len(key) < KEY_BYTES:
        raise DataError(f"{file}: has fewer than {KEY_BYTES} bytes; give a longer key")
    content = identity.encode(errors="surrogatepass")
    return hmac.new(key, content, "sha256").hexdigest()[:HASHED_LETTERS]


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_suffix(".lock")):
        if file.exists():  # made by another process meanwhile
            return
        with whole_file(file, mode=0o600) as partial:
            partial.write_text(secrets.token_hex(KEY_BYTES))
    warnings.warn(
        f"made {file}, the key by which patients are hashed; keep it, and give every machine the "
        "same (MISGIVING_HASH_KEY)",
        stacklevel=2,
    )
