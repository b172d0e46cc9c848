"""The ready labels of a node, from what its NodeModulesState says is in the kernel."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kmm_common.api.names import (
    label_fits,
    labels_are_own,
    parse_ready_label,
    parse_version_ready_label,
    ready_label,
    version_ready_label,
)
from kmm_common.desired import DesiredModule, ModuleRef, ReportedModule
from kmm_cp.policy.truth import Truth, is_loaded, truth_of
from kmm_cp.policy.values import Node, NodeState


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelChange:
    """What to change on a Node, and which Modules that is news about."""

    patch: Mapping[str, str | None] = field(default_factory=dict)
    """Merge patch of metadata.labels; empty: write nothing."""
    added: tuple[ModuleRef, ...] = ()
    """Modules whose module is in the kernel from now on."""
    removed: tuple[ModuleRef, ...] = ()
    """Modules whose module is not in the kernel any more, Modules that are deleted included."""


def label_change(node: Node, state: NodeState | None, *, live: bool) -> LabelChange:
    """Compare a node's labels with its status; `live`: a session of the node stands.

    A status that says nothing yet changes nothing. One of an earlier boot, or one that omits a
    Module, proves that the module is gone.
    """
    truth = truth_of(node, state, live=live)
    if state is None or truth is Truth.UNKNOWN:
        return LabelChange()
    wanted = _wanted(node, state, live=live) if truth is Truth.CURRENT else {}
    present = {key: value for key, value in node.labels.items() if _is_ours(key)}
    gone = dict.fromkeys(present.keys() - wanted.keys())
    new = {key: value for key, value in wanted.items() if present.get(key) != value}
    return LabelChange(
        patch={**gone, **new},
        added=_modules(new.keys() - present.keys()),
        removed=_modules(gone.keys()),
    )


def _wanted(node: Node, state: NodeState, *, live: bool) -> dict[str, str]:
    """Return the labels that a status of the running boot allows, of all that is in the kernel."""
    wanted: dict[str, str] = {}
    for report in state.status.modules:
        if report.in_kernel and labels_are_own(report.namespace, report.name):
            wanted.update(_labels_of(report, node, state, live=live))
    return {key: value for key, value in wanted.items() if label_fits(key)}


def _labels_of(
    report: ReportedModule, node: Node, state: NodeState, *, live: bool
) -> Iterator[tuple[str, str]]:
    """Say it of the current config; of another one leave what was said."""
    ready = ready_label(report.namespace, report.name)
    version = version_ready_label(report.namespace, report.name)
    if entry := _loaded_entry(report, node, state, live=live):
        yield ready, ""
        if entry.version:
            yield version, entry.version
    elif ready in node.labels:
        yield ready, ""
        if version in node.labels:
            yield version, node.labels[version]


def _loaded_entry(
    report: ReportedModule, node: Node, state: NodeState, *, live: bool
) -> DesiredModule | None:
    """Return the entry that a report fulfils.

    While session and kubelet name different boots the status may still be the one from before
    the reboot: that removes no label, but it adds none either. Nor does one of a Node that has
    been made anew and says no boot yet, unless a session stands.
    """
    if node.boot_id != state.status.boot_id and (node.boot_id or not live):
        return None
    entry = state.entry(report.ref)
    return entry if entry and is_loaded(entry, report, state) else None


def _is_ours(key: str) -> bool:
    return bool(parse_ready_label(key) or parse_version_ready_label(key))


def _modules(keys: Iterable[str]) -> tuple[ModuleRef, ...]:
    parsed = (parse_ready_label(key) for key in keys)
    return tuple(sorted(ModuleRef(*names) for names in parsed if names))
