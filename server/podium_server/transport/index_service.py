"""`podium.v1.IndexService`: collections and their documents."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from podium.v1 import index_service_pb2 as wire
from podium_server.accounting.ledger import Account, Ledger
from podium_server.config import CollectionSection
from podium_server.errors import FailedPrecondition, InvalidRequest, PodiumError
from podium_server.limits import Limits
from podium_server.ranking.searcher import EncoderOf
from podium_server.recall.batches import Acknowledged
from podium_server.recall.document import Document
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.store.rows import CollectionRow
from podium_server.transport import status
from podium_server.transport.convert import documents, ledgers, requests
from podium_server.transport.door import Call
from podium_server.transport.paging import page
from podium_server.transport.served import NO_STORE, Collections, Searcher

_ERRORS_MAX = 1_000
# An id that is too long is refused for it, and need not come back whole.
_SHOWN_ID_MAX = 512


@dataclass(frozen=True, slots=True)
class IndexService:
    """The methods of the contract, over `Collections`; `None` where this server has no store."""

    collections: Collections | None
    searcher: Searcher | None
    limits: Limits
    default_encoder: str
    no_store: str = NO_STORE

    @property
    def store(self) -> Collections:
        """The store.

        Raises:
            FailedPrecondition: this server has none.

        """
        if self.collections is None:
            raise FailedPrecondition(self.no_store)
        return self.collections

    async def create_collection(
        self, message: wire.CreateCollectionRequest, _call: Call
    ) -> wire.CreateCollectionResponse:
        """Make a collection."""
        given, usual = message.collection, CollectionSection()
        chunked = given.HasField("chunking")
        settings = CollectionSettings(
            encoder=requests.name(given.encoder, self.limits) or self.default_encoder,
            token_vectors=given.token_vectors,
            chunk_tokens=given.chunking.max_tokens if chunked else usual.chunk_tokens or 0,
            overlap_tokens=given.chunking.overlap_tokens if chunked else usual.chunk_overlap_tokens,
        )
        row = await self.store.create(given.name, settings)
        return wire.CreateCollectionResponse(collection=_collection(row))

    async def get_collection(self, message: wire.GetCollectionRequest, _call: Call) -> wire.GetCollectionResponse:
        """Tell of a collection."""
        row = await self.store.get(requests.name(message.name, self.limits))
        return wire.GetCollectionResponse(collection=_collection(row))

    async def list_collections(self, message: wire.ListCollectionsRequest, _call: Call) -> wire.ListCollectionsResponse:
        """Tell of all collections, page by page."""
        rows, token = page(
            await self.store.list(),
            lambda row: row.name,
            kind="collections",
            size=message.page_size,
            token=message.page_token,
        )
        return wire.ListCollectionsResponse(collections=map(_collection, rows), next_page_token=token)

    async def delete_collection(
        self, message: wire.DeleteCollectionRequest, _call: Call
    ) -> wire.DeleteCollectionResponse:
        """Remove a collection and all that is in it."""
        await self.store.delete(requests.name(message.name, self.limits))
        return wire.DeleteCollectionResponse()

    async def get_collection_stats(
        self, message: wire.GetCollectionStatsRequest, _call: Call
    ) -> wire.GetCollectionStatsResponse:
        """Count what is in a collection."""
        stats = await self.store.stats(requests.name(message.name, self.limits))
        return wire.GetCollectionStatsResponse(
            documents=stats.documents,
            passages=stats.passages,
            token_vectors=stats.token_vectors,
            dimensions=stats.dimensions,
            store_bytes=stats.store_bytes,
            memory_bytes=stats.memory_bytes,
            index_kind=wire.VECTOR_INDEX_KIND_HNSW if stats.graph else wire.VECTOR_INDEX_KIND_EXACT,
            token_vector_loss=stats.token_vector_loss,
            update_time=None if stats.updated_s is None else _timestamp(stats.updated_s),
        )

    async def upsert_documents(
        self, messages: AsyncIterator[wire.UpsertDocumentsRequest], call: Call
    ) -> wire.UpsertDocumentsResponse:
        """Put documents into a collection. The answer acknowledges all but those in errors."""
        store = self.store
        try:
            first = await anext(messages)
        except StopAsyncIteration:
            raise InvalidRequest("collection", "is missing: the stream has no message") from None
        if not first.collection:
            raise InvalidRequest("collection", "is empty in the first message of the stream; name the collection")
        collection = requests.name(first.collection, self.limits)
        response = wire.UpsertDocumentsResponse()
        account = Account(stage="upsert", strategy="upsert")
        ledger = Ledger()
        ledger.open(account)
        encoder: EncoderOf | None = None
        try:
            coming: Any = store.upsert(collection, _documents(first, messages))
            async with aclosing(coming) as batches:
                async for batch in batches:
                    encoder = encoder or (await self.searcher.encoder_of(collection) if self.searcher else None)
                    _enter(batch, account, encoder)
                    _count(batch, response, call.request_id)
        except PodiumError as error:
            error.spent = ledger
            raise
        finally:
            ledger.wall_s = account.wall_s = time.monotonic() - call.began
        response.ledger.CopyFrom(ledgers.ledger(ledger))
        return response

    async def get_documents(self, message: wire.GetDocumentsRequest, _call: Call) -> wire.GetDocumentsResponse:
        """Give documents back as they are stored."""
        self._check_ids(message.ids)
        found, missing = await self.store.get_documents(requests.name(message.collection, self.limits), message.ids)
        return wire.GetDocumentsResponse(documents=map(documents.write, found), missing_ids=missing)

    async def delete_documents(self, message: wire.DeleteDocumentsRequest, _call: Call) -> wire.DeleteDocumentsResponse:
        """Remove documents."""
        self._check_ids(message.ids)
        deleted, missing = await self.store.delete_documents(
            requests.name(message.collection, self.limits), message.ids
        )
        return wire.DeleteDocumentsResponse(deleted=deleted, missing_ids=missing)

    def _check_ids(self, ids: Sequence[str]) -> None:
        if not 1 <= len(ids) <= self.limits.ids:
            raise InvalidRequest(
                "ids", f"are {len(ids):,}; 1 to {self.limits.ids:,}. Use several calls", metadata={"limit": "ids"}
            )


async def _documents(
    first: wire.UpsertDocumentsRequest, messages: AsyncIterator[wire.UpsertDocumentsRequest]
) -> AsyncIterator[Document]:
    """Yield the documents of a stream, whose messages all go to one collection."""
    for message in first.documents:
        yield documents.read(message)
    async for part in messages:
        if part.collection not in ("", first.collection):
            raise InvalidRequest(
                "collection", f"is {part.collection[:64]!r}, and the stream began with {first.collection!r}; use two"
            )
        for message in part.documents:
            yield documents.read(message)


def _enter(batch: Acknowledged, account: Account, encoder: EncoderOf | None) -> None:
    """Enter what a batch has cost."""
    if encoder is not None:
        account.model, account.revision = encoder.model, encoder.revision
        account.price_table_version = encoder.prices.version
    account.candidates_in += len(batch.ids) + batch.duplicates + len(batch.refused)
    account.candidates_out += len(batch.inserted) + len(batch.replaced)
    account.add(encoder.prices.charge(batch.usage) if encoder is not None else batch.usage)


def _count(batch: Acknowledged, response: wire.UpsertDocumentsResponse, request_id: str) -> None:
    """Write what became of the documents of a batch."""
    response.inserted += len(batch.inserted)
    response.replaced += len(batch.replaced)
    response.unchanged += len(batch.unchanged)
    response.refused += len(batch.refused)
    for refused in batch.refused[: _ERRORS_MAX - len(response.errors)]:
        response.errors.add(
            index=refused.index,
            document_id=refused.id[:_SHOWN_ID_MAX],
            error=status.failure(refused.error, request_id).status,
        )


def _collection(row: CollectionRow) -> wire.Collection:
    return wire.Collection(
        name=row.name,
        encoder=row.settings.encoder,
        token_vectors=row.settings.token_vectors,
        chunking=wire.Chunking(max_tokens=row.settings.chunk_tokens, overlap_tokens=row.settings.overlap_tokens),
        create_time=_timestamp(row.created_s),
    )


def _timestamp(time_s: float) -> Timestamp:
    message = Timestamp()
    message.FromNanoseconds(round(time_s * 1e6) * 1000)
    return message
