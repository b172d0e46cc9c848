"""The ledger of firmware files on disk: written whole, synced, never fatal when damaged."""

import json
import logging
import os
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kmm_common.logs import log
from kmm_daemon.kernel.ledger import Ledger

logger = logging.getLogger(__name__)

FORMAT = 1


class LedgerFile:
    """Blocking; to be used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Ledger:
        """Return the ledger; an empty one if there is none that can be used."""
        try:
            stamped = json.loads(self._path.read_bytes())
            if not isinstance(stamped, dict) or stamped.get("format") != FORMAT:
                raise ValueError("of another format")
            return TypeAdapter(Ledger).validate_python(stamped.get("ledger"))
        except FileNotFoundError:
            return Ledger()
        except (ValueError, ValidationError, RecursionError) as error:
            self._set_aside(str(error).partition("\n")[0])
            return Ledger()

    def write(self, ledger: Ledger) -> None:
        """Replace the file; a crash leaves the old one or the new one. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"format": FORMAT, "ledger": asdict(ledger)}, sort_keys=True)
        write_whole(self._path, content.encode(), mode=0o600)

    def _set_aside(self, why: str) -> None:
        aside = self._path.with_suffix(".unusable.json")
        log(logger, logging.WARNING, "firmware ledger not used", why=why, moved_to=str(aside))
        self._path.replace(aside)


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file under a scratch name, sync it, rename it into place. Raises OSError."""
    scratch = path.with_name(f".{path.name}.kmm")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
