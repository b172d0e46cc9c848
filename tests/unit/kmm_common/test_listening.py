import errno
import os

import pytest

from kmm_common.listening import CannotListenError, host_and_port, listening


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:8080", ("::1", 8080)),
        ("name.example:1", ("name.example", 1)),
        (":8080", (None, 8080)),
    ],
)
def test_address_is_a_host_and_a_port(address: str, expected: tuple[str | None, int]) -> None:
    assert host_and_port(address) == expected


def test_port_that_cannot_be_opened_is_told_by_its_setting() -> None:
    error = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    with pytest.raises(CannotListenError) as caught, listening("listen", ":8443"):
        raise error
    assert str(caught.value) == (
        "listen :8443: Address already in use; set listen to another address, or end what uses it"
    )
    assert caught.value.reason == "CannotListen"


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="other"), listening("listen", ":8443"):
        raise ValueError("other")
