"""Nodes, Modules and images of one test, against the shared control plane."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, overload

from typing_extensions import TypeVar

from kmm_common.api.names import ready_label
from kmm_common.backoff import Backoff
from kmm_common.clock import SystemClock
from kmm_common.desired import ModuleRef
from kmm_cp.policy.pullsecrets import binding_command
from kmm_sandbox.kubeapi import KubeApi, Object
from kmm_sandbox.processes import wait_until
from kmm_sandbox.programs import USER
from support.badregistry import BadRegistry
from support.certificates import NAMESPACE
from support.history import Published, Violation, live
from support.kmmcp import KmmCp
from support.replicas import Replicas
from support.simkernel import KERNEL, SimKernel
from support.simnode import SimNode, collect_facts
from support.verdict import TALLY

T = TypeVar("T")
Plane = TypeVar("Plane", bound=KmmCp | Replicas, default=KmmCp, covariant=True)
"""What a fleet is served by: a plain Fleet by one kmm-cp."""
Served = TypeVar("Served", bound=KmmCp | Replicas)

DEADLINE = 60.0
KMM = "/apis/kmm.sigs.x-k8s.io/v1beta1"
STATES = f"{KMM}/nodemodulesstates"
SERVED = "kmm.node.kubernetes.io/list=served"
WRITES = {"create", "update", "patch", "delete"}
COUNTED = {"modules", "nodemodulesstates", "nodes", "events"}


@overload
async def eventually(
    look: Callable[[], Awaitable[T | None]], *, what: str = "", seconds: float = DEADLINE
) -> T: ...


@overload
async def eventually(
    look: Callable[[], Awaitable[T]],
    holds: Callable[[T], Any],
    *,
    what: str = "",
    seconds: float = DEADLINE,
) -> T: ...


async def eventually(
    look: Callable[[], Awaitable[Any]],
    holds: Callable[[Any], Any] = bool,
    *,
    what: str = "",
    seconds: float = DEADLINE,
) -> Any:
    """Look until it holds; AssertionError with the last sight after the deadline."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while True:
        seen = await look()
        if holds(seen):
            return seen
        assert clock.monotonic() < end, f"{what or 'condition'} never held; last seen: {seen!r}"
        await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Write:
    """One writing request of kmm-cp, from the audit log."""

    verb: str
    resource: str
    """With its subresource: nodes/status."""
    name: str
    namespace: str
    code: int


