"""ValidatingAdmissionPolicies on a real API server: names of Modules, deletion of namespaces."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmm_common.api.names import CONTAINS_MODULES_LABEL, PAUSED_ANNOTATION
from kmm_sandbox.errors import SandboxError
from kmm_sandbox.kubeapi import ApiError, KubeApi, Object
from kmm_sandbox.processes import wait_until
from support.brokenmodules import changed
from support.cluster import Cluster, running_cluster
from support.fleet import Fleet, eventually

POLICIES = str(Path(__file__).resolve().parents[2] / "manifests/base/admission.yaml")
KINDS = "/apis/admissionregistration.k8s.io/v1"
KMM = "/apis/kmm.sigs.x-k8s.io/v1beta1"
NAMESPACES = "/api/v1/namespaces"
SECONDS = 60.0
TOO_LONG = (
    "denied request: module name and namespace have a combined length of {} characters, which "
    "exceeds the maximum of 41 when version is set"
)
DELETE_FIRST = (
    "denied request: namespace contains one or more Module resources; delete those before "
    "deleting the namespace (if it has none, and KMM's control plane is not there to see that: "
    "kubectl label namespace {} kmm.node.k8s.io/contains-modules-)"
)
OLD = "older-than-the-policy-and-far-too-long-for-it"


def modules(namespace: str) -> str:
    return f"{KMM}/namespaces/{namespace}/modules"


def ensure_namespace(api: KubeApi, name: str, labels: dict[str, str] | None = None) -> str:
    """Make a namespace; return its path."""
    api.ensure(NAMESPACES, {"metadata": {"name": name, "labels": labels or {}}})
    return f"{NAMESPACES}/{name}"


def refusal(api: KubeApi, method: str, path: str, body: Object | None = None) -> str:
    """Return what the API server says to a request that must not be done; "" if it would be."""
    try:
        api.request(method, f"{path}?dryRun=All", body)
    except ApiError as error:
        return str(error)
    return ""


@contextmanager
def applied(cluster: Cluster) -> Iterator[None]:
    """Apply the policies; delete them at the end. The server heeds either only after a while."""

    def refuses_a_long_name() -> bool:
        return bool(refusal(cluster.api, "POST", modules("default"), named("default", 63 * "n")))

    cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", POLICIES)
    try:
        wait_until(refuses_a_long_name, seconds=SECONDS, what="policies in force")
        yield
    finally:
        cluster.kubectl("delete", "-f", POLICIES)
        wait_until(lambda: not refuses_a_long_name(), seconds=SECONDS, what="policies forgotten")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One without kmm-cp, which would take the label from namespaces that have no Modules."""
    with running_cluster(tmp_path_factory.mktemp("admission")) as running:
        yield running


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[KubeApi]:
    """An API server that has the policies in force, and one Module that is older than they are."""
    api = cluster.api
    api.create(modules("default"), named("default", OLD))
    marked = ensure_namespace(api, "in-force", {CONTAINS_MODULES_LABEL: ""})
    with applied(cluster):
        wait_until(lambda: bool(refusal(api, "DELETE", marked)), seconds=SECONDS, what="in force")
        yield api


def named(namespace: str, name: str) -> Object:
    return {**changed({}), "metadata": {"namespace": namespace, "name": name}}


@pytest.mark.parametrize(
    "policy", ["module-name.kmm.sigs.x-k8s.io", "namespace-deletion.kmm.sigs.x-k8s.io"]
)
def test_expressions_of_a_policy_fit_the_types_that_they_are_about(
    api: KubeApi, policy: str
) -> None:
    path = f"{KINDS}/validatingadmissionpolicies/{policy}"

    def is_checked() -> bool:
        found = api.get(path)
        status: Object = found.get("status", {})
        return bool(status.get("observedGeneration") == found["metadata"]["generation"])

    wait_until(is_checked, seconds=SECONDS, what=f"{policy} checked")
    assert api.get(path)["status"]["typeChecking"] == {}


# Names of Modules.


def test_name_and_namespace_of_41_characters_are_accepted(api: KubeApi) -> None:
    assert refusal(api, "POST", modules("default"), named("default", 34 * "n")) == ""


def test_name_and_namespace_of_42_characters_are_refused(api: KubeApi) -> None:
    said = refusal(api, "POST", modules("default"), named("default", 35 * "n"))
    assert said.startswith("422: ")
    assert said.endswith(TOO_LONG.format(42))


