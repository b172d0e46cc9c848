"""The CRDs' fields on a real API server: what they keep, and what does not fit them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kmm_common.api import crd
from kmm_common.api.module import Module
from kmm_sandbox.errors import SandboxError
from support.brokenmodules import CONTAINER, MODPROBE, Changes, changed
from support.cluster import Cluster

SAMPLES = sorted(
    (Path(__file__).resolve().parents[2] / "manifests" / "samples").glob("module*.yaml")
)


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
    kubernetes.kubectl.apply(yaml.safe_dump(changed({}, name="fresh")))
    stored = yaml.safe_load(kubernetes.kubectl("get", "module", "fresh", "-o", "yaml"))
    assert stored["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({"spec.nonsense": 1}, 'unknown field "spec.nonsense"'),
        ({"spec.selector": None}, "spec.selector: Required value"),
        ({f"{CONTAINER}.kernelMappings": []}, "should have at least 1 items"),
        ({f"{MODPROBE}.moduleName": "-r"}, f"{MODPROBE}.moduleName: Invalid value"),
    ],
)
def test_module_that_does_not_fit_the_schema_is_refused(
    kubernetes: Cluster, broken: Changes, text: str
) -> None:
    with pytest.raises(SandboxError) as raised:
        kubernetes.kubectl.apply(yaml.safe_dump(changed(broken)))
    assert text in str(raised.value)
