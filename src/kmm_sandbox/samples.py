"""The Modules that the sandbox shows: stock modules of the nodes' kernel, in kmod images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import yaml

from kmm_common.api import names
from kmm_sandbox import kmodimage
from kmm_sandbox.kerneltree import KernelTree
from kmm_sandbox.registry import Registry

NAMESPACE = "default"
TAG = "${KERNEL_FULL_VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which nodes a Module is for."""

    selector: Mapping[str, str]
    tolerated: str = ""
    """The key of a taint that they have."""


EVERYWHERE = Placement(selector={"kubernetes.io/os": "linux"})


class Source(Protocol):
    """What an image is made for, and where it goes."""

    @property
    def kernel(self) -> KernelTree: ...

    @property
    def registry(self) -> Registry: ...


def push(sandbox: Source, name: str, modules: Sequence[str]) -> str:
    """Build and push a kmod image for the nodes' kernel; return its reference, as a template."""
    files = kmodimage.kmod_files(sandbox.kernel, modules)
    built = kmodimage.image(kmodimage.layer(files))
    repository = f"kmod/{name}"
    kmodimage.push(sandbox.registry, repository, sandbox.kernel.version, built)
    return f"{sandbox.registry.address}/{repository}:{TAG}"


def module(
    name: str,
    image: str,
    module_name: str,
    parameters: Sequence[str] = (),
    *,
    placement: Placement = EVERYWHERE,
) -> str:
    """Return the manifest of a Module."""
    modprobe: dict[str, Any] = {"moduleName": module_name}
    if parameters:
        modprobe["parameters"] = list(parameters)
    container = {
        "modprobe": modprobe,
        "registryTLS": {"insecure": True},
        "kernelMappings": [{"regexp": "^.+$", "containerImage": image}],
    }
    taint = placement.tolerated
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": "Module",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": dict(placement.selector),
            **({"tolerations": [{"key": taint, "operator": "Exists"}]} if taint else {}),
            "moduleLoader": {"container": container},
        },
    }
    return yaml.safe_dump(manifest, sort_keys=False)
