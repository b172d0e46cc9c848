"""The daemon's own values, and the two ports through which it reaches images and the kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
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
    srcversion: str = ""
    taint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelView:
    """What the running kernel says at one moment."""

    boot_id: str
    kernel_version: str
    modules: Mapping[str, KernelModule] = field(default_factory=dict)
    """By kernel_name."""
    builtin: frozenset[str] = frozenset()
    """Modules compiled into the kernel, by kernel_name."""


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
    srcversions: Mapping[str, str] = field(default_factory=dict)
    """By kernel_name, where the kernel has one."""


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
        """Pull if needed, verify and unpack. Raises StepError (Image*, DigestMismatch, DiskFull)."""
        ...


class Kernel(Protocol):
    """Port to the kernel of the node."""

    async def view(self) -> KernelView:
        """Return the truth of this moment, from /proc and /sys."""
        ...

    async def inspect(self, module: DesiredModule, image: ReadyImage) -> Mapping[str, str]:
        """Return srcversion by kernel_name for the Module's kernel modules in the image.

        An empty srcversion means that the file has none. Raises StepError.
        """
        ...

    async def load(self, module: DesiredModule, image: ReadyImage) -> LoadedRecord:
        """Remove in-tree modules, copy firmware, run modprobe, check the result. Raises StepError."""
        ...

    async def unload(self, record: LoadedRecord, keep: frozenset[str]) -> None:
        """Take a Module's modules out of the kernel and its firmware off the host.

        `keep` are kernel_names that other Modules of this node need. Raises StepError; InUse
        names the holders.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDesired:
    """The newest desired state the daemon has accepted."""

    uid: str
    """metadata.uid of the NodeModulesState."""
    generation: int
    modules: Mapping[ModuleRef, DesiredModule]
