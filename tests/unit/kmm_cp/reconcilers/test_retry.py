"""What is done for a Module whose pull Secret or tag may have changed."""

from dataclasses import dataclass, field
from typing import Any

from kmm_common.api.module import Module
from kmm_common.api.names import PULL_SECRET_ANNOTATION, Reason
from kmm_common.desired import DesiredModule
from kmm_cp.policy.values import NodeState
from kmm_cp.reconcilers.retry import LOOK_SECONDS, RetryReconciler
from kmm_cp.runtime.controller import DONE, Result
from support.kubecalls import KubeCalls
from support.policy import entry, failed, module, state

KEY = "default/simple"
LATER = Result(requeue_after=LOOK_SECONDS)
PRIVATE = {"imageRepoSecret": {"name": "pull"}}
REFUSED = {"failures": [{"reason": Reason.IMAGE_UNAUTHORIZED}]}
WANTED = entry()


@dataclass
class World:
    """One Module, its Secret and what is looked up again."""

    modules: dict[str, Module]
    states: dict[str, NodeState] = field(default_factory=dict)
    secret: str = "7"
    client: KubeCalls = field(default_factory=KubeCalls)
    asked: list[str] = field(default_factory=list)
    looked_up: list[DesiredModule] = field(default_factory=list)
    observed: list[dict[str, Any]] = field(default_factory=list)

    async def version(self, namespace: str, name: str) -> str:
        self.asked.append(f"{namespace}/{name}")
        return self.secret

    async def look_again(self, wanted: DesiredModule) -> None:
        self.looked_up.append(wanted)

    async def reconcile(self) -> Result:
        return await RetryReconciler(
            client=self.client,
            modules=self.modules,
            states=self.states,
            secrets=self,
            look_again=self.look_again,
            observe=self.observed.append,
        ).reconcile(KEY)


async def test_nodes_are_told_of_a_secret_that_they_have_not_tried() -> None:
    world = World({KEY: module(spec=PRIVATE, status=REFUSED)})
    assert await world.reconcile() == LATER
    call = world.client.only()
    assert (call.verb, call.resource, call.name) == ("patch", "modules", "simple")
    assert call.body == {"metadata": {"annotations": {PULL_SECRET_ANNOTATION: "7"}}}
    assert len(world.observed) == 1
    assert world.asked == ["default/pull"]


async def test_nothing_is_written_while_the_secret_is_the_same_or_not_to_be_seen() -> None:
    told = {"annotations": {PULL_SECRET_ANNOTATION: "7"}}
    world = World({KEY: module(spec=PRIVATE, status=REFUSED, metadata=told)})
    assert await world.reconcile() == LATER
    world.secret = ""
    assert await world.reconcile() == LATER
    assert world.client.calls == []


async def test_an_image_that_only_fails_is_looked_up_again() -> None:
    status = {"failures": [{"reason": Reason.IMAGE_NOT_FOUND}]}
    world = World({KEY: module(status=status)}, {"a": state(WANTED, reports=(failed(WANTED),))})
    assert await world.reconcile() == LATER
    assert (world.looked_up, world.asked, world.client.calls) == ([WANTED], [], [])


async def test_a_module_without_failures_or_that_is_gone_is_left_alone() -> None:
    reports = {"a": state(WANTED, reports=(failed(WANTED),))}
    for modules in ({}, {KEY: module(spec=PRIVATE)}):
        world = World(modules, reports)
        assert await world.reconcile() == DONE
        assert (world.looked_up, world.asked, world.client.calls) == ([], [], [])
