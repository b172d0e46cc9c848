"""The error for bytes and messages that break the protocol."""

from kmm_common.errors import TerminalError


class MessageError(TerminalError):
    """The other side sent what the protocol does not allow; names message and field."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="InvalidMessage")
