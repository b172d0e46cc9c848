"""What the daemon knows at one moment: the input of its pure decisions."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef
from kmm_daemon.builds import differs
from kmm_daemon.values import KernelView, LoadedRecord, ReadyImage, kernel_name


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image that is ready on the node, for exactly one desired entry."""

    entry: DesiredModule
    image: ReadyImage
    builds: Mapping[str, str]
    """builds.build by kernel_name, of the Module's kernel modules in the image."""

    @property
    def module(self) -> DesiredModule:
        """The entry with the digest that it stands for on this node."""
        return replace(self.entry, image_digest=self.image.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunLoad:
    """A load, journaled before modprobe starts: after a crash it proves whose work it was.

    What an unload has begun to take out is journaled in the same way: it may be there, or not.
    """

    module: DesiredModule
    """image_digest filled in."""
    kernel_modules: tuple[str, ...]
    """Kernel modules that are the Module's if they are in the kernel now, its own first."""
    builds: Mapping[str, str] = field(default_factory=dict)
    """As they are then, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStep:
    """The newest failure of a Module."""

    entry: DesiredModule | None
    """What could not be carried out; None for a removal."""
    failure: ModuleFailure
    attempts: int
    """Failures in a row."""
    retry: bool
    """False: only another entry can help."""
    retry_at: float = 0.0
    """Monotonic seconds."""
    image_compared: bool = False
    """Its image was ready, and was not what the kernel had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Desired state, kernel truth and what this daemon did and tried in this boot."""

    desired: Mapping[ModuleRef, DesiredModule] = field(default_factory=dict)
    view: KernelView
    records: Mapping[ModuleRef, LoadedRecord] = field(default_factory=dict)
    begun: Mapping[ModuleRef, BegunLoad] = field(default_factory=dict)
    images: Mapping[ModuleRef, PreparedImage] = field(default_factory=dict)
    failures: Mapping[ModuleRef, FailedStep] = field(default_factory=dict)
    now: float = 0.0
    """Monotonic seconds."""

    def present(self, name: str) -> bool:
        """Tell whether the kernel has a module of this kernel_name, in whatever state."""
        return name in self.view.modules

    def image_for(self, entry: DesiredModule) -> PreparedImage | None:
        """Return the prepared image if it is this entry's."""
        image = self.images.get(entry.ref)
        return image if image is not None and image.entry == entry else None

    def failure_of(self, ref: ModuleRef) -> FailedStep | None:
        """Return the failure of what is desired of the Module now, not of an older wish."""
        failed = self.failures.get(ref)
        return failed if failed is not None and failed.entry == self.desired.get(ref) else None

    def held_off(self, ref: ModuleRef) -> FailedStep | None:
        """Return the failure that forbids a further attempt at this moment."""
        failed = self.failure_of(ref)
        return failed if failed and (not failed.retry or self.now < failed.retry_at) else None


def own_name(entry: DesiredModule) -> str:
    """Return the kernel_name of the Module's module; empty with rawArgs."""
    return kernel_name(entry.modprobe.module_name)


def in_kernel(record: LoadedRecord, view: KernelView) -> bool:
    """Tell whether the Module's own kernel module is still there, and still the same one.

    A load that brought nothing visible (rawArgs, built-in) cannot be seen to vanish.
    """
    own = record.kernel_modules[:1]
    return own == () or (own[0] in view.modules and not replaced(record, view).intersection(own))


def replaced(record: LoadedRecord, view: KernelView) -> frozenset[str]:
    """Return the kernel modules of a record in whose place somebody else has put another one."""
    rows = (view.modules.get(name) for name in record.kernel_modules)
    return frozenset(
        row.name for row in rows if row and differs(row, record.builds.get(row.name, ""))
    )


def begun_load(
    image: PreparedImage, view: KernelView, interrupted: BegunLoad | None = None
) -> BegunLoad:
    """Return what to write down before a load: what it may bring, and an earlier one has brought.

    What is there already is not claimed: of an in-tree module that is to be replaced, only its
    build could tell the old from the new. With rawArgs nobody but modprobe knows what comes.
    """
    own = own_name(image.entry)
    below = (*map(kernel_name, image.entry.modprobe.modules_loading_order), *image.builds)
    names = [name for name in dict.fromkeys((own, *below)) if own and name not in view.modules]
    left = left_by(interrupted, view) if interrupted else None
    return BegunLoad(
        module=image.module,
        kernel_modules=(*names, *(left.kernel_modules if left else ())),
        builds={**image.builds, **(left.builds if left else {})},
    )


def begun_unload(record: LoadedRecord) -> BegunLoad:
    """Return what to write down before an unload."""
    return BegunLoad(
        module=record.module, kernel_modules=record.kernel_modules, builds=record.builds
    )


def left_by(begun: BegunLoad, view: KernelView) -> LoadedRecord:
    """Return what interrupted work has left in the kernel: at times only a dependency."""
    rows = [view.modules[name] for name in begun.kernel_modules if name in view.modules]
    ours = [row for row in rows if not differs(row, begun.builds.get(row.name, ""))]
    return LoadedRecord(
        module=begun.module,
        kernel_modules=tuple(row.name for row in ours),
        builds={row.name: row.build for row in ours if row.build},
    )


def own_of(record: LoadedRecord) -> tuple[str, ...]:
    """Return the Module's own kernel module; nothing where only its dependencies are left."""
    first = record.kernel_modules[:1]
    return first if own_name(record.module) in ("", *first) else ()
