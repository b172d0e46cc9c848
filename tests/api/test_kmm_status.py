"""`kmm status` as users run it: the program itself, alone and through kubectl."""

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from support.fleet import Fleet, eventually

PROGRAMS = Path(sys.executable).parent
LONG = "n" * 60


@pytest.fixture
async def troubled(fleet: Fleet) -> Fleet:
    """A Module that is loaded, on a node without a daemon too, and one of each kind of trouble."""
    await fleet.node("a")
    await fleet.node("b", daemon=False)
    await fleet.apply()
    await fleet.loaded(fleet.nodes["a"])
    mapping = {"regexp": "^6", "containerImage": "registry.example/kmod:${"}
    await fleet.apply("template", container={"kernelMappings": [mapping]})
    await fleet.apply("missing", container={"containerImage": fleet.image(tag="none")})
    await fleet.apply("nowhere", selector={"fleet": "another"})
    await fleet.apply(LONG)
    await fleet.condition("Stalled", name="template", reason="InvalidTemplate")
    await fleet.condition("Stalled", name=LONG, reason="NameTooLong")
    await fleet.condition("Ready", name="nowhere", reason="NoMatchingNodes")
    await fleet.condition("Ready", status="False")
    await eventually(lambda: fleet.module("missing"), _has_missing_image)
    await eventually(lambda: fleet.entries(fleet.nodes["b"]), lambda entries: "m" in entries)
    return fleet


def _has_missing_image(module: Mapping[str, Any] | None) -> bool:
    images = (module or {}).get("status", {}).get("images") or ()
    return any(image["state"] == "Missing" for image in images)


async def _said(fleet: Fleet, *argv: str) -> str:
    """Run a program as a user does whose shell has PATH and KUBECONFIG; return what it prints."""
    done = await asyncio.to_thread(
        subprocess.run, argv, env=_environment(fleet), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _environment(fleet: Fleet) -> dict[str, str]:
    # kubectl complains of directories that are not there.
    found = filter(os.path.isdir, os.environ["PATH"].split(os.pathsep))
    path = os.pathsep.join([str(PROGRAMS), *found])
    kubeconfig = str(fleet.control_plane.cluster.kubeconfig)
    return {**os.environ, "PATH": path, "KUBECONFIG": kubeconfig}


async def test_piped_status_is_plain_text_with_what_is_wrong(troubled: Fleet) -> None:
    text = await _said(troubled, "kmm", "status")
    assert "\x1b" not in text
    assert f"not connected: {troubled.nodes['b'].name}" in text
    lines = text.splitlines()
    heading = next(line for line in lines if line.startswith("MODULE")).split()
    row = next(line for line in lines if line.startswith(f"{troubled.ref()} ")).split()
    counted = dict(zip(heading, row, strict=True))
    assert (counted["NODES"], counted["LOADED"], counted["DISCONNECTED"]) == ("2", "1", "1")
    assert f"  {troubled.ref('nowhere')}: NoMatchingNodes: no node should have it" in lines
    for name, told in (
        ("template", "InvalidTemplate (Stalled)"),
        (LONG, "NameTooLong (Stalled)"),
        ("missing", "Missing (Image)"),
    ):
        assert f"  {troubled.ref(name)}: {told}" in lines


async def test_json_has_everything_for_programs(troubled: Fleet) -> None:
    seen = json.loads(await _said(troubled, "kmm", "status", "-o", "json"))
    ours = [each for each in seen["problems"] if each["module"].startswith(f"{troubled.name}/")]
    told = {(each["module"], each["reason"]) for each in ours}
    assert {
        (str(troubled.ref("template")), "InvalidTemplate"),
        (str(troubled.ref(LONG)), "NameTooLong"),
        (str(troubled.ref("missing")), "Missing"),
    } <= told
    assert troubled.nodes["b"].name in seen["disconnected"]
    (row,) = (each for each in seen["rows"] if each["module"] == str(troubled.ref()))
    assert row["states"] == {"Loaded": 1, "Disconnected": 1}


async def test_kubectl_finds_it_as_a_plug_in(troubled: Fleet) -> None:
    kubectl = str(troubled.control_plane.cluster.kubectl.program)
    text = await _said(troubled, kubectl, "kmm", "status")
    assert f"{troubled.ref('template')}: InvalidTemplate (Stalled)" in text
    listed = await _said(troubled, kubectl, "plugin", "list")
    assert str(PROGRAMS / "kubectl-kmm") in listed


async def test_terminal_gets_colours_unless_the_user_wants_none(troubled: Fleet) -> None:
    environment = _environment(troubled)
    environment.pop("NO_COLOR", None)
    assert "\x1b[31m" in await asyncio.to_thread(_on_terminal, environment)
    assert "\x1b[" not in await asyncio.to_thread(_on_terminal, {**environment, "NO_COLOR": "1"})


def _on_terminal(environment: dict[str, str]) -> str:
    """Return what the program writes to a terminal."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen([PROGRAMS / "kmm", "status"], env=environment, stdout=theirs)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:
        pass  # The last writer of a terminal is gone: that is its end.
    finally:
        os.close(ours)
    assert program.wait() == 0
    return seen.decode()


async def test_kubeconfig_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    done = await asyncio.to_thread(
        subprocess.run,
        [str(PROGRAMS / "kmm"), "status", "--kubeconfig", str(missing)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"kmm: kubeconfig {missing}: " in done.stderr
