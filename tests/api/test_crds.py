"""The CRDs on a real API server: what they keep, what they refuse, and in which words."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_common.api import crd
from kmm_common.api.module import Module
from kmm_sandbox.errors import SandboxError
from support.cluster import Cluster

SAMPLES = sorted(
    (Path(__file__).resolve().parents[2] / "manifests" / "samples").glob("module*.yaml")
)

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


EVERY_FIELD = Path(__file__).parent / "every_field.yaml"


@pytest.mark.parametrize("module", list(yaml.safe_load_all(EVERY_FIELD.read_text())), ids="12")
def test_every_field_comes_back_unchanged(kubernetes: Cluster, module: dict[str, Any]) -> None:
    kubernetes.kubectl.apply(yaml.safe_dump(module))
    name = module["metadata"]["name"]
    stored = yaml.safe_load(kubernetes.kubectl("get", "module", name, "-o", "yaml"))
    assert stored["spec"] == module["spec"]
    assert Module.from_object(stored).metadata.name == name
    kubernetes.kubectl("delete", "module", name, "--wait=false")


def test_every_field_is_among_them() -> None:
    version = crd.module()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    modules = yaml.safe_load_all(EVERY_FIELD.read_text())
    given = {path for module in modules for path in _leaves(module["spec"])}
    assert set(_fields(version["properties"]["spec"])) - given == set()


def _fields(schema: dict[str, Any], path: str = "spec") -> Iterator[str]:
    """Yield the paths of a schema's ends; array items as []."""
    if "properties" in schema:
        for name, inner in schema["properties"].items():
            yield from _fields(inner, f"{path}.{name}")
    elif schema["type"] == "array":
        yield from _fields(schema["items"], f"{path}[]")
    else:
        yield path


def _leaves(value: Any, path: str = "spec") -> Iterator[str]:
    """Yield all paths of a value, those of whole objects too."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, f"{path}[]")


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
