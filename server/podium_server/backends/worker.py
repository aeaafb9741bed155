"""Model work off the event loop: a thread in front of each model, with a bound on what waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from podium_server.errors import Overloaded

ResultT = TypeVar("ResultT")


class Worker:
    """Runs one piece of work at a time, in the order in which it came.

    Args:
        name: of the model, for messages and thread names.
        waiting_max: pieces of work that may wait. One more is refused at once.

    """

    def __init__(self, name: str, *, waiting_max: int) -> None:
        self.name = name
        self.waiting_max = waiting_max
        self.waiting = 0
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"model-{name}")

    async def run(self, work: Callable[[], ResultT]) -> tuple[ResultT, float]:
        """Run `work` in the thread and return its result and the seconds that it waited for its turn.

        A caller that goes away while its work waits takes it back; work that has begun is finished and thrown away.

        Raises:
            Overloaded: too much is waiting already.

        """
        if self.waiting >= self.waiting_max:
            raise Overloaded(
                f"{self.waiting} pieces of work wait for the model {self.name!r}, and limits.encoder_queue is "
                f"{self.waiting_max}; try again later",
                retry_after_s=1.0,
                metadata={"model": self.name, "limit": "encoder_queue"},
            )
        asked = time.monotonic()
        begun = asked

        def timed() -> ResultT:
            nonlocal begun
            begun = time.monotonic()
            return work()

        self.waiting += 1
        try:
            # In the caller's context: what is logged there, and told to other servers, belongs to its request.
            result = await asyncio.wrap_future(self._pool.submit(copy_context().run, timed))
        finally:
            self.waiting -= 1
        return result, begun - asked

    def close(self) -> None:
        """Take back what waits, and wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
