"""That what the caches bring reaches whom it concerns."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kmm_common.api import names
from kmm_common.api.nodemodulesstate import NodeStatus, spec_hash, spec_to_json
from kmm_common.desired import DesiredModule, ModuleState, RegistryTLS
from kmm_cp.images.pins import Pins
from kmm_cp.policy.digests import Pending, Pinned
from kmm_cp.roles.caches import Caches, caches
from kmm_cp.roles.control import Control, control
from kmm_cp.roles.metrics import Metrics
from kmm_cp.roles.serving import Serving, serving
from kmm_cp.roles.wishes import rules_of
from kmm_cp.runtime.queue import Statistics
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.values import Greeting, Journaled, Report
from kmm_cp.settings import Settings
from support.certificates import Certificates, pod_of
from support.kubecalls import EventCalls, KubeCalls
from support.policy import DIGEST, KERNEL, entry
from support.privateregistry import running_private_registry
from support.serving import World
from support.virtualclock import VirtualClock

WANTED = entry()
UNRESOLVED = entry(digest="")


def state_object(
    version: int, *modules: DesiredModule, edited: bool = False, **status: Any
) -> dict[str, Any]:
    signature = "somebody's" if edited else spec_hash(modules)
    return {
        "metadata": {
            "name": "a",
            "uid": "nms-1",
            "generation": version,
            "resourceVersion": str(version),
            "annotations": {names.SPEC_HASH_ANNOTATION: signature},
        },
        "spec": spec_to_json(modules),
        "status": {"observedGeneration": -1, **status},
    }


def node_object(version: int) -> dict[str, Any]:
    metadata = {"name": "a", "uid": "uid-a", "resourceVersion": str(version)}
    return {"metadata": metadata, "status": {"nodeInfo": {"kernelVersion": KERNEL}}}


class Replica:
    """Both halves of a control plane over caches that a test fills; nothing runs."""

    def __init__(self, directory: Path) -> None:
        files = Certificates(directory).server()
        settings = Settings(tls={"cert": files.cert, "key": files.key, "ca": files.ca})
        self.clock, self.client, self.metrics = VirtualClock(), KubeCalls(), Metrics(version="1")
        clock, client, self.settings = self.clock, self.client, settings
        self.caches: Caches = caches(client, namespace="ns", clock=clock)
        self.serving: Serving = serving(
            client, self.caches, World(), settings=settings, replica="r", clock=clock
        )
        self.leading = self.term()

    def term(self, registry_ca: Path | None = None) -> Control:
        """Return what it runs when it leads."""
        return control(
            self.client,
            self.caches,
            EventCalls(),
            sessions=self.serving.sessions,
            namespace="ns",
            rules=lambda: rules_of(self.settings),
            metrics=self.metrics,
            clock=self.clock,
            registry_ca=registry_ca,
        )

    def queued(self, term: Control | None = None) -> set[str]:
        """Return the controllers that have something to do."""
        waiting = {c.name: c.queue.statistics() for c in (term or self.leading).controllers}
        return {name for name, found in waiting.items() if found.ready or found.delayed}

    def statistics(self) -> list[Statistics]:
        return [each.queue.statistics() for each in self.leading.controllers]

    def session(self) -> Session:
        greeting = Greeting(
            protocol_version=1,
            instance="i",
            boot_id="b",
            kernel_version=KERNEL,
            daemon_version="1",
            journaled=Journaled(),
            report=Report(sequence=0, uid="", observed_generation=0, modules=()),
        )
        return self.serving.sessions.open(
            node="a", pod=pod_of("a"), greeting=greeting, connection=object()
        )


@pytest.fixture
async def replica(tmp_path: Path) -> Replica:
    replica = Replica(tmp_path)
    replica.leading.begin()
    return replica


async def test_changed_state_reaches_the_mailbox_of_its_session(replica: Replica) -> None:
    session = replica.session()
    replica.caches.states.observe(state_object(1, WANTED))
    assert session.mailbox.target is not None
    assert session.mailbox.target.modules == (WANTED,)
    replica.caches.states.observe(state_object(2))
    assert session.mailbox.target.generation == 2


async def test_state_that_somebody_edited_is_planned_anew_and_never_pushed(
    replica: Replica,
) -> None:
    session = replica.session()
    replica.caches.states.observe(state_object(1, WANTED, edited=True))
    assert session.mailbox.target is None
    assert "node" in replica.queued()


async def test_status_is_told_whether_a_list_or_a_watch_showed_it(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []

    def observed(node: str, uid: str, status: NodeStatus, *, listed: bool) -> None:
        told.append(listed)

    monkeypatch.setattr(replica.serving.status, "observed", observed)
    for version, fresh in ((1, True), (2, False)):
        replica.caches.states._put(state_object(version), fresh=fresh)
    assert told == [False, True]


async def test_restored_etcd_is_told_to_all_caches_and_to_the_list_of_served_nodes(
    replica: Replica,
) -> None:
    caches, served = replica.caches.all(), replica.serving.served
    for cache in caches:
        cache.settled.set()
    served._changed.clear()
    replica.caches.history.broke()
    assert not any(cache.settled.is_set() for cache in caches)
    assert served._changed.is_set()


async def test_node_is_planned_and_labelled(replica: Replica) -> None:
    replica.caches.nodes.observe(node_object(1))
    assert replica.queued() == {"node", "label", "pause"}


async def test_session_that_begins_sets_its_node_off_once(replica: Replica) -> None:
    session = replica.session()
    assert replica.queued() == {"node", "label", "connection"}
    before = replica.statistics()
    replica.serving.sessions.open(
        node="a", pod=session.pod, greeting=session.greeting, connection=object()
    )
    assert replica.statistics() == before


async def test_term_begins_with_all_there_is_already(replica: Replica) -> None:
    replica.caches.nodes.observe(node_object(1))
    replica.caches.states.observe(state_object(2, WANTED))
    replica.session()
    replica.leading.end()
    assert replica.queued() == set()
    later = replica.term()
    later.begin()
    assert replica.queued(later) == {"node", "label", "connection", "pause"}
    assert later.pins(WANTED) == Pinned(DIGEST)


async def test_term_that_is_over_takes_no_notice_any_more(replica: Replica) -> None:
    replica.leading.end()
    replica.caches.nodes.observe(node_object(1))
    replica.session()
    assert replica.queued() == set()


async def test_digest_that_a_daemon_found_out_is_pinned(replica: Replica) -> None:
    report = {
        "namespace": WANTED.namespace,
        "name": WANTED.name,
        "uid": WANTED.uid,
        "state": ModuleState.LOADED.value,
        "inKernel": True,
        "imageDigest": DIGEST,
        "configHash": WANTED.config_hash,
    }
    told = state_object(2, UNRESOLVED, modules=[report], bootId="b")
    told["status"]["observedGeneration"] = 2
    pins: Pins = replica.leading.pins
    replica.caches.states.observe(told)
    assert pins(UNRESOLVED) == Pinned(DIGEST)


async def test_digests_are_asked_for_with_the_authorities_of_registries_that_are_set(
    replica: Replica, tmp_path: Path
) -> None:
    async with running_private_registry(tmp_path) as private:
        digest = private.registry.push("team/m", "1", [])
        image = f"{private.registry.host}/team/m:1"
        wanted = entry(digest="", image=image, registry_tls=RegistryTLS())
        pins = replica.term(registry_ca=private.ca_file(tmp_path)).pins
        looking_up = asyncio.create_task(pins.run())
        async with asyncio.timeout(10):
            while isinstance(found := pins(wanted), Pending):
                await asyncio.sleep(0.01)
        looking_up.cancel()
    assert found == Pinned(digest)
