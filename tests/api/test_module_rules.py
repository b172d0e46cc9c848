"""The rules about Modules on a real API server: each refuses in its words, and lets pass."""

import json
import re
from collections.abc import Iterator

import pytest

from kmm_common.api import crd
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import ApiError, Object
from support.brokenmodules import CASES, CONTAINER, Case, changed, validations
from support.cluster import Cluster
from support.largestmodule import largest_module

VERSION_TEXT = (
    "cannot update to or from an empty version; please delete the Module and create it again"
)
MODULES = "/apis/kmm.sigs.x-k8s.io/v1beta1/namespaces/default/modules"


def try_out(kubernetes: Cluster, module: Object) -> None:
    kubernetes.api.create(f"{MODULES}?dryRun=All", module)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_that_breaks_a_rule_is_refused_and_told_why(kubernetes: Cluster, case: Case) -> None:
    with pytest.raises(ApiError) as raised:
        try_out(kubernetes, changed(case.broken))
    whole = (
        r'422: Module\.kmm\.sigs\.x-k8s\.io "probe" is invalid: '
        rf'{re.escape(case.at)}: Invalid value: ("[^"]*": )?{re.escape(case.text)}'
    )
    assert re.fullmatch(whole, str(raised.value)), str(raised.value)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_that_breaks_a_rule_no_more_is_accepted(kubernetes: Cluster, case: Case) -> None:
    try_out(kubernetes, changed(case.mended))


@pytest.fixture(scope="module")
def good(kubernetes: Cluster) -> Iterator[str]:
    """The name of a Module that breaks no rule."""
    kubernetes.api.create(MODULES, changed({}, name="good"))
    yield "good"
    kubernetes.api.delete(f"{MODULES}/good")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_module_is_not_changed_to_one_that_breaks_a_rule(
    kubernetes: Cluster, good: str, case: Case
) -> None:
    # A patch and no PUT, since the control plane writes to it, too.
    patch = [{"op": "replace", "path": "/spec", "value": changed(case.broken)["spec"]}]
    how = ("--type=json", "--dry-run=server", "-p", json.dumps(patch))
    with pytest.raises(SandboxError, match=f"{re.escape(case.text)}$"):
        kubernetes.kubectl("patch", "module", good, *how)


def test_every_rule_is_broken_by_one_of_these() -> None:
    unbroken = [
        rule["message"]
        for rule in validations(crd.module())
        if not any(re.search(_pattern(rule), case.text) for case in CASES)
        # It looks at the old object, too: test_version_cannot_come.
        and rule["message"] != VERSION_TEXT
    ]
    assert not unbroken


def _pattern(rule: Object) -> str:
    """Return what a rule's text matches, whatever it tells."""
    told = rule.get("messageExpression")
    text = json.JSONDecoder().raw_decode(told)[0] if told else rule["message"]
    return ".*".join(map(re.escape, text.split("%s"))) + "$"


VERSION = rf'spec\.moduleLoader\.container: Invalid value: ("[^"]*": )?{VERSION_TEXT}$'


def versioned(version: str | None) -> Object:
    """Return a patch of a Module's version."""
    return {"spec": {"moduleLoader": {"container": {"version": version}}}}


def test_version_cannot_come(kubernetes: Cluster) -> None:
    kubernetes.api.create(MODULES, changed({f"{CONTAINER}.version": ""}, name="unversioned"))
    path = f"{MODULES}/unversioned"
    with pytest.raises(ApiError, match=VERSION):
        kubernetes.api.merge(path, versioned("v1"))
    kubernetes.api.merge(path, versioned(None))
    with pytest.raises(ApiError, match=VERSION):
        kubernetes.api.merge(path, versioned("v1"))
    kubernetes.api.delete(path)


def test_version_can_change_and_cannot_go(kubernetes: Cluster) -> None:
    kubernetes.api.create(MODULES, changed({f"{CONTAINER}.version": "v1"}, name="versioned"))
    path = f"{MODULES}/versioned"
    kubernetes.api.merge(path, versioned("v2"))
    for gone in ("", None):
        with pytest.raises(ApiError, match=VERSION):
            kubernetes.api.merge(path, versioned(gone))
    kubernetes.api.merge(path, {"spec": {"moduleLoader": None}})
    kubernetes.api.delete(path)


@pytest.mark.parametrize("plugin", ["devicePlugin", "dra"])
def test_largest_module_within_the_bounds_is_within_the_budget_of_the_rules(
    kubernetes: Cluster, plugin: str
) -> None:
    largest = largest_module(plugin)
    path = f"{MODULES}/{largest['metadata']['name']}"
    kubernetes.api.create(MODULES, largest)
    kubernetes.api.merge(path, {"spec": {"selector": {"other": "one"}}})
    kubernetes.api.delete(path)


def test_largest_module_is_still_told_what_is_wrong_in_its_last_mapping(
    kubernetes: Cluster,
) -> None:
    largest = largest_module("dra")
    mappings = largest["spec"]["moduleLoader"]["container"]["kernelMappings"]
    mappings[-1] = {**mappings[-1], "sign": {"filesToSign": ["a.ko"]}}
    text = r'kernelMappings\[63\]\.Sign: filesToSign\["a\.ko"\] must be under dirName "/"$'
    with pytest.raises(ApiError, match=text):
        try_out(kubernetes, largest)
