"""`podium.v1.SearchService`: recall, then rerank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from podium.v1 import search_service_pb2 as wire
from podium_server import validate
from podium_server.errors import FailedPrecondition, InvalidRequest
from podium_server.judges.case import Candidate
from podium_server.limits import Limits
from podium_server.ranking.request import Explain
from podium_server.ranking.searcher import Found, SearchRequest
from podium_server.recall.document import Document
from podium_server.recall.retriever import RETRIEVERS, Hit
from podium_server.transport.convert import answers, documents, filters, ledgers, reasons, requests, values
from podium_server.transport.door import Call
from podium_server.transport.served import NO_STORE, Collections, Searcher

_TOP_UNSET = 10


@dataclass(frozen=True, slots=True)
class SearchService:
    """The methods of the contract, over a `Searcher`; `None` where this server has no store."""

    searcher: Searcher | None
    collections: Collections | None
    limits: Limits
    no_store: str = NO_STORE

    async def search(self, message: wire.SearchRequest, call: Call) -> wire.SearchResponse:
        """Find documents of a collection, and put them in order."""
        if self.searcher is None or self.collections is None:
            raise FailedPrecondition(self.no_store)
        query = validate.query(message.query, self.limits)
        top = requests.top_n(message) or _TOP_UNSET
        ranked = requests.live(requests.ranked_request(message, query, (), self.limits), call)
        request = SearchRequest(
            ranked=requests.within_collection(ranked, requests.name(message.collection, self.limits)),
            recall_depth=self._depth(message),
            weights=_weights(message.retriever_weights) or None,
            filter=filters.read(message.filter) if message.HasField("filter") else None,
        )
        found = await self.searcher.search(request, deadline_at=call.deadline_at)
        shown = [found.recalled.hits[place] for place in found.outcome.order[:top]]
        stored: Mapping[str, Document] = {}
        if message.include_content and shown:
            whole, _ = await self.collections.get_documents(request.ranked.collection, [hit.id for hit in shown])
            stored = {document.id: document for document in whole}
        return _response(message, found, shown, stored)

    def _depth(self, message: wire.SearchRequest) -> int | None:
        if not message.HasField("recall_depth"):
            return None
        if not 1 <= message.recall_depth <= self.limits.recall_depth:
            raise InvalidRequest(
                "recall_depth",
                f"is {message.recall_depth:,}; 1 to {self.limits.recall_depth:,}",
                metadata={"limit": "recall_depth"},
            )
        return message.recall_depth


def _weights(given: Mapping[str, float]) -> dict[str, float]:
    for name, weight in given.items():
        if name not in RETRIEVERS:
            raise InvalidRequest(
                f"retriever_weights[{name}]", f"no retriever is named {name!r} (known: {', '.join(RETRIEVERS)})"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise InvalidRequest(f"retriever_weights[{name}]", f"is {weight}; a number of at least 0")
    if given and not any(given.values()):
        raise InvalidRequest("retriever_weights", "are all 0; at least one must be above")
    return dict(given)


def _response(
    message: wire.SearchRequest, found: Found, shown: Sequence[Hit], stored: Mapping[str, Document]
) -> wire.SearchResponse:
    outcome = found.outcome
    candidates = tuple(Candidate(hit.id, hit.text, hit.score) for hit in found.recalled.hits)
    response = wire.SearchResponse(
        completion=answers.COMPLETIONS[outcome.completion],
        ledger=ledgers.ledger(outcome.ledger),
        warnings=answers.warnings(outcome.warnings, candidates),
        pipeline=outcome.pipeline,
        recalled=len(found.recalled.hits),
        partial_reason=reasons.of_partial(outcome.cause_reason),
    )
    answers.rank_into(lambda: response.results.add().ranked, outcome, candidates, len(shown))
    for result, hit in zip(response.results, shown, strict=True):
        result.passage.index, result.passage.start, result.passage.end = hit.passage, hit.start, hit.end
        for one in hit.found:
            result.hits.add(retriever=one.retriever, rank=one.rank, score=one.score)
        if message.include_content or message.include_metadata:
            result.document.id = hit.id
            # What was deleted between recall and now has no content any more.
            if (whole := stored.get(hit.id)) is not None:
                documents.write_content(result.document, whole)
            if message.include_metadata:
                result.document.metadata.CopyFrom(values.to_struct(hit.metadata))
    if requests.explained(message) is not Explain.NONE:
        response.trace.CopyFrom(answers.trace(outcome.trace))
    return response
