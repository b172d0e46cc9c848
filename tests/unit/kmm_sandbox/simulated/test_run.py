"""What is said of simulated nodes."""

import os

import pytest

from kmm_sandbox.simulated.run import ASKED, notice, obstacle


def test_nothing_keeps_simulated_nodes_from_running_without_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert obstacle("x86_64") == ""


@pytest.mark.parametrize(("architecture", "path"), [("aarch64", "/usr/bin"), ("x86_64", "")])
def test_machine_that_cannot_run_them_is_told_why(
    architecture: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    assert ("aarch64" if architecture == "aarch64" else "setpriv") in obstacle(architecture)


def test_notice_says_what_is_not_real_why_and_how_to_have_it_real() -> None:
    first, why, real = notice("nodes need root")
    assert first.startswith("SIMULATED NODES: no kernel is touched")
    assert why.endswith("nodes need root")
    assert "NODES=process" in real


def test_notice_of_a_machine_that_can_have_real_kernels_says_that_they_were_not_asked_for() -> None:
    assert notice("")[1].endswith(ASKED)
