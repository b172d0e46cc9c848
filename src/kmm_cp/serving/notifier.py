"""Puts each change of a NodeModulesState into the mailbox of the node's session."""

from collections.abc import Iterable

from kmm_common.desired import DesiredModule
from kmm_cp.serving.sessions import Sessions
from kmm_cp.serving.values import Target


class Notifier:
    """Told by the informer's handler; does nothing for a node that another replica serves."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def changed(
        self, node: str, *, uid: str, generation: int, modules: Iterable[DesiredModule]
    ) -> None:
        """A NodeModulesState is new or has a new spec."""
        session = self._sessions.of(node)
        if session is not None:
            target = Target(uid=uid, generation=generation, modules=tuple(modules))
            session.mailbox.put(target)

    def deleted(self, node: str, *, uid: str) -> None:
        """A NodeModulesState is gone: nothing is said until there is another one."""
        session = self._sessions.of(node)
        if session is not None:
            session.mailbox.leave(uid)
