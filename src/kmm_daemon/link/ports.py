"""What the link needs of the rest of the daemon."""

from typing import Protocol

from kmm_daemon.values import Accepted, DesiredUpdate, Hello, NeedsSnapshot, StateReport


class Reports(Protocol):
    """Holds the newest report."""

    async def newer_than(self, sequence: int) -> StateReport:
        """Return the newest report as soon as its sequence is above the given one."""
        ...


class Holder(Protocol):
    """Holds the desired state: the agent."""

    @property
    def reports(self) -> Reports:
        """The newest state of the node's Modules."""
        ...

    def hello(self) -> Hello:
        """Return what a session is opened with."""
        ...

    async def accept(self, update: DesiredUpdate) -> Accepted | NeedsSnapshot:
        """Take an update; on return it is durable. Raises TransientError if that is impossible."""
        ...


class Told(Protocol):
    """Is told whether there is a session."""

    def session(self, *, connected: bool, problem: str = "") -> None:
        """Take whether there is a session with the control plane, and why there is none."""
        ...
