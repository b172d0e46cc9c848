"""Puts each change of a NodeModulesState into the mailbox of the node's session."""

import logging

from grpclib.const import Status

from kmm_common.logs import log
from kmm_cp.serving.mailbox import Mailbox
from kmm_cp.serving.sessions import Sessions
from kmm_cp.serving.values import Target

logger = logging.getLogger(__name__)


class Notifier:
    """Told by the informer's handler; does nothing for a node that another replica serves."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def changed(self, node: str, before: Target | None, now: Target) -> None:
        """A NodeModulesState is new or has a new spec; `before` is what the cache held of it."""
        session = self._sessions.of(node)
        if session is None:
            return
        if before is not None and _went_back(before, now, session.mailbox):
            fields = {"node": node, "uid": now.uid, "generation": now.generation}
            log(logger, logging.WARNING, "state went back", **fields, known=before.generation)
            # What the daemon has by now is looked up, and dealt with, when it greets again.
            session.end(Status.ABORTED, "the NodeModulesState went back in time; connect again")
            return
        session.mailbox.put(now)

    def deleted(self, node: str, *, uid: str) -> None:
        """A NodeModulesState is gone: nothing is said until there is another one."""
        session = self._sessions.of(node)
        if session is not None:
            session.mailbox.leave(uid)


def _went_back(before: Target, now: Target, mailbox: Mailbox) -> bool:
    """Tell whether etcd was restored: a generation never sinks, nor changes its content.

    Nor does an object come back that another one has replaced.
    """
    if before.uid != now.uid:
        return mailbox.has_left(now.uid)
    return before.generation >= now.generation and before != now
