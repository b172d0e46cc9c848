"""What keeps the sandbox from doing its work."""

from kmm_common.errors import TerminalError


class SandboxError(TerminalError):
    """Something is missing or broken on this machine; the message names the remedy."""

    def __init__(self, message: str, *, reason: str = "SandboxFailed") -> None:
        super().__init__(message, reason=reason)
