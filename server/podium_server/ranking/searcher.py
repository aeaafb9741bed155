"""Recall from a collection, then rerank: one ledger, one deadline, one budget over both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.prices import Prices
from podium_server.judges.case import Candidate
from podium_server.ranking.request import Outcome, RankRequest, Snapshot, Warned
from podium_server.ranking.reranker import Reranker
from podium_server.recall.filters import Filter
from podium_server.recall.retriever import Recalled, RecallQuery, Retriever


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A query to a collection, validated.

    Args:
        ranked: everything that ranking needs but the candidates, which recall brings.
        recall_depth: documents to recall; None takes the pipeline's.
        weights: of the retrievers; empty takes the pipeline's.
        filter: which documents may be found.

    """

    ranked: RankRequest
    recall_depth: int | None = None
    weights: Mapping[str, float] | None = None
    filter: Filter | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found. Places in the outcome's order are places in `recalled.hits`."""

    outcome: Outcome
    recalled: Recalled


@dataclass(frozen=True, slots=True)
class EncoderOf:
    """Who encodes a collection: what the ledger tells of a recall, and what it costs."""

    model: str
    revision: str
    prices: Prices
    token_vectors: bool


@dataclass(slots=True)
class Searcher:
    """Searches collections.

    Args:
        retriever: finds candidates.
        reranker: puts them in order.
        encoder_of: tells of a collection's encoder, by the collection's name; raises NotFound.

    """

    retriever: Retriever
    reranker: Reranker
    encoder_of: Callable[[str], Awaitable[EncoderOf]]

    async def search(
        self,
        request: SearchRequest,
        *,
        deadline_at: float | None = None,
        warnings: tuple[Warned, ...] = (),
        on_snapshot: Callable[[Snapshot], None] | None = None,
    ) -> Found:
        """Recall candidates and rank them.

        Raises:
            NotFound: no such collection or pipeline, with the names that there are.
            PodiumError: as `Reranker.rerank` and `Retriever.retrieve`.

        """
        async with self.reranker.admitted(deadline_at):
            return await self._search(request, deadline_at, warnings, on_snapshot)

    async def _search(
        self,
        request: SearchRequest,
        deadline_at: float | None,
        warnings: tuple[Warned, ...],
        on_snapshot: Callable[[Snapshot], None] | None,
    ) -> Found:
        began = time.monotonic()
        pipeline = self.reranker.pipeline(request.ranked)
        encoder = await self.encoder_of(request.ranked.collection)
        recalled = await self.retriever.retrieve(
            RecallQuery(
                collection=request.ranked.collection,
                text=request.ranked.query,
                k=request.recall_depth or pipeline.section.recall_depth,
                weights=request.weights or pipeline.section.retrievers,
                filter=request.filter,
                # One pass gives both; a judge that wants them finds them in the encoder's cache.
                token_vectors=encoder.token_vectors,
            )
        )
        ledger = _recall_ledger(encoder, recalled, time.monotonic() - began)
        candidates = tuple(Candidate(hit.id, hit.text, hit.score, hit.chunk) for hit in recalled.hits)
        outcome = await self.reranker.rank(
            replace(request.ranked, candidates=candidates),
            deadline_at=deadline_at,
            ledger_before=ledger,
            warnings=warnings,
            on_snapshot=on_snapshot,
        )
        return Found(outcome, recalled)


def _recall_ledger(encoder: EncoderOf, recalled: Recalled, wall_s: float) -> Ledger:
    """Return the ledger of a request after its recall."""
    ledger = Ledger(wall_s=wall_s, critical_path_s=recalled.timings.total_s)
    account = ledger.open(
        Account(
            stage="recall",
            strategy="recall",
            model=encoder.model,
            revision=encoder.revision,
            price_table_version=encoder.prices.version,
            candidates_out=len(recalled.hits),
            wall_s=wall_s,
            critical_path_s=recalled.timings.total_s,
        )
    )
    account.add(encoder.prices.charge(recalled.usage))
    return ledger
