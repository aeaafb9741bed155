"""Takes what a request may use out of its tenant's quotas before it begins, and puts back what it did not use.

In the usual case this is subtraction in memory: `Treasury` has advanced the process a part of what is left of the
window. The sum of all that was let in and not put back is never more than the limit, in any order of events, in any
number of processes, and after a crash. What a request turns out to have used beyond what it took (`settle`) is entered
as a debt, which later requests have to leave room for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from podium_server.access.refusals import Refusal, Refusals
from podium_server.access.treasury import Advance, Place
from podium_server.access.windows import Quota, window
from podium_server.errors import PodiumError, QuotaExceeded

log = logging.getLogger(__name__)

# Debts are on the disk after so long, and an idle process gives its advances back for others to use.
TICK_S = 1.0

Wants: TypeAlias = Sequence[tuple[Quota, int]]


class Book(Protocol):
    """Who advances; see `Treasury`."""

    async def advance(self, place: Place, need: int) -> Advance: ...
    async def give_back(self, place: Place, amount: int) -> None: ...


@dataclass(slots=True, eq=False)
class Purse:
    """What this process has left of its advances for one quota in one window; negative where it is in debt."""

    place: Place
    left: int = 0
    touched: bool = True
    filling: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken for one request, until it is settled."""

    parts: tuple[tuple[Purse, int], ...] = ()

    def settle(self, used: Callable[[str], int]) -> None:
        """Put back what was not used.

        Args:
            used: gives the amount of a unit.

        """
        for purse, amount in self.parts:
            purse.left += amount - used(purse.place.quota.unit)
            purse.touched = True


@dataclass(slots=True)
class Meter:
    """The purses of one process.

    Args:
        book: where advances come from.
        refusals: to count in.
        clock: Unix time in seconds.

    """

    book: Book
    refusals: Refusals = field(default_factory=Refusals)
    clock: Callable[[], float] = time.time
    purses: dict[Quota, Purse] = field(default_factory=dict)
    _past: list[Purse] = field(default_factory=list)
    """Of windows that are over, with requests that may still be settled."""
    _advancing: set[asyncio.Task[Advance]] = field(default_factory=set)

    def take_at_once(self, wants: Wants) -> Taken | None:
        """Take amounts where all of them are in our purses; None where they are not."""
        now_s = self.clock()
        purses = [self._purse(quota, now_s) for quota, _ in wants]
        for purse, (_, amount) in zip(purses, wants, strict=True):
            if purse.left < amount and amount:
                return None
        for purse, (_, amount) in zip(purses, wants, strict=True):
            purse.left -= amount
            purse.touched = True
        return Taken(tuple((purse, amount) for purse, (_, amount) in zip(purses, wants, strict=True)))

    async def take(self, wants: Wants) -> Taken:
        """Take amounts, all of them or none.

        Raises:
            QuotaExceeded: less is left of one of them.
            StoreFull, StoreError: what is advanced cannot be entered.

        """
        if (taken := self.take_at_once(wants)) is not None:
            return taken
        now_s = self.clock()
        held: list[tuple[Purse, int]] = []
        try:
            for quota, amount in wants:
                purse = self._purse(quota, now_s)
                if amount:
                    await self._take_of(purse, amount)
                held.append((purse, amount))
        except BaseException:
            for purse, amount in held:
                purse.left += amount
            raise
        return Taken(tuple(held))

    async def _take_of(self, purse: Purse, amount: int) -> None:
        """Take out of one purse, with an advance where it does not suffice, which covers its debts, too."""
        # One at a time, for whoever waits here may find enough in what the one before has brought.
        async with purse.filling:
            purse.touched = True
            at_hand = min(purse.left, amount)
            purse.left -= at_hand
            try:
                if at_hand < amount:
                    await self._fill(purse, amount - at_hand)
            except BaseException:
                purse.left += at_hand
                raise

    async def _fill(self, purse: Purse, need: int) -> None:
        """Get an advance that covers `need`, which is the caller's; what is beyond it goes into the purse."""
        task = asyncio.create_task(self.book.advance(purse.place, need))
        self._advancing.add(task)
        task.add_done_callback(self._advancing.discard)
        try:
            advance = await asyncio.shield(task)
        except asyncio.CancelledError:
            # The book does it all the same.
            task.add_done_callback(lambda done: _keep(purse, done))
            raise
        if not advance.granted:
            raise self._exceeded(purse.place, need, advance.left)
        purse.left += advance.granted - need

    def charge(self, wants: Wants) -> None:
        """Enter what was used already, and could not be asked for before."""
        now_s = self.clock()
        for quota, amount in wants:
            purse = self._purse(quota, now_s)
            purse.left -= amount
            purse.touched = True

    async def tick(self) -> None:
        """Enter debts, and give back what nobody has touched since the last tick. Called every `TICK_S`."""
        now_s = self.clock()
        for quota, purse in list(self.purses.items()):
            if now_s >= purse.place.end_s:
                self._past.append(self.purses.pop(quota))
            elif purse.left < 0 or not purse.touched:
                await self._return(purse)
            purse.touched = False
        # Requests of a window that is over may be settled after it, for as long as they run: a debt is entered then.
        past, self._past = self._past, []
        for purse in past:
            if purse.left:
                await self._return(purse)
        self._past = [purse for purse in past if now_s < purse.place.end_s + 3600] + self._past

    async def aclose(self) -> None:
        """Give everything back."""
        await asyncio.gather(*self._advancing, return_exceptions=True)
        for purse in (*self.purses.values(), *self._past):
            with contextlib.suppress(PodiumError):  # which the book has told of
                await self._return(purse)

    async def _return(self, purse: Purse) -> None:
        amount, purse.left = purse.left, 0
        if not amount:
            return
        try:
            await self.book.give_back(purse.place, amount)
        except PodiumError:
            # An advance that cannot be given back counts as used. A debt is tried again.
            purse.left += min(amount, 0)

    def _purse(self, quota: Quota, now_s: float) -> Purse:
        purse = self.purses.get(quota)
        # A clock that was set back stays in the window that it was in.
        if purse is None or now_s >= purse.place.end_s:
            if purse is not None:
                self._past.append(purse)
            purse = self.purses[quota] = Purse(Place(quota, *window(quota.per, now_s)))
        return purse

    def _exceeded(self, place: Place, need: int, left: int) -> QuotaExceeded:
        quota = place.quota
        self.refusals.note(Refusal.QUOTA, quota.tenant)
        wait_s = max(0.0, place.end_s - self.clock())
        one = quota.unit == "requests" and need <= 1
        why = (
            "is used up"
            if one or not left
            else f"has {_amount(quota, left)} left, and this needs {_amount(quota, need)}"
        )
        return QuotaExceeded(
            f"the quota of {quota} {why}; the next {quota.per} begins in {wait_s:,.0f} s",
            retry_after_s=wait_s,
            metadata={"subject": f"tenant:{quota.tenant}", "quota": quota.name},
        )


def _keep(purse: Purse, done: asyncio.Task[Advance]) -> None:
    if not done.cancelled() and done.exception() is None:
        purse.left += done.result().granted


def _amount(quota: Quota, amount: int) -> str:
    return f"{amount / 1e9:,.9g} USD" if quota.unit == "nano_usd" else f"{amount:,}"
