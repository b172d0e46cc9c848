"""What keeps the sandbox from doing its work."""

import errno
import http.client
import subprocess

from kmm_common.errors import KmmError, TerminalError

FAILURES = (KmmError, OSError, subprocess.SubprocessError, http.client.HTTPException)
"""What a run can fail with that a user is told in a line; anything else is a mistake of ours."""


class SandboxError(TerminalError):
    """Something is missing or broken on this machine; the message names the remedy."""

    def __init__(self, message: str, *, reason: str = "SandboxFailed") -> None:
        super().__init__(message, reason=reason)


def told(error: BaseException) -> str:
    """Return what a user is told of a failure."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            f"{error}: make room, or name another place: TMPDIR is for a run,"
            " XDG_CACHE_HOME for what is kept"
        )
    return str(error) or type(error).__name__
