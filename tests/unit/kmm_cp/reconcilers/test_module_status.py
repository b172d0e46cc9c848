"""What a Module is told of itself, when, and in how many writes."""

from collections.abc import Iterable
from typing import Any

import pytest

from kmm_common.api.module import Module
from kmm_cp.kube.errors import ConflictError
from kmm_cp.policy.module_status import Rules
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.module_status import ModuleStatusReconciler
from kmm_cp.runtime.controller import DONE
from support.kubecalls import EventCalls, KubeCalls, Told
from support.policy import entry, failed, loaded, module, node, pinned, state
from support.virtualclock import VirtualClock

KEY = "default/simple"
WANTED = entry()


class World:
    """One Module and its nodes; what is written comes back into the cache."""

    def __init__(self, *states: NodeState, modules: Iterable[Module] = (module(),)) -> None:
        self.client, self.events = KubeCalls(), EventCalls()
        self.modules = {str(each.ref): each for each in modules}
        self.states = {each.name: each for each in states}
        self.reconciler = ModuleStatusReconciler(
            client=self.client,
            events=self.events,
            modules=self.modules,
            nodes={each.name: node(each.name) for each in states},
            states=self.states,
            digests=pinned,
            live=lambda _: True,
            rules=Rules,
            observe=self._observe,
            clock=VirtualClock(),
        )

    def say(self, name: str, report: Any) -> None:
        self.states[name] = state(WANTED, name=name, reports=(report,))

    async def reconcile(self) -> None:
        assert await self.reconciler.reconcile(KEY) == DONE

    def _observe(self, written: dict[str, Any]) -> None:
        self.modules[KEY] = module(status=written["status"])


async def test_status_is_written_once_and_not_again_until_something_changes():
    seen = module(metadata={"resourceVersion": "7"})
    world = World(state(WANTED, reports=(loaded(WANTED),)), modules=[seen])
    await world.reconcile()
    call = world.client.only()
    assert (call.verb, call.resource, call.namespace) == ("patch", "modules/status", "default")
    assert call.body["status"]["moduleLoader"]["availableNumber"] == 1
    assert call.body["metadata"] == {"resourceVersion": "7"}
    await world.reconcile()
    assert len(world.client.calls) == 1
    world.say("node-1", failed(WANTED))
    await world.reconcile()
    assert len(world.client.calls) == 2


async def test_module_that_is_gone_is_not_written():
    world = World(modules=())
    await world.reconcile()
    assert world.client.calls == []


async def test_failure_is_one_event_for_all_nodes_until_its_reason_changes():
    world = World(state(name="a"), state(name="b"))
    for name in ("a", "b"):
        world.say(name, failed(WANTED, "InUse", "held"))
    await world.reconcile()
    told = Told("Warning", "Module", "simple", "ModuleFailed", "InUse on 2 nodes: a: held")
    assert world.events.told == [told]
    world.say("b", loaded(WANTED))
    await world.reconcile()
    assert world.events.told == [told]
    world.say("b", failed(WANTED, "BadParameter", "speed=x"))
    await world.reconcile()
    assert [each.message for each in world.events.told[1:]] == ["BadParameter on node b: speed=x"]


async def test_failure_that_comes_back_is_news_again():
    world = World(state(name="a"))
    for report in (failed(WANTED), loaded(WANTED), failed(WANTED)):
        world.say("a", report)
        await world.reconcile()
    assert len(world.events.told) == 2


async def test_failure_that_an_earlier_process_told_is_no_news():
    first = World(state(WANTED, reports=(failed(WANTED),)))
    await first.reconcile()
    status = first.client.only().body["status"]
    second = World(state(WANTED, reports=(failed(WANTED),)), modules=[module(status=status)])
    await second.reconcile()
    assert (second.client.calls, second.events.told) == ([], [])


async def test_failure_is_told_only_once_it_is_written():
    world = World(state(WANTED, reports=(failed(WANTED),)))
    world.client.errors.append(ConflictError("changed", reason="Conflict"))
    with pytest.raises(ConflictError):
        await world.reconcile()
    assert world.events.told == []
    await world.reconcile()
    assert len(world.events.told) == 1
