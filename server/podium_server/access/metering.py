"""Quotas around ranked requests: what one may use at most is taken before it, and what it used is settled after it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol

from podium_server.access.identity import visit
from podium_server.access.meter import Meter, Taken
from podium_server.access.windows import Quota
from podium_server.accounting.ledger import Ledger
from podium_server.accounting.usage import Usage
from podium_server.errors import FailedPrecondition
from podium_server.ranking.guard import Work
from podium_server.ranking.request import Budget, RankRequest

# A judge's estimate is from above, but knows of no retry. With this much room for those, and a budget that ends the
# request beyond it, a quota of tokens or money is not passed.
_ROOM = 1.25
# Time of our own processors is estimated of a machine that has nothing else to do; one that is busy takes several times
# as long (the fault run: 14 clients on two cores), and whoever may pay for that is not to be cut off for it.
_ROOM_OF_TIME = 16
# Plans over more candidates are tried in a thread, as the driver does.
_AT_ONCE_CANDIDATES = 200
_NOTHING = Usage()


class Quoted(Protocol):
    """The part of an estimate that is read here; see `ranking.pipeline.Estimate`."""

    @property
    def usage(self) -> Usage: ...
    @property
    def usage_max(self) -> Usage | None: ...
    @property
    def time_nano_usd(self) -> int: ...


@dataclass(slots=True)
class Metering:
    """A guard of requests (`ranking.guard`).

    Args:
        meter: of the process.
        quote: tells what a request would use, None for nothing; calls no model.

    """

    meter: Meter
    quote: Callable[[RankRequest], Quoted | None]

    def __call__(self, work: Work) -> _Metered:
        return _Metered(self, work)

    async def take(self, work: Work) -> tuple[Taken, dict[str, int]]:
        """Take what a request may use at most, and hold its budget to it. Returns the amounts, too."""
        visit_ = visit()
        visit_.ranked += 1
        identity = visit_.identity
        wants: list[tuple[Quota, int]] = []
        if visit_.ranked > 1:  # the first request of a call is the call itself, which the gate has counted
            wants += identity.requests
        most: dict[str, int] = {}
        bounded = [quota for quota in identity.tenant.quotas if quota.unit != "requests"]
        if bounded:
            most = await self._most(work, {quota.unit for quota in bounded})
            wants += ((quota, most[quota.unit]) for quota in bounded)
        if not wants:
            return Taken(), most
        taken = self.meter.take_at_once(wants) or await self.meter.take(wants)
        if any(most.values()):
            work.request = replace(work.request, budget=_held(work, most))
        return taken, most

    async def _most(self, work: Work, units: set[str]) -> dict[str, int]:
        """Return the most that a request can use of each unit, what its recall has used included."""
        request = work.request
        if len(request.candidates) > _AT_ONCE_CANDIDATES:
            quoted = await asyncio.to_thread(self.quote, request)
        else:
            quoted = self.quote(request)
        if quoted is None:
            bound, factor = _NOTHING, 1.0
        elif quoted.usage_max is not None:
            bound, factor = quoted.usage_max, _ROOM
        else:  # a strategy that states no bound is given room for twice what is expected of it
            bound, factor = quoted.usage, 2 * _ROOM
        before = _spent(work.ledger)
        budget = request.budget
        most: dict[str, int] = {}
        for unit in units:
            amount = _amount(bound, unit)
            if amount is None:
                unpriced = ", ".join(sorted({account.model for account in work.ledger if account.model}))
                raise FailedPrecondition(
                    "this tenant has a quota of money, and no price is configured for all that this request would use "
                    f"({unpriced}), so that its cost cannot be bounded; configure models.<name>.prices"
                )
            own = {"tokens": budget.max_tokens, "nano_usd": budget.max_cost_nano_usd}.get(unit)
            spent = before[unit] or 0
            most[unit] = spent + math.ceil(amount * (1.0 if unit == "pairs" else factor))
            if unit == "nano_usd" and quoted is not None:
                most[unit] += quoted.time_nano_usd * _ROOM_OF_TIME
            if own is not None:
                most[unit] = min(most[unit], max(own, spent))
        return most


@dataclass(slots=True)
class _Metered:
    metering: Metering
    work: Work
    taken: Taken = field(default_factory=Taken)
    most: dict[str, int] = field(default_factory=dict)

    async def __aenter__(self) -> None:
        try:
            self.taken, self.most = await self.metering.take(self.work)
        except BaseException:
            _charge_recall(self.metering.meter, self.work)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if not self.taken.parts:
            return
        used = _spent(self.work.ledger)

        def amount_of(unit: str) -> int:
            if unit == "requests":
                return 1
            amount = used[unit]
            # A cost that nobody knows is taken for the most that it could be.
            return self.most[unit] if amount is None else amount

        self.taken.settle(amount_of)


def _charge_recall(meter: Meter, work: Work) -> None:
    """Enter what was used before the request could be refused."""
    used = _spent(work.ledger)
    quotas = visit().identity.tenant.quotas
    meter.charge([(quota, amount) for quota in quotas if (amount := used.get(quota.unit))])


def _held(work: Work, most: dict[str, int]) -> Budget:
    """Return the request's budget, held to what was taken for it."""
    budget = work.request.budget
    if "tokens" in most:
        budget = replace(budget, max_tokens=most["tokens"])
    if "nano_usd" in most:
        budget = replace(budget, max_cost_nano_usd=most["nano_usd"])
    return budget


def _spent(ledger: Ledger) -> dict[str, int | None]:
    """Return the amounts of a ledger; None for a cost that is not known. To add whole usages would take far longer."""
    pairs = tokens = 0
    cost: int | None = 0
    for account in ledger:
        usage = account.usage
        pairs += usage.pairs
        tokens += usage.tokens
        cost = None if cost is None or usage.cost_nano_usd is None else cost + usage.cost_nano_usd
    return {"pairs": pairs, "tokens": tokens, "nano_usd": cost}


def _amount(usage: Usage, unit: str) -> int | None:
    """Return an amount; None for a cost that is not known."""
    return usage.pairs if unit == "pairs" else usage.tokens if unit == "tokens" else usage.cost_nano_usd
