"""KMM on the cluster: the shipped manifests, below an overlay as an administrator writes one.

What is different from what is shipped: the images are those that the nodes were given; the Service
has an address that is known before, which daemons find by an entry in their hosts file, since there
is no DNS here; and daemons are on nodes with kernels of their own only.
"""

import json
import os
from importlib import metadata
from pathlib import Path

from kmm_common.api import names
from kmm_sandbox.cluster.cluster import Cluster, Supplies
from kmm_sandbox.cluster.umlnode import OWN_KERNEL
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.kubelet import DAEMON_SET, NAMESPACE
from kmm_sandbox.processes import wait_until
from kmm_sandbox.sandbox import REPOSITORY

OVERLAY = REPOSITORY / "manifests/overlays/builtin-ca"
SECCOMP = REPOSITORY / "manifests/base/daemon/seccomp.json"
SERVICE = "10.96.0.50"
SERVER = f"kmm-cp.{NAMESPACE}.svc"
VERSION = metadata.version("kmm")
"""The images' tag."""
READY_SECONDS = 300.0
_APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"


def supplies(control_plane: Path, daemon: Path) -> Supplies:
    """Return what nodes need for KMM, of the archives of its images."""
    return Supplies(host=(control_plane,), every=(daemon,), seccomp={"kmm/daemon.json": SECCOMP})


def overlay(shipped: str) -> Object:
    """Return the kustomization above the shipped overlay."""
    address = [{"op": "add", "path": "/spec/clusterIP", "value": SERVICE}]
    aliases = [{"ip": SERVICE, "hostnames": [SERVER]}]
    daemon = [
        {"op": "add", "path": "/template/spec/hostAliases", "value": aliases},
        # No module gets into the kernel of the machine that all this runs on.
        {"op": "add", "path": "/template/spec/nodeSelector", "value": {OWN_KERNEL: ""}},
    ]
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [shipped],
        "images": [
            {"name": name, "newName": f"localhost/{name}", "newTag": VERSION}
            for name in ("kmm-cp", "kmm-daemon")
        ],
        "patches": [
            {"target": {"kind": "Service", "name": "kmm-cp"}, "patch": json.dumps(address)},
            {"target": {"kind": "PodTemplate", "name": DAEMON_SET}, "patch": json.dumps(daemon)},
        ],
    }


def install(cluster: Cluster) -> None:
    """Apply it and wait until all daemons have their sessions. Raises SandboxError."""
    directory = cluster.directory / "overlay"
    directory.mkdir()
    shipped = os.path.relpath(OVERLAY, directory.resolve())
    (directory / "kustomization.yaml").write_text(json.dumps(overlay(shipped)))
    cluster.kubectl("apply", "--server-side", "-k", str(directory))
    wait_until(
        lambda: _available(cluster), seconds=READY_SECONDS, what="Deployment kmm-cp available"
    )
    wait_until(
        lambda: connected(cluster) == {*cluster.nodes},
        seconds=READY_SECONDS,
        what="sessions of all daemons",
    )


def connected(cluster: Cluster) -> set[str]:
    """Return the nodes whose daemons have a session with the control plane."""
    cluster.require_alive()
    path = f"/apis/{names.API_VERSION}/{names.NODE_MODULES_STATES}"
    return {
        each["metadata"]["name"]
        for each in cluster.api.items(path)
        if each.get("status", {}).get("daemon", {}).get("connected")
    }


def _available(cluster: Cluster) -> bool:
    cluster.require_alive()
    status = cluster.api.get(f"{_APPS}/deployments/kmm-cp")["status"]
    conditions = status.get("conditions", ())
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)
