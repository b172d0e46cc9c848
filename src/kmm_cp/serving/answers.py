"""What gRPC tells a daemon of an error, and of the end of its session."""

from collections.abc import Awaitable, Callable
from typing import Any

import h2.exceptions
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from kmm_common.errors import KmmError, TransientError
from kmm_common.wire.errors import MessageError
from kmm_cp.serving.credentials import CredentialsRefusedError, SecretMissingError
from kmm_cp.serving.identity import NodeIdentityError
from kmm_cp.serving.messages import ProtocolVersionError
from kmm_cp.serving.sessions import Session

Method = Callable[[Stream[Any, Any]], Awaitable[None]]


def answered(method: Method) -> Method:
    """Return a handler that turns our errors into what gRPC tells a client."""

    async def handler(stream: Stream[Any, Any]) -> None:
        try:
            await method(stream)
        except KmmError as error:
            raise GRPCError(_status(error), str(error)) from error
        except TimeoutError as error:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "took too long") from error

    return handler


async def ending(session: Session, work: Awaitable[None]) -> None:
    """Do the work of a session; an error of ours, or of its connection, ends the session."""
    try:
        await work
    except KmmError as error:
        session.end(_status(error), str(error))
    except GRPCError as error:
        session.end(error.status, error.message or "")
    except h2.exceptions.ProtocolError:
        session.end(Status.UNAVAILABLE, "the connection broke")


def raise_ending(session: Session) -> None:
    """Raise what the daemon is told of the end of its session, if that is no success."""
    end = session.ending
    if end is not None and end.status is not Status.OK:
        raise GRPCError(end.status, end.message)


def _status(error: KmmError) -> Status:
    match error:
        case ProtocolVersionError():
            return Status.FAILED_PRECONDITION
        case MessageError():
            return Status.INVALID_ARGUMENT
        case NodeIdentityError() | CredentialsRefusedError():
            return Status.PERMISSION_DENIED
        case SecretMissingError():
            return Status.NOT_FOUND
        case TransientError():
            return Status.UNAVAILABLE
        case _:
            return Status.FAILED_PRECONDITION
