"""Blocking work in a thread that an asyncio task can leave at any moment."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class CancelledInThreadError(Exception):
    """The task that wanted the result has gone; only the thread sees this."""


class Connection(Protocol):
    """What is known of an HTTP connection: its socket, once there is one."""

    sock: socket.socket | None

    def close(self) -> None: ...


class Cancellation:
    """One piece of blocking work: its thread asks, its task tells."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise CancelledInThreadError if nobody waits for the work any more."""
        if self._event.is_set():
            raise CancelledInThreadError

    def track(self, connection: Connection) -> None:
        """Let cancel() end what waits on this connection."""
        self.check()
        with self._lock:
            self._connections.add(connection)

    def cancel(self) -> None:
        """Wake the thread wherever it waits on a connection."""
        self._event.set()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            if connection.sock is not None:
                # socket's own shutdown: SSLSocket's would drop the TLS object the thread reads.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close every connection; called by the thread when it is done with them."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            connection.close()


async def run_in_thread(
    work: Callable[[Cancellation], Result], *, name: str, deadline: float
) -> Result:
    """Run blocking work in its own thread. Raises TimeoutError after `deadline` seconds.

    The thread is a daemon thread, not one of a pool: neither a cancelled task nor the end of the
    process waits for a registry that stopped talking.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()
    cancellation = Cancellation()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work(cancellation)
        except BaseException as raised:
            error = raised
        finally:
            cancellation.close()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        async with asyncio.timeout(deadline):
            return await done
    finally:
        cancellation.cancel()
