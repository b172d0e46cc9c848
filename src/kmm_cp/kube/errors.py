"""Answers of the API server, named by what the caller does about them."""

from typing import Any

from kmm_common.errors import KmmError, TerminalError, TransientError

_MESSAGE_CHARACTERS = 500


class NotFoundError(TerminalError):
    """404."""


class ConflictError(TransientError):
    """409: the object changed since it was read."""


class AlreadyExistsError(TransientError):
    """409: an object of that name is there."""


class ForbiddenError(TransientError):
    """401 or 403: an administrator has to grant a right; it may come while we run."""


class InvalidError(TerminalError):
    """400 or 422: the server refuses the content, or the test of a JSON patch failed."""


class GoneError(TransientError):
    """410: the resourceVersion is too old; list again."""


class TooManyRequestsError(TransientError):
    """429."""


class UnavailableError(TransientError):
    """5xx, no connection, no answer in time."""


class NotLeadingError(TransientError):
    """Not sent: whoever wanted it written does not lead any more."""


def from_answer(request: str, code: int, body: Any, retry_after: float | None) -> KmmError:
    """Return the error for a failed request; only a Status object's message is quoted."""
    status = body if isinstance(body, dict) and body.get("kind") == "Status" else {}
    message = str(status.get("message", ""))[:_MESSAGE_CHARACTERS] or f"HTTP {code}"
    text = f"{request}: {message}"
    match code:
        case 400 | 422:
            return InvalidError(text, reason="Invalid")
        case 401 | 403:
            return ForbiddenError(text, reason="Forbidden")
        case 404:
            return NotFoundError(text, reason="NotFound")
        case 409 if status.get("reason") == "AlreadyExists":
            return AlreadyExistsError(text, reason="AlreadyExists")
        case 409:
            return ConflictError(text, reason="Conflict")
        case 410:
            return GoneError(text, reason="Expired")
        case 429:
            return TooManyRequestsError(text, reason="TooManyRequests", retry_after=retry_after)
        case _ if code >= 500:
            return UnavailableError(text, reason="Unavailable", retry_after=retry_after)
        case _:
            return TerminalError(text, reason="UnexpectedAnswer")
