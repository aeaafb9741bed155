"""What recall promises to those who rank: one small protocol, behind which a distributed engine can stand as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from podium_server.accounting.usage import Usage
from podium_server.errors import InvalidRequest
from podium_server.recall import filters
from podium_server.recall.document import Json
from podium_server.recall.encoding import Floats
from podium_server.recall.filters import Filter
from podium_server.recall.limits import RecallLimits

VECTOR = "vector"
BM25 = "bm25"
RETRIEVERS = (BM25, VECTOR)
"""The names of the retrievers that there are."""


def _both() -> dict[str, float]:
    return dict.fromkeys(RETRIEVERS, 1.0)


@dataclass(frozen=True, slots=True)
class RecallQuery:
    """What is looked for, and where.

    Args:
        collection: its name.
        text: the query. Not empty.
        k: how many documents at most.
        weights: of each retriever in the joining by rank (RRF); 0, or left out, does not ask it. One alone gives its
            own order and its own scores.
        filter: which documents may be found; None allows all.
        vector: (dim,) of the query, where it is known already; saves the encoding.
        token_vectors: also have the query's token vectors in the answer, for late interaction.

    """

    collection: str
    text: str
    k: int = 100
    weights: Mapping[str, float] = field(default_factory=_both)
    filter: Filter | None = None
    vector: Floats | None = None
    token_vectors: bool = False


def weights_of(query: RecallQuery, limits: RecallLimits) -> Mapping[str, float]:
    """Return the weights of those who are asked, in the order of `RETRIEVERS`.

    Raises:
        InvalidRequest: the query, k, a weight or the filter is out of bounds.

    """
    try:
        size = len(query.text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("query", "has a lone surrogate, which is no text; send valid Unicode") from None
    if size > limits.query_bytes:
        raise InvalidRequest("query", f"has {size:,} bytes; the limit is {limits.query_bytes:,}")
    if not query.text.strip():
        raise InvalidRequest("query", "is empty; say what is looked for")
    if not 1 <= query.k <= limits.depth:
        raise InvalidRequest("recall_depth", f"is {query.k}; 1 to {limits.depth:,} can be asked for")
    unknown = sorted(set(query.weights) - set(RETRIEVERS))
    if unknown:
        raise InvalidRequest(
            "retriever_weights",
            f"{', '.join(unknown)}: there is no such retriever (known: {', '.join(RETRIEVERS)})",
        )
    weights = {name: query.weights[name] for name in RETRIEVERS if query.weights.get(name, 0.0) != 0.0}
    if not weights or not all(0 < weight < float("inf") for weight in weights.values()):
        raise InvalidRequest("retriever_weights", "must be finite, none below 0 and at least one above it")
    if query.filter is not None:
        filters.check(query.filter, limits)
    return weights


@dataclass(frozen=True, slots=True)
class Found:
    """That a retriever found a document.

    Args:
        retriever: its name.
        rank: in its list; 1 is the best.
        score: in its own unit; higher is better.

    """

    retriever: str
    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found, by its best passage.

    Args:
        id: of the document.
        score: by which the hits are in order; higher is better.
        text: of the passage, title in front: what was embedded and what is to be judged.
        chunk: the key of the passage's vectors.
        passage: the passage's place among the document's, from 0.
        start: where the passage begins in `Document.full_text`, in code points.
        end: where it ends.
        metadata: of the document.
        found: by whom, in the order of `RETRIEVERS`.

    """

    id: str
    score: float
    text: str
    chunk: int
    passage: int
    start: int
    end: int
    metadata: Mapping[str, Json]
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that each part of a search took, in a clock that never goes back."""

    encode_s: float = 0.0
    filter_s: float = 0.0
    vector_s: float = 0.0
    bm25_s: float = 0.0
    fetch_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.encode_s + self.filter_s + self.vector_s + self.bm25_s + self.fetch_s


@dataclass(frozen=True, slots=True)
class Recalled:
    """What was found.

    Args:
        hits: the best first; each document once. As many as were asked for, or as many as there are.
        timings: of the parts.
        usage: of encoding the query, not priced.
        query_vector: (dim,) of the query; None where no retriever needed it.
        query_token_vectors: (tokens, dim) of the query, where they were asked for.

    """

    hits: tuple[Hit, ...]
    timings: Timings
    usage: Usage
    query_vector: Floats | None = None
    query_token_vectors: Floats | None = None


class Retriever(Protocol):
    """Whoever finds candidates for a query."""

    async def retrieve(self, query: RecallQuery) -> Recalled:
        """Return the best `query.k` documents of `query.collection`.

        Raises:
            InvalidRequest: the query, k, a weight or the filter is out of bounds.
            NotFound: there is no such collection.
            FailedPrecondition: the collection was made with another encoder.
            Overloaded: too many searches wait.

        """
