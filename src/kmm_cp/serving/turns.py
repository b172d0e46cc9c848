"""Lets a sweep over thousands of streams go in groups, with the rest of the loop in between."""

import asyncio
from collections import deque

GROUP = 20


class Turns:
    """Hands out at most a group of turns in one round of the event loop, in order of asking."""

    def __init__(self, group: int = GROUP) -> None:
        self._group = group
        self._left = group
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def take(self) -> None:
        """Wait for a turn."""
        self._schedule()
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._scheduled = False
        self._left = self._group
        while self._waiting and self._left > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._left -= 1
        if self._waiting:
            self._schedule()
