"""Which reconciles a change asks for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kmm_common.api.module import Module
from kmm_common.api.names import CONTAINS_MODULES_LABEL
from kmm_common.desired import ModuleRef
from kmm_cp.kube.informer import Change
from kmm_cp.policy.digests import ImageKey
from kmm_cp.policy.eligibility import on_node
from kmm_cp.policy.values import Node, NodeState
from kmm_cp.reconcilers.live import Listed, flipped
from kmm_cp.runtime.queue import Priority, Queue

STATUS_SECONDS = 2.0
"""A Module's status is written at most once in so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Triggers:
    """Handlers of the informers; each queues the keys that its change concerns."""

    modules: Mapping[str, Module]
    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    node_queue: Queue[str]
    label_queue: Queue[str]
    connection_queue: Queue[str]
    pause_queue: Queue[str]
    module_queue: Queue[str]
    retry_queue: Queue[str]
    status_queue: Queue[str]
    namespace_queue: Queue[str]

    def module_changed(self, change: Change[Module]) -> None:
        """Plan every node that the Module was or is meant for, or is on."""
        if change.new is not None and change.new.status.get("failures"):
            self.retry_queue.add(change.key, _priority(change))
        if not _differs_in_wish(change.old, change.new):
            return
        priority = _priority(change)
        self.module_queue.add(change.key, priority)
        self.status_queue.add_after(change.key, STATUS_SECONDS)
        if change.old is None or change.new is None:
            self.namespace_queue.add(ModuleRef.parse(change.key).namespace, priority)
        for name, node in self.nodes.items():
            if self._concerned(node, change):
                self.node_queue.add(name, priority)

    def node_changed(self, change: Change[Node]) -> None:
        """Plan and label the node; its heartbeats are no news."""
        if not _differs(change.old, change.new):
            return
        priority = _priority(change)
        self.node_queue.add(change.key, priority)
        self.label_queue.add(change.key, priority)
        self.pause_queue.add(change.key, priority)
        for key in self.modules:
            self._module_may_have_changed(key, priority)

    def state_changed(self, change: Change[NodeState]) -> None:
        """Heal an edited spec, label what is reported, count it for the Modules."""
        priority = _priority(change)
        for queue in (self.node_queue, self.label_queue, self.connection_queue, self.pause_queue):
            queue.add(change.key, priority)
        refs = {str(ref) for ref in _refs(change.old) | _refs(change.new)}
        if _accepts(change):
            # A Module that waits for this may be in neither spec nor status any more.
            refs |= {key for key, module in self.modules.items() if module.deleting}
        for ref in refs:
            self._module_may_have_changed(ref, priority)

    def namespace_changed(self, change: Change[Mapping[str, str]]) -> None:
        """See to a mark that was there before us, or that somebody set or took away."""
        before, now = (
            CONTAINS_MODULES_LABEL in (labels or ()) for labels in (change.old, change.new)
        )
        if before != now:
            self.namespace_queue.add(change.key, _priority(change))

    def served_changed(self, change: Change[Listed]) -> None:
        """A replica's list of nodes changed."""
        priority = _priority(change)
        for name in flipped(change.old, change.new):
            self.liveness_changed(name, priority)

    def liveness_changed(self, node: str, priority: Priority = Priority.FRESH) -> None:
        """A session of the node began or ended; a node with a daemon gets a NodeModulesState."""
        for queue in (self.node_queue, self.label_queue, self.connection_queue):
            queue.add(node, priority)
        for ref in _refs(self.states.get(node)):
            self._module_may_have_changed(str(ref), priority)

    def rules_changed(self) -> None:
        """Judge every Module anew: what is set for all of them is not what it was."""
        for key in self.modules:
            self._module_may_have_changed(key, Priority.FRESH)

    def image_changed(self, key: ImageKey) -> None:
        """A registry answered: plan the nodes that wait for it."""
        for module in self.modules.values():
            if module.metadata.uid != key.module_uid:
                continue
            for name, node in self.nodes.items():
                if node.kernel_version == key.kernel_version and self._has(node, module):
                    self.node_queue.add(name)
            self.status_queue.add_after(str(module.ref), STATUS_SECONDS)

    def _module_may_have_changed(self, key: str, priority: Priority) -> None:
        module = self.modules.get(key)
        if module is None:
            return
        self.status_queue.add_after(key, STATUS_SECONDS)
        if module.deleting:
            self.module_queue.add(key, priority)

    def _has(self, node: Node, module: Module) -> bool:
        """Tell whether a node is one of a Module's, or was so far."""
        selected = selects(module.spec.selector, node.labels)
        return selected or on_node(module.ref, node, self.states.get(node.name))

    def _concerned(self, node: Node, change: Change[Module]) -> bool:
        versions = [module for module in (change.old, change.new) if module is not None]
        if any(selects(module.spec.selector, node.labels) for module in versions):
            return True
        return on_node(ModuleRef.parse(change.key), node, self.states.get(node.name))


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether a node's labels have everything the selector asks for."""
    return all(labels.get(key) == value for key, value in selector.items())


def _priority(change: Change[Any]) -> Priority:
    return Priority.FRESH if change.fresh else Priority.RESYNC


def _accepts(change: Change[NodeState]) -> bool:
    """Tell whether a daemon has just said that its status is about the current spec."""
    new, old = change.new, change.old
    return new is not None and new.accepted and not (old is not None and old.accepted)


def _differs(old: Node | None, new: Node | None) -> bool:
    if old is None or new is None:
        return True
    return replace(old, resource_version="") != replace(new, resource_version="")


def _differs_in_wish(old: Module | None, new: Module | None) -> bool:
    """Tell whether anything but the status, which is our own, changed."""
    if old is None or new is None or old.spec != new.spec:
        return True
    return old.metadata.model_copy(update={"resource_version": ""}) != new.metadata.model_copy(
        update={"resource_version": ""}
    )


def _refs(state: NodeState | None) -> set[ModuleRef]:
    if state is None:
        return set()
    told: Iterable[ModuleRef] = (module.ref for module in state.status.modules)
    return {*told, *(module.ref for module in state.modules)}
