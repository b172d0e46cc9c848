"""KMM on the cluster: the shipped manifests, below an overlay as an administrator writes one.

What is different from what is shipped: the images are in the sandbox's registry, by digest; the
Service has an address that is known before, which daemons find by an entry in their hosts file,
since there is no DNS here; and daemons are on nodes with kernels of their own only.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from kmm_sandbox import kmodimage
from kmm_sandbox.cluster.cluster import Cluster
from kmm_sandbox.cluster.images import read_archive
from kmm_sandbox.cluster.umlnode import OWN_KERNEL
from kmm_sandbox.kmodimage import Image
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.kubelet import DAEMON_SET, NAMESPACE
from kmm_sandbox.nodestates import connected
from kmm_sandbox.processes import wait_until
from kmm_sandbox.registry import Registry
from kmm_sandbox.repository import REPOSITORY

CONTROL_PLANE, DAEMON = "kmm-cp", "kmm-daemon"
"""The programs, and the names of their images in the manifests."""
OVERLAY = REPOSITORY / "manifests/overlays/builtin-ca"
SECCOMP = {"kmm/daemon.json": REPOSITORY / "manifests/base/daemon/seccomp.json"}
"""What nodes are to have before, by its name in Pods."""
DIRECTORY = "overlay"
"""Of the overlay, in the cluster's directory."""
SERVICE = "10.96.0.50"
SERVER = f"kmm-cp.{NAMESPACE}.svc"
READY_SECONDS = 300.0
_APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"


def install(cluster: Cluster, archives: Path) -> None:
    """Push the images, apply all of it, wait for a session of each daemon. Raises SandboxError.

    `archives` has the OCI archive of each program's image.
    """
    apply(cluster, push_all(cluster.registry, archives))
    wait_until(
        lambda: _available(cluster), seconds=READY_SECONDS, what="Deployment kmm-cp available"
    )
    wait_until(
        lambda: _all_connected(cluster),
        seconds=READY_SECONDS,
        what="sessions of all daemons",
    )
    # Nothing else keeps what containerd has pulled over a power cut that comes soon.
    for node in cluster.nodes.values():
        node.execute("sync").check()


def push_all(registry: Registry, archives: Path) -> dict[str, str]:
    """Push the images of both programs; return their digests by name."""
    images = {name: read_archive(archives / f"{name}.oci.tar") for name in (CONTROL_PLANE, DAEMON)}
    return {name: push(registry, name, image) for name, image in images.items()}


def push(registry: Registry, name: str, image: Image) -> str:
    """Push an image; return its digest, by which it is pulled."""
    kmodimage.push(registry, name, "latest", image)
    return image.digest


def apply(cluster: Cluster, digests: Mapping[str, str]) -> Path:
    """Apply it with these images, by name; return the directory of the overlay."""
    directory = cluster.directory / DIRECTORY
    directory.mkdir(exist_ok=True)
    shipped = os.path.relpath(OVERLAY, directory.resolve())
    content = overlay(shipped, cluster.registry.address, digests)
    (directory / "kustomization.yaml").write_text(json.dumps(content))
    cluster.kubectl("apply", "--server-side", "-k", str(directory))
    return directory


def overlay(shipped: str, registry: str, digests: Mapping[str, str]) -> Object:
    """Return the kustomization above the shipped overlay, with images of a registry."""
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
            {"name": name, "newName": f"{registry}/{name}", "digest": digest}
            for name, digest in digests.items()
        ],
        "patches": [
            {"target": {"kind": "Service", "name": "kmm-cp"}, "patch": json.dumps(address)},
            {"target": {"kind": "PodTemplate", "name": DAEMON_SET}, "patch": json.dumps(daemon)},
        ],
    }


def _all_connected(cluster: Cluster) -> bool:
    cluster.require_alive()
    return connected(cluster.api) == {*cluster.nodes}


def _available(cluster: Cluster) -> bool:
    cluster.require_alive()
    status = cluster.api.get(f"{_APPS}/deployments/kmm-cp")["status"]
    conditions = status.get("conditions", ())
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)
