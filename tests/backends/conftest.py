from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

import pytest


class VirtualTime:
    """A clock that stands still until everybody waits, and then jumps to whoever wakes first.

    Waiting is real where sockets are waited for: the jump comes only after the loop has been idle for a moment.
    """

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self.frozen = False
        """Nobody wakes while it is set."""
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + seconds, next(self._order), future))
        asyncio.get_running_loop().call_later(0.02, self._jump)
        await future

    def _jump(self) -> None:
        if self.frozen:
            asyncio.get_running_loop().call_later(0.02, self._jump)
            return
        if not self._sleepers:
            return
        at_s, _, future = heapq.heappop(self._sleepers)
        self.now_s = max(self.now_s, at_s)
        if not future.done():
            future.set_result(None)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event; the test's own time limit ends it."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


@pytest.fixture
def virtual() -> VirtualTime:
    return VirtualTime()