def test_name_that_the_api_server_makes_up_counts_whole(api: KubeApi) -> None:
    def generated(prefix: str) -> str:
        metadata = {"namespace": "default", "generateName": prefix}
        return refusal(api, "POST", modules("default"), {**changed({}), "metadata": metadata})

    assert generated(29 * "n") == ""
    assert generated(30 * "n").endswith(TOO_LONG.format(42))


def test_module_that_is_older_than_the_policy_is_changed_and_deleted(api: KubeApi) -> None:
    path = f"{modules('default')}/{OLD}"
    held = ["example.com/hold"]
    api.merge(path, {"metadata": {"labels": {"a": "b"}, "finalizers": held}})
    api.merge(path, {"spec": {"selector": {"other": "one"}}})
    api.merge(f"{path}/status", {"status": {"observedGeneration": 7}})
    api.delete(path)
    assert "deletionTimestamp" in api.get(path)["metadata"]
    api.merge(path, {"metadata": {"finalizers": None}})
    assert api.find(path) is None


# Deletion of namespaces.


def test_namespace_without_modules_is_deleted(api: KubeApi) -> None:
    assert refusal(api, "DELETE", ensure_namespace(api, "without-modules")) == ""


@pytest.mark.parametrize("value", ["", "true"])
def test_namespace_with_modules_is_not_deleted(api: KubeApi, value: str) -> None:
    name = f"with-modules-{value}x"
    path = ensure_namespace(api, name, {CONTAINS_MODULES_LABEL: value})
    said = refusal(api, "DELETE", path)
    assert said.startswith(f'403: namespaces "{name}" is forbidden: ')
    assert said.endswith(DELETE_FIRST.format(name))
    with pytest.raises(ApiError) as raised:
        api.delete(path, options={"gracePeriodSeconds": 0})
    assert str(raised.value) == said
    assert api.get(path)["status"]["phase"] == "Active"


def test_kubectl_shows_why_a_namespace_is_not_deleted_and_the_remedy_works(
    api: KubeApi, cluster: Cluster
) -> None:
    path = ensure_namespace(api, "stale", {CONTAINS_MODULES_LABEL: ""})
    with pytest.raises(SandboxError) as raised:
        cluster.kubectl("delete", "namespace", "stale")
    said = str(raised.value)
    assert 'Error from server (Forbidden): namespaces "stale" is forbidden: ' in said
    assert said.endswith(DELETE_FIRST.format("stale"))
    _, _, remedy = said.rpartition(": kubectl ")
    cluster.kubectl(*remedy.removesuffix(")").split())
    assert refusal(api, "DELETE", path) == ""


def test_namespace_that_is_marked_while_it_is_being_deleted_still_goes(api: KubeApi) -> None:
    path = ensure_namespace(api, "going")
    api.merge(path, {"metadata": {"finalizers": ["example.com/hold"]}})
    api.delete(path)
    # Until then a second DELETE is answered without a look at policies.
    wait_until(lambda: not api.get(path)["spec"].get("finalizers"), seconds=SECONDS, what="emptied")
    api.merge(path, {"metadata": {"labels": {CONTAINS_MODULES_LABEL: ""}}})
    assert refusal(api, "DELETE", path) == ""
    api.merge(path, {"metadata": {"finalizers": None}})
    wait_until(lambda: api.find(path) is None, seconds=SECONDS, what="namespace gone")


@pytest.fixture
def policies(kubernetes: Cluster) -> Iterator[None]:
    """The policies, where the tests' control plane is."""
    with applied(kubernetes):
        yield


@pytest.mark.usefixtures("policies")
async def test_namespace_is_kept_until_its_last_module_is_unloaded_and_gone(fleet: Fleet) -> None:
    path = f"{NAMESPACES}/{fleet.name}"

    async def said() -> str:
        return await asyncio.to_thread(refusal, fleet.api, "DELETE", path)

    await fleet.node()
    assert await said() == ""
    await fleet.apply()
    await fleet.loaded()
    await eventually(said, what="namespace protected")
    await fleet.annotate(PAUSED_ANNOTATION, "true")
    await fleet.delete()
    await fleet.condition("DeletionWaits")
    await fleet.reconciled()
    assert (await said()).endswith(DELETE_FIRST.format(fleet.name))
    await fleet.annotate(PAUSED_ANNOTATION, None)
    await fleet.gone()
    await eventually(said, lambda refused: refused == "", what="namespace free")
