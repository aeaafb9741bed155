"""Places for requests at work, shared fairly between tenants.

While there are places, nobody waits but for the tenant's own bound. When there are none, a place that becomes free
goes, among the waiting tenants of the highest priority, to the one that has had the least time in places for its weight
(start-time fair queueing, Goyal et al. 1996, with time in a place as the work). What a request will take is not known
when it begins: it is charged with what the tenant's requests took lately, and that is put right when it ends. So
tenants that always want more have places in proportion to their weights, be their requests short or long; what one
does not use the others have; no crowd moves another tenant's turn, and nobody of the highest priority waits for ever.
Time that a tenant did not ask for is not saved up. Within a tenant the first come is the first served.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from podium_server.access.identity import Tenant
from podium_server.access.refusals import Refusal, Refusals
from podium_server.errors import Overloaded

_RETRY_AFTER_S = 0.5
# Of the newest request in what is usual.
_LATELY = 0.1


@dataclass(slots=True, eq=False)
class Line:
    """One tenant's requests, at work and waiting."""

    tenant: Tenant
    held: int = 0
    charged: float = 0.0
    """Seconds in places, by weight."""
    usual_s: float = 1.0
    """That its requests took lately, the last ones counting most."""
    waiting: deque[asyncio.Future[Callable[[], None]]] = field(default_factory=deque)

    @property
    def may(self) -> bool:
        """Whether the tenant's own bound leaves room for one more."""
        return self.tenant.concurrency is None or self.held < self.tenant.concurrency


@dataclass(slots=True)
class FairQueue:
    """The places of one process.

    Args:
        places: requests at work at the same time.
        waiting_max: of one tenant.
        wait_s: that a request waits at most.
        refusals: to count in.
        clock: monotonic, in seconds.

    """

    places: int
    waiting_max: int
    wait_s: float
    refusals: Refusals = field(default_factory=Refusals)
    clock: Callable[[], float] = time.monotonic
    taken: int = 0
    lines: dict[str, Line] = field(default_factory=dict)
    _reached: float = 0.0
    """What whoever got the last place had been charged: where a tenant begins that had nothing to do."""

    @property
    def waiting(self) -> int:
        """Requests that wait, of all tenants."""
        return sum(len(line.waiting) for line in self.lines.values())

    async def enter(self, tenant: Tenant, deadline_at: float | None = None) -> Callable[[], None]:
        """Take a place, and return what gives it back.

        Args:
            tenant: whose request it is.
            deadline_at: `time.monotonic()` seconds after which a place is of no use.

        Raises:
            Overloaded: too many of the tenant's requests wait, or this one has waited long enough.

        """
        line = self.lines.setdefault(tenant.name, Line(tenant))
        # A tenant with other settings than its line knew (the configuration is read anew): the newest ones hold.
        line.tenant = tenant
        if self.taken < self.places and line.may:  # then nobody waits who could have it
            return self._give(line)
        if len(line.waiting) >= self.waiting_max:
            self.refusals.note(Refusal.QUEUE_FULL, tenant.name)
            raise self._overloaded(line, f"{len(line.waiting)} wait, and access.queue is {self.waiting_max}")
        wait_s = self.wait_s
        if deadline_at is not None:
            wait_s = min(wait_s, max(0.0, deadline_at - time.monotonic()))
        place: asyncio.Future[Callable[[], None]] = asyncio.get_running_loop().create_future()
        if not line.waiting and not line.held:
            line.charged = max(line.charged, self._reached)
        line.waiting.append(place)
        try:
            async with asyncio.timeout(wait_s):
                return await place
        except TimeoutError:
            # Given in the moment in which the time was over, it is there to be used.
            if not place.done() or place.cancelled():
                _forget(line, place)
                self.refusals.note(Refusal.WAITED, tenant.name)
                raise self._overloaded(line, f"no place became free within {wait_s:.3g} s") from None
            return place.result()
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                place.result()()
            else:
                _forget(line, place)
            raise

    def _give(self, line: Line) -> Callable[[], None]:
        """Give a place to a tenant, and return what gives it back."""
        began, expected_s = self.clock(), line.usual_s
        line.held += 1
        self.taken += 1
        self._reached = max(self._reached, line.charged)
        line.charged = max(line.charged, self._reached) + expected_s / line.tenant.weight

        def leave() -> None:
            took_s = self.clock() - began
            line.usual_s += _LATELY * (took_s - line.usual_s)
            line.charged += (took_s - expected_s) / line.tenant.weight
            line.held -= 1
            self.taken -= 1
            self._pass_on()

        return leave

    def _pass_on(self) -> None:
        while self.taken < self.places and (following := self._next()) is not None:
            place = following.waiting.popleft()
            if not place.done():  # else its caller gave up, and has yet to run
                place.set_result(self._give(following))

    def _next(self) -> Line | None:
        return min((line for line in self.lines.values() if line.waiting and line.may), key=_rank, default=None)

    def _overloaded(self, line: Line, why: str) -> Overloaded:
        bound = line.tenant.concurrency
        own = bound is not None and line.held >= bound
        at_work = (
            f"{line.held} of this tenant's requests are at work, which is its bound" if own else "no place is free"
        )
        return Overloaded(f"{at_work}; {why}; try again later", retry_after_s=_RETRY_AFTER_S)


def _rank(line: Line) -> tuple[float, float, str]:
    return line.tenant.priority, line.charged, line.tenant.name


def _forget(line: Line, place: asyncio.Future[Callable[[], None]]) -> None:
    with contextlib.suppress(ValueError):
        line.waiting.remove(place)
