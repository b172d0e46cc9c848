"""What to do next for every Module of the node: pure, and asked again after every step."""

from dataclasses import replace

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef, ModuleState, config_hash
from kmm_daemon import builds, cutshort, footprint
from kmm_daemon.parameters import difference
from kmm_daemon.situation import PreparedImage, Situation, in_kernel, left_by, own_of
from kmm_daemon.situation import own_name as own
from kmm_daemon.steps import Adopt, Load, Prepare, Refuse, Reload, Rest, Step, Unload, Wait
from kmm_daemon.unended import own_process, still_running, unless_busy
from kmm_daemon.values import KernelModule, LoadedRecord


def plan(s: Situation) -> tuple[Step, ...]:
    """Return the next step of every Module that is desired or still loaded, removals first."""
    removals = [step for ref in _gone(s) if (step := _removal(ref, s))]
    steps = (*removals, *(_step(s.desired[ref], s) for ref in sorted(s.desired)))
    return tuple(unless_busy(step, s) for step in steps)


def _gone(s: Situation) -> list[ModuleRef]:
    return sorted((s.records.keys() | s.begun.keys()) - s.desired.keys())


def _step(entry: DesiredModule, s: Situation) -> Step:
    """Return the next step of a desired Module: the first rule that has an answer."""
    return (
        _conflict(entry)
        or _kernel_mismatch(entry, s)
        or own_process(entry.ref, s)
        or _as_desired(entry, s)
        or _finished_late(entry, s)
        or _held_off(entry, s)
        or _kernel_busy(entry, s)
        or _behind_removal(entry, s)
        or _in_tree_of_another(entry, s)
        or _image(entry, s)
        or _changed(entry, s)
        or _found(entry, s)
        or _below_first(entry, s)
        or _load(entry, s)
    )


def _conflict(entry: DesiredModule) -> Step | None:
    if not entry.conflicts_with:
        return None
    name = own(entry) or "the kernel module"
    message = f"{name} belongs to Module {entry.conflicts_with} on this node"
    return _refused(entry, Reason.CONFLICT, message)


def _kernel_mismatch(entry: DesiredModule, s: Situation) -> Step | None:
    if entry.kernel_version == s.view.kernel_version:
        return None
    message = f"planned for kernel {entry.kernel_version}, the node runs {s.view.kernel_version}"
    failure = ModuleFailure(reason=Reason.KERNEL_MISMATCH, message=message)
    return Refuse(ref=entry.ref, state=ModuleState.PENDING, failure=failure)


def _as_desired(entry: DesiredModule, s: Situation) -> Step | None:
    """A loaded module whose hash is the desired one stays, whatever else changed in the entry."""
    record = s.records.get(entry.ref)
    if record is None or not in_kernel(record, s.view) or not matches(entry, record, s):
        return None
    module = replace(entry, image_digest=_digest(entry, record, s))
    if module == record.module:
        return Rest(ref=entry.ref, record=record)
    return Adopt(ref=entry.ref, record=replace(record, module=module))


def matches(entry: DesiredModule, record: LoadedRecord, s: Situation) -> bool:
    """Tell whether a loaded record is what the entry asks for; False while that is unknown."""
    digest = _digest(entry, record, s)
    known = record.module.image_digest or digest
    return digest != "" and config_hash(entry, image_digest=digest) == config_hash(
        record.module, image_digest=known
    )


def _digest(entry: DesiredModule, record: LoadedRecord, s: Situation) -> str:
    """Return the digest that an entry stands for; empty while only a pull could tell."""
    image = s.image_for(entry)
    if entry.image_digest or image:
        return entry.image_digest or (image.image.digest if image else "")
    return record.module.image_digest if entry.image == record.module.image else ""


def _finished_late(entry: DesiredModule, s: Situation) -> Step | None:
    """A load whose end this daemon missed (crash, time-out) is adopted if it is the desired one."""
    record = _late(entry.ref, s)
    if record is None or not matches(entry, record, s):
        return None
    module = replace(entry, image_digest=record.module.image_digest)
    return Adopt(ref=entry.ref, record=replace(record, module=module))


def standing(ref: ModuleRef, s: Situation) -> LoadedRecord | None:
    """Return what this daemon has brought for a Module, an interrupted load included."""
    return s.records.get(ref) or _late(ref, s)


def _late(ref: ModuleRef, s: Situation) -> LoadedRecord | None:
    if ref in s.records or ref not in s.begun:
        return None
    left = left_by(s.begun[ref], s.view)
    name = next(iter(own_of(left)), "")
    if not name or s.view.modules[name].state != "Live":
        return None
    failed = s.failure_of(ref)
    return replace(left, warning=cutshort.warning(failed.failure)) if failed else left


def _remains(ref: ModuleRef, s: Situation) -> LoadedRecord | None:
    """Return all that this daemon has brought for a Module, if only a dependency is left of it."""
    record, begun = standing(ref, s), s.begun.get(ref)
    if begun is None:
        return record
    left = left_by(begun, s.view)
    return footprint.extended(record, left, left.kernel_modules) if record else left


def _held_off(entry: DesiredModule, s: Situation) -> Step | None:
    failed = s.held_off(entry.ref)
    return Wait(ref=entry.ref, why="failed before", failed=failed) if failed else None


def _kernel_busy(entry: DesiredModule, s: Situation) -> Step | None:
    row = s.view.modules.get(own(entry))
    if row is None or row.state == "Live":
        return None
    return Wait(ref=entry.ref, why=f"the kernel says {row.name} is {row.state}", kernel=True)


def _behind_removal(entry: DesiredModule, s: Situation) -> Step | None:
    wanted = footprint.in_tree(entry) | {own(entry)}
    for ref in _gone(s):
        record = _remains(ref, s)
        shared = wanted.intersection(record.kernel_modules if record else ())
        if shared:
            return _behind(entry, ref, min(shared), s)
    return None


