"""For each rule about Modules one that breaks it, what the API server says, and the same mended."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kmm_sandbox.kubeapi import Object

GOOD: Object = {
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
MAPPINGS = f"{CONTAINER}.kernelMappings"
FIRST = f"{MAPPINGS}.0"
MODPROBE = f"{CONTAINER}.modprobe"

Changes = Mapping[str, Any]
"""Values by path in the good Module, keys and indexes joined by dots; None removes one."""


def changed(changes: Changes, *, name: str = "probe") -> Object:
    """Return the good Module with some fields replaced, under a name."""
    module = copy.deepcopy(GOOD)
    module["metadata"]["name"] = name
    for path, value in changes.items():
        *parents, last = path.split(".")
        at: Any = module
        for part in parents:
            at = at[int(part)] if part.isdigit() else at[part]
        if value is None:
            del at[last]
        else:
            at[int(last) if last.isdigit() else last] = value
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A Module that breaks one rule."""

    text: str
    """What is said of it, without the field's path."""
    at: str
    """The field's path."""
    broken: Changes
    mended: Changes
    """Almost the same, but right."""

    def __str__(self) -> str:
        return self.text


_MAPPING = "failed to validate kernel mappings: "
_PROBE = "failed to validate modprobe: "
_DRA = "failed to validate DRA: "
_ORDER = f"{_PROBE}if a loading order is defined, "
_NO_SUBDOMAIN = (
    "is not a valid DNS subdomain: a lowercase RFC 1123 subdomain must consist of lower case "
    "alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_FINE = {"key": "fine"}


def _toleration(text: str, broken: Object, mended: Object) -> Case:
    return Case(
        text=f"failed to validate Module's tolerations: Toleration[1] {text}",
        at="spec.tolerations",
        broken={"spec.tolerations": [_FINE, broken, broken]},
        mended={"spec.tolerations": [_FINE, mended, mended]},
    )


TOLERATIONS = [
    _toleration(
        "operator must be 'Exists' when key is empty",
        {"operator": "Equal", "value": "x"},
        {"operator": "Exists"},
    ),
    _toleration(
        "effect must be 'NoExecute' when tolerationSeconds is set",
        {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1},
        {"key": "a", "effect": "NoExecute", "tolerationSeconds": 1},
    ),
    _toleration(
        "value must be empty when operator is 'Exists'",
        {"key": "a", "operator": "Exists", "value": "x"},
        {"key": "a", "operator": "Exists", "value": ""},
    ),
    _toleration(
        "invalid operator 'Never', allowed values are ['Equal', 'Exists']",
        {"key": "a", "operator": "Never"},
        {"key": "a", "operator": "Equal"},
    ),
    _toleration(
        "invalid effect 'Boom', allowed values are ['NoSchedule', 'PreferNoSchedule', 'NoExecute']",
        {"key": "a", "effect": "Boom"},
        {"key": "a", "effect": "PreferNoSchedule"},
    ),
]


def _dra(driver: str = "d.example", *classes: str) -> Changes:
    """Return a Module with a DRA driver, and nothing else."""
    dra = {
        "driverName": driver,
        "container": {"image": "a:b"},
        "deviceClasses": [{"name": name, "selectors": [{"cel": {}}]} for name in classes],
    }
    return {"spec.dra": dra, "spec.moduleLoader": None}


def _plugin(*paths: str) -> Changes:
    """Return a Module with a device plugin that has paths of the host, and nothing else."""
    volumes: list[Object] = [
        {"name": f"v{n}", "hostPath": {"path": p}} for n, p in enumerate(paths)
    ]
    empty: Object = {"name": "empty", "emptyDir": {}}
    plugin = {"container": {"image": "a:b"}, "volumes": [empty, *volumes]}
    return {"spec.devicePlugin": plugin, "spec.moduleLoader": None}


def _host_path(broken: str, mended: str) -> Case:
    return Case(
        text="failed to validate device plugin volumes: spec.devicePlugin.volumes[2]: "
        f'hostPath "{broken}" is not allowed; only /dev, /sys, /var, /opt and /run paths are '
        "permitted",
        at="spec.devicePlugin.volumes",
        broken=_plugin("/dev/kmsg", broken),
        mended=_plugin("/dev/kmsg", mended),
    )


PLUGINS = [
    Case(
        text="spec.dra and spec.devicePlugin are mutually exclusive",
        at="spec",
        broken={**_dra(), **_plugin()},
        mended=_dra(),
    ),
    Case(
        text=f"{_DRA}spec.dra.driverName is required",
        at="spec.dra.driverName",
        broken=_dra(""),
        mended=_dra("d"),
    ),
    Case(
        text=f'{_DRA}spec.dra.driverName "Driver_1.example" {_NO_SUBDOMAIN}',
        at="spec.dra.driverName",
        broken=_dra("Driver_1.example"),
        mended=_dra("driver-1.example"),
    ),
    Case(
        text=f"{_DRA}spec.dra.deviceClasses[1].name is required",
        at="spec.dra.deviceClasses",
        broken=_dra("d", "a", ""),
        mended=_dra("d", "a", "0"),
    ),
    Case(
        text=f'{_DRA}spec.dra.deviceClasses[1].name "a..b" {_NO_SUBDOMAIN}',
        at="spec.dra.deviceClasses",
        broken=_dra("d", "a", "a..b"),
        mended=_dra("d", "a", "a.b"),
    ),
    Case(
        text=f'{_DRA}spec.dra.deviceClasses[2].name "a" is a duplicate',
        at="spec.dra.deviceClasses",
        broken=_dra("d", "a", "b", "a"),
        mended=_dra("d", "a", "b", "c"),
    ),
    _host_path("/etc/shadow", "/dev"),
    _host_path("/", "/sys/"),
    _host_path("/variable", "/var//lib"),
    _host_path("/var/../etc", "/opt/..data"),
    _host_path("run", "//./run"),
]


def _mapping(**fields: Any) -> Object:
    return {"regexp": "^.+$", "containerImage": "a:b", **fields}


def _sign(*files: str) -> Object:
    return {"keySecret": {"name": "k"}, "filesToSign": list(files)}


LOADERS = [
    Case(
        text=f"{_MAPPING}only one of the Container's fields: InTreeModulesToRemove or "
        "InTreeModuleToRemove can be defined",
        at=CONTAINER,
        broken={
            f"{CONTAINER}.inTreeModuleToRemove": "a",
            f"{CONTAINER}.inTreeModulesToRemove": [],
        },
        mended={f"{CONTAINER}.inTreeModuleToRemove": "a"},
    ),
    Case(
        text=f"{_MAPPING}only one of the KernelMapping fields: InTreeModulesToRemove or "
        "InTreeModuleToRemove can be defined",
        at=f"{MAPPINGS}[0]",
        broken={FIRST: _mapping(inTreeModuleToRemove="a", inTreeModulesToRemove=["b"])},
        mended={FIRST: _mapping(inTreeModuleToRemove="", inTreeModulesToRemove=["b"])},
    ),
    Case(
        text=f"{_MAPPING}only one type if field (InTreeModuleToRemove or InTreeModulesToRemove) "
        "can be defined in KenrelMapping or Container",
        at=CONTAINER,
        broken={
            f"{CONTAINER}.inTreeModuleToRemove": "a",
            FIRST: _mapping(inTreeModulesToRemove=["b"]),
        },
        mended={
            f"{CONTAINER}.inTreeModulesToRemove": ["a"],
            FIRST: _mapping(inTreeModulesToRemove=["b"]),
        },
    ),
    Case(
        text=f"{_MAPPING}only one type if field (InTreeModuleToRemove or InTreeModulesToRemove) "
        "can be defined in KenrelMapping or Container",
        at=CONTAINER,
        broken={
            f"{CONTAINER}.inTreeModulesToRemove": ["a"],
            FIRST: _mapping(inTreeModuleToRemove="b"),
        },
        mended={
            f"{CONTAINER}.inTreeModuleToRemove": "a",
            FIRST: _mapping(inTreeModuleToRemove="b"),
        },
    ),
    Case(
        text=f"{_MAPPING}failed to validate image format: container image must explicitely set a "
        "tag or digest; got: registry.example/a",
        at=CONTAINER,
        broken={f"{CONTAINER}.containerImage": "registry.example/a"},
        mended={f"{CONTAINER}.containerImage": "registry.example/a:1"},
    ),
    Case(
        text=f"{_MAPPING}failed to validate image format: container image must explicitely set a "
        "tag or digest; got: a",
        at=f"{MAPPINGS}[0]",
        broken={f"{FIRST}.containerImage": "a"},
        mended={f"{FIRST}.containerImage": f"a@sha256:{64 * '0'}"},
    ),
    Case(
        text=f"{_MAPPING}regexp and literal are mutually exclusive properties at kernelMappings[1]",
        at=MAPPINGS,
        broken={MAPPINGS: [_mapping(), _mapping(literal="6.1")]},
        mended={MAPPINGS: [_mapping(), _mapping(literal="6.1", regexp="")]},
    ),
    Case(
        text=f"{_MAPPING}regexp or literal must be set at kernelMappings[1]",
        at=MAPPINGS,
        broken={MAPPINGS: [_mapping(), _mapping(regexp="", literal="")]},
        mended={MAPPINGS: [_mapping(), _mapping(literal="6.1", regexp="")]},
    ),
    Case(
        text="error parsing regexp: missing closing ): `a(b` "
        f"evaluating rule: {_MAPPING}invalid regexp",
        at=MAPPINGS,
        broken={f"{FIRST}.regexp": "a(b"},
        mended={f"{FIRST}.regexp": "a(b)"},
    ),
    Case(
        text="error parsing regexp: invalid or unsupported Perl syntax: `(?=` "
        f"evaluating rule: {_MAPPING}invalid regexp",
        at=MAPPINGS,
        broken={f"{FIRST}.regexp": "(?=lookahead)"},
        mended={f"{FIRST}.regexp": r"(?i)\pN\z"},
    ),
    Case(
        text=f"{_MAPPING}missing {MAPPINGS}[1].containerImage: name an image there, or for all "
        f"mappings in {CONTAINER}.containerImage",
        at=CONTAINER,
        broken={MAPPINGS: [_mapping(), {"literal": "6.1"}]},
        mended={MAPPINGS: [_mapping(), {"literal": "6.1"}], f"{CONTAINER}.containerImage": "a:b"},
    ),
    Case(
        text="global Sign: filesToSign is required when Sign is set",
        at=CONTAINER,
        broken={f"{CONTAINER}.sign": _sign()},
        mended={f"{CONTAINER}.sign": _sign("/opt/a.ko")},
    ),
    Case(
        text='global Sign: filesToSign["/optional/a.ko"] must be under dirName "/opt"',
        at=CONTAINER,
        broken={f"{CONTAINER}.sign": _sign("/opt/a.ko", "/optional/a.ko")},
        mended={f"{CONTAINER}.sign": _sign("/mods/a.ko"), f"{MODPROBE}.dirName": "/mods"},
    ),
    Case(
        text="kernelMappings[1].Sign: filesToSign is required when Sign is set",
        at=CONTAINER,
        broken={MAPPINGS: [_mapping(sign=_sign("/opt/a.ko")), _mapping(sign={})]},
        mended={MAPPINGS: [_mapping(), _mapping(sign=_sign("/opt/a.ko"))]},
    ),
    Case(
        text='kernelMappings[1].Sign: filesToSign["b.ko"] must be under dirName "/opt"',
        at=CONTAINER,
        broken={
            MAPPINGS: [_mapping(sign=_sign("/opt/a.ko")), _mapping(sign=_sign("/opt/a.ko", "b.ko"))]
        },
        mended={MAPPINGS: [_mapping(sign=_sign("/b.ko"))], f"{MODPROBE}.dirName": "/"},
    ),
]


def _raw(load: list[str], unload: list[str]) -> Object:
    return {"rawArgs": {"load": load, "unload": unload}}


PROBES = [
    Case(
        text=f"{_PROBE}rawArgs cannot be set when moduleName is set",
        at=MODPROBE,
        broken={MODPROBE: {"moduleName": "dummy", "rawArgs": {"unload": ["-r"]}}},
        mended={MODPROBE: {"moduleName": "dummy", "rawArgs": {}}},
    ),
    Case(
        text=f"{_PROBE}load and unload rawArgs must be set when moduleName is unset",
        at=MODPROBE,
        broken={MODPROBE: _raw(["dummy"], [])},
        mended={MODPROBE: _raw(["dummy"], ["-r", "dummy"])},
    ),
    Case(
        text=f"{_ORDER}at least two values must be defined",
        at=MODPROBE,
        broken={f"{MODPROBE}.modulesLoadingOrder": ["dummy"]},
        mended={f"{MODPROBE}.modulesLoadingOrder": ["dummy", "a"]},
    ),
    Case(
        text=f"{_ORDER}at least two values must be defined",
        at=MODPROBE,
        broken={f"{MODPROBE}.modulesLoadingOrder": []},
        mended={f"{MODPROBE}.modulesLoadingOrder": ["dummy", "a"]},
    ),
    Case(
        text=f"{_ORDER}moduleName must be set",
        at=MODPROBE,
        broken={MODPROBE: {**_raw(["a"], ["a"]), "modulesLoadingOrder": ["a", "b"]}},
        mended={MODPROBE: {"moduleName": "a", "modulesLoadingOrder": ["a", "b"]}},
    ),
    Case(
        text=f"{_ORDER}the first element must be moduleName",
        at=MODPROBE,
        broken={f"{MODPROBE}.modulesLoadingOrder": ["a", "dummy"]},
        mended={f"{MODPROBE}.modulesLoadingOrder": ["dummy", "a"]},
    ),
    Case(
        text=f'{_PROBE}"a": duplicate value in the loading order list',
        at=MODPROBE,
        broken={f"{MODPROBE}.modulesLoadingOrder": ["dummy", "a", "b", "a"]},
        mended={f"{MODPROBE}.modulesLoadingOrder": ["dummy", "a", "b"]},
    ),
    Case(
        text=f"{_PROBE}dirName must be an absolute path without '..'",
        at=MODPROBE,
        broken={f"{MODPROBE}.dirName": "/opt/../etc"},
        mended={f"{MODPROBE}.dirName": "/opt/..data"},
    ),
    Case(
        text=f"{_PROBE}firmwarePath must not contain '..'",
        at=MODPROBE,
        broken={f"{MODPROBE}.firmwarePath": "../etc"},
        mended={f"{MODPROBE}.firmwarePath": "etc.."},
    ),
]

CASES = [*TOLERATIONS, *PLUGINS, *LOADERS, *PROBES]


def validations(within: Any) -> Iterator[Object]:
    """Yield every validation rule within a CRD."""
    if isinstance(within, dict):
        yield from within.get("x-kubernetes-validations", ())
    for inner in within.values() if isinstance(within, dict) else within:
        if isinstance(inner, dict | list):
            yield from validations(inner)
