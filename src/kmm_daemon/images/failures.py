"""What a user is told when an image cannot be had: pure."""

import errno
from pathlib import Path

from kmm_common.api.names import Reason
from kmm_common.desired import DesiredModule, ModuleFailure
from kmm_common.errors import KmmError, TerminalError, TransientError
from kmm_common.oci.errors import (
    DigestMismatchError,
    NotFoundError,
    UnauthorizedError,
    UnreachableError,
)
from kmm_daemon.values import StepError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFullError(TransientError):
    """The image store's disk is full, and nothing more can be evicted."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"the disk of the image store {directory} is full, and nothing in it can go; "
            "free space there",
            reason=Reason.DISK_FULL,
        )


class StoreError(TransientError):
    """The image store's disk fails."""

    def __init__(self, directory: Path, error: OSError) -> None:
        super().__init__(
            f"image store {directory}: {error.strerror or type(error).__name__}; check that disk",
            reason=Reason.IMAGE_PULL_FAILED,
        )


class TooSlowError(TransientError):
    """Unpacking takes too long: the node may be busy now, as it is after a boot."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"takes more than {seconds:g} s to unpack here; make it smaller, or see what keeps the"
            " node busy",
            reason=Reason.IMAGE_PULL_FAILED,
        )


class NotHereError(TransientError):
    """The image is not on the node and must not be pulled."""

    def __init__(self) -> None:
        super().__init__(
            "is not on this node, and imagePullPolicy is Never; allow IfNotPresent",
            reason=Reason.IMAGE_NOT_FOUND,
        )


class WithoutKernelError(TerminalError):
    """The image has nothing for the kernel."""

    def __init__(self, directory: str, kernels: tuple[str, ...]) -> None:
        there = f"only for {', '.join(kernels)}" if kernels else "for no kernel at all"
        super().__init__(
            f"has no directory /{directory}, {there}; build it for this kernel, "
            "or correct modprobe.dirName",
            reason=Reason.IMAGE_WITHOUT_KERNEL,
        )


def is_disk_full(error: OSError) -> bool:
    """Tell whether room on disk would have helped."""
    return error.errno in _FULL


def step_error(module: DesiredModule, error: KmmError, *, retry: bool) -> StepError:
    """Return the failure of a step, in words that name the image and what helps."""
    message = f"image {module.image}: {error}{_remedy(module, error)}"
    failure = ModuleFailure(reason=_reason(error), message=message)
    return StepError(failure, retry=retry)


def broken(module: DesiredModule, why: str) -> StepError:
    """Return the failure of a step that broke on our own side; it is tried again."""
    message = f"image {module.image}: {why}; see the daemon's log"
    return StepError(ModuleFailure(reason=Reason.IMAGE_PULL_FAILED, message=message))


def _reason(error: KmmError) -> str:
    known = error.reason in Reason.__members__.values()
    return error.reason if known else Reason.IMAGE_PULL_FAILED


def _remedy(module: DesiredModule, error: KmmError) -> str:
    secret = f"{module.namespace}/{module.pull_secret}"
    match error:
        case NotFoundError():
            return "; push it, or correct containerImage"
        case UnauthorizedError() if module.pull_secret:
            return f"; correct Secret {secret}, which imageRepoSecret names"
        case UnauthorizedError():
            return "; name a Secret with credentials in imageRepoSecret, or correct containerImage"
        case UnreachableError():
            return "; check the registry, registryTLS and the node's way there"
        case DigestMismatchError():
            return "; push the image anew, or mend the registry"
        case _:
            return ""
