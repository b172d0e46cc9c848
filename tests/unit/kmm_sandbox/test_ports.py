"""What a kept port keeps from others, and from whom it does not."""

import socket

import pytest

from kmm_sandbox.ports import HOST, KeptPorts

MANY = 200
PICKS = 500
"""Of some 7,000 that the kernel chooses among: by chance none of MANY is met once in a million."""


def picked() -> int:
    """Return a port that the kernel chose."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def test_kernel_gives_a_kept_port_to_nobody() -> None:
    with KeptPorts() as ports:
        kept = {ports.port() for _ in range(MANY)}
        assert len(kept) == MANY
        assert not kept & {picked() for _ in range(PICKS)}


def test_program_that_is_told_a_kept_port_may_listen_there_again_and_again() -> None:
    with KeptPorts() as ports:
        address = (HOST, ports.port())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for _ in range(2):
            with socket.create_server(address) as listener, socket.create_connection(address):
                listener.accept()[0].close()


def test_only_one_may_listen_on_a_kept_port_at_a_time() -> None:
    with KeptPorts() as ports:
        address = (HOST, ports.port())
        with socket.create_server(address), pytest.raises(OSError, match="in use"):
            socket.create_server(address)


def test_port_is_free_for_all_once_it_is_closed() -> None:
    with KeptPorts() as ports:
        host, _, port = ports.address().rpartition(":")
    with socket.socket() as exclusive:
        exclusive.bind((host, int(port)))
