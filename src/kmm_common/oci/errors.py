"""What can go wrong between KMM and a registry, whichever side asks."""

from kmm_common.api.names import Reason
from kmm_common.errors import TerminalError, TransientError


class InvalidReferenceError(TerminalError):
    """The text is not an image reference."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.IMAGE_INVALID)


class InvalidImageError(TerminalError):
    """The bytes are the promised ones, and they are not an image that KMM takes."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.IMAGE_INVALID)


class NotFoundError(TransientError):
    """The registry answers, and has no such image; one may be pushed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.IMAGE_NOT_FOUND)


class UnauthorizedError(TransientError):
    """The registry refuses us; a Secret may be corrected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.IMAGE_UNAUTHORIZED)


class UnreachableError(TransientError):
    """The registry does not answer, or not as a registry does."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, reason=Reason.IMAGE_PULL_FAILED, retry_after=retry_after)


class DigestMismatchError(TransientError):
    """The registry sent other bytes than it promised."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.DIGEST_MISMATCH)
