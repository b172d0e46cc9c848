"""Where a program listens, and how it says that it cannot."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kmm_common.clock import Clock
from kmm_common.errors import TerminalError
from kmm_common.logs import log

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""With asyncio's 100, thousands of daemons that return at once overflow the queue."""
PAUSE_SECONDS = 1.0
"""Before the next attempt to accept, where the system has no room for one more connection."""

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class CannotListenError(TerminalError):
    """A port cannot be opened; names the setting."""

    def __init__(self, setting: str, address: str, error: OSError) -> None:
        why = error.strerror or str(error)
        super().__init__(
            f"{setting} {address}: {why}; set {setting} to another address, or end what uses it",
            reason="CannotListen",
        )


def host_and_port(address: str) -> tuple[str | None, int]:
    """Split host:port, [v6]:port or :port; no host stands for every address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or None, int(port)


@contextmanager
def listening(setting: str, address: str) -> Iterator[None]:
    """Open a port within; raises CannotListenError for an OSError."""
    try:
        yield
    except OSError as error:
        raise CannotListenError(setting, address, error) from error


async def listening_sockets(host: str | None, port: int) -> list[socket.socket]:
    """Open a port on every address of a host, of the machine if None. OSError if it is taken."""
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(infos):
            opened += _listening(family, address[:2])
    except BaseException:
        for one in opened:
            one.close()
        raise
    if not opened:
        raise OSError(errno.EADDRNOTAVAIL, f"no address of {host} is one of this machine")
    return opened


async def accept(
    listening: socket.socket, welcome: Callable[[socket.socket, Any], None], *, clock: Clock
) -> None:
    """Hand on each connection with its peer's address, until cancelled."""
    while True:
        try:
            connection, address = await asyncio.get_running_loop().sock_accept(listening)
        except OSError as error:
            log(logger, logging.ERROR, "connection not accepted", error=str(error))
            await clock.sleep(PAUSE_SECONDS)
            continue
        welcome(connection, address)
        # While others wait, accepting never does: let the rest of the program run, too.
        await asyncio.sleep(0)


def _listening(family: int, address: Any) -> list[socket.socket]:
    try:
        opened = socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        # IPv6 may be resolved and yet be switched off.
        if error.errno in _NO_SUCH_FAMILY:
            return []
        # The address, which create_server adds, is told by whoever tells of this.
        raise OSError(error.errno, os.strerror(error.errno or 0).lower()) from error
    opened.setblocking(False)
    return [opened]
