"""Prices are dated data. A price that nobody configured is unknown, and so is every cost that it is part of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from podium_server.accounting.usage import CostBasis, Usage

NANO_PER_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """What one model costs.

    Rates are exact fractions of nano-USD, so that a sum of a million calls is the sum of a million bills.

    Args:
        prompt_usd_per_mtok: a million input tokens that no cache served; None is unknown.
        cached_usd_per_mtok: a million input tokens that the backend's cache served; None is the price of the others.
        output_usd_per_mtok: a million output tokens, reasoning tokens included; None is unknown.
        usd_per_call: each call, beside its tokens.
        usd_per_search_unit: each search unit that a rerank endpoint counted, beside its tokens.
        compute_usd_per_hour: an hour of the processor or accelerator on which the model runs, for models of our own.
        version: the date or name of the price list that these come from.

    """

    prompt_usd_per_mtok: float | None = None
    cached_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    usd_per_call: float | None = None
    usd_per_search_unit: float | None = None
    compute_usd_per_hour: float | None = None
    version: str = ""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}: a price is 0 or more")

    def charge(self, usage: Usage) -> Usage:
        """Return `usage` with its cost.

        Without a call there is nothing to pay but the time of our own processor, where that has a rate: what a cache
        answered is free.
        """
        if usage.calls == 0 and (self.compute_usd_per_hour is None or usage.backend_s == 0):
            return usage
        tokens = self._tokens_nano(usage)
        by_table = self._tokens_have_prices or self.usd_per_call is not None or self.usd_per_search_unit is not None
        if tokens is None or not (by_table or self.compute_usd_per_hour is not None):
            return replace(usage, cost_nano_usd=None, cost_basis=CostBasis.UNKNOWN)
        total = tokens + _nano(self.usd_per_call) * usage.calls + _nano(self.usd_per_search_unit) * usage.search_units
        basis = CostBasis.PRICE_TABLE
        if self.compute_usd_per_hour is not None:
            total += _nano(self.compute_usd_per_hour) * Fraction(usage.backend_s + usage.tokenize_s) / 3600
            basis = CostBasis.MIXED if by_table else CostBasis.COMPUTE_TIME
        return replace(usage, cost_nano_usd=round(total), cost_basis=basis)

    @property
    def _tokens_have_prices(self) -> bool:
        rates = (self.prompt_usd_per_mtok, self.cached_usd_per_mtok, self.output_usd_per_mtok)
        return any(rate is not None for rate in rates)

    def _tokens_nano(self, usage: Usage) -> Fraction | None:
        """Return what the tokens cost; None where some were used that have no price, although others have one."""
        total = Fraction(0)
        if not self._tokens_have_prices:
            return total
        cached = self.prompt_usd_per_mtok if self.cached_usd_per_mtok is None else self.cached_usd_per_mtok
        for amount, rate in (
            (usage.prompt_tokens - usage.cached_tokens, self.prompt_usd_per_mtok),
            (usage.cached_tokens, cached),
            (usage.output_tokens, self.output_usd_per_mtok),
        ):
            if amount and rate is None:
                return None
            total += _nano(rate) * amount / 1_000_000
        return total


@lru_cache(maxsize=256)
def _nano(usd: float | None) -> Fraction:
    """Return the price as it was written: 0.15 is 15/100, not the nearest binary fraction."""
    return Fraction(0) if usd is None else Fraction(repr(float(usd))) * NANO_PER_USD
