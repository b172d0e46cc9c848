"""How messages become bytes on a gRPC stream, and bytes messages."""

from betterproto2 import Message
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from kmm_common.wire.errors import MessageError
from kmm_common.wire.scan import check


class Pre(bytes):
    """A message that is encoded already: sent as it is."""

    __slots__ = ()


class Codec(CodecBase):
    """Sends messages or Pre; receives only what kmm_common.wire.scan lets through."""

    __content_subtype__ = "proto"

    def encode(self, message: Message | Pre, message_type: type[Message]) -> bytes:
        """Return the bytes of a message."""
        if isinstance(message, Pre):
            return message
        if not isinstance(message, message_type):
            raise TypeError(f"expected {message_type.__name__}, not {type(message).__name__}")
        return bytes(message)

    def decode(self, data: bytes, message_type: type[Message]) -> Message:
        """Return the message; GRPCError INVALID_ARGUMENT names what is wrong with it."""
        try:
            check(data, message_type)
            return message_type.parse(data)
        except MessageError as error:
            raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error
        except UnicodeDecodeError as error:
            message = f"{message_type.__name__} holds text that is not UTF-8"
            raise GRPCError(Status.INVALID_ARGUMENT, message) from error
