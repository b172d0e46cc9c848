"""The CustomResourceDefinitions, generated from the models: `python -m kmm_common.api.crd`."""

import sys
from pathlib import Path
from typing import Any

import yaml

from kmm_common.api import cel, names, rules, schema
from kmm_common.api.meta import Condition
from kmm_common.api.module import ModuleSpec, ModuleStatus
from kmm_common.api.nodemodulesstate import (
    UNOBSERVED,
    DaemonStatus,
    Summary,
)
from kmm_common.api.nodemodulesstate import ModuleStatus as NodeModuleStatus
from kmm_common.desired import DesiredModule

CRDS = Path(__file__).resolve().parents[3] / "crds"

Json = dict[str, Any]

_UNOBSERVED_STATUS = {"observedGeneration": UNOBSERVED}
"""So that kstatus never takes something just applied for healthy."""


def module() -> Json:
    """Return the CRD of Module."""
    spec = schema.of_model(ModuleSpec)
    _add_rules(spec)
    status = schema.of_model(ModuleStatus)
    status["default"] = _UNOBSERVED_STATUS
    _keyed_by(status["properties"]["conditions"], "type")
    columns = [
        _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        _column("Desired", ".status.moduleLoader.desiredNumber", type_="integer"),
        _column("Available", ".status.moduleLoader.availableNumber", type_="integer"),
        _column("Kernel Module", ".spec.moduleLoader.container.modprobe.moduleName", wide=True),
        _column("Message", '.status.conditions[?(@.type=="Ready")].message', wide=True),
        _column("Age", ".metadata.creationTimestamp", type_="date"),
    ]
    text = "Module loads a kernel module on the nodes that its selector matches."
    return _crd(
        kind="Module",
        plural=names.MODULES,
        short=[],
        scope="Namespaced",
        description=text,
        spec=spec,
        status=status,
        columns=columns,
    )


def node_modules_state() -> Json:
    """Return the CRD of NodeModulesState."""
    columns = [
        _column("Kernel", ".status.kernelVersion"),
        _column("Desired", ".status.summary.desired", type_="integer"),
        _column("Loaded", ".status.summary.loaded", type_="integer"),
        _column("Failed", ".status.summary.failed", type_="integer"),
        _column("Connected", ".status.daemon.connected", type_="boolean"),
        _column("Age", ".metadata.creationTimestamp", type_="date"),
        _column("Error", ".status.summary.error", wide=True),
    ]
    text = (
        "NodeModulesState is the desired and the reported state of the kernel modules of the node "
        "it is named after. KMM writes it; an edit by hand is undone."
    )
    return _crd(
        kind="NodeModulesState",
        plural=names.NODE_MODULES_STATES,
        short=["nms"],
        scope="Cluster",
        description=text,
        spec=_state_spec(),
        status=_state_status(),
        columns=columns,
    )


def _state_spec() -> Json:
    modules = {
        "type": "array",
        "description": "What the node should have, ordered by namespace and name.",
        "x-kubernetes-list-type": "atomic",
        "items": schema.of_dataclass(DesiredModule),
    }
    return {
        "type": "object",
        "description": "The desired state; its writer is the control plane alone.",
        "properties": {"modules": modules},
    }


def _state_status() -> Json:
    modules = {
        "type": "array",
        "description": "Complete: a Module that is missing has no module in the kernel.",
        "x-kubernetes-list-type": "atomic",
        "items": schema.of_dataclass(NodeModuleStatus),
    }
    conditions: Json = {
        "type": "array",
        "description": "Ready, Reconciling and Stalled of the whole node, and Paused.",
        "items": schema.of_model(Condition),
    }
    _keyed_by(conditions, "type")
    return {
        "type": "object",
        "description": "What the node's daemon says.",
        "default": _UNOBSERVED_STATUS,
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The newest generation that is carried out, or failed for good.",
            },
            "acceptedGeneration": {
                "type": "integer",
                "format": "int64",
                "description": "The generation that modules is about: the daemon has it.",
            },
            "bootId": {
                "type": "string",
                "description": "The boot that modules is about;"
                " empty while nothing is known of the running one.",
            },
            "kernelVersion": {"type": "string", "description": "uname -r."},
            "daemon": {
                "description": "Who speaks for the node.",
                **schema.of_dataclass(DaemonStatus),
            },
            "modules": modules,
            "summary": {"description": "Counts of modules.", **schema.of_dataclass(Summary)},
            "conditions": conditions,
        },
    }


def _crd(
    *,
    kind: str,
    plural: str,
    short: list[str],
    scope: str,
    description: str,
    spec: Json,
    status: Json,
    columns: list[Json],
) -> Json:
    root = {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    listed = {"shortNames": short} if short else {}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                **listed,
            },
            "scope": scope,
            "versions": [version],
        },
    }


def _column(name: str, path: str, *, type_: str = "string", wide: bool = False) -> Json:
    return {"name": name, "type": type_, "jsonPath": path, **({"priority": 1} if wide else {})}


def _keyed_by(array: Json, key: str) -> None:
    array["x-kubernetes-list-type"] = "map"
    array["x-kubernetes-list-map-keys"] = [key]


def _add_rules(spec: Json) -> None:
    """Put the validation rules at the schemas that they look at."""
    properties = spec["properties"]
    container = properties["moduleLoader"]["properties"]["container"]
    _put(spec, rules.SPEC)
    _put(properties["tolerations"], rules.TOLERATIONS)
    _put(container, rules.CONTAINER)
    mappings = container["properties"]["kernelMappings"]
    _put(mappings, rules.MAPPINGS)
    _put(mappings["items"], rules.MAPPING)
    _put(container["properties"]["modprobe"], rules.MODPROBE)
    dra = properties["dra"]["properties"]
    _put(dra["driverName"], rules.DRIVER_NAME)
    _put(dra["deviceClasses"], rules.DEVICE_CLASSES)
    plugin = properties["devicePlugin"]["properties"]
    for volumes in (plugin["volumes"], dra["volumes"]):
        _add_host_path(volumes["items"])
    _put(plugin["volumes"], rules.DEVICE_PLUGIN_VOLUMES)


def _put(schema: Json, found: list[cel.Rule]) -> None:
    schema["x-kubernetes-validations"] = found


def _add_host_path(volume: Json) -> None:
    """Name the fields of a volume that rules look at; all others are kept as they are."""
    host_path = {"type": "string", "maxLength": 1024}
    volume["properties"] = {
        "name": {"type": "string", "maxLength": 63},
        "hostPath": {
            "type": "object",
            "required": ["path"],
            "properties": {"path": host_path, "type": {"type": "string", "maxLength": 32}},
        },
    }


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: kubectl reads them, people do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def files() -> dict[Path, str]:
    """Return the generated files and their content."""
    return {
        CRDS / f"{names.GROUP}_{crd['spec']['names']['plural']}.yaml": yaml.dump(
            crd, Dumper=_Dumper, sort_keys=False, width=120
        )
        for crd in (module(), node_modules_state())
    }


def main(arguments: list[str]) -> int:
    """Write the files, or with --check tell whether they are up to date."""
    stale = [path for path, text in files().items() if not _same(path, text)]
    if arguments == ["--check"]:
        for path in stale:
            sys.stderr.write(f"{path.name} is not what the models give: make generate\n")
        return 1 if stale else 0
    for path in stale:
        path.write_text(files()[path])
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
