"""The one slot between the notifier and a stream: the newest desired state, never a queue."""

import asyncio

from kmm_cp.serving.values import Target

LEFT_UIDS = 64


class Mailbox:
    """Holds the target of one stream; a slow daemon finds only the newest one."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self._left: list[str] = []
        self._news = asyncio.Event()

    def put(self, target: Target) -> bool:
        """Replace the target unless it is older than what was there; tell whether."""
        if self.has_left(target.uid):
            return False
        before = self.target
        if before is not None and before.uid == target.uid:
            if target.generation <= before.generation:
                return False
        elif before is not None:
            self.leave(before.uid)
        self.target = target
        self._news.set()
        return True

    def leave(self, uid: str) -> None:
        """Refuse a NodeModulesState that was replaced or deleted, whatever a late cache says."""
        if uid not in self._left:
            self._left = [*self._left, uid][-LEFT_UIDS:]
        if self.target is not None and self.target.uid == uid:
            self.target = None

    def has_left(self, uid: str) -> bool:
        """Tell whether a NodeModulesState was replaced or deleted under this stream."""
        return uid in self._left

    def stir(self) -> None:
        """Wake the stream though the target is the same."""
        self._news.set()

    async def news(self) -> None:
        """Wait until there is something that news() did not return for yet."""
        await self._news.wait()
        self._news.clear()
