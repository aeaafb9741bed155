"""Windows of time, and what may be used in one."""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from podium_server.access.sections import QuotaSection

UNITS = ("requests", "pairs", "tokens", "nano_usd")
_SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Quota:
    """An amount that a tenant may use in each window.

    Args:
        tenant: its name.
        unit: one of `UNITS`.
        per: `minute`, `hour`, `day` or `month`, of UTC.
        limit: in that unit.

    """

    tenant: str
    unit: str
    per: str
    limit: int

    @property
    def name(self) -> str:
        """`requests/minute`; the same for all tenants, for labels of metrics."""
        return f"{self.unit}/{self.per}"

    def __str__(self) -> str:
        amount = f"{self.limit / 1e9:,.9g} USD" if self.unit == "nano_usd" else f"{self.limit:,} {self.unit}"
        return f"{amount} a {self.per}"


def quotas_of(tenant: str, sections: Sequence[QuotaSection]) -> tuple[Quota, ...]:
    """Return each amount of each section. Of two for the same unit and window the smaller one counts."""
    least: dict[tuple[str, str], int] = {}
    for section in sections:
        amounts = {"requests": section.requests, "pairs": section.pairs, "tokens": section.tokens}
        # The decimal as it was written, not the nearest binary fraction.
        nano = None if section.usd is None else int(Fraction(repr(float(section.usd))) * 1_000_000_000)
        for unit, amount in (*amounts.items(), ("nano_usd", nano)):
            if amount is not None:
                key = (unit, section.per)
                least[key] = min(amount, least.get(key, amount))
    return tuple(Quota(tenant, unit, per, limit) for (unit, per), limit in least.items())


def window(per: str, now_s: float) -> tuple[int, int]:
    """Return when the window that holds `now_s` begins and ends, in seconds of Unix time."""
    if per == "month":
        today = time.gmtime(now_s)
        start = calendar.timegm((today.tm_year, today.tm_mon, 1, 0, 0, 0))
        return start, start + calendar.monthrange(today.tm_year, today.tm_mon)[1] * 86_400
    length = _SECONDS[per]
    start = int(now_s // length) * length
    return start, start + length
