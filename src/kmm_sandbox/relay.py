"""Lets programs outside of the sandbox's network reach a port inside."""

import contextlib
import socket
import threading
from dataclasses import dataclass

BUFFER_BYTES = 64 * 1024


def outside_socket() -> socket.socket:
    """Return a listening socket on a free loopback port of the network that this process is in.

    A socket stays in the network where it was made, whoever uses it.
    """
    return socket.create_server(("127.0.0.1", 0), backlog=64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Accepts on a socket from outside and connects to an address inside."""

    outside: socket.socket
    inside: tuple[str, int]

    @property
    def port(self) -> int:
        """The port outside."""
        return int(self.outside.getsockname()[1])

    def start(self) -> None:
        """Relay in threads that end with the process."""
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.outside.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self.inside, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()
        client.close()
        server.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copy until the source ends, then say so to the target."""
    with contextlib.suppress(OSError):
        while content := source.recv(BUFFER_BYTES):
            target.sendall(content)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
