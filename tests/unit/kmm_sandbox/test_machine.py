"""What a machine is told to have before nodes can run on it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kmm_sandbox import machine
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.progress import Progress

WHOLE = "000001ffffffffff"
CONTAINER = "00000000a80425fb"
"""What a container has that is not privileged."""


@pytest.fixture
def obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Ask about a machine that has everything but for what is given."""
    status, tun = tmp_path / "status", tmp_path / "tun"

    def ask(
        *, user: int = 0, capabilities: str = WHOLE, device: bool = True, of: str = "x86_64"
    ) -> str:
        monkeypatch.setattr(os, "geteuid", lambda: user)
        status.write_text(f"Name:\tpython\nCapEff:\t{capabilities}\nSeccomp:\t0\n")
        if device:
            tun.touch()
        return machine.obstacle(status, tun, of)

    return ask


def test_nothing_keeps_nodes_from_a_machine_that_has_everything(
    obstacle: Callable[..., str],
) -> None:
    assert obstacle() == ""


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ({"of": "aarch64"}, "this machine is aarch64"),
        ({"user": 1000}, "run it as root"),
        ({"capabilities": CONTAINER}, "CAP_NET_ADMIN and CAP_SYS_ADMIN"),
        ({"device": False}, "give the container that device"),
    ],
)
def test_what_is_missing_is_told_with_the_remedy(
    obstacle: Callable[..., str], lacks: dict[str, object], told: str
) -> None:
    assert told in obstacle(**lacks)


def test_packages_that_cannot_be_installed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    needed = {"kmm-no-such-program": "a-package", "sh": "another"}
    monkeypatch.setattr(machine, "_found", lambda program: program == "sh")
    assert machine.unavailable(needed) == "install a-package: this is no Debian with apt-get"
    with pytest.raises(SandboxError, match="install a-package"):
        machine.install_missing(needed, Progress(quiet=True))
    assert machine.unavailable({"sh": "another"}) == ""
