"""One request's place in the queue of a cross-encoder: pairs go in, and scores come out as batches end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from podium_server.backends.cross_encoders.cross_encoder import Pair
from podium_server.errors import DeadlineExceeded, PodiumError

if TYPE_CHECKING:
    from podium_server.backends.cross_encoders.batcher import Batcher


class Part(NamedTuple):
    """Scores of one request's pairs that shared a batch.

    Args:
        places: of the pairs, as they were put.
        scores: of each.
        tokens: of these pairs, without padding.
        queue_s: in which the request had pairs waiting and none at work, since its last part.
        backend_s: of all lanes together: the batch's time on one of them, by these pairs' share of its tokens.

    """

    places: tuple[int, ...]
    scores: list[float]
    tokens: int
    queue_s: float
    backend_s: float


class Abandoned(NamedTuple):
    """What was at work for a request when it went away: it is computed, and paid for."""

    pairs: int = 0
    tokens: int = 0
    backend_s: float = 0.0


@dataclass(slots=True, eq=False)
class Place:
    """One request's place in the queue, to be used in a `with`. Made by `Batcher.admit`; used on the event loop.

    After the `with`, nothing of it waits any more, and `abandoned` is what was at work for nobody.
    """

    batcher: Batcher
    number: int
    tokens: int
    pairs: int
    deadline_at: float | None
    loop: asyncio.AbstractEventLoop
    abandoned: Abandoned = field(default_factory=Abandoned)
    # What follows belongs to the batcher, under its lock.
    given: Sequence[Pair] = ()
    left: int = 0
    parts: list[Part] = field(default_factory=list)
    error: PodiumError | None = None
    gone: bool = False
    put_at: float = 0.0
    idle_since: float = 0.0
    queue_s: float = 0.0
    at_work_pairs: int = 0
    at_work_tokens: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.batcher.withdraw(self)

    def put(self, pairs: Sequence[Pair]) -> None:
        """Put the request's pairs in the queue: all of them, once. From any thread.

        Raises:
            Overloaded, InvalidRequest: there are more of them than was said, and too many.
            Unavailable: the model is being closed.

        """
        self.batcher.enter(self, pairs)

    async def scored(self) -> list[Part]:
        """Wait for scores, and return those that have come since the last time; none once all have.

        Raises:
            DeadlineExceeded: the deadline passed.
            BackendDown: the model failed at a batch with pairs of this request.
            Unavailable: the model was closed.

        """
        while True:
            self._news.clear()
            with self.batcher.lock:
                if self.parts:
                    parts, self.parts = self.parts, []
                    return parts
                if self.error is not None:
                    raise self.error
                if not self.left:
                    return []
            try:
                left_s = None if self.deadline_at is None else max(0.0, self.deadline_at - time.monotonic())
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{self.left} of {len(self.given)} pairs were not scored when the deadline passed"
                ) from None

    def wake(self) -> None:
        """Tell whoever waits that there is news. From any thread."""
        if not self.gone:
            with suppress(RuntimeError):  # its event loop has ended, and so has whoever waited
                self.loop.call_soon_threadsafe(self._news.set)
