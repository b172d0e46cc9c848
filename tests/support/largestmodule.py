"""The largest Module that fits the documented bounds, as far as validation rules look at it."""

from kmm_sandbox.kubeapi import Object

MAPPINGS = TOLERATIONS = FILES = 64
NAMES = VOLUMES = CLASSES = 32
DIR = f"/{255 * 'd'}"
IMAGE = f"{1022 * 'i'}:t"


def _names() -> list[str]:
    """Return as many and as long kernel modules as fit, all different."""
    return [f"{number:064}" for number in range(NAMES)]


def _files() -> list[str]:
    """Return as many and as long paths as fit, directly under "/"."""
    return [f"/{number:0255}" for number in range(FILES)]


def _loader() -> Object:
    sign = {"filesToSign": _files()}
    # In-tree modules are named either here or in the mappings' other field.
    mapping = {
        "regexp": 512 * "r",
        "containerImage": IMAGE,
        "inTreeModulesToRemove": _names(),
        "sign": sign,
    }
    modprobe = {
        "moduleName": _names()[0],
        "modulesLoadingOrder": _names(),
        "dirName": "/",
        "firmwarePath": DIR,
    }
    container = {
        "containerImage": IMAGE,
        "inTreeModulesToRemove": _names(),
        "sign": sign,
        "kernelMappings": [mapping] * MAPPINGS,
        "modprobe": modprobe,
    }
    return {"container": container}


def _plugin(kind: str) -> Object:
    volumes = [
        {"name": f"v{number}", "hostPath": {"path": f"/var/{1019 * 'p'}"}}
        for number in range(VOLUMES)
    ]
    plugin: Object = {"container": {"image": IMAGE}, "volumes": volumes}
    if kind == "devicePlugin":
        return plugin
    classes = [{"name": f"{number:0253}"} for number in range(CLASSES)]
    return {**plugin, "driverName": 253 * "d", "deviceClasses": classes}


def largest_module(kind: str) -> Object:
    """Return one with a `devicePlugin` or with a `dra`, whose images a node never needs."""
    toleration = {"key": 317 * "k", "operator": "Equal", "value": 63 * "v", "effect": "NoExecute"}
    return {
        "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
        "kind": "Module",
        "metadata": {"name": f"largest-{kind.lower()}", "namespace": "default"},
        "spec": {
            "selector": {"largest": kind},
            "tolerations": [toleration] * TOLERATIONS,
            "moduleLoader": _loader(),
            kind: _plugin(kind),
        },
    }
