"""The node that shares its machine's kernel, where that kernel has cgroup v2.

The machine is a node with a kernel of its own, whose kubelet makes room for it: the machine that
runs these tests may have version 1.
"""

import json
import os
import sys
from typing import Any

import pytest

from kmm_sandbox import guestexec
from kmm_sandbox.cluster.cgroups import GIVEN, LEAF, PREFIX, PROCESSES
from kmm_sandbox.cluster.cluster import Cluster, write_settings
from kmm_sandbox.cluster.settings import NodeSettings
from kmm_sandbox.cluster.umlnode import KubeletNode
from kmm_sandbox.repository import REPOSITORY
from support import unifiednode
from support.workloads import create, delete, pod_spec, wait_until_running

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]

TOP = "/sys/fs/cgroup"
LIMIT_BYTES = 32 * 2**20
SECONDS = 600.0


def on(node: KubeletNode, *argv: str) -> dict[str, Any]:
    """Run a command of the helper on the node; return what it said."""
    paths = os.pathsep.join((str(REPOSITORY / "src"), str(REPOSITORY / "tests")))
    program = ("env", f"PYTHONPATH={paths}", sys.executable, "-B", "-m", "support.unifiednode")
    answer = guestexec.execute(
        node.settings.directory, node.machine.boot, *program, *argv, seconds=SECONDS
    )
    said: dict[str, Any] = json.loads(answer.check())
    return said


def register_anew(cluster: Cluster, node: KubeletNode) -> None:
    """Delete the Node: that it is Ready would else be what the earlier kubelet has said."""
    cluster.api.delete(f"/api/v1/nodes/{node.name}")


def test_cgroups_are_refused_below_one_that_has_processes_until_they_are_moved(
    cluster: Cluster,
) -> None:
    answer = on(next(iter(cluster.nodes.values())), "occupied")
    assert "has processes, so that it gives no controllers" in answer["said"]
    assert answer["left"] == []
    assert {"cpu", "memory", "pids"} <= set(answer["given"])


def test_kubelet_takes_a_cgroup_of_version_2_and_pods_are_counted_below_it(
    cluster: Cluster,
) -> None:
    node = [*cluster.nodes.values()][-1]
    node.execute("sh", "-c", "kill -KILL $(pidof kubelet containerd)").check()
    described = on(node, "make")
    cgroups = unifiednode.read(json.dumps(described))
    assert [str(place) for place in cgroups.places] == [TOP]
    top = f"{TOP}/{cgroups.name}"
    settings = NodeSettings(
        directory=node.settings.directory / "unified",
        number=node.address.number,
        cgroups=cgroups,
    )
    write_settings(settings, cluster.plane, node.name, node.address.ip)
    register_anew(cluster, node)

    started = on(
        node,
        *("start", json.dumps(described), str(settings.directory), node.name, node.address.ip),
        str(node.binaries.kubelet),
    )

    cluster.wait_until_ready(node.name)
    spec = pod_spec("sleep", "3600", nodeName=node.name)
    spec["containers"][0]["resources"] = {"limits": {"memory": str(LIMIT_BYTES)}}
    create(cluster, "counted", spec)
    wait_until_running(cluster, "counted")
    given = node.execute("cat", f"{top}/{GIVEN}").check()
    assert {"cpu", "memory", "pids"} <= set(given.split())
    assert node.execute("cat", f"{top}/{PROCESSES}").check() == ""
    pid = started["first"]
    (first,) = node.execute("cat", f"/proc/{pid}/task/{pid}/children").check().split()
    assert first in node.execute("cat", f"{top}/{LEAF}/{PROCESSES}").check().split()
    limits = node.execute("sh", "-c", f"find {top}/kubepods -name memory.max -exec cat {{}} +")
    assert str(LIMIT_BYTES) in limits.check().split()
    delete(cluster, ["counted"])

    on(node, "stop", json.dumps(described), str(started["first"]))

    left = node.execute("find", TOP, "-maxdepth", "1", "-name", f"{PREFIX}*").check()
    assert left == ""
    register_anew(cluster, node)
    node.power_cycle()
    cluster.wait_until_ready(node.name)
