"""Daemons on real kernels get their certificates with tokens of their Pods."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_sandbox import programs
from kmm_sandbox.network import HOST_ADDRESS
from kmm_sandbox.process.node import Node
from support import certvolume, rights
from support.certvolume import CERT, KEY
from support.enrolled import AUTHORITY, CONFIG_MAP, token
from support.simnode import PODS
from support.stage import Stage, push_own

CORE = "kmt_core"
PORT = 8444
OWN, GIVEN = Path("/run/kmm/tls"), Path("/run/kmm/given")
"""On a node, in memory: what the daemon writes, and what its Pod's volumes would bring."""
TESTS = Path(__file__).parents[1]


def give(stage: Stage, node: Node) -> None:
    """Write what a kubelet projects into the Pod: the token, and what is trusted."""
    api = stage.sandbox.api
    new = {
        "token": token(api, api.get(f"{PODS}/{node.kubelet.pod}")),
        "ca.crt": api.get(CONFIG_MAP)["data"]["ca.crt"],
    }
    paths = os.pathsep.join((str(TESTS.parent / "src"), str(TESTS)))
    argv = ("env", f"PYTHONPATH={paths}", sys.executable, "-m", certvolume.__name__)
    node.execute(*argv, str(GIVEN), stdin=json.dumps(new)).check()


def enrolling_settings() -> dict[str, Any]:
    settings: dict[str, Any] = programs.daemon_settings()
    settings["tls"] = {
        "cert": str(OWN / CERT),
        "key": str(OWN / KEY),
        "ca": str(GIVEN / "ca.crt"),
    }
    settings["enrol"] = {"server": f"{HOST_ADDRESS}:{PORT}", "token": str(GIVEN / "token")}
    return settings


@pytest.fixture
def enrolled(stage: Stage) -> Iterator[Stage]:
    """Have the control plane make certificates, and every daemon start without any."""
    sandbox = stage.sandbox
    before = sandbox.kmm_cp.config.read_text()
    sandbox.kubectl("apply", "-f", str(AUTHORITY), "-f", str(rights.ENROLMENT))
    settings = yaml.safe_load(before)
    tls = sandbox.directory / "own-tls"
    settings["tls"] = {name: str(tls / f"{name}.pem") for name in ("cert", "key", "ca")}
    settings["enrolment"] = {
        "listen": f"{HOST_ADDRESS}:{PORT}",
        "server_names": [programs.SERVER_NAME],
    }
    try:
        sandbox.kmm_cp.stop()
        programs.write_settings(sandbox.kmm_cp.config, settings)
        sandbox.kmm_cp.start()
        for node in sandbox.nodes.values():
            give(stage, node)
            programs.write_settings(node.settings, enrolling_settings())
            node.restart_daemon()
        yield stage
    finally:
        if sandbox.kmm_cp.process is not None:
            sandbox.kmm_cp.stop()
        sandbox.kmm_cp.config.write_text(before)
        for node in sandbox.nodes.values():
            node.run_daemon()
        sandbox.kmm_cp.start()


def test_daemons_enrol_on_their_nodes_and_load(enrolled: Stage) -> None:
    nodes = enrolled.sandbox.nodes
    enrolled.until(
        lambda: (
            {line["node"] for line in enrolled.control_plane_told("daemon enrolled")} == set(nodes)
        ),
        "all daemons enrolled",
    )
    core = enrolled.apply("core", push_own(enrolled.sandbox, "core", CORE), CORE)
    core.wait_loaded()
    for node in nodes.values():
        mode = node.execute("stat", "-L", "-c", "%a %U", str(OWN / KEY)).check()
        assert mode.split() == ["600", "root"]
        # What made the key has ended, and took with it what it needs of memory.
        daemon = node.execute("cat", "/run/kmm/daemon.lock").check().strip()
        maps = node.execute("cat", f"/proc/{daemon}/maps").check()
        assert "_ssl" in maps
        assert "cryptography" not in maps
