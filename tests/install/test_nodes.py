"""Nodes with real kubelets run what is scheduled to them, and leave nothing behind."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from kmm_sandbox.cluster import cgroups
from kmm_sandbox.cluster.cluster import HOST_NODE, Cluster
from kmm_sandbox.processes import wait_until
from support.workloads import (
    SECONDS,
    container_ids,
    create,
    create_daemon_set,
    delete,
    delete_daemon_set,
    pod_spec,
    run_to_end,
    running_on,
    wait_until_running,
)

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1500)]


def test_a_pod_runs_to_its_end_on_this_kernel_and_its_log_is_read_through_the_api_server(
    cluster: Cluster,
) -> None:
    kernel = cluster.api.get(f"/api/v1/nodes/{HOST_NODE}")["status"]["nodeInfo"]["kernelVersion"]
    assert run_to_end(cluster, "says-kernel", pod_spec("uname", "-r")) == f"{kernel}\n"
    assert kernel == os.uname().release


def test_all_of_a_node_ends_with_its_first_process_when_that_is_killed(cluster: Cluster) -> None:
    create(cluster, "sleeps", pod_spec("sleep", "3600"))
    wait_until_running(cluster, "sleeps")
    host = cluster.host
    assert host is not None
    assert {"containerd", "kubelet", "pause", "sleep"} <= names_below()

    host.first.kill()

    wait_until(lambda: names_below() == set(), seconds=SECONDS, what="end of all processes")
    host.stop()
    assert left_behind(host.settings.directory, host.cgroups) == []
    cluster.start_host()
    delete(cluster, ["sleeps"])


def test_cgroups_of_a_run_that_was_killed_are_removed_by_the_next_and_those_in_use_stay(
    cluster: Cluster,
) -> None:
    left = cgroups.Cgroups.make()
    assert cluster.host is not None

    cgroups.sweep()

    assert not any((place / left.name).exists() for place in left.places)
    used = cluster.host.cgroups
    assert all((place / used.name).exists() for place in used.places)


def test_a_daemonset_has_a_privileged_pod_on_every_node_also_after_a_power_cut(
    cluster: Cluster,
) -> None:
    create_daemon_set(cluster, "loads", loads_dummy())
    nodes = [HOST_NODE, *cluster.nodes]
    wait_until(
        lambda: sorted(running_on(cluster, "loads")) == sorted(nodes),
        seconds=SECONDS,
        what="a Pod on every node",
    )
    name = next(iter(cluster.nodes))
    wait_until(
        lambda: "dummy" in cluster.nodes[name].loaded_modules(),
        seconds=SECONDS,
        what="dummy loaded",
    )
    before = cluster.node_info(name)
    container = container_ids(cluster, "loads")[name]

    cluster.power_cycle(name)

    after = cluster.node_info(name)
    assert after["bootID"] != before["bootID"]
    assert after["kernelVersion"] == cluster.nodes[name].execute("uname", "-r").stdout.strip()
    assert after["kernelVersion"] != cluster.node_info(HOST_NODE)["kernelVersion"]
    wait_until(
        lambda: container_ids(cluster, "loads").get(name, container) != container,
        seconds=SECONDS,
        what="the Pod's new container",
    )
    wait_until(
        lambda: "dummy" in cluster.nodes[name].loaded_modules(),
        seconds=SECONDS,
        what="dummy loaded",
    )
    delete_daemon_set(cluster, "loads")


def loads_dummy() -> dict[str, Any]:
    """Return the spec of a Pod that loads a module into its node's kernel, if that takes any."""
    spec = pod_spec("sh", "-c", "modprobe dummy; sleep 3600", hostNetwork=True)
    (container,) = spec["containers"]
    container["securityContext"] = {"privileged": True}
    container["volumeMounts"] = [{"name": "modules", "mountPath": "/lib/modules", "readOnly": True}]
    volume = {"name": "modules", "hostPath": {"path": "/lib/modules"}}
    return {**spec, "tolerations": [{"operator": "Exists"}], "volumes": [volume]}


def left_behind(directory: Path, used: cgroups.Cgroups) -> list[str]:
    """Return mounts of a node that are seen outside of it, and its cgroups."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    places = [place / used.name for place in used.places]
    return [
        *(line for line in mounts if str(directory) in line),
        *(str(place) for place in places if place.exists()),
    ]


def names_below() -> set[str]:
    """Return the names of what runs in PID namespaces below this one: a node's, its Pods'."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = dict(
                line.split(":", 1) for line in (process / "status").read_text().splitlines()
            )
            if len(fields["NSpid"].split()) > 1 and "Z" not in fields["State"]:
                found.add(fields["Name"].strip())
    return found
