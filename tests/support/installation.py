"""What an administrator does with manifests/: render, apply and delete an overlay."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kmm_sandbox.binaries import find_kubectl
from kmm_sandbox.cluster.cluster import Cluster as Nodes
from kmm_sandbox.kubeapi import Object
from kmm_sandbox.processes import run
from support.cluster import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]
OVERLAYS = REPOSITORY / "manifests/overlays"
INSTALL = REPOSITORY / "docs/how-to/install.md"
STRICT = ("--server-side", "--validate=strict", "--warnings-as-errors", "-f", "-")
FIRST = ("Namespace", "CustomResourceDefinition")
"""What must be there for the API server to judge the others."""
_EACH = '{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\\n"}{end}'
_FLEETING = ("Event", "Lease")
"""Written by Kubernetes' own parts at any moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One overlay, rendered."""

    cluster: Cluster
    overlay: str
    manifest: str

    @classmethod
    def render(cls, cluster: Cluster, overlay: str) -> "Installation":
        """Render an overlay by kubectl's own kustomize."""
        return cls(cluster=cluster, overlay=overlay, manifest=kustomized(OVERLAYS / overlay))

    @property
    def objects(self) -> list[Object]:
        return list(yaml.safe_load_all(self.manifest))

    def of(self, kind: str) -> dict[str, Object]:
        """Return the objects of a kind by name."""
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    def pod(self, name: str) -> Object:
        """Return the spec of the Pods of the control plane or of the daemon."""
        made = self.of("Deployment").get(name, {}).get("spec") or self.of("PodTemplate")[name]
        spec: Object = made["template"]["spec"]
        return spec

    def settings(self, config_map: str) -> dict[str, Any]:
        """Return the settings in a ConfigMap of one file."""
        (text,) = self.of("ConfigMap")[config_map]["data"].values()
        settings: dict[str, Any] = yaml.safe_load(text)
        return settings

    def try_out(self) -> None:
        """Have the API server judge it; a warning is a SandboxError, too."""
        self.cluster.kubectl("apply", "--dry-run=server", *STRICT, stdin=self.manifest)

    def apply_first(self) -> None:
        """Apply what the others need, and wait until it is served."""
        first = [one for one in self.objects if one["kind"] in FIRST]
        text = yaml.safe_dump_all(first)
        self.cluster.kubectl("apply", *STRICT, stdin=text)
        names = (f"crd/{name}" for name in self.of("CustomResourceDefinition"))
        self.cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)

    def apply(self) -> None:
        self.cluster.kubectl("apply", *STRICT, stdin=self.manifest)

    def delete(self) -> None:
        """Delete it and wait until it is gone."""
        self.cluster.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=self.manifest)


def kustomized(directory: Path) -> str:
    """Return the objects of a directory by kubectl's own kustomize."""
    return run([str(find_kubectl()), "kustomize", str(directory)], limit=60)


def documented(overlay: str, directory: Path) -> str:
    """Return the objects of the overlay that the docs show, here above another one of ours."""
    text = yaml_block(INSTALL, "name: kmm-cp-daemons")
    ours = os.path.relpath(OVERLAYS / overlay, directory.resolve())
    file = directory / "kustomization.yaml"
    file.write_text(text.replace("kmm/manifests/overlays/default", ours))
    return kustomized(directory)


def composed(directory: Path, overlay: str, *components: str) -> str:
    """Return the objects of an overlay with components of manifests/, by way of a directory."""
    ours = os.path.relpath(OVERLAYS.parent, directory.resolve())
    parts = {
        "resources": [f"{ours}/overlays/{overlay}"],
        "components": [f"{ours}/{component}" for component in components],
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(parts))
    return kustomized(directory)


def yaml_block(page: Path, containing: str) -> str:
    """Return the only block of YAML of a page that has a text in it."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (text,) = [str(block) for block in blocks if containing in block]
    return text


@contextmanager
def installed(installation: Installation) -> Iterator[Installation]:
    """Apply it; delete it at the end, unless that is done already."""
    try:
        installation.apply_first()
        installation.try_out()
        installation.apply()
        yield installation
    finally:
        installation.delete()


def inventory(cluster: Cluster | Nodes) -> set[str]:
    """Return `kind namespace/name` of every object that there is."""
    names = cluster.kubectl("api-resources", "--verbs=list,delete", "-o", "name").split()
    text = cluster.kubectl("get", ",".join(names), "-A", "-o", f"jsonpath={_EACH}")
    return {line for line in text.splitlines() if not line.startswith(_FLEETING)}


def containers(objects: list[Object]) -> Iterator[Object]:
    """Yield the containers of every Pod that objects make."""
    for one in objects:
        template = one.get("template") or one.get("spec", {}).get("template", {})
        yield from template.get("spec", {}).get("initContainers", [])
        yield from template.get("spec", {}).get("containers", [])
