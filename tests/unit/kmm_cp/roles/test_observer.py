"""What becomes of what the serving side notices: events within bounds, metrics, a restore."""

import pytest

from kmm_common.tls import PodIdentity
from kmm_cp.roles.metrics import Metrics
from kmm_cp.roles.observer import ServingObserver
from kmm_cp.runtime.queue import Queue
from kmm_cp.serving.ports import Refusal
from kmm_cp.serving.rarely import MOST_TOLD, QUIET_SECONDS
from kmm_cp.serving.restore import Restorer
from kmm_cp.serving.updates import Kind
from support.certificates import NAMESPACE, pod_of
from support.kubecalls import EventCalls, KubeCalls
from support.policy import node
from support.serving import facts
from support.virtualclock import VirtualClock

DAEMON = pod_of("a")
STRANGER = PodIdentity(namespace="default", service_account="x", name="stranger", uid="1")


class World:
    """An observer and what it tells; node-1 and the daemon's pod of node a are known."""

    def __init__(self) -> None:
        self.clock, self.events, self.metrics = VirtualClock(), EventCalls(), Metrics(version="1")
        self.restore = Restorer(client=KubeCalls(), events=self.events, nodes={})
        self.queue: Queue[str] = Queue(self.clock)
        self.observer = ServingObserver(
            events=self.events,
            metrics=self.metrics,
            nodes={"node-1": node()},
            pods={f"{NAMESPACE}/{DAEMON.name}": facts("a")},
            namespace=NAMESPACE,
            restore=self.restore,
            restore_queue=self.queue,
            clock=self.clock,
        )

    def refuse(self, identity: PodIdentity | None, refusal: Refusal = Refusal.EARLIER_POD) -> None:
        self.observer.refused(identity, refusal, "no right")

    def counted(self, sample: str) -> float:
        lines = self.metrics.exposition().decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{sample} "))


@pytest.fixture
async def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("identity", "kind", "name", "peer"),
    [
        (DAEMON, "Pod", DAEMON.name, f"peer {NAMESPACE}/{DAEMON.name}: no right"),
        (STRANGER, "Namespace", NAMESPACE, "peer default/stranger: no right"),
        (None, "Namespace", NAMESPACE, "peer without a pod in its certificate: no right"),
    ],
)
async def test_refused_peer_is_told_on_its_pod_or_in_our_namespace(
    world: World, identity: PodIdentity | None, kind: str, name: str, peer: str
) -> None:
    world.refuse(identity)
    (told,) = world.events.told
    assert (told.type, told.reason) == ("Warning", "IdentityRefused")
    assert (told.kind, told.name, told.message) == (kind, name, peer)


async def test_refused_peer_that_comes_back_is_counted_and_told_once_in_a_while(
    world: World,
) -> None:
    for _ in range(5):
        world.refuse(DAEMON)
    assert len(world.events.told) == 1
    world.refuse(DAEMON, Refusal.OTHER_OWNER)
    assert len(world.events.told) == 2
    assert world.counted('kmm_cp_refused_peers_total{reason="EarlierPod"}') == 5
    await world.clock.advance(QUIET_SECONDS)
    world.refuse(DAEMON)
    assert len(world.events.told) == 3


async def test_pod_that_is_being_replaced_is_counted_and_not_told(world: World) -> None:
    world.refuse(DAEMON, Refusal.POD_DELETING)
    assert world.events.told == []
    assert world.counted('kmm_cp_refused_peers_total{reason="PodDeleting"}') == 1


async def test_different_peers_without_end_are_told_within_a_bound() -> None:
    world = World()
    known = {f"{NAMESPACE}/p{number}": facts("a", uid=str(number)) for number in range(500)}
    world.observer._pods = known
    for key in known:
        name = key.partition("/")[2]
        world.refuse(PodIdentity(namespace=NAMESPACE, service_account="x", name=name, uid="stolen"))
    assert len(world.events.told) == MOST_TOLD


async def test_peer_that_anybody_can_be_is_counted_and_makes_no_event(world: World) -> None:
    world.observer.turned_away(Refusal.NO_TLS)
    assert world.events.told == []
    assert world.counted('kmm_cp_refused_peers_total{reason="NoTls"}') == 1


async def test_flapping_node_is_told_once_in_a_while(world: World) -> None:
    for _ in range(3):
        world.observer.flapping("node-1", 3)
    (told,) = world.events.told
    assert (told.kind, told.name, told.reason) == ("Node", "node-1", "SessionFlapping")
    assert world.counted("kmm_cp_sessions_flapping_total") == 3


async def test_flapping_of_a_node_that_is_gone_is_only_counted(world: World) -> None:
    world.observer.flapping("gone", 3)
    assert world.events.told == []
    assert world.counted("kmm_cp_sessions_flapping_total") == 1


async def test_node_that_is_ahead_is_handed_to_the_restorer(world: World) -> None:
    world.observer.ahead("node-1", "uid-1", 7)
    assert world.restore.behind == {"node-1": "uid-1"}
    assert await world.queue.get() == "node-1"


async def test_updates_are_counted_by_kind(world: World) -> None:
    world.observer.sent(Kind.DIFF)
    assert world.counted('kmm_cp_updates_total{kind="diff"}') == 1
    assert world.counted('kmm_cp_updates_total{kind="snapshot"}') == 0
