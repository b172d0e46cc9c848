"""Whether the daemon has a session with the control plane, noted for `kmm-daemon status`."""

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from kmm_common.clock import Clock, rfc3339
from kmm_common.logs import log

logger = logging.getLogger(__name__)

NAME = "session.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionNote:
    """With or without a session, and since when."""

    connected: bool
    since: str
    """RFC 3339."""
    problem: str = ""
    """Why there is none, or was none at the last attempt."""


class SessionNotes:
    """Keeps the note in the run directory; a note that cannot be written disturbs nothing."""

    def __init__(self, run_dir: Path, clock: Clock) -> None:
        self._path = run_dir / NAME
        self._clock = clock
        self._note: SessionNote | None = None

    def session(self, *, connected: bool, problem: str = "") -> None:
        """Note what there is now; `since` stays as long as it is the same."""
        before = self._note
        same = before is not None and before.connected == connected
        since = before.since if before and same else rfc3339(self._clock.now())
        note = SessionNote(connected=connected, since=since, problem=problem)
        if note != before:
            self._note = note
            self._write(note)

    def _write(self, note: SessionNote) -> None:
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_bytes(to_json(note))
            partial.replace(self._path)
        except OSError as error:
            log(logger, logging.WARNING, "session not noted", error=str(error))


def read(run_dir: Path) -> SessionNote | None:
    """Return the note of the last daemon that ran; None if there is none that can be read."""
    try:
        return TypeAdapter(SessionNote).validate_json((run_dir / NAME).read_bytes())
    except (OSError, ValidationError):
        return None
