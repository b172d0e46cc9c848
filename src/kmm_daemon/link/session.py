"""One session: updates come in and are journaled, acknowledgements and reports go out."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from grpclib.client import Channel, Stream
from grpclib.const import Cardinality
from grpclib.exceptions import StreamTerminatedError

from kmm_common.errors import TransientError
from kmm_common.logs import log
from kmm_common.wire.errors import MessageError
from kmm_common.wire.gen.kmm import v1 as pb
from kmm_daemon.link import messages
from kmm_daemon.link.ports import Holder
from kmm_daemon.values import Accepted, NeedsSnapshot

logger = logging.getLogger(__name__)

SEND_SECONDS = 30.0

WatchStream = Stream[pb.WatchRequest, pb.Update]
ReportStream = Stream[pb.ReportMessage, pb.ReportSummary]


class SessionEndedError(TransientError):
    """The control plane ended the session without saying why."""


class Session:
    """Lives as long as its two streams; every way it ends is an exception."""

    def __init__(self, channel: Channel, holder: Holder, *, opened: Callable[[], None]) -> None:
        self._channel = channel
        self._holder = holder
        self._opened = opened
        self._sending = asyncio.Lock()
        self._snapshot_asked = False

    async def run(self, *, instance: str, version: str) -> None:
        """Serve until the session ends."""
        hello = self._holder.hello()
        async with self._request("Watch", Cardinality.UNARY_STREAM, pb.WatchRequest, pb.Update) as (
            watch
        ):
            request = messages.watch_request(hello, instance=instance, version=version)
            await watch.send_message(request, end=True)
            # No deadline: while there is no desired state nothing is said. Pings find a dead peer.
            first = await self._next(watch)
            self._opened()
            await self._serve(watch, first, reported=hello.state.sequence)

    async def _serve(self, watch: WatchStream, first: pb.Update, *, reported: int) -> None:
        async with self._request(
            "Report", Cardinality.STREAM_UNARY, pb.ReportMessage, pb.ReportSummary
        ) as report:
            hello = pb.ReportHello(session_id=first.session_id)
            await self._send(report, pb.ReportMessage(hello=hello))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._updates(watch, report, first), name="link updates")
                tasks.create_task(self._reports(report, reported), name="link reports")
                tasks.create_task(self._end_of(report), name="link end")

    async def _updates(self, watch: WatchStream, report: ReportStream, first: pb.Update) -> None:
        update = first
        while True:
            await self._take(update, report)
            update = await self._next(watch)

    async def _take(self, update: pb.Update, report: ReportStream) -> None:
        outcome = await self._accept(update)
        if isinstance(outcome, Accepted):
            self._snapshot_asked = False
            await self._send(report, messages.ack(outcome))
            return
        # Until the snapshot comes, what follows an unusable update is unusable as well.
        if not self._snapshot_asked or update.kind == pb.UpdateKind.SNAPSHOT:
            self._snapshot_asked = True
            await self._send(report, pb.ReportMessage(resync=pb.Resync(reason=outcome.reason)))

    async def _accept(self, update: pb.Update) -> Accepted | NeedsSnapshot:
        try:
            desired = messages.desired_update(update)
        except MessageError as error:
            log(logger, logging.ERROR, "update not understood", error=str(error))
            return NeedsSnapshot(reason=str(error))
        return await self._holder.accept(desired)

    async def _reports(self, report: ReportStream, sequence: int) -> None:
        while True:
            newest = await self._holder.reports.newer_than(sequence)
            sequence = newest.sequence
            await self._send(report, pb.ReportMessage(state=messages.state_report(newest)))

    async def _end_of(self, report: ReportStream) -> None:
        try:
            await report.recv_message()
        except StreamTerminatedError:
            # grpclib would look for the reason that was sent only on leaving the stream.
            report._maybe_raise()
            raise
        raise SessionEndedError("the control plane ended the Report")

    async def _next(self, watch: WatchStream) -> pb.Update:
        update = await watch.recv_message()
        if update is None:
            await watch.recv_trailing_metadata()
            raise SessionEndedError("the control plane ended the Watch")
        return update

    async def _send(self, report: ReportStream, message: pb.ReportMessage) -> None:
        # Two large messages sent at once would be mixed up.
        async with self._sending, asyncio.timeout(SEND_SECONDS):
            await report.send_message(message)

    def _request(
        self, method: str, cardinality: Cardinality, request: type[Any], reply: type[Any]
    ) -> Stream[Any, Any]:
        return self._channel.request(f"/kmm.v1.NodeLink/{method}", cardinality, request, reply)
