"""What the serving side reads through the API client, and how it is decoded."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from kmm_common.api import names
from kmm_common.api.nodemodulesstate import spec_hash, spec_to_json
from kmm_cp.kube.errors import ForbiddenError, NotFoundError, UnavailableError
from kmm_cp.policy.pullsecrets import SecretForbiddenError
from kmm_cp.roles.adapters import (
    ConfigMapWriter,
    PodCache,
    SecretReader,
    StateReader,
    pod_facts,
    target_of,
)
from kmm_cp.serving.ports import PodFacts
from kmm_cp.serving.values import Target
from support.kubecalls import Call, KubeCalls
from support.policy import entry, state

WANTED = entry()
GONE = NotFoundError("not found", reason="NotFound")
AWAY = UnavailableError("away", reason="Unavailable")
DAEMONSET = {"kind": "DaemonSet", "name": "kmm-daemon", "controller": True}
POD = PodFacts(uid="1", service_account="sa", node="a", deleting=False, owner="")
BARE = replace(POD, service_account="", node="")


def pod(metadata: dict[str, Any] | None = None, **spec: str) -> dict[str, Any]:
    return {"metadata": {"uid": "1", **(metadata or {})}, "spec": spec}


@pytest.mark.parametrize(
    ("found", "facts"),
    [
        (pod(serviceAccountName="sa", nodeName="a"), POD),
        (pod(), BARE),
        ({"metadata": {"uid": "1"}}, BARE),
        (pod({"deletionTimestamp": "now"}), replace(BARE, deleting=True)),
        (
            pod({"ownerReferences": [{"kind": "X", "name": "x"}, DAEMONSET]}),
            replace(BARE, owner="DaemonSet/kmm-daemon"),
        ),
    ],
    ids=["running", "not scheduled", "without spec", "deleting", "controlled"],
)
def test_pod_is_decoded_to_what_identity_needs(found: dict[str, Any], facts: PodFacts) -> None:
    assert pod_facts(found) == facts


def test_pods_are_found_by_namespace_and_name() -> None:
    pods = PodCache({"ns/p": POD})
    assert (pods.lookup("ns", "p"), pods.lookup("other", "p")) == (POD, None)


def test_daemons_are_told_what_was_written_and_nothing_that_was_edited() -> None:
    known = state(WANTED)
    assert target_of(known) == Target(uid=known.uid, generation=3, modules=(WANTED,))
    assert target_of(replace(known, intact=False)) is None
    assert target_of(None) is None


async def test_secret_that_is_forbidden_is_told_with_its_remedy() -> None:
    client = KubeCalls()
    client.errors.append(ForbiddenError('User "ann" cannot get', reason="Forbidden"))
    with pytest.raises(SecretForbiddenError, match=r"Secret team/pull; .* --user=ann"):
        await SecretReader(client).read("team", "pull")


async def test_version_of_a_secret_is_empty_where_it_is_not_to_be_seen() -> None:
    client = KubeCalls(objects={"pull": {"metadata": {"resourceVersion": "7"}}})
    secrets = SecretReader(client)
    assert await secrets.version("team", "pull") == "7"
    for hidden in (GONE, ForbiddenError("no", reason="Forbidden")):
        client.errors.append(hidden)
        assert await secrets.version("team", "pull") == ""
    client.errors.append(AWAY)
    with pytest.raises(UnavailableError):
        await secrets.version("team", "pull")


async def test_state_is_read_from_the_cache_or_with_quorum() -> None:
    client = KubeCalls()
    reader = StateReader(client, {"a": state(WANTED, name="a")})
    assert reader.cached("b") is None
    cached = reader.cached("a")
    assert cached is not None and cached.generation == 3
    client.objects["a"] = {
        "metadata": {
            "name": "a",
            "uid": "u",
            "generation": 9,
            "annotations": {names.SPEC_HASH_ANNOTATION: spec_hash((WANTED,))},
        },
        "spec": spec_to_json((WANTED,)),
    }
    assert await reader.read("a") == Target(uid="u", generation=9, modules=(WANTED,))


async def test_state_that_is_not_there_is_none_and_silence_is_an_error() -> None:
    client = KubeCalls()
    client.errors.extend([GONE, AWAY])
    reader = StateReader(client, {})
    assert await reader.read("a") is None
    with pytest.raises(UnavailableError):
        await reader.read("a")


async def test_secret_is_decoded_and_none_if_it_is_not_there() -> None:
    client = KubeCalls()
    client.objects["s"] = {"data": {"k": base64.b64encode(b"value").decode()}}
    client.objects["empty"] = {}
    reader = SecretReader(client)
    assert await reader.read("ns", "s") == {"k": b"value"}
    assert await reader.read("ns", "empty") == {}
    client.errors.append(GONE)
    assert await reader.read("ns", "s") is None


async def test_config_map_is_patched_and_created_where_there_is_none() -> None:
    client = KubeCalls()
    writer = ConfigMapWriter(client=client, namespace="ns", labels={"l": "v"})
    await writer.apply("m", {"nodes": "a"})
    assert client.only() == Call("patch", "configmaps", "m", {"data": {"nodes": "a"}}, "ns")
    client.calls.clear()
    client.errors.append(GONE)
    await writer.apply("m", {"nodes": "a"})
    call = client.only()
    assert (call.verb, call.namespace) == ("create", "ns")
    assert call.body["metadata"] == {"name": "m", "namespace": "ns", "labels": {"l": "v"}}
    assert call.body["data"] == {"nodes": "a"}


async def test_config_map_is_deleted_and_need_not_be_there() -> None:
    client = KubeCalls()
    writer = ConfigMapWriter(client=client, namespace="ns", labels={})
    await writer.delete("m")
    assert client.only() == Call("delete", "configmaps", "m", None, "ns")
    client.errors.append(GONE)
    await writer.delete("m")
    client.errors.append(AWAY)
    with pytest.raises(UnavailableError):
        await writer.delete("m")
