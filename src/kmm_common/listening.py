"""Where a program listens, and how it says that it cannot."""

from collections.abc import Iterator
from contextlib import contextmanager

from kmm_common.errors import TerminalError


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
