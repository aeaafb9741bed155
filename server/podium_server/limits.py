"""Every bound of the server, in one place. Each is configuration (`[limits]`), has a default and a documented error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

MIB = 1 << 20
_ONE_DAY_S = 24 * 3600.0


class Limits(BaseModel):
    """`[limits]` of the configuration file. Beyond a limit: INVALID_ARGUMENT, unless its text says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message_bytes: int = Field(32 * MIB, ge=64 * 1024)
    """One gRPC message, both ways; RESOURCE_EXHAUSTED from gRPC itself."""
    documents: int = Field(10_000, ge=1)
    """Candidates of one request."""
    document_bytes: int = Field(1 * MIB, ge=1)
    """UTF-8 bytes of one document's text."""
    metadata_bytes: int = Field(64 * 1024, ge=0)
    """Of one document's metadata."""
    id_bytes: int = Field(512, ge=1)
    """UTF-8 bytes of an id."""
    query_bytes: int = Field(32 * 1024, ge=1)
    """Of a query, and of an instruction."""
    recall_depth: int = Field(1_000, ge=1)
    """Candidates that one search recalls."""
    contenders: int = Field(16, ge=1)
    """Pipelines of one comparison."""
    batch_in_flight: int = Field(64, ge=1)
    """Items of one BatchRerank at work at the same time. More wait."""
    ids: int = Field(10_000, ge=1)
    """Ids of one GetDocuments or DeleteDocuments."""
    concurrent_requests: int = Field(256, ge=1)
    """Rerank and Search requests at work at the same time, of all callers. More: RESOURCE_EXHAUSTED."""
    questions: int = Field(250_000, ge=1)
    """Questions that one request's plan may ask, by forecast."""
    encoder_queue: int = Field(512, ge=1)
    """Pieces of work that wait for one encoder, or for the tokens of one cross-encoder. More: RESOURCE_EXHAUSTED."""
    cross_encoder_wait_s: float = Field(2.0, gt=0)
    """Work that stands before a request at a cross-encoder, or as much as it takes itself. More: RESOURCE_EXHAUSTED."""
    cross_encoder_pairs: int = Field(50_000, ge=1)
    """Pairs that wait for one cross-encoder. More: RESOURCE_EXHAUSTED; of one request: INVALID_ARGUMENT."""
    passages: int = Field(16, ge=1)
    """Of one document that a cross-encoder reads in passages. What lies behind them is counted as cut."""
    shadow_requests: int = Field(4, ge=1)
    """Requests that challengers rank in the shadow at the same time. More are not ranked there, and counted."""
    shadow_s: float = Field(30.0, gt=0)
    """Of one such request at most; the order that stands then counts."""
    deadline_reserve_ms: int = Field(20, ge=0)
    """Kept back from a call's deadline, to send the answer."""
    drain_s: float = Field(30.0, ge=0)
    """From SIGTERM until calls that still run are cancelled."""

    def for_one_user(self, concurrency: int) -> Limits:
        """Return limits that do not refuse a job's own lists.

        Queues of a server keep strangers from each other, and send away whom they cannot serve soon. All lists of a job
        are one user's, who waits for them; `concurrency` bounds those at work.
        """
        documents = concurrency * self.documents
        return self.model_copy(
            update={
                "concurrent_requests": max(self.concurrent_requests, concurrency),
                "encoder_queue": max(self.encoder_queue, documents),
                "cross_encoder_pairs": max(self.cross_encoder_pairs, documents * self.passages),
                "cross_encoder_wait_s": _ONE_DAY_S,
            }
        )
