"""Whether a node should have a Module, by the node's and the Module's own properties."""

from dataclasses import dataclass
from datetime import datetime

from kmm_common.api.module import Module
from kmm_common.api.names import (
    LABEL_NAME_LENGTH,
    Reason,
    label_fits,
    labels_are_own,
    module_version_label,
    ready_label,
    version_ready_label,
)
from kmm_common.desired import ModuleRef, ModuleState
from kmm_common.errors import TerminalError
from kmm_cp.policy.mapping import Match, mapping_for
from kmm_cp.policy.taints import CORDON, TaintVerdict, taint_verdict
from kmm_cp.policy.values import Node, NodeState, Taint


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligible:
    """The node should have what this mapping of the Module says."""

    match: Match
    until: datetime | None = None
    """When a toleration of a taint ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The node keeps what it has of the Module, and gets nothing new."""

    reason: Reason
    message: str
    until: datetime | None = None
    """When a toleration of a taint ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotEligible:
    """The node should not have the Module."""

    reason: Reason
    message: str


Eligibility = Eligible | Held | NotEligible


def eligibility(module: Module, node: Node, state: NodeState | None, now: datetime) -> Eligibility:
    """Judge a Module for a node: the first rule that has an answer."""
    taints = taint_verdict(node, module.spec.tolerations, now)
    return (
        unfit(module)
        or _not_selected(module, node)
        or _driven_off(taints)
        or _version_missing(module, node)
        or _kept_out(module, node, state, taints)
        or _version_held(module, node, taints)
        or _mapped(module, node, taints)
    )


def selects(module: Module, node: Node) -> bool:
    """Tell whether the Module's selector matches the node's labels."""
    return all(node.labels.get(key) == value for key, value in module.spec.selector.items())


def on_node(ref: ModuleRef, node: Node, state: NodeState | None) -> bool:
    """Tell whether a Module is on a node already: planned, loaded or labelled."""
    if ready_label(ref.namespace, ref.name) in node.labels:
        return True
    report = state.report_of(ref) if state else None
    loaded = report is not None and report.state is ModuleState.LOADED
    return loaded or (state is not None and state.entry(ref) is not None)


def name_fits(module: Module) -> bool:
    """Tell whether Kubernetes takes all labels that the Module needs on its nodes."""
    namespace, name = module.metadata.namespace, module.metadata.name
    keys = [ready_label(namespace, name)]
    if version_of(module):
        keys += [version_ready_label(namespace, name), module_version_label(namespace, name)]
    return all(map(label_fits, keys))


def version_of(module: Module) -> str:
    """Return the version that nodes are ordered to; empty without ordered upgrades."""
    loader = module.spec.module_loader
    return loader.container.version if loader else ""


def unfit(module: Module) -> NotEligible | None:
    """Say why no node at all should have a Module."""
    if module.deleting:
        return NotEligible(reason=Reason.DELETING, message="the Module is being deleted")
    if module.spec.module_loader is None:
        message = "the Module has no spec.moduleLoader: there is nothing to load"
        return NotEligible(reason=Reason.NO_MODULE_LOADER, message=message)
    if not name_fits(module):
        message = (
            f"namespace and name of {module.ref} are too long together for the labels of nodes "
            f"({LABEL_NAME_LENGTH} characters): use a shorter name"
        )
        return NotEligible(reason=Reason.NAME_TOO_LONG, message=message)
    if not labels_are_own(module.metadata.namespace, module.metadata.name):
        message = (
            f"the labels of {module.ref} would be taken for others: rename it, its name must not "
            "end in .version nor its namespace be version-module"
        )
        return NotEligible(reason=Reason.NAME_RESERVED, message=message)
    return None


def _not_selected(module: Module, node: Node) -> NotEligible | None:
    if selects(module, node):
        return None
    wanted = module.spec.selector.items()
    missing = sorted(f"{key}={value}" for key, value in wanted if node.labels.get(key) != value)
    message = f"spec.selector wants label {', '.join(missing)}"
    return NotEligible(reason=Reason.SELECTOR_MISMATCH, message=message)


def _driven_off(taints: TaintVerdict) -> NotEligible | None:
    return _untolerated(taints.drives_off) if taints.drives_off else None


def _version_missing(module: Module, node: Node) -> NotEligible | None:
    label = module_version_label(module.metadata.namespace, module.metadata.name)
    if not version_of(module) or label in node.labels:
        return None
    message = f"no version is ordered: set the node's label {label} to {version_of(module)}"
    return NotEligible(reason=Reason.VERSION_NOT_ORDERED, message=message)


def _kept_out(
    module: Module, node: Node, state: NodeState | None, taints: TaintVerdict
) -> NotEligible | None:
    if taints.keeps_out is None or on_node(module.ref, node, state):
        return None
    if taints.keeps_out == CORDON:
        message = "the node is cordoned: it gets no Module that is not on it yet"
        return NotEligible(reason=Reason.CORDONED, message=message)
    return _untolerated(taints.keeps_out)


def _version_held(module: Module, node: Node, taints: TaintVerdict) -> Held | None:
    label = module_version_label(module.metadata.namespace, module.metadata.name)
    wanted, ordered = version_of(module), node.labels.get(label, "")
    if ordered == wanted or not wanted:
        return None
    message = f"the node's label {label} orders {ordered!r}, the Module is at {wanted!r}"
    return Held(reason=Reason.VERSION_HELD, message=message, until=taints.until)


def _mapped(module: Module, node: Node, taints: TaintVerdict) -> Eligibility:
    try:
        match = mapping_for(module, node.kernel_version)
    except TerminalError as error:
        return Held(reason=Reason.INVALID_MAPPING, message=str(error), until=taints.until)
    if match is None:
        message = f"no kernelMappings entry matches kernel {node.kernel_version}"
        return NotEligible(reason=Reason.NO_MATCHING_KERNEL, message=message)
    return Eligible(match=match, until=taints.until)


def _untolerated(taint: Taint) -> NotEligible:
    value = f"={taint.value}" if taint.value else ""
    message = f"spec.tolerations does not cover taint {taint.key}{value}:{taint.effect}"
    return NotEligible(reason=Reason.UNTOLERATED_TAINT, message=message)
