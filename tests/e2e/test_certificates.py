"""The authority of all certificates replaced under running nodes, as cert-manager's driver does."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_common.api import names
from kmm_common.tls import TlsFiles
from kmm_sandbox import programs
from kmm_sandbox.pki import Authority
from kmm_sandbox.process.node import Node
from support import certvolume
from support.certvolume import CertificateVolume, bundle, contents
from support.stage import Stage, push_own

CORE = "kmt_core"
LABEL = names.ready_label("default", "core")
MOUNT = Path("/run/kmm/certificates")
"""On a node, and in its daemon's container; in memory, as a CSI driver's volume."""
TESTS = Path(__file__).parents[1]


def mounted(files: TlsFiles) -> dict[str, str]:
    return {"cert": str(files.cert), "key": str(files.key), "ca": str(files.ca)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """The volumes of the control plane and of every node's daemon."""

    stage: Stage
    plane: CertificateVolume

    def give_plane(self, issuer: Authority, *trusted: Authority) -> None:
        identity = self.stage.sandbox.kmm_cp.identity
        self.plane.publish(issuer.issue(identity), bundle(*trusted))

    def give_nodes(self, issuer: Authority, *trusted: Authority) -> None:
        for node in self.stage.sandbox.nodes.values():
            self.give(node, issuer, *trusted)

    def give(self, node: Node, issuer: Authority, *trusted: Authority) -> None:
        new = contents(issuer.issue(node.identity()), bundle(*trusted))
        texts = {name: content.decode() for name, content in new.items()}
        paths = os.pathsep.join((str(TESTS.parent / "src"), str(TESTS)))
        argv = ("env", f"PYTHONPATH={paths}", sys.executable, "-m", certvolume.__name__)
        node.execute(*argv, str(MOUNT), stdin=json.dumps(texts)).check()

    def wait_reloaded(self, times: int) -> None:
        """Wait until the control plane has taken new files over so many times."""
        told = self.stage.control_plane_told
        self.stage.until(
            lambda: len(told("certificates reloaded")) == times, f"files reloaded {times} times"
        )

    def use(self) -> None:
        """Have control plane and daemons start anew with the volumes' files."""
        sandbox = self.stage.sandbox
        for name in sandbox.nodes:
            # One that is ended while it connects would be a refused peer.
            self.stage.stop_daemon(name)
        sandbox.kmm_cp.stop()
        settings = yaml.safe_load(sandbox.kmm_cp.config.read_text())
        settings["tls"] = mounted(self.plane.files)
        programs.write_settings(sandbox.kmm_cp.config, settings)
        for node in sandbox.nodes.values():
            config: dict[str, Any] = programs.daemon_settings()
            config["tls"] = mounted(certvolume.files(MOUNT))
            programs.write_settings(node.settings, config)
        sandbox.kmm_cp.start()
        self.restart_daemons()

    def restart_daemons(self) -> None:
        """Have every daemon connect anew; wait for the sessions."""
        nodes = self.stage.sandbox.nodes
        before = {name: self.stage.sessions(name)[0] for name in nodes}
        for node in nodes.values():
            node.restart_daemon()
        self.stage.until(
            lambda: all(
                opened > before[name] and opened - closed == 1
                for name in nodes
                for opened, closed in [self.stage.sessions(name)]
            ),
            "new sessions of all nodes",
        )

    def sessions(self) -> dict[str, tuple[int, int]]:
        return {name: self.stage.sessions(name) for name in self.stage.sandbox.nodes}


@pytest.fixture
def mounts(stage: Stage) -> Iterator[Mounts]:
    sandbox = stage.sandbox
    before = sandbox.kmm_cp.config.read_text()
    mounts = Mounts(stage=stage, plane=CertificateVolume(sandbox.directory / "certificates"))
    mounts.give_plane(sandbox.kmm_cp.authority, sandbox.kmm_cp.authority)
    mounts.give_nodes(sandbox.kmm_cp.authority, sandbox.kmm_cp.authority)
    try:
        mounts.use()
        yield mounts
    finally:
        if sandbox.kmm_cp.process is not None:
            sandbox.kmm_cp.stop()
        sandbox.kmm_cp.config.write_text(before)
        for node in sandbox.nodes.values():
            node.run_daemon()
        sandbox.kmm_cp.start()


def test_authority_rotated_with_overlap_drops_no_session_and_without_it_no_module(
    stage: Stage, mounts: Mounts
) -> None:
    image = push_own(stage.sandbox, "core", CORE)
    core = stage.apply("core", image, CORE)
    core.wait_loaded()
    old, new, strange = stage.sandbox.kmm_cp.authority, Authority("new"), Authority("strange")
    steps = {name: stage.steps(name) for name in stage.sandbox.nodes}
    said = {name: len(stage.no_session(name)) for name in stage.sandbox.nodes}
    sessions = mounts.sessions()
    parts = [(old, (old, new)), (new, (old, new)), (new, (new,))]
    for times, (issuer, trusted) in enumerate(parts, start=1):
        mounts.give_plane(issuer, *trusted)
        mounts.give_nodes(issuer, *trusted)
        mounts.wait_reloaded(times)
        assert mounts.sessions() == sessions, "new files end no session"
        mounts.restart_daemons()
        sessions = mounts.sessions()
    assert stage.control_plane_told("peer refused") == []
    assert {name: len(stage.no_session(name)) for name in stage.sandbox.nodes} == said

    mounts.give_plane(strange, strange)
    mounts.wait_reloaded(len(parts) + 1)
    assert mounts.sessions() == sessions
    node = stage.sandbox.nodes["node1"]
    node.restart_daemon()
    words = f"the control plane's certificate is not of an authority in {MOUNT}/ca.crt"
    stage.until(lambda: words in str(stage.no_session("node1")[-1:]), "node1 says why")
    assert CORE in node.loaded_modules()
    assert LABEL in stage.labels("node1")
    mounts.give_nodes(strange, strange)
    stage.until(lambda: stage.sessions("node1")[0] > sessions["node1"][0], "node1 is back")
    core.wait_loaded()
    assert {name: stage.steps(name) for name in stage.sandbox.nodes} == steps
