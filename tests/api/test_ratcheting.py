"""Modules that are older than the rule that they break, on a real API server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kmm_common.api import crd
from kmm_sandbox.kubeapi import ApiError, KubeApi, Object
from kmm_sandbox.processes import wait_until
from support.brokenmodules import CASES, CONTAINER, MODPROBE, TOLERATIONS, Case, Changes, changed
from support.cluster import Cluster, running_cluster
from support.largestmodule import largest_module

MODULES = "/apis/kmm.sigs.x-k8s.io/v1beta1/namespaces/default/modules"
EVERY_FIELD = Path(__file__).parent / "every_field.yaml"
HOLD = ["example.com/hold"]
SECONDS = 60.0


def every_field_and(**container: object) -> Changes:
    """Return a Module with every field there is, some of them other ones."""
    spec: Object = next(yaml.safe_load_all(EVERY_FIELD.read_text()))["spec"]
    spec["moduleLoader"]["container"] |= container
    return {"spec": spec}


def largest_and_wrong_in_its_last_mapping() -> Changes:
    spec: Object = largest_module("devicePlugin")["spec"]
    mappings = spec["moduleLoader"]["container"]["kernelMappings"]
    mappings[-1] = {"sign": {"filesToSign": ["a.ko"]}}
    return {"spec": spec}


OLD = [
    *CASES,
    Case(
        text="the largest within the bounds, and much that is wrong in its last mapping",
        at=CONTAINER,
        broken=largest_and_wrong_in_its_last_mapping(),
        mended={"spec": largest_module("devicePlugin")["spec"]},
    ),
    Case(
        text="every field, and two that exclude each other",
        at=CONTAINER,
        broken=every_field_and(inTreeModuleToRemove="a"),
        mended=every_field_and(),
    ),
    Case(
        text="every field, and files to sign elsewhere",
        at=CONTAINER,
        broken=every_field_and(sign={"filesToSign": ["/elsewhere/a.ko"]}),
        mended=every_field_and(),
    ),
    Case(
        text="a name that breaks its pattern, which is no rule in CEL",
        at=f"{MODPROBE}.moduleName",
        broken={f"{MODPROBE}.moduleName": "-r"},
        mended={f"{MODPROBE}.moduleName": "r"},
    ),
]


def old(case: Case) -> Object:
    module = changed(case.broken, name=f"old-{OLD.index(case)}")
    module["metadata"]["finalizers"] = HOLD
    return module


def path(case: Case) -> str:
    return f"{MODULES}/{old(case)['metadata']['name']}"


def without_rules(schema: object) -> None:
    """Take the rules and patterns from a CRD."""
    if isinstance(schema, dict):
        schema.pop("x-kubernetes-validations", None)
        schema.pop("pattern", None)
    for inner in schema.values() if isinstance(schema, dict) else schema:  # type: ignore[attr-defined]
        if isinstance(inner, dict | list):
            without_rules(inner)


def define(cluster: Cluster, definition: Object, *, accepted: bool) -> None:
    """Apply a CRD, and wait until a Module that breaks rules is accepted, or is refused."""
    force = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    cluster.kubectl(*force, stdin=yaml.safe_dump(definition))

    def is_in_force() -> bool:
        try:
            cluster.api.create(f"{MODULES}?dryRun=All", changed(CASES[0].broken))
        except ApiError:
            return not accepted
        return accepted

    wait_until(is_in_force, seconds=SECONDS, what="CRD in force")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """An API server whose Modules are older than the rules: each breaks one of them."""
    with running_cluster(tmp_path_factory.mktemp("ratcheting")) as cluster:
        lenient = crd.module()
        without_rules(lenient)
        define(cluster, lenient, accepted=True)
        for case in OLD:
            cluster.api.create(MODULES, old(case))
        define(cluster, crd.module(), accepted=False)
        yield cluster.api


@pytest.mark.parametrize("case", OLD, ids=str)
def test_all_but_what_breaks_the_rule_can_be_changed(api: KubeApi, case: Case) -> None:
    with pytest.raises(ApiError):
        api.create(MODULES, {**old(case), "metadata": {"name": "new", "namespace": "default"}})
    before = api.get(path(case))
    api.request("PUT", path(case), before)
    metadata = {"labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": [*HOLD, "a.b/c"]}
    api.merge(path(case), {"metadata": metadata})
    api.merge(f"{path(case)}/status", {"status": {"observedGeneration": 7}})
    api.merge(path(case), {"spec": {"selector": {"other": "one"}}})
    if "moduleLoader" in before["spec"]:
        container = {"imagePullPolicy": "Never", "modprobe": {"parameters": ["a=b"]}}
        api.merge(path(case), {"spec": {"moduleLoader": {"container": container}}})
    api.merge(path(case), {"metadata": {"finalizers": HOLD}})


@pytest.mark.parametrize("case", OLD, ids=str)
def test_it_can_be_mended(api: KubeApi, case: Case) -> None:
    mended = changed(case.mended, name=old(case)["metadata"]["name"])
    mended["metadata"]["resourceVersion"] = api.get(path(case))["metadata"]["resourceVersion"]
    api.request("PUT", f"{path(case)}?dryRun=All", mended)


def test_what_breaks_the_rule_can_be_changed_to_nothing_that_breaks_it(api: KubeApi) -> None:
    case, other = TOLERATIONS[:2]
    spec = changed(other.broken)["spec"]
    with pytest.raises(ApiError, match="effect must be 'NoExecute'"):
        api.merge(path(case), {"spec": {"tolerations": spec["tolerations"]}})


@pytest.mark.parametrize("case", OLD, ids=str)
def test_it_can_be_deleted_and_its_finalizer_taken_off(api: KubeApi, case: Case) -> None:
    api.delete(path(case))
    assert api.get(path(case))["metadata"]["deletionTimestamp"]
    api.merge(path(case), {"metadata": {"finalizers": None}})
    assert api.find(path(case)) is None
