"""The endpoints that serve one model: who takes the next call, how many at a time, and who is put aside.

One queue for all of them, first come, first served. Nothing here does I/O; the clock and the sleep are handed in.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from podium_server.backends.chat.rate_limit import Bucket
from podium_server.errors import Overloaded


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """What each endpoint is asked to bear, and what the queue in front of all of them holds.

    Args:
        concurrency: calls under way at one endpoint.
        requests_per_minute: None is unbounded.
        tokens_per_minute: prompt and reply together; None is unbounded.
        queue_max: calls that wait for a place, all requests together.
        put_aside_s: how long an endpoint rests after its first failure; doubled with each further one.
        put_aside_s_max: the longest rest.

    """

    concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    queue_max: int = 20_000
    put_aside_s: float = 1.0
    put_aside_s_max: float = 30.0


@dataclass(slots=True, eq=False)
class Endpoint:
    """One base URL, and how it fares."""

    url: str
    requests: Bucket | None = None
    tokens: Bucket | None = None
    outstanding: int = 0
    failures: int = 0
    """In a row."""
    aside_until_s: float = 0.0
    """Where the last call failed: no call goes there before, if another endpoint can take it."""
    hold_until_s: float = 0.0
    """The endpoint asked for no calls before (`Retry-After`)."""

    def wait_s(self, tokens: int, now_s: float) -> float:
        """Return how long the limits hold a call of that size back."""
        wait_s = max(0.0, self.hold_until_s - now_s)
        if self.requests is not None:
            wait_s = max(wait_s, self.requests.wait_s(1, now_s))
        if self.tokens is not None:
            wait_s = max(wait_s, self.tokens.wait_s(tokens, now_s))
        return wait_s


@dataclass(slots=True, eq=False)
class _Waiter:
    tokens: int
    tried: Collection[Endpoint]
    place: asyncio.Future[Endpoint] = field(repr=False)


class Endpoints:
    """Hands out places at the endpoints of one model, to all requests of this process alike."""

    def __init__(
        self,
        urls: Sequence[str],
        limits: EndpointLimits,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        now_s = clock()
        self.limits = limits
        self.all = tuple(
            Endpoint(
                url,
                requests=None if limits.requests_per_minute is None else Bucket(limits.requests_per_minute, now_s),
                tokens=None if limits.tokens_per_minute is None else Bucket(limits.tokens_per_minute, now_s),
            )
            for url in urls
        )
        self._clock = clock
        self._sleep = sleep
        self._queue: deque[_Waiter] = deque()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at_s = 0.0
        self._turn = 0

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    @property
    def outstanding(self) -> int:
        """Calls under way."""
        return sum(endpoint.outstanding for endpoint in self.all)

    async def place(self, tokens: int, *, tried: Collection[Endpoint] = ()) -> Endpoint:
        """Wait for a place and take it. The caller gives it back with `leave`.

        Args:
            tokens: that the call is expected to use, reply included.
            tried: endpoints at which this call failed before; others come first.

        Raises:
            Overloaded: the queue is full.

        """
        if not self._queue:
            endpoint, _ = self._choose(tokens, tried)
            if endpoint is not None:
                return endpoint
        if len(self._queue) >= self.limits.queue_max:
            raise Overloaded(
                f"{len(self._queue)} calls wait for this model already, the most that queue_max allows",
                retry_after_s=1.0,
                metadata={"queue_max": str(self.limits.queue_max)},
            )
        waiter = _Waiter(tokens, tried, asyncio.get_running_loop().create_future())
        self._queue.append(waiter)
        self._serve()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.done() and not waiter.place.cancelled():
                # The place was given in the same turn of the loop in which the caller was cancelled.
                self.leave(waiter.place.result(), unused_tokens=tokens)
            elif waiter in self._queue:
                self._queue.remove(waiter)
                self._serve()
            raise

    def leave(self, endpoint: Endpoint, *, unused_tokens: int = 0) -> None:
        """Give a place back, and what was not used of the tokens that were set down for it."""
        endpoint.outstanding -= 1
        if unused_tokens and endpoint.tokens is not None:
            endpoint.tokens.give_back(unused_tokens, self._clock())
        if self._queue:
            self._serve()

    def well(self, endpoint: Endpoint) -> None:
        """Note that the endpoint answered as it should."""
        endpoint.failures = 0
        endpoint.aside_until_s = 0.0

    def failed(self, endpoint: Endpoint) -> None:
        """Put the endpoint aside for a while, longer with each failure in a row."""
        now_s = self._clock()
        if endpoint.failures and now_s < endpoint.aside_until_s:
            # The calls that were under way when it failed fail too; they say nothing new about it.
            return
        rest_s = min(self.limits.put_aside_s * 2.0 ** min(endpoint.failures, 30), self.limits.put_aside_s_max)
        endpoint.failures += 1
        endpoint.aside_until_s = now_s + rest_s

    def hold(self, endpoint: Endpoint, wait_s: float) -> None:
        """Send the endpoint nothing for a while, as it asked."""
        endpoint.hold_until_s = max(endpoint.hold_until_s, self._clock() + wait_s)

    def others_well(self, tried: Collection[Endpoint]) -> bool:
        """Whether a call that failed at `tried` can go elsewhere at once."""
        now_s = self._clock()
        return any(
            endpoint not in tried and endpoint.aside_until_s <= now_s and endpoint.hold_until_s <= now_s
            for endpoint in self.all
        )

    def close(self) -> None:
        """Stop the alarm; whoever waits is cancelled."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._queue:
            self._queue.popleft().place.cancel()

    def _choose(self, tokens: int, tried: Collection[Endpoint]) -> tuple[Endpoint | None, float]:
        """Take a place now, or tell after how long it is worth another look (inf: after the next call that ends)."""
        now_s = self._clock()
        # A lone endpoint is never put aside: there is nobody else to ask.
        everyone_aside = len(self.all) == 1 or all(endpoint.aside_until_s > now_s for endpoint in self.all)
        best: Endpoint | None = None
        best_key: tuple[bool, float, int] | None = None
        soonest_s = float("inf")
        for n, endpoint in enumerate(self.all):
            if endpoint.outstanding >= self.limits.concurrency:
                continue
            if not everyone_aside and endpoint.aside_until_s > now_s:
                soonest_s = min(soonest_s, endpoint.aside_until_s - now_s)
                continue
            if endpoint.failures and endpoint.outstanding and not everyone_aside:
                # It has rested, and one call is enough to see whether it is well again.
                continue
            wait_s = endpoint.wait_s(tokens, now_s)
            if wait_s > 0.0:
                soonest_s = min(soonest_s, wait_s)
                continue
            # Where all have failed the one that has rested longest is next; else the one with the least to do, and
            # among equals each in its turn.
            key = (
                endpoint in tried,
                endpoint.aside_until_s if everyone_aside else float(endpoint.outstanding),
                (n - self._turn) % len(self.all),
            )
            if best_key is None or key < best_key:
                best, best_key = endpoint, key
        if best is None:
            return None, soonest_s
        self._turn = (self.all.index(best) + 1) % len(self.all)
        best.outstanding += 1
        if best.requests is not None:
            best.requests.take(1, now_s)
        if best.tokens is not None:
            best.tokens.take(tokens, now_s)
        return best, 0.0

    def _serve(self) -> None:
        """Give places to those at the head of the queue, as many as there are."""
        while self._queue:
            waiter = self._queue[0]
            if waiter.place.done():
                self._queue.popleft()
                continue
            endpoint, wait_s = self._choose(waiter.tokens, waiter.tried)
            if endpoint is None:
                if wait_s < float("inf"):
                    self._set_alarm(wait_s)
                return
            self._queue.popleft()
            waiter.place.set_result(endpoint)

    def _set_alarm(self, wait_s: float) -> None:
        at_s = self._clock() + wait_s
        if self._alarm is not None:
            if self._alarm_at_s <= at_s:
                return
            self._alarm.cancel()
        self._alarm_at_s = at_s
        self._alarm = asyncio.get_running_loop().create_task(self._wake_after(wait_s))

    async def _wake_after(self, wait_s: float) -> None:
        await self._sleep(wait_s)
        self._alarm = None
        self._serve()
