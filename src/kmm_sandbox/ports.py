"""Ports of loopback for programs that have to be told where to listen."""

import socket
from typing import Self

HOST = "127.0.0.1"


class KeptPorts:
    """Ports that are given to nobody else, until close().

    Bound, and not listened on: whoever leaves the choice to the kernel does not get such a port,
    and a program that asks for it by number and sets SO_REUSEADDR, as asyncio and Go do, may
    listen there as often as it is started. See socket(7) and ip(7).
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def port(self) -> int:
        """Return one more."""
        kept = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._sockets.append(kept)
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind((HOST, 0))
        return int(kept.getsockname()[1])

    def address(self) -> str:
        """Return host:port of one more."""
        return f"{HOST}:{self.port()}"

    def close(self) -> None:
        """Leave them to others."""
        for kept in self._sockets:
            kept.close()
        self._sockets.clear()
