"""Two Modules for one kernel module of a node: which one has it."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from kmm_common.desired import DesiredModule, ModuleRef, ReportedModule


def kernel_module(entry: DesiredModule) -> str:
    """Return the name of an entry's module as the kernel spells it; empty with rawArgs."""
    return entry.modprobe.module_name.replace("-", "_")


def holds(
    entry: DesiredModule, planned: DesiredModule | None, report: ReportedModule | None
) -> bool:
    """Tell whether the kernel has an entry's own kernel module from its Module.

    `planned` is what the node's spec has of the Module. A Module that is given another kernel
    module does not bring its hold of the old one along; one whose spec somebody edited holds
    what it loaded. One whose image is still to tell whether it is from it holds it until then.
    """
    if report is None or not report.in_kernel:
        return False
    if report.config_hash == entry.config_hash:
        return True
    return (
        planned is not None
        and not planned.conflicts_with
        and kernel_module(planned) == kernel_module(entry)
    )


def with_conflicts(
    entries: Iterable[DesiredModule],
    created: Mapping[ModuleRef, datetime],
    holders: Collection[ModuleRef],
    held: Iterable[DesiredModule] = (),
) -> tuple[DesiredModule, ...]:
    """Return the entries, ordered, with conflicts_with set in those that have to stand back.

    The one that holds() its kernel module wins, else the oldest by creation, namespace, name.
    Only moduleName counts: what modulesLoadingOrder names besides it may be shared. Those that are
    `held` come out as they are: one keeps its kernel module, or goes on standing back.
    """

    def rank(entry: DesiredModule) -> tuple[bool, datetime, ModuleRef]:
        return entry.ref not in holders, created[entry.ref], entry.ref

    held = tuple(held)
    keepers = (entry for entry in held if not entry.conflicts_with)
    winners = {name: entry.ref for entry in keepers if (name := kernel_module(entry))}
    ordered = sorted(entries, key=lambda entry: entry.ref)
    for entry in sorted(ordered, key=rank):
        if name := kernel_module(entry):
            winners.setdefault(name, entry.ref)
    settled = (_settled(entry, winners) for entry in ordered)
    return tuple(sorted((*settled, *held), key=lambda entry: entry.ref))


def _settled(entry: DesiredModule, winners: Mapping[str, ModuleRef]) -> DesiredModule:
    winner = winners.get(kernel_module(entry), entry.ref)
    return replace(entry, conflicts_with="" if winner == entry.ref else str(winner))
