"""Figures that are known where they arise (queues, caches, breakers), fetched when Prometheus comes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from podium_server.accounting.prices import NANO_PER_USD
from podium_server.telemetry import metrics
from podium_server.telemetry.registry import Reading

if TYPE_CHECKING:
    from podium_server.access.refusals import Refusals
    from podium_server.backends.chat.endpoints import Endpoints
    from podium_server.backends.cross_encoders.seat import CrossEncoderSeat
    from podium_server.compose.models import Models
    from podium_server.judges.encoder import EncoderSeat
    from podium_server.judges.verdict_cache import SqliteVerdictCache
    from podium_server.ranking.reranker import Reranker


class CacheStats(Protocol):
    """The counts of a cache."""

    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


def of_process() -> Iterator[Reading]:
    """Say which version this is."""
    yield Reading(metrics.BUILD, 1, (version("podium"),))


def of_reranker(reranker: Reranker) -> Iterator[Reading]:
    """Tell of the requests at work, and of what was spent for callers who went away."""
    yield Reading(metrics.REQUESTS_RUNNING, reranker.running)
    yield Reading(metrics.REQUESTS_MAX, reranker.limits.concurrent_requests)
    spent = reranker.spent_on_cancelled
    yield Reading(metrics.CANCELLED_TOKENS, spent.tokens)
    yield Reading(metrics.CANCELLED_CALLS, spent.calls)
    yield Reading(metrics.CANCELLED_COST, reranker.known_nano_usd_on_cancelled / NANO_PER_USD)


def of_models(models: Models) -> Iterator[Reading]:
    """Tell of the models' queues, caches and breakers. Tables that grow meanwhile are copied first."""
    for card in models.cards():
        yield Reading(metrics.MODEL_LOADED, card.ready, (card.name,))
    for name, scoring in list(models.cross_encoders.items()):
        yield from _of_cross_encoder(name, scoring)
    for name, seat in list(models.encoders.items()):
        yield from _of_encoder(name, seat)
    for table in (models.chats, models.rerank_apis):
        for name, backend in list(table.items()):
            # By name: vLLM in the process has its queue in a scheduler of its own.
            endpoints: Endpoints | None = getattr(backend, "endpoints", None)
            if endpoints is not None:
                yield Reading(metrics.QUEUE, endpoints.waiting, (name,))
                yield Reading(metrics.UNDER_WAY, endpoints.outstanding, (name,))
    for name, watch in list(models.watches.items()):
        yield Reading(metrics.BREAKER_STATE, watch.phase, (name,))
        yield Reading(metrics.BREAKER_OPENED, watch.opened, (name,))
        yield Reading(metrics.BREAKER_REFUSED, watch.refused, (name,))


def of_access(refusals: Refusals) -> Iterator[Reading]:
    """Tell who was refused. Tenants are those of the configuration."""
    for (reason, tenant), count in list(refusals.items()):
        yield Reading(metrics.ACCESS_REFUSED, count, (reason.value, tenant))


def of_verdicts(verdicts: SqliteVerdictCache) -> Iterator[Reading]:
    """Tell of the memory for chat models' verdicts, which all of them share."""
    yield Reading(metrics.CACHE_HITS, verdicts.hits, ("verdict", ""))
    yield Reading(metrics.CACHE_MISSES, verdicts.misses, ("verdict", ""))
    yield Reading(metrics.CACHE_BYTES, verdicts.sizes["bytes"], ("verdict", ""))
    yield Reading(metrics.VERDICTS_DROPPED, verdicts.dropped)


def _of_cross_encoder(name: str, seat: CrossEncoderSeat) -> Iterator[Reading]:
    yield from _of_cache("score", name, seat.cache.stats())
    batcher = seat.loaded
    if batcher is None:
        return
    state = batcher.state()
    for metric, value in (
        (metrics.QUEUE, state.pairs),
        (metrics.QUEUE_REQUESTS, state.requests),
        (metrics.QUEUE_TOKENS, state.tokens),
        (metrics.QUEUE_AGE, state.oldest_s),
        (metrics.UNDER_WAY, state.under_way),
        (metrics.BATCHES, state.batches),
        (metrics.BATCH_PAIRS, state.scored),
        (metrics.BATCH_TOKENS, state.scored_tokens),
        (metrics.BATCH_PADDED, state.padded_tokens),
        (metrics.BATCH_TOKENS_MAX, batcher.encoder.capacity.padded_tokens),
        (metrics.BUSY_SECONDS, state.busy_s),
        (metrics.QUEUE_REFUSED, state.refused),
        (metrics.QUEUE_DROPPED, state.dropped),
        (metrics.FAILED_PAIRS, state.failed),
    ):
        yield Reading(metric, value, (name,))


def _of_encoder(name: str, seat: EncoderSeat) -> Iterator[Reading]:
    yield Reading(metrics.QUEUE, seat.queries.waiting + seat.documents.waiting, (name,))
    # By name: an encoder without a cache is not wrapped in one.
    cache: Any = getattr(seat.loaded, "cache", None)
    if cache is not None:
        yield from _of_cache("embedding", name, cache.stats())


def _of_cache(cache: str, model: str, stats: CacheStats) -> Iterator[Reading]:
    yield Reading(metrics.CACHE_HITS, stats.hits, (cache, model))
    yield Reading(metrics.CACHE_MISSES, stats.misses, (cache, model))
    yield Reading(metrics.CACHE_BYTES, stats.size_bytes, (cache, model))
