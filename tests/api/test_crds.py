"""The CRDs on a real API server: what they keep, what they refuse, and in which words."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_sandbox.errors import SandboxError
from support.cluster import Cluster

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "manifests" / "samples").glob("*.yaml"))

GOOD: dict[str, Any] = {
    "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
    "kind": "Module",
    "metadata": {"name": "probe", "namespace": "default"},
    "spec": {
        "selector": {"kubernetes.io/os": "linux"},
        "moduleLoader": {
            "container": {
                "modprobe": {"moduleName": "dummy"},
                "kernelMappings": [{"regexp": "^.+$", "containerImage": "registry.example/a:b"}],
            }
        },
    },
}

CONTAINER = "spec.moduleLoader.container"
MAPPING = f"{CONTAINER}.kernelMappings.0"
MODPROBE = f"{CONTAINER}.modprobe"
ORDER = "if a loading order is defined, "


def changed(**fields: Any) -> dict[str, Any]:
    """Return the good Module with some fields replaced; None removes one. Dots as `__`."""
    module = copy.deepcopy(GOOD)
    for path, value in fields.items():
        *parents, last = path.split("__")
        at: Any = module
        for part in parents:
            at = at[int(part)] if part.isdigit() else at[part]
        if value is None:
            del at[last]
        else:
            at[int(last) if last.isdigit() else last] = value
    return module


def at(path: str, value: Any, **more: Any) -> dict[str, Any]:
    return changed(**{path.replace(".", "__"): value}, **more)


def refusal(kubernetes: Cluster, module: dict[str, Any]) -> str:
    """Return what kubectl says to a Module that must not be accepted."""
    with pytest.raises(SandboxError) as raised:
        kubernetes.kubectl.apply(yaml.safe_dump(module))
    return str(raised.value)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_comes_back_unchanged(kubernetes: Cluster, sample: Path) -> None:
    wanted = yaml.safe_load(sample.read_text())
    kubernetes.kubectl.apply(sample.read_text())
    name = wanted["metadata"]["name"]
    stored = yaml.safe_load(kubernetes.kubectl("get", "module", name, "-o", "yaml"))
    modprobe = wanted["spec"]["moduleLoader"]["container"]["modprobe"]
    # The one default of upstream's CRD.
    modprobe.setdefault("dirName", "/opt")
    assert stored["spec"] == wanted["spec"]


def test_nothing_just_applied_looks_healthy(kubernetes: Cluster) -> None:
    kubernetes.kubectl.apply(yaml.safe_dump(changed(metadata__name="fresh")))
    stored = yaml.safe_load(kubernetes.kubectl("get", "module", "fresh", "-o", "yaml"))
    assert stored["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (at("spec.nonsense", 1), 'unknown field "spec.nonsense"'),
        (at("spec.selector", None), "spec.selector: Required value"),
        (at(f"{CONTAINER}.kernelMappings", []), "kernelMappings"),
        (
            at(f"{MAPPING}.containerImage", None),
            "missing spec.moduleLoader.container.kernelMappings[].containerImage",
        ),
        (
            at(f"{MAPPING}.containerImage", "registry.example/a"),
            "container image must explicitely set a tag or digest; got: registry.example/a",
        ),
        (at(f"{MAPPING}.regexp", "a(b"), "error parsing regexp"),
        (at(f"{MAPPING}.regexp", "(?=lookahead)"), "error parsing regexp"),
        (at(f"{MAPPING}.regexp", None), "regexp or literal must be set at kernelMappings"),
        (at(f"{MAPPING}.literal", "6.1"), "regexp and literal are mutually exclusive properties"),
        (
            at(
                MAPPING,
                {
                    "literal": "6.1",
                    "containerImage": "a:b",
                    "inTreeModuleToRemove": "a",
                    "inTreeModulesToRemove": ["b"],
                },
            ),
            "only one of the KernelMapping fields: InTreeModulesToRemove or InTreeModuleToRemove",
        ),
        (
            at(
                f"{CONTAINER}.inTreeModuleToRemove",
                "a",
                spec__moduleLoader__container__kernelMappings=[
                    {"literal": "6.1", "containerImage": "a:b", "inTreeModulesToRemove": ["b"]}
                ],
            ),
            "only one type if field (InTreeModuleToRemove or InTreeModulesToRemove)",
        ),
        (
            at(f"{MODPROBE}.rawArgs", {"load": ["a"], "unload": ["b"]}),
            "rawArgs cannot be set when moduleName is set",
        ),
        (
            at(MODPROBE, {"rawArgs": {"load": ["a"]}}),
            "load and unload rawArgs must be set when moduleName is unset",
        ),
        (at(f"{MODPROBE}.modulesLoadingOrder", ["dummy"]), f"{ORDER}at least two values"),
        (at(f"{MODPROBE}.modulesLoadingOrder", ["a", "b"]), f"{ORDER}the first element"),
        (at(f"{MODPROBE}.modulesLoadingOrder", ["dummy", "a", "a"]), "duplicate value"),
        (at(f"{MODPROBE}.dirName", "/opt/../etc"), "dirName must be an absolute path without '..'"),
        (at(f"{MODPROBE}.firmwarePath", "../etc"), "firmwarePath must not contain '..'"),
        (at(f"{MODPROBE}.moduleName", "-r"), "moduleName"),
        (
            at("spec.tolerations", [{"operator": "Equal", "value": "x"}]),
            "failed to validate Module's tolerations: operator must be 'Exists' when key is empty",
        ),
        (
            at("spec.tolerations", [{"key": "a", "operator": "Never"}]),
            "invalid operator 'Never', allowed values are ['Equal', 'Exists']",
        ),
        (
            at("spec.tolerations", [{"key": "a", "effect": "Boom"}]),
            "invalid effect 'Boom', allowed values are",
        ),
        (
            at(
                "spec.devicePlugin",
                {
                    "container": {"image": "a:b"},
                    "volumes": [{"name": "v", "hostPath": {"path": "/etc/shadow"}}],
                },
            ),
            'hostPath "/etc/shadow" is not allowed; only /dev, /sys, /var, /opt and /run paths',
        ),
        (
            at(
                "spec.dra",
                {"driverName": "d.example", "container": {"image": "a:b"}},
                spec__devicePlugin={"container": {"image": "a:b"}},
            ),
            "spec.dra and spec.devicePlugin are mutually exclusive",
        ),
    ],
)
def test_a_wrong_module_is_refused_and_told_why(
    kubernetes: Cluster, module: dict[str, Any], text: str
) -> None:
    assert text in refusal(kubernetes, module)


def test_the_version_cannot_come_or_go(kubernetes: Cluster) -> None:
    kubernetes.kubectl.apply(yaml.safe_dump(changed(metadata__name="versioned")))
    versioned = at(f"{CONTAINER}.version", "v1", metadata__name="versioned")
    assert "cannot update to or from an empty version" in refusal(kubernetes, versioned)