def _behind(entry: DesiredModule, gone: ModuleRef, name: str, s: Situation) -> Wait:
    why = f"{name} has to be unloaded for Module {gone} first"
    stays = _why_it_stays(gone, s)
    message = f"{why}: {stays.message}" if stays else ""
    blocked = ModuleFailure(reason=Reason.CONFLICT, message=message) if stays else None
    return Wait(ref=entry.ref, why=why, blocked=blocked)


def _why_it_stays(ref: ModuleRef, s: Situation) -> ModuleFailure | None:
    if process := s.view.at_work.get(ref):
        return still_running(process)
    failed = s.failure_of(ref)
    return failed.failure if failed else None


def _in_tree_of_another(entry: DesiredModule, s: Situation) -> Step | None:
    for ref, record in s.records.items():
        shared = footprint.in_tree(entry).intersection(record.kernel_modules)
        if ref != entry.ref and shared:
            message = f"inTreeModulesToRemove names {min(shared)}, which Module {ref} has loaded"
            return _refused(entry, Reason.CONFLICT, message)
    return None


def _image(entry: DesiredModule, s: Situation) -> Step | None:
    return None if s.image_for(entry) else Prepare(ref=entry.ref, entry=entry)


def _changed(entry: DesiredModule, s: Situation) -> Step | None:
    record, image = standing(entry.ref, s), s.image_for(entry)
    if record is None or image is None or not in_kernel(record, s.view):
        return None
    going = _remains(entry.ref, s) or record
    kept = footprint.keep(entry.ref, going, s)
    return Reload(ref=entry.ref, image=image, record=going, keep=kept)


def _found(entry: DesiredModule, s: Situation) -> Step | None:
    """A module that somebody else loaded: adopted if it is the image's, else not touched."""
    row, image = s.view.modules.get(own(entry)), s.image_for(entry)
    if row is None or image is None:
        return None
    expected = image.builds.get(row.name, "")
    if builds.same(row, expected):
        return _other_parameters(entry, row) or Adopt(
            ref=entry.ref, record=_adopted(image, s), image=image
        )
    if row.name in footprint.in_tree(entry):
        return None
    return _refused(entry, Reason.LOADED_FROM_ELSEWHERE, builds.refusal(row, expected))


def _other_parameters(entry: DesiredModule, row: KernelModule) -> Step | None:
    found = difference(entry.modprobe.parameters, row.parameters)
    if found is None:
        return None
    message = (
        f"{row.name} is in the kernel with {found.name}={found.has}, the Module asks for "
        f"{found.name}={found.wanted}: ask for what is there, or unload {row.name} on a drained "
        "node"
    )
    return _refused(entry, Reason.LOADED_FROM_ELSEWHERE, message)


def _adopted(image: PreparedImage, s: Situation) -> LoadedRecord:
    """Return the record of a module that is already there, with what it stands on of the image."""
    same = {
        name: expected
        for name, expected in image.builds.items()
        if s.present(name) and builds.same(s.view.modules[name], expected)
    }
    first = own(image.entry)
    names = (first, *(name for name in same if name != first))
    return LoadedRecord(module=image.module, kernel_modules=names, builds=same)


def _below_first(entry: DesiredModule, s: Situation) -> Step | None:
    """A Module waits for the first attempt of those that its module stands on."""
    for ref in sorted(s.desired):
        other = s.desired[ref]
        if ref != entry.ref and footprint.needs(entry, other, s) and _is_coming(other, s):
            return Wait(ref=entry.ref, why=f"needs {own(other)} of Module {ref}")
    return None


def _is_coming(entry: DesiredModule, s: Situation) -> bool:
    if s.present(own(entry)) or s.failure_of(entry.ref):
        return False
    return isinstance(_step(entry, s), Prepare | Load | Wait)


def _load(entry: DesiredModule, s: Situation) -> Step:
    image = s.image_for(entry)
    if image is None:
        return Prepare(ref=entry.ref, entry=entry)
    return Load(ref=entry.ref, image=image, older=_remains(entry.ref, s))


def _removal(ref: ModuleRef, s: Situation) -> Step | None:
    record = _remains(ref, s)
    if record is None:
        return None
    if busy := own_process(ref, s) or _unfinished(ref, s):
        return busy
    if failed := s.held_off(ref):
        return Wait(ref=ref, why="failed before", failed=failed)
    if first := _held_by_removal(ref, record, s):
        return Wait(ref=ref, why=f"Module {first} is unloaded first")
    return Unload(ref=ref, record=record, keep=footprint.keep(ref, record, s))


def _unfinished(ref: ModuleRef, s: Situation) -> Step | None:
    left = left_by(s.begun[ref], s.view).kernel_modules if ref in s.begun else ()
    for row in (s.view.modules[name] for name in left):
        if row.state != "Live":
            return Wait(ref=ref, why=f"the kernel says {row.name} is {row.state}", kernel=True)
    return None


def _held_by_removal(ref: ModuleRef, record: LoadedRecord, s: Situation) -> ModuleRef | None:
    """Return the Module that goes too, stands on this one, and has not failed to go."""
    for other in sorted(s.records.keys() - s.desired.keys() - {ref}):
        above = s.records[other].kernel_modules
        stands = footprint.supported(above, s.view) - frozenset(above)
        if stands.intersection(record.kernel_modules) and not s.failure_of(other):
            return other
    return None


def _refused(entry: DesiredModule, reason: Reason, message: str) -> Refuse:
    failure = ModuleFailure(reason=reason, message=message)
    return Refuse(ref=entry.ref, state=ModuleState.FAILED, failure=failure)
