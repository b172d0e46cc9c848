"""The three families of errors; every adapter maps its library's errors into one of them."""


class KmmError(Exception):
    """Base of all errors that KMM raises on purpose.

    `reason` is the PascalCase constant a user finds in a condition, status or event.
    """

    def __init__(self, message: str, *, reason: str = "Error") -> None:
        super().__init__(message)
        self.reason = reason


class TransientError(KmmError):
    """May go away by itself: retried with backoff."""

    def __init__(
        self, message: str, *, reason: str = "Transient", retry_after: float | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class TerminalError(KmmError):
    """Will not go away without new input: reported, then waited on."""
