"""Which firmware files this daemon has put on the host, and for whom: pure decisions over values.

The files outlive a reboot, and so does the ledger. A user of an earlier boot has no module in the
kernel: it keeps its files from being removed, but cannot forbid another Module their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kmm_common.api.names import Reason
from kmm_common.desired import ModuleFailure, ModuleRef


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A Module that needs a file, and the boot in which it last said so."""

    namespace: str
    name: str
    boot_id: str

    @property
    def ref(self) -> ModuleRef:
        return ModuleRef(self.namespace, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the host that this daemon wrote."""

    sha256: str
    users: tuple[User, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPath:
    """What firmware_class.path was before this daemon set it, and the boot in which it did."""

    before: str
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Entries by path below the firmware directory."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    search_path: SearchPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What has to happen for a Module's firmware."""

    ledger: Ledger
    """As it is once everything is written."""
    write: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    """Files of our own with other content: removed before they are written anew."""


def place(
    ledger: Ledger, user: User, wanted: Mapping[str, str], on_host: Mapping[str, str]
) -> Placement | ModuleFailure:
    """Decide how files, given as SHA-256 by path, get to the host; or name the conflict.

    A file that the host has with the same content is used, and stays the host's.
    """
    files = dict(ledger.files)
    write: list[str] = []
    replaced: list[str] = []
    for path, sha256 in sorted(wanted.items()):
        entry, present = ledger.files.get(path), on_host.get(path, "")
        if conflict := _conflict(path, sha256, entry, present, user):
            return conflict
        if entry is None and present:
            continue
        if present and present != sha256:
            replaced.append(path)
        if present != sha256:
            write.append(path)
        files[path] = _claimed(entry, sha256, user)
    settled = replace(ledger, files=files)
    return Placement(ledger=settled, write=tuple(write), replace=tuple(replaced))


def _conflict(
    path: str, sha256: str, entry: Entry | None, present: str, user: User
) -> ModuleFailure | None:
    if entry and entry.sha256 != sha256:
        for other in entry.users:
            if other.ref != user.ref and other.boot_id == user.boot_id:
                who = f"Module {other.ref} has put other content there"
                return _refusal(path, f"{who}: let both ship the same file, or remove one of them")
    ours = entry.sha256 if entry else ""
    if present not in ("", sha256, ours):
        return _refusal(path, "the host has other content there: remove it or ship the same file")
    return None


def _refusal(path: str, why: str) -> ModuleFailure:
    message = f"firmware file {path} is not written: {why}"
    return ModuleFailure(reason=Reason.FIRMWARE_CONFLICT, message=message)


def _claimed(entry: Entry | None, sha256: str, user: User) -> Entry:
    shared = entry.users if entry and entry.sha256 == sha256 else ()
    others = tuple(other for other in shared if other.ref != user.ref)
    return Entry(sha256=sha256, users=(*others, user))


def release(ledger: Ledger, gone: frozenset[ModuleRef]) -> tuple[Ledger, dict[str, str]]:
    """Return the ledger without some Modules, and SHA-256 by path of what nobody needs then."""
    files: dict[str, Entry] = {}
    orphans: dict[str, str] = {}
    for path, entry in ledger.files.items():
        users = tuple(user for user in entry.users if user.ref not in gone)
        if users:
            files[path] = replace(entry, users=users)
        else:
            orphans[path] = entry.sha256
    return replace(ledger, files=files), orphans


def refs(ledger: Ledger) -> frozenset[ModuleRef]:
    """Return the Modules that have files in the ledger."""
    return frozenset(user.ref for entry in ledger.files.values() for user in entry.users)
