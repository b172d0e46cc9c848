"""Settings that are taken while a program runs: its file is looked at now and then."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from kmm_common.clock import Clock
from kmm_common.errors import KmmError
from kmm_common.logs import log
from kmm_common.settings import ProgramSettings, is_reloadable

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0

S = TypeVar("S", bound=ProgramSettings)


class SettingsFile(Generic[S]):
    """The settings that hold now.

    The file's content is compared, not its time or number: kubelet swaps a ConfigMap by a link.
    """

    def __init__(self, path: Path, load: Callable[[Path], S], *, clock: Clock) -> None:
        """Load the settings. Raises what `load` raises, a KmmError."""
        self._path = path
        self._clock = clock
        self._load = load
        self._seen = _content(path)
        self._listeners: list[Callable[[S], None]] = []
        self.current = load(path)
        self.right = True
        """The file can be taken as it is; else what held before holds."""

    def on_change(self, listener: Callable[[S], None]) -> None:
        """Call it with the settings whenever one has changed that can be taken at once."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Look at the file until cancelled."""
        while True:
            await self._clock.sleep(LOOK_SECONDS)
            # A small file of this node, in memory for a ConfigMap: a thread would cost more.
            self.take(_content(self._path))

    def take(self, content: bytes | None) -> None:
        """Take a new content of the file, None if it cannot be read; what is wrong changes nothing.

        Each content is told of once.
        """
        if content == self._seen:
            return
        self._seen = content
        try:
            wanted = self._load(self._path)
        except KmmError as error:
            self.right = False
            log(logger, logging.ERROR, "settings not taken, the old ones hold", error=str(error))
            return
        self.right = True
        self._change(wanted)

    def _change(self, wanted: S) -> None:
        before = self.current
        model = type(before)
        changed = [name for name in model.model_fields if _differ(before, wanted, name)]
        taken = {name: getattr(wanted, name) for name in changed if is_reloadable(model, name)}
        self.current = before.model_copy(update=taken)
        log(logger, logging.INFO, "settings read anew", changed=taken)
        waiting = [name for name in changed if name not in taken]
        if waiting:
            log(logger, logging.WARNING, "settings wait for a restart", settings=waiting)
        if taken:
            for listener in self._listeners:
                listener(self.current)


def _differ(one: ProgramSettings, other: ProgramSettings, name: str) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
