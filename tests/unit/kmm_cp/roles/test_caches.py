"""What each cache makes of an object."""

from datetime import timedelta
from typing import Any

from kmm_cp.kube.informer import Informer
from kmm_cp.roles.caches import SERVED_LABELS, caches
from support.kubecalls import KubeCalls
from support.virtualclock import START, VirtualClock


def version_of(name: str, version: int, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": "u", "resourceVersion": str(version)}
    return {**fields, "metadata": {**metadata, **fields.get("metadata", {})}}


def given(cache: Informer[Any], *objects: dict[str, Any]) -> Any:
    """Return what a cache makes of the last of these objects."""
    for each in objects:
        cache.observe(each)
    return cache.store[objects[-1]["metadata"]["name"]]


async def test_every_resource_is_watched_once() -> None:
    built = caches(KubeCalls(), namespace="ns", clock=VirtualClock())
    names = [cache.name for cache in built.all()]
    assert sorted(names) == [
        "configmaps",
        "modules",
        "namespaces",
        "nodemodulesstates",
        "nodes",
        "pods",
    ]


async def test_daemon_sets_and_templates_are_watched_where_the_daemon_is_ours() -> None:
    built = caches(KubeCalls(), namespace="ns", clock=VirtualClock(), owns_daemon=True)
    assert built.daemon is not None
    own = [built.daemon.daemon_sets, built.daemon.templates]
    assert [each.name for each in own] == ["daemonsets", "podtemplates"]
    assert all(each._where["namespace"] == "ns" for each in own)
    assert [each for each in own if each in built.all()] == own


async def test_pods_and_lists_are_those_of_our_namespace_only() -> None:
    built = caches(KubeCalls(), namespace="ns", clock=VirtualClock())
    selector = ",".join(f"{key}={value}" for key, value in SERVED_LABELS.items())
    assert built.pods._where == {"namespace": "ns", "label_selector": ""}
    assert built.served._where == {"namespace": "ns", "label_selector": selector}


async def test_taint_without_a_time_has_the_time_it_was_first_seen() -> None:
    clock = VirtualClock()
    nodes = caches(KubeCalls(), namespace="ns", clock=clock).nodes
    taints = {"taints": [{"key": "k", "effect": "NoExecute"}]}
    given(nodes, version_of("a", 1, spec=taints))
    await clock.advance(60)
    taints["taints"].append({"key": "later", "effect": "NoExecute"})
    first, later = given(nodes, version_of("a", 2, spec=taints)).taints
    assert first.time_added == START
    assert later.time_added == START + timedelta(seconds=60)


async def test_taint_of_a_node_that_was_made_anew_counts_anew() -> None:
    clock = VirtualClock()
    nodes = caches(KubeCalls(), namespace="ns", clock=clock).nodes
    taints = {"taints": [{"key": "k", "effect": "NoExecute"}]}
    given(nodes, version_of("a", 1, spec=taints))
    nodes._remove("a", fresh=True)
    await clock.advance(60)
    (taint,) = given(nodes, version_of("a", 2, spec=taints)).taints
    assert taint.time_added == START + timedelta(seconds=60)


async def test_namespaces_are_their_labels_and_lists_are_their_nodes() -> None:
    built = caches(KubeCalls(), namespace="ns", clock=VirtualClock())
    assert given(built.namespaces, version_of("n", 1, metadata={"labels": {"a": "b"}})) == {
        "a": "b"
    }
    assert given(built.namespaces, version_of("m", 1)) == {}
    assert given(built.served, version_of("l", 1, data={"nodes": "a\nb"})) == {"a", "b"}
    assert given(built.served, version_of("k", 1)) == frozenset()
