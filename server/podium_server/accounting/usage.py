"""What one call, one stage or one request used up. Usage adds; nothing here remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class CostBasis(Enum):
    """Where a cost comes from."""

    NONE = "none"
    """Nothing was spent yet."""
    PRICE_TABLE = "price_table"
    """Tokens, calls or documents at the configured, dated prices."""
    PROVIDER = "provider"
    """The backend stated the cost itself."""
    COMPUTE_TIME = "compute_time"
    """Seconds of a processor or an accelerator at the configured rate."""
    MIXED = "mixed"
    """Several of these, added."""
    UNKNOWN = "unknown"
    """Something was spent whose price nobody configured; the cost is unset, never 0."""


_NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Usage:
    """Amounts, all additive. Times are seconds, summed over calls (calls side by side add up to more than they took).

    Args:
        calls: requests sent to a backend, every retry and failure included.
        retries: of these, how many repeated an earlier one.
        pairs: (query, document) pairs that a model scored.
        search_units: what some rerank endpoints bill by: a query with up to 100 documents, as the endpoint counted.
        prompt_tokens: all input tokens, cached ones included.
        cached_tokens: of these, served from the backend's prefix cache.
        output_tokens: all output tokens, reasoning included.
        reasoning_tokens: of these, not part of the reply.
        cache_hits: questions answered from our own caches, at no cost.
        truncated_documents: documents of which a model did not see the end.
        queue_s: waiting for a place.
        tokenize_s: making tokens.
        backend_s: the backend at work, the network included.
        cost_nano_usd: None where any part of it is unknown.
        cost_basis: where the cost comes from.
        repairs: replies by what they were: `ok`, `repetition`, `missing`, `wrong_format`, `unreadable`, …

    """

    calls: int = 0
    retries: int = 0
    pairs: int = 0
    search_units: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_hits: int = 0
    truncated_documents: int = 0
    queue_s: float = 0.0
    tokenize_s: float = 0.0
    backend_s: float = 0.0
    cost_nano_usd: int | None = 0
    cost_basis: CostBasis = CostBasis.NONE
    repairs: Mapping[str, int] = field(default_factory=lambda: _NOTHING, hash=False)

    def __add__(self, other: Usage) -> Usage:
        known = self.cost_nano_usd is not None and other.cost_nano_usd is not None
        return Usage(
            calls=self.calls + other.calls,
            retries=self.retries + other.retries,
            pairs=self.pairs + other.pairs,
            search_units=self.search_units + other.search_units,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_hits=self.cache_hits + other.cache_hits,
            truncated_documents=self.truncated_documents + other.truncated_documents,
            queue_s=self.queue_s + other.queue_s,
            tokenize_s=self.tokenize_s + other.tokenize_s,
            backend_s=self.backend_s + other.backend_s,
            cost_nano_usd=(self.cost_nano_usd or 0) + (other.cost_nano_usd or 0) if known else None,
            cost_basis=_joined(self.cost_basis, other.cost_basis),
            repairs=_counted(self.repairs, other.repairs),
        )

    @property
    def tokens(self) -> int:
        """Input and output tokens, which is what a token budget counts."""
        return self.prompt_tokens + self.output_tokens


def _joined(one: CostBasis, other: CostBasis) -> CostBasis:
    bases = {one, other} - {CostBasis.NONE}
    if CostBasis.UNKNOWN in bases:
        return CostBasis.UNKNOWN
    if len(bases) > 1:
        return CostBasis.MIXED
    return next(iter(bases), CostBasis.NONE)


def _counted(one: Mapping[str, int], other: Mapping[str, int]) -> Mapping[str, int]:
    if not one or not other:
        return one or other
    return MappingProxyType(Counter(one) + Counter(other))
