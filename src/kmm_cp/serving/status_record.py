"""What is known of the status of one session's node: what was reported, what is written."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kmm_common.api.nodemodulesstate import DaemonStatus, NodeStatus, readable_status
from kmm_common.clock import rfc3339
from kmm_cp.serving.sessions import Session
from kmm_cp.serving.status_patch import (
    Json,
    content,
    content_of,
    persisted_content,
    timed,
    with_leaders,
)
from kmm_cp.serving.values import Report

RawStatus = Mapping[str, Any]
"""status of a NodeModulesState as the API server gives it."""


@dataclass(slots=True, kw_only=True, eq=False)
class Record:
    """One session's, until it is closed and all is written."""

    session: Session
    newest: Report
    uid: str = ""
    """Of the NodeModulesState that the session has claimed, or is about to."""
    held: bool = False
    """Whether the claim is through; until then others may still be in the status."""
    desired: int = 0
    written: Json = field(default_factory=dict)
    """What the API server holds, as status_patch.content_of() gives it."""
    conditions: Sequence[Mapping[str, Any]] = ()
    """Of the same, with their times."""
    sequence: int = 0
    """Of the report that is written."""
    refused: Json | None = None
    """What the API server would not take; only something else is tried again."""
    reclaim: bool = False
    writing: bool = False
    closed: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of who claims or writes: what one has found must still be so when it writes."""

    @property
    def node(self) -> str:
        return self.session.node

    @property
    def instance(self) -> str:
        return self.session.greeting.instance

    def wanted(self) -> Json:
        """Return what is to be written of the newest report.

        A daemon that knows nothing of its boot takes back nothing that was said of it.
        """
        target = self.session.mailbox.target
        if target is not None and target.uid == self.uid:
            self.desired = len(target.modules)
        running, told = self.session.greeting.boot_id, self.written.get("bootId")
        blind = not self.newest.knows_the_boot
        if blind and told == running:
            return self.written
        # That nothing of an earlier boot is in the kernel is known without a report.
        boot_id = "" if blind and not told else running
        return content(
            self.session, self.newest, uid=self.uid, desired=self.desired, boot_id=boot_id
        )

    def dirty(self) -> bool:
        """Tell whether anything is to be written."""
        if not (self.uid and self.held):
            return False
        if self.reclaim:
            return True
        if self.newest.sequence < self.sequence:
            return False
        return self.wanted() not in (self.written, self.refused)

    def daemon(self, *, since: datetime) -> DaemonStatus:
        """Return what a claim says of the session's daemon."""
        return DaemonStatus(
            connected=True,
            pod_name=self.session.pod.name,
            version=self.session.greeting.daemon_version,
            since=rfc3339(since),
            instance=self.instance,
            sequence=self.newest.sequence,
        )

    def take_over(self, found: Json) -> None:
        """Note what the API server holds."""
        raw = found.get("status") or {}
        self.desired = len((found.get("spec") or {}).get("modules") or ())
        self.written = persisted_content(raw)
        self.conditions = raw.get("conditions") or () if self.written else ()
        self.sequence = raw["daemon"].get("sequence", 0) if self.is_of(raw) else 0

    def lose(self) -> None:
        """Note that the NodeModulesState is gone, or another daemon's: nothing is to be written."""
        self.uid = ""

    def is_of(self, raw: RawStatus) -> bool:
        """Tell whether this session's instance wrote a status last."""
        return _instance(raw) == self.instance

    def holds(self, raw: RawStatus) -> bool:
        """Tell whether a status is this instance's already, and says only what it can have said."""
        daemon = raw.get("daemon") or {}
        said = daemon.get("sequence", 0) <= self.newest.sequence
        readable = readable_status(raw) is not None
        return self.is_of(raw) and bool(daemon.get("connected")) and said and readable

    def differs(self, status: NodeStatus, *, listed: bool = False) -> bool:
        """Tell whether a status that a watch or a list shows is not what this session wrote.

        A watch is behind or, while a write has no answer yet, ahead: then it proves nothing.
        """
        daemon = status.daemon
        if daemon.instance != self.instance or not daemon.connected:
            return True
        if daemon.sequence != self.sequence:
            under_way = self.writing or not self.held
            ahead = self.newest.sequence if under_way else self.sequence
            return listed or daemon.sequence > ahead
        return content_of(status) != self.written

    def see(self, status: NodeStatus) -> None:
        """Note what the leader says in the same list of conditions."""
        self.conditions = with_leaders(self.conditions, status.conditions)

    def is_outdone(self, raw: RawStatus) -> bool:
        """Tell whether another daemon speaks for the node, or this one by another session.

        It has said more then than it did here: this session's connection may be half-open.
        """
        said: int = (raw.get("daemon") or {}).get("sequence", 0)
        return _instance(raw) not in ("", self.instance) or (
            self.is_of(raw) and said > self.newest.sequence
        )

    def timed(self, wanted: Json, now: datetime) -> list[Json]:
        """Return the conditions of what is to be written with their times."""
        return timed(wanted["conditions"], self.conditions, now)

    def was_taken(self, seen: RawStatus, raw: RawStatus) -> bool:
        """Tell whether yet another instance has claimed a status since it was seen."""
        return _instance(raw) not in (_instance(seen), self.instance)


def _instance(raw: RawStatus) -> str:
    return str((raw.get("daemon") or {}).get("instance", ""))