@dataclass(slots=True, kw_only=True)
class Fleet(Generic[Plane]):
    """Everything a test makes has the fleet's name in its own, so that tests share a cluster."""

    name: str
    """Also the namespace of its Modules and the value of the label `fleet` of its nodes."""
    control_plane: Plane
    registry: BadRegistry
    directory: Path
    nodes: dict[str, SimNode] = field(default_factory=dict)
    node_type: type[SimNode] = SimNode
    _fences: int = 0

    @property
    def api(self) -> KubeApi:
        return self.control_plane.cluster.api

    def ref(self, name: str = "m") -> ModuleRef:
        return ModuleRef(self.name, name)

    def label(self, name: str = "m") -> str:
        """Return the ready label of a Module."""
        return ready_label(self.name, name)

    # Nodes.

    async def node(
        self,
        name: str = "a",
        *,
        labels: Mapping[str, str] | None = None,
        kernel: str = KERNEL,
        daemon: bool = True,
        patient: bool = False,
    ) -> SimNode:
        """Add a node; it has the label fleet=<name of the fleet>.

        One that is `patient` does not try again by itself while a test runs.
        """
        node = self.node_type(
            name=f"{self.name}-{name}",
            labels={"fleet": self.name, **(labels or {})},
            api=self.api,
            control_plane=self.control_plane,
            directory=self.directory / name,
            kernel=SimKernel(kernel_version=kernel),
        )
        if patient:
            node.retry = Backoff(600.0, 600.0)
        self.nodes[name] = node
        await asyncio.to_thread(node.register)
        if daemon:
            await node.start()
        return node

    async def three(self) -> list[SimNode]:
        """Add nodes a, b and c."""
        return [await self.node(name) for name in "abc"]

    async def labels(self, node: SimNode) -> dict[str, str]:
        """Return the labels of a Node; none if it is gone."""
        found = await self.find(node.path)
        return found["metadata"].get("labels", {}) if found else {}

    async def state(self, node: SimNode) -> Object | None:
        """Return a node's NodeModulesState."""
        return await self.find(f"{STATES}/{node.name}")

    async def entries(self, node: SimNode) -> dict[str, Object]:
        """Return spec.modules of a node's NodeModulesState, by name of the Module."""
        state = await self.state(node) or {"spec": {}}
        return {entry["name"]: entry for entry in state["spec"].get("modules") or ()}

    async def reports(self, node: SimNode) -> dict[str, Object]:
        """Return status.modules of a node's NodeModulesState, by name of the Module."""
        state = await self.state(node) or {"status": {}}
        return {entry["name"]: entry for entry in state["status"].get("modules") or ()}

    async def edit_node(self, node: SimNode, patch: Object) -> None:
        await asyncio.to_thread(self.api.merge, node.path, patch)

    async def set_label(self, node: SimNode, key: str, value: str | None) -> None:
        await self.edit_node(node, {"metadata": {"labels": {key: value}}})

    async def annotate_node(self, node: SimNode, key: str, value: str | None) -> None:
        """Set an annotation of a Node; None takes it away."""
        await self.edit_node(node, {"metadata": {"annotations": {key: value}}})

    async def state_condition(self, node: SimNode, type_: str) -> Object | None:
        """Return a condition of a node's NodeModulesState."""
        found = (await self.state(node) or {}).get("status", {}).get("conditions") or ()
        return next((each for each in found if each["type"] == type_), None)

    # Modules.

    def push(self, repository: str = "kmod", *, tag: str = "1", content: str = "1") -> str:
        """Push an image; return its digest."""
        return self.registry.push(repository, tag, [content.encode()])

    def image(self, repository: str = "kmod", *, tag: str = "1") -> str:
        return f"{self.registry.host}/{repository}:{tag}"

    def manifest(
        self,
        name: str = "m",
        *,
        container: Mapping[str, Any] | None = None,
        modprobe: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> Object:
        """Return a Module for all nodes of the fleet, for every kernel of SimKernel's kind."""
        probe = {"moduleName": name.replace("-", "_"), **(modprobe or {})}
        loader = {
            "modprobe": probe,
            "containerImage": self.image(),
            "registryTLS": {"insecure": True},
            "kernelMappings": [{"regexp": r"^6\."}],
            **(container or {}),
        }
        return {
            "apiVersion": "kmm.sigs.x-k8s.io/v1beta1",
            "kind": "Module",
            "metadata": {"name": name, "namespace": self.name, **(metadata or {})},
            "spec": {
                "selector": {"fleet": self.name},
                "moduleLoader": {"container": loader},
                **spec,
            },
        }

    async def apply(self, name: str = "m", **changes: Any) -> Object:
        """Create a Module; keywords as manifest()'s."""
        return await self.create(self.manifest(name, **changes))

    async def create(self, manifest: Object) -> Object:
        return await asyncio.to_thread(self.api.create, self._modules(), manifest)

    async def edit(self, name: str, spec: Object) -> None:
        """Merge a patch into a Module's spec."""
        path = f"{self._modules()}/{name}"
        await asyncio.to_thread(self.api.merge, path, {"spec": spec})

    async def set_parameters(self, name: str, *parameters: str) -> None:
        container = {"modprobe": {"parameters": list(parameters)}}
        await self.edit(name, {"moduleLoader": {"container": container}})

    async def annotate(self, key: str, value: str | None, *, name: str = "m") -> None:
        """Set an annotation of a Module; None takes it away."""
        patch = {"metadata": {"annotations": {key: value}}}
        await asyncio.to_thread(self.api.merge, f"{self._modules()}/{name}", patch)

    async def delete(self, name: str = "m") -> None:
        await asyncio.to_thread(self.api.delete, f"{self._modules()}/{name}")

    async def module(self, name: str = "m") -> Object | None:
        return await self.find(f"{self._modules()}/{name}")

    async def conditions(self, name: str = "m") -> dict[str, Object]:
        """Return a Module's conditions by type; none if it is gone."""
        module = await self.module(name) or {}
        found = module.get("status", {}).get("conditions") or ()
        return {condition["type"]: condition for condition in found}

    async def condition(
        self, type_: str, *, name: str = "m", status: str = "True", reason: str = ""
    ) -> Object:
        """Wait for a condition; return it."""

        def holds(conditions: Mapping[str, Object]) -> bool:
            found = conditions.get(type_)
            right = found is not None and found["status"] == status
            return bool(right and reason in ("", found["reason"] if found else ""))

        what = f"{type_}={status} {reason} of {name}"
        return (await eventually(lambda: self.conditions(name), holds, what=what))[type_]

    # What tests wait for.

    async def loaded(self, *nodes: SimNode, name: str = "m") -> None:
        """Wait until a Module is in the kernel, said to be Loaded, and labelled."""
        for node in nodes or self.nodes.values():
            await eventually(
                partial(self.reports, node),
                lambda reports: reports.get(name, {}).get("state") == "Loaded",
                what=f"{name} Loaded on {node.name}",
            )
            await self.labelled(node, name=name)
            assert name.replace("-", "_") in node.kernel.rows

    async def labelled(self, node: SimNode, *, name: str = "m", present: bool = True) -> None:
        """Wait for the ready label to be there, or to be gone."""
        await eventually(
            lambda: self.labels(node),
            lambda labels: (self.label(name) in labels) is present,
            what=f"label of {name} on {node.name}: {present}",
        )

    async def unloaded(self, *nodes: SimNode, name: str = "m") -> None:
        """Wait until a Module is out of the kernel, of the node's state, and the label gone."""
        for node in nodes or self.nodes.values():
            await self.labelled(node, name=name, present=False)
            await eventually(
                partial(self.reports, node),
                lambda reports: name not in reports,
                what=f"{name} not reported by {node.name}",
            )
            assert name.replace("-", "_") not in node.kernel.rows

    async def settled(self, *nodes: SimNode) -> None:
        """Wait until daemons are done with what their NodeModulesStates say now."""
        for node in nodes or self.nodes.values():
            await eventually(
                partial(self.state, node),
                lambda state: (
                    state is not None
                    and state["status"]["observedGeneration"] == state["metadata"]["generation"]
                ),
                what=f"{node.name} settled",
            )

    async def gone(self, name: str = "m") -> None:
        """Wait until a Module is deleted."""
        await eventually(lambda: self.module(name), lambda found: found is None, what=f"no {name}")

    # The API server.

    async def find(self, path: str) -> Object | None:
        return await asyncio.to_thread(self.api.find, path)

    async def events(self, namespace: str, involved: str) -> Counter[tuple[str, str]]:
        """Count KMM's events about an object by reason and message."""
        path = f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.name={involved}"
        items = await asyncio.to_thread(self.api.items, path)
        ours = (event for event in items if event["source"].get("component") == "kmm")
        return Counter((event["reason"], event["message"]) for event in ours)

    def audit_position(self) -> int:
        """Return where the audit log ends now."""
        return self.control_plane.cluster.audit_log.stat().st_size

    def writes(self, since: int) -> list[Write]:
        """Return the writes of kmm-cp since a position; what replicas say of themselves left out.

        That are the Leases, the nodes that they serve, and who leads.
        """
        lines = self.control_plane.audited(since)
        made = [_write(line) for line in lines if line["verb"] in WRITES]
        return [write for write in made if not _of_replicas(write)]

    async def served(self, replica: str = "") -> set[str]:
        """Return the nodes that the control plane, or one replica, lists as served."""
        path = f"/api/v1/namespaces/{NAMESPACE}/configmaps?labelSelector={SERVED}"
        lists = await asyncio.to_thread(self.api.items, path)
        own = f"kmm-served-{replica}"
        lists = [each for each in lists if each["metadata"]["name"].startswith(own)]
        return {node for each in lists for node in each["data"]["nodes"].split()}

    async def reconciled(self, *, modules: int = 1) -> None:
        """Wait until the control plane serves all nodes here and has acted on what it knew.

        What a Module's status says comes last; there must be so many Modules.
        """
        await self._acted({"module-status": modules})

    async def reconciled_nodes(self) -> None:
        """Do the same where there is no Module."""
        await self._acted({"node": 1, "label": 1})

    async def _acted(self, due: Mapping[str, int]) -> None:
        """Set everything off by a label that means nothing, and wait for so many reconciles."""
        running = {node.name for node in self.nodes.values() if node.running}
        await eventually(self.served, lambda served: running <= served, what="all served")
        told = await asyncio.to_thread(self.control_plane.reconciles)
        self._fences += 1
        await self.set_label(next(iter(self.nodes.values())), "fence", str(self._fences))
        await eventually(
            lambda: asyncio.to_thread(self.control_plane.reconciles),
            lambda now: all(now[name] >= told[name] + count for name, count in due.items()),
            what=f"{due} at work",
        )

    async def allow_pull_secrets(self) -> None:
        """Bind the role that lets kmm-cp read the Secrets of the fleet's namespace."""
        command = binding_command(self.name, f'User "{USER}"')
        await asyncio.to_thread(self.control_plane.cluster.kubectl, *command.split()[1:])

    def _modules(self) -> str:
        return f"{KMM}/namespaces/{self.name}/modules"

    def violations(self) -> list[Any]:
        """Return what the history checker says of this fleet's nodes."""
        daemons = {node.name: node.lines for node in self.nodes.values()}
        name = f"{self.control_plane.directory}/{self.name}"
        return TALLY.check(name, self.control_plane.facts(), daemons)

    async def live(self) -> None:
        """Wait until every daemon that can be reached has what was published last for its node."""
        if not self.control_plane.alive:
            return
        await eventually(self._behind, lambda behind: behind == [], what="nodes up to date")

    async def _behind(self) -> list[Violation]:
        published = Published.read(self.control_plane.facts())
        served = await self.served()
        reached = [each for each in self.nodes.values() if each.running and each.name in served]
        return [one for node in reached for one in live(node.name, node.lines, published)]


def _of_replicas(write: Write) -> bool:
    told = write.resource == "events" and write.name.startswith("kmm-cp.")
    return told or write.resource in ("configmaps", "leases")


def _write(line: Mapping[str, Any]) -> Write:
    target = line["objectRef"]
    sub = target.get("subresource")
    return Write(
        verb=line["verb"],
        resource=f"{target['resource']}/{sub}" if sub else target["resource"],
        name=target.get("name", ""),
        namespace=target.get("namespace", ""),
        code=line["responseStatus"]["code"],
    )


@asynccontextmanager
async def running_fleet(
    control_plane: Served,
    name: str,
    directory: Path,
    *,
    node_type: type[SimNode] = SimNode,
) -> AsyncIterator[Fleet[Served]]:
    """Give a test its own nodes and Modules; at the end the history must be without violation."""
    collect_facts()
    if not control_plane.alive:
        await asyncio.to_thread(control_plane.start)
    async with BadRegistry().run() as registry:
        fleet = Fleet(
            name=name,
            control_plane=control_plane,
            registry=registry,
            directory=directory,
            node_type=node_type,
        )
        fleet.push()
        await asyncio.to_thread(
            fleet.api.ensure, "/api/v1/namespaces", {"metadata": {"name": name}}
        )
        try:
            yield fleet
            await fleet.live()
        finally:
            for node in fleet.nodes.values():
                await node.stop()
            await asyncio.to_thread(_clear, fleet)
        found = fleet.violations()
        assert not found, "\n".join(map(str, found))


def _clear(fleet: Fleet[KmmCp | Replicas]) -> None:
    """Remove what a test left; a deletion does not wait for Nodes that are gone."""
    modules = f"{KMM}/namespaces/{fleet.name}/modules"
    for node in fleet.nodes.values():
        node.unregister()
    for module in fleet.api.items(modules):
        fleet.api.delete(f"{modules}/{module['metadata']['name']}")
    for node in fleet.nodes.values():
        fleet.api.delete(f"{STATES}/{node.name}")
    wait_until(lambda: not fleet.api.items(modules), seconds=DEADLINE, what="Modules deleted")
