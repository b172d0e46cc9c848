"""The steps that bring a Module from what is to what is desired."""

from dataclasses import dataclass

from kmm_common.desired import DesiredModule, ModuleFailure, ModuleRef, ModuleState
from kmm_daemon import footprint
from kmm_daemon.situation import FailedStep, PreparedImage
from kmm_daemon.values import LoadedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """The kernel has what is desired."""

    ref: ModuleRef
    record: LoadedRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """What is in the kernel is what is desired: remember it as the Module's, no modprobe."""

    ref: ModuleRef
    record: LoadedRecord
    image: PreparedImage | None = None
    """Of a module that somebody else has loaded: its firmware may not be on the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Pull, verify and unpack the image; the kernel is left alone."""

    ref: ModuleRef
    entry: DesiredModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Bring the module into a kernel that does not have it."""

    ref: ModuleRef
    image: PreparedImage
    older: LoadedRecord | None = None
    """What this daemon had brought before: somebody took its own module out, or a crash came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """Take the old module out, then bring the new one, whose image is ready."""

    ref: ModuleRef
    image: PreparedImage
    record: LoadedRecord
    keep: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unload:
    """Take out what no Module desires any more."""

    ref: ModuleRef
    record: LoadedRecord
    keep: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Leave the kernel alone until the entry or the kernel is another."""

    ref: ModuleRef
    state: ModuleState
    failure: ModuleFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Something else comes first: another Module, the kernel, or the time of the next attempt."""

    ref: ModuleRef
    why: str
    failed: FailedStep | None = None
    """The Module's own failure, until its next attempt."""
    blocked: ModuleFailure | None = None
    """What keeps another Module from making room."""
    kernel: bool = False
    """Nobody will tell: the kernel has to be asked again soon."""


Step = Rest | Adopt | Prepare | Load | Reload | Unload | Refuse | Wait
KernelStep = Load | Reload | Unload


def touched(step: KernelStep) -> frozenset[str]:
    """Return the kernel modules of a step, by which steps at the same time exclude each other."""
    match step:
        case Unload(record=record):
            return footprint.named(record.module) | frozenset(record.kernel_modules)
        case Load(image=image, older=older):
            return _brought(image) | frozenset(older.kernel_modules if older else ())
        case Reload(image=image, record=record):
            return _brought(image) | frozenset(record.kernel_modules)


def _brought(image: PreparedImage) -> frozenset[str]:
    return footprint.named(image.entry) | frozenset(image.builds)
