"""A daemon's link to the control plane, with the rest of the daemon simulated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpclib.const import Status

from kmm_common.backoff import Backoff
from kmm_common.clock import Clock, SystemClock
from kmm_common.desired import DesiredModule, content_hash
from kmm_common.errors import TransientError
from kmm_common.tls import TlsFiles
from kmm_cp.serving.values import Target
from kmm_daemon.acceptance import accepted, left_after
from kmm_daemon.link.client import LinkClient
from kmm_daemon.report import Reports
from kmm_daemon.values import (
    Accepted,
    DesiredUpdate,
    Hello,
    NeedsSnapshot,
    NodeDesired,
    UpdateKind,
)
from support.serving import Serving

QUICK = Backoff(0.02, 0.05, 1.0)


class Holder:
    """An agent that takes updates by the real rules and keeps what it took in memory."""

    def __init__(self) -> None:
        self.reports = Reports()
        self.desired: NodeDesired | None = None
        self.left: tuple[str, ...] = ()
        self.updates: list[DesiredUpdate] = []
        self.spoilt: list[str] = []
        """Reasons to refuse the next updates for."""
        self.disk_full = False

    def hello(self) -> Hello:
        held = self.desired
        return Hello(
            boot_id="boot-1",
            kernel_version="6.1.0",
            uid=held.uid if held else "",
            generation=held.generation if held else 0,
            content_hash=content_hash(held.modules.values()) if held else b"",
            state=self.reports.latest,
        )

    async def accept(self, update: DesiredUpdate) -> Accepted | NeedsSnapshot:
        self.updates.append(update)
        if self.disk_full:
            raise TransientError("cannot write the journal; make room")
        if self.spoilt:
            return NeedsSnapshot(reason=self.spoilt.pop(0))
        new = accepted(update, self.desired, self.left)
        if isinstance(new, NeedsSnapshot):
            return new
        self.left = left_after(self.desired, new, self.left)
        self.desired = new
        return Accepted(uid=new.uid, generation=new.generation)

    def kinds(self) -> list[UpdateKind]:
        return [update.kind for update in self.updates]

    def holds(self, generation: int, *modules: DesiredModule, uid: str = "nms-1") -> bool:
        wanted = Target(uid=uid, generation=generation, modules=modules)
        held = self.desired
        return held == NodeDesired(uid=uid, generation=generation, modules=wanted.by_ref())


class Told:
    """Keeps whether there was a session, when not, and why there is none."""

    def __init__(self) -> None:
        self.connected: list[bool] = []
        self.problem = ""

    def session(self, *, connected: bool, problem: str = "") -> None:
        self.connected.append(connected)
        self.problem = problem


@asynccontextmanager
async def linked(
    port: int,
    files: TlsFiles,
    holder: Holder,
    *,
    told: Told | None = None,
    clock: Clock | None = None,
    backoff: Backoff = QUICK,
    server_name: str = "localhost",
) -> AsyncIterator[LinkClient]:
    """Run a link until the end of the block."""
    client = LinkClient(
        f"127.0.0.1:{port}",
        server_name=server_name,
        files=files,
        holder=holder,
        told=told or Told(),
        clock=clock or SystemClock(),
        version="0.1.0",
        backoff=backoff,
    )
    task = asyncio.create_task(client.run(), name="link")
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.01)


def acked(replica: Serving) -> tuple[str, int]:
    """Return what the only daemon has acknowledged: uid and generation."""
    sessions = replica.sessions.all()
    return sessions[0].acked if sessions else ("", 0)


def end_session(replica: Serving) -> None:
    """End the only session as one that has lasted long enough."""
    replica.sessions.all()[0].end(Status.UNAVAILABLE, "the session is old; connect again")
