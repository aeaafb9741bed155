"""Who takes the next list, where several can: the least busy, and nobody who has just failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

REST_S = 0.5
REST_S_MAX = 15.0

SENT_MAX = 6
"""How often a list is sent before its failure is its answer. Where everybody rests each time, that takes a quarter
of a minute: as long as a process takes to come back."""


@dataclass(slots=True, kw_only=True)
class Seat:
    """One of those who take lists.

    Args:
        at_work: lists that it has.
        failures: since it last answered.
        rests_until: takes nothing before that, by the monotonic clock.

    """

    at_work: int = 0
    failures: int = 0
    rests_until: float = 0.0

    @property
    def rest_s(self) -> float:
        """How much longer it rests."""
        return max(0.0, self.rests_until - time.monotonic())

    def failed(self) -> None:
        """Let it rest, twice as long as the last time. Once for all the lists that it let down at the same moment."""
        if not self.rest_s:
            self.failures += 1
            self.rests_until = time.monotonic() + min(REST_S_MAX, REST_S * 2.0 ** min(self.failures - 1, 10))

    def answered(self) -> None:
        """Trust it again."""
        self.failures = 0


SeatT = TypeVar("SeatT", bound=Seat)


async def free(seats: Sequence[SeatT]) -> SeatT:
    """Return who takes the next list; where all rest, wait for the first that does not.

    One that comes back from a rest is tried with one list, and gets more when it has answered.
    """
    while True:
        seat = min(seats, key=lambda one: (one.rest_s, bool(one.failures and one.at_work), one.at_work))
        if not (rest_s := seat.rest_s):
            return seat
        await asyncio.sleep(rest_s)
