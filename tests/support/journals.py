"""Journals that a daemon must not replay, made of one that it would."""

import json
from collections.abc import Callable

from kmm_daemon import journal


def _changed(content: bytes, **fields: object) -> bytes:
    return json.dumps({**json.loads(content), **fields}).encode()


def newer(content: bytes) -> bytes:
    """Return the journal as a daemon of a later version would stamp it."""
    return _changed(content, format=journal.FORMAT + 1)


UNUSABLE: dict[str, Callable[[bytes], bytes]] = {
    "other boot": lambda content: _changed(content, boot_id="boot-0"),
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "bit flip": lambda content: content.replace(b'"generation": ', b'"generation": 1', 1),
    "newer format": newer,
    "no text": lambda content: b"\xff\xfe" + content,
    "no object": lambda content: b"[]",
}
