"""Which kernel modules a Module touches, needs, keeps and hands over: sets of kernel_names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

from kmm_common.desired import DesiredModule, ModuleRef
from kmm_daemon.situation import Situation, own_name, own_of, replaced
from kmm_daemon.values import KernelView, LoadedRecord, kernel_name

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def named(entry: DesiredModule) -> frozenset[str]:
    """Return the kernel modules that an entry names, those to be removed included.

    Of rawArgs every word that can be a module's name counts: better one too many.
    """
    probe = entry.modprobe
    words = (*probe.raw_args.load, *probe.raw_args.unload)
    raw = filter(_NAME.fullmatch, words)
    names = (probe.module_name, *probe.modules_loading_order, *entry.in_tree_modules_to_remove)
    return frozenset(kernel_name(name) for name in (*names, *raw) if name)


def in_tree(entry: DesiredModule) -> frozenset[str]:
    """Return the kernel modules that make room before a load."""
    return frozenset(map(kernel_name, entry.in_tree_modules_to_remove))


def needed(entry: DesiredModule, s: Situation) -> frozenset[str]:
    """Return what the Module's own module needs below it, as far as is known."""
    image = s.image_for(entry)
    below = _ordered(entry) | set(image.builds if image else ())
    return frozenset(below) - {own_name(entry)}


def needs(one: DesiredModule, other: DesiredModule, s: Situation) -> bool:
    """Tell whether `other`'s module must be in the kernel before `one`'s, and not the reverse."""
    return _needs(one, other, s) and not _reaches(other, one, s)


def _needs(one: DesiredModule, other: DesiredModule, s: Situation) -> bool:
    return own_name(other) in needed(one, s)


def _reaches(start: DesiredModule, goal: DesiredModule, s: Situation) -> bool:
    seen = {start.ref}
    left = [start]
    while left:
        one = left.pop()
        for ref, other in s.desired.items():
            if ref not in seen and _needs(one, other, s):
                seen.add(ref)
                left.append(other)
    return goal.ref in seen


def keep(ref: ModuleRef, record: LoadedRecord, s: Situation) -> frozenset[str]:
    """Return what the other Modules of the node need in the kernel while `ref` goes.

    Only those count that are there already: one that is still to come brings what it needs, and
    nobody would take out what was kept for it. The Module's own module stays out of it unless
    another Module has it too: where it is merely held, the unload has to fail and name the holder.
    What somebody else has put in a module's place is not ours to take out.
    """
    own = frozenset(own_of(record))
    recorded = _recorded_by_others(ref, s)
    below = supported(recorded | _needed_by_others(ref, s), s.view) - own
    return below | recorded | replaced(record, s.view)


def supported(names: Iterable[str], view: KernelView) -> frozenset[str]:
    """Return the names and everything in the kernel that they stand on."""
    above = set(names)
    grew = True
    while grew:
        below = {name for name, row in view.modules.items() if above.intersection(row.holders)}
        grew = not below <= above
        above |= below
    return frozenset(above)


def inherited(
    gone: LoadedRecord, records: Mapping[ModuleRef, LoadedRecord], view: KernelView
) -> dict[ModuleRef, LoadedRecord]:
    """Return the records that change because they stand on what an unload had to leave behind."""
    changed: dict[ModuleRef, LoadedRecord] = {}
    for name in gone.kernel_modules:
        if name not in view.modules:
            continue
        for ref in sorted(records):
            heir = changed.get(ref, records[ref])
            if name in heir.kernel_modules:
                break
            if name in supported(heir.kernel_modules, view) | _ordered(heir.module):
                changed[ref] = extended(heir, gone, (name,))
                break
    return changed


def extended(record: LoadedRecord, older: LoadedRecord, names: Iterable[str]) -> LoadedRecord:
    """Return the record with further kernel modules, which another record accounted for."""
    extra = tuple(name for name in names if name not in record.kernel_modules)
    known = {name: older.builds[name] for name in extra if name in older.builds}
    return replace(
        record,
        kernel_modules=(*record.kernel_modules, *extra),
        builds={**known, **record.builds},
    )


def _recorded_by_others(ref: ModuleRef, s: Situation) -> frozenset[str]:
    others = (record.kernel_modules for other, record in s.records.items() if other != ref)
    return frozenset(chain.from_iterable(others))


def _needed_by_others(ref: ModuleRef, s: Situation) -> frozenset[str]:
    there = (s.records.keys() | s.begun.keys()) & s.desired.keys() - {ref}
    return frozenset(chain.from_iterable(needed(s.desired[other], s) for other in there))


def _ordered(entry: DesiredModule) -> frozenset[str]:
    """Return what only the Module itself says that it stands on."""
    return frozenset(map(kernel_name, entry.modprobe.modules_loading_order))
