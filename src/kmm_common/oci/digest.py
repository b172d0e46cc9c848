"""Digests: sha256:<64 hex digits>, and nothing weaker."""

import hashlib
import re

_DIGEST = re.compile(r"sha256:[a-f0-9]{64}", re.ASCII)


def is_digest(text: str) -> bool:
    """Tell whether the text is a digest that KMM relies on."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(content: bytes) -> str:
    """Return the digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def hex_of(digest: str) -> str:
    """Return the hex digits of a digest."""
    return digest.removeprefix("sha256:")
