"""The daemon's own values, and the two ports through which it reaches images and the kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef, ReportedModule
from kmm_common.errors import KmmError


def kernel_name(name: str) -> str:
    """Return a module's name as the kernel spells it: dashes are underscores."""
    return name.replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelModule:
    """One row of /proc/modules with what /sys/module says about it. Names as the kernel's."""

    name: str
    state: str = "Live"
    """Live, Loading or Unloading, as /proc/modules spells it."""
    refcount: int = 0
    holders: tuple[str, ...] = ()
    build: str = ""
    """builds.build of it."""
    taint: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """As /sys/module shows them, of modules that were asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A modprobe or rmmod of this boot that has not ended, whichever daemon started it."""

    ref: ModuleRef
    """For whom it was started."""
    pid: int = 0
    """As the daemon that started it sees it; 0 if that daemon ended before it could say."""
    program: str
    names: tuple[str, ...] = ()
    """kernel_names of what it may bring or take out, the first one asked for."""

    def __str__(self) -> str:
        what = " ".join((self.program, *self.names[:1]))
        return f"process {self.pid} ({what})" if self.pid else f"a process ({what})"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelView:
    """What the running kernel says at one moment."""

    boot_id: str
    kernel_version: str
    modules: Mapping[str, KernelModule] = field(default_factory=dict)
    """By kernel_name."""
    builtin: frozenset[str] = frozenset()
    """Modules compiled into the kernel, by kernel_name."""
    at_work: Mapping[ModuleRef, Process] = field(default_factory=dict)
    """What was started for Modules and has not ended: never more than one for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyImage:
    """A kmod image that is pulled, verified and unpacked on this node."""

    digest: str
    """sha256:<hex> of the manifest or index that the image reference stands for."""
    root: Path
    """Holds <dirName>/lib/modules/<kernel> and <firmwarePath> as the image has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRecord:
    """What this daemon did for one Module in this boot: what an unload has to undo."""

    module: DesiredModule
    """As it was when loaded or adopted, image_digest filled in."""
    kernel_modules: tuple[str, ...]
    """kernel_names that came into the kernel with it, its own first, in order of unloading."""
    builds: Mapping[str, str] = field(default_factory=dict)
    """builds.build by kernel_name, where the kernel shows it."""
    warning: str = ""
    """What the user should know though the load succeeded."""


class StepError(KmmError):
    """A step failed for a reason that is told to the user.

    `retry` is False where only a new desired state or image can help.
    """

    def __init__(self, failure: ModuleFailure, *, retry: bool = True) -> None:
        super().__init__(failure.message, reason=failure.reason)
        self.failure = failure
        self.retry = retry


class Images(Protocol):
    """Port to the image store of the node."""

    async def prepare(self, module: DesiredModule) -> ReadyImage:
        """Pull if needed, verify and unpack. Raises StepError (Image*, DigestMismatch...)."""
        ...


class Kernel(Protocol):
    """Port to the kernel of the node."""

    async def view(self, parameters_of: frozenset[str] = frozenset()) -> KernelView:
        """Return the truth of this moment, from /proc and /sys.

        `parameters_of` are kernel_names whose parameters are to be in it.
        """
        ...

    async def inspect(self, module: DesiredModule, image: ReadyImage) -> Mapping[str, str]:
        """Return builds.build by kernel_name for the Module's kernel modules in the image.

        Raises StepError.
        """
        ...

    async def load(self, module: DesiredModule, image: ReadyImage) -> LoadedRecord:
        """Remove in-tree modules, copy firmware, run modprobe, check. Raises StepError."""
        ...

    async def adopt(self, module: DesiredModule, image: ReadyImage) -> None:
        """Bring what a load brings beside kernel modules: the firmware. Raises StepError."""
        ...

    async def check(self, module: DesiredModule, image: ReadyImage, going: frozenset[str]) -> None:
        """Raise StepError for what a load would refuse, as far as that is known before it.

        Nothing is touched; `going` are kernel_names that leave the kernel before the load.
        """
        ...

    async def unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        """Take a Module's modules out of the kernel and its firmware off the host.

        `keep` are kernel_names that other Modules of this node need. Raises StepError; InUse
        names the holders.
        """
        ...

    async def keep_firmware_of(self, refs: frozenset[ModuleRef]) -> None:
        """Remove the firmware on the host that only other Modules have left. Raises StepError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDesired:
    """The newest desired state the daemon has accepted."""

    uid: str
    """metadata.uid of the NodeModulesState."""
    generation: int
    modules: Mapping[ModuleRef, DesiredModule]
    partly_known: bool = False
    """There is more to its modules, of a later release: their hash is not the control plane's."""


class UpdateKind(StrEnum):
    """How an update carries the desired state."""

    SNAPSHOT = "snapshot"
    UNCHANGED = "unchanged"
    DIFF = "diff"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredUpdate:
    """One update of the desired state, as the control plane sent it."""

    kind: UpdateKind
    uid: str
    """metadata.uid and metadata.generation of the NodeModulesState this brings the node to."""
    generation: int
    base_generation: int = 0
    """DIFF: the generation that the changes are relative to."""
    upserts: tuple[DesiredModule, ...] = ()
    """SNAPSHOT: the whole desired state."""
    removals: tuple[ModuleRef, ...] = ()
    content_hash: bytes = b""
    """kmm_common.desired.content_hash of the desired state after this update."""
    partly_known: bool = False
    """It holds fields of a later release, which the hash covers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The update is in the journal and may be acknowledged."""

    uid: str
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedsSnapshot:
    """The update cannot be used: nothing was changed, a snapshot is asked for."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReport:
    """The complete truth of the node; a Module that it omits has no module in the kernel."""

    sequence: int = 0
    """Rises with every change, per start of the daemon."""
    uid: str = ""
    observed_generation: int = 0
    """With uid: the newest desired state whose steps are all done or failed terminally."""
    modules: tuple[ReportedModule, ...] = ()
    accepted_uid: str = ""
    accepted_generation: int = 0
    """The accepted desired state that modules is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the daemon opens a session with."""

    boot_id: str
    kernel_version: str
    uid: str
    """Journaled uid, generation and content hash; empty, 0 and empty without a journal."""
    generation: int
    content_hash: bytes
    state: StateReport
