"""The management console of a User-Mode Linux kernel: one datagram each way."""

import socket
import struct
from pathlib import Path

from kmm_sandbox.errors import SandboxError

MAGIC, VERSION, DATA_BYTES = 0xCAFEBABE, 2, 512
REQUEST = struct.Struct(f"=III{DATA_BYTES}s")
ANSWER = struct.Struct("=III")
LIMIT_SECONDS = 5.0


def encode(command: str) -> bytes:
    """Return the datagram that carries a command."""
    data = command.encode()
    return REQUEST.pack(MAGIC, VERSION, len(data), data)


def decode(datagram: bytes) -> tuple[bool, bool, str]:
    """Return (failed, more datagrams follow, text)."""
    error, more, length = ANSWER.unpack_from(datagram)
    text = datagram[ANSWER.size : ANSWER.size + length].decode(errors="replace").rstrip("\0")
    return bool(error), bool(more), text


def send(console: Path, command: str) -> str:
    """Send a command and return the answer's text. Raises SandboxError.

    The own socket has a path: answers to abstract names do not cross network namespaces.
    """
    own = console.with_name("mconsole-client")
    own.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.settimeout(LIMIT_SECONDS)
        link.bind(str(own))
        try:
            link.sendto(encode(command), str(console))
            return _answer(link, command)
        except OSError as error:
            raise SandboxError(f"mconsole {command}: {error}", reason="NoConsole") from error
        finally:
            own.unlink(missing_ok=True)


def _answer(link: socket.socket, command: str) -> str:
    text, more = "", True
    while more:
        failed, more, part = decode(link.recv(64 * 1024))
        text += part
        if failed:
            raise SandboxError(f"mconsole {command}: {text}", reason="NoConsole")
    return text
