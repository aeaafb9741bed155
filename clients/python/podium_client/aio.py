"""The client for asyncio: the methods of `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message
from grpc import aio

from podium.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    index_service_pb2,
    index_service_pb2_grpc,
    rerank_service_pb2,
    rerank_service_pb2_grpc,
    search_service_pb2_grpc,
)
from podium_client import convert
from podium_client.channel import TIMEOUT_S, Settings, channel_options
from podium_client.convert import DocumentLike, read, reader
from podium_client.types import (
    BatchAnswer,
    BatchItem,
    CallOptions,
    Chunking,
    Collection,
    CollectionStats,
    Comparison,
    Contender,
    Deleted,
    Estimate,
    Fetched,
    Limits,
    Model,
    Pipeline,
    Progress,
    RerankOptions,
    RerankResult,
    SearchOptions,
    SearchResult,
    SharedOptions,
    Snapshot,
    Stage,
    Strategy,
    Upserted,
)

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)
ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


class AsyncClient:
    """Calls a Podium server from one event loop. Close it, or use it in an `async with`.

    Arguments and methods are those of `Client`; what is iterated there is iterated with `async for` here, and what is
    given to iterate may be asynchronous too. Cancelling a task cancels its call.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        timeout_s: float | None = TIMEOUT_S,
        service_config: str | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        arguments = channel_options(service_config, options)
        if credentials is None:
            self.channel = aio.insecure_channel(target, arguments)
        else:
            self.channel = aio.secure_channel(target, credentials, arguments)
        self._settings = Settings(timeout_s, token)
        self._rerank = rerank_service_pb2_grpc.RerankServiceStub(self.channel)
        self._search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self._index = index_service_pb2_grpc.IndexServiceStub(self.channel)
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel. Calls that are running are cancelled."""
        await self.channel.close()

    async def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a server is connected and says that it is serving."""
        try:
            await asyncio.wait_for(self.channel.channel_ready(), timeout_s)
        except TimeoutError as error:
            raise convert.not_ready(timeout_s) from error

    # --- ranking ------------------------------------------------------------------------------------------------

    async def rerank(
        self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]
    ) -> RerankResult:
        """As `Client.rerank`."""
        request = convert.rerank_request(query, documents, options)
        return await self._call(self._rerank.Rerank, request, reader(RerankResult), options)

    async def stream_rerank(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        *,
        min_interval_s: float | None = None,
        **options: Unpack[RerankOptions],
    ) -> AsyncIterator[Snapshot | RerankResult]:
        """As `Client.stream_rerank`."""
        request = convert.stream_request(query, documents, min_interval_s, options)
        outgoing = self._settings.outgoing(options)
        with convert.translated(outgoing.request_id):
            call = self._rerank.StreamRerank(request, timeout=outgoing.timeout_s, metadata=outgoing.metadata)
            try:
                async for event in call:
                    yield convert.read_event(event, outgoing.request_id)
            finally:
                call.cancel()

    async def batch_rerank(
        self,
        items: Iterable[BatchItem] | AsyncIterable[BatchItem],
        *,
        window: int = 64,
        **options: Unpack[RerankOptions],
    ) -> AsyncIterator[BatchAnswer]:
        """As `Client.batch_rerank`."""
        outgoing = self._settings.outgoing(options, endless=True)
        places = asyncio.Semaphore(convert.checked_window(window))
        failures: list[Exception] = []

        async def feed() -> AsyncIterator[rerank_service_pb2.BatchRerankRequest]:
            try:
                async for item in _each(items):
                    await places.acquire()
                    yield convert.batch_request(item, options)
            except Exception as error:  # noqa: BLE001  # the caller's own; it is raised again where the caller can see it
                failures.append(error)

        with convert.translated(outgoing.request_id):
            call = self._rerank.BatchRerank(feed(), timeout=outgoing.timeout_s, metadata=outgoing.metadata)
            try:
                async for answer in call:
                    yield read(BatchAnswer, answer, outgoing.request_id)
                    places.release()
            finally:
                call.cancel()
        if failures:
            raise failures[0]

    async def estimate(
        self,
        query: str = "",
        documents: Iterable[DocumentLike] = (),
        *,
        candidates: int | None = None,
        tokens_per_document: int | None = None,
        query_tokens: int | None = None,
        **options: Unpack[RerankOptions],
    ) -> Estimate:
        """As `Client.estimate`."""
        request = convert.estimate_request(query, documents, candidates, tokens_per_document, query_tokens, options)
        return await self._call(self._rerank.Estimate, request, reader(Estimate), options)

    async def compare(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        contenders: Sequence[str | Sequence[Stage] | Contender],
        *,
        overlap_at: Sequence[int] = (),
        **options: Unpack[SharedOptions],
    ) -> Comparison:
        """As `Client.compare`."""
        request = convert.compare_request(query, documents, contenders, overlap_at, options)
        return await self._call(self._rerank.Compare, request, reader(Comparison), options)

    async def search(self, collection: str, query: str, **options: Unpack[SearchOptions]) -> SearchResult:
        """As `Client.search`."""
        request = convert.search_request(collection, query, options)
        return await self._call(self._search.Search, request, reader(SearchResult), options)

    # --- collections --------------------------------------------------------------------------------------------

    async def create_collection(
        self,
        name: str,
        *,
        encoder: str = "",
        token_vectors: bool = False,
        chunking: Chunking | None = None,
        **options: Unpack[CallOptions],
    ) -> Collection:
        """As `Client.create_collection`."""
        request = convert.create_request(Collection(name, encoder, token_vectors, chunking))
        return await self._call(self._index.CreateCollection, request, convert.read_collection, options)

    async def get_collection(self, name: str, **options: Unpack[CallOptions]) -> Collection:
        """As `Client.get_collection`."""
        request = index_service_pb2.GetCollectionRequest(name=name)
        return await self._call(self._index.GetCollection, request, convert.read_collection, options)

    async def list_collections(self, **options: Unpack[CallOptions]) -> tuple[Collection, ...]:
        """As `Client.list_collections`."""
        request = index_service_pb2.ListCollectionsRequest()
        return await self._pages(self._index.ListCollections, request, "collections", Collection, options)

    async def delete_collection(self, name: str, **options: Unpack[CallOptions]) -> None:
        """As `Client.delete_collection`."""
        request = index_service_pb2.DeleteCollectionRequest(name=name)
        await self._call(self._index.DeleteCollection, request, convert.read_nothing, options)

    async def stats(self, collection: str, **options: Unpack[CallOptions]) -> CollectionStats:
        """As `Client.stats`."""
        request = index_service_pb2.GetCollectionStatsRequest(name=collection)
        return await self._call(self._index.GetCollectionStats, request, reader(CollectionStats), options)

    async def upsert(
        self,
        collection: str,
        documents: Iterable[DocumentLike] | AsyncIterable[DocumentLike],
        *,
        call_documents: int = 1024,
        on_acknowledged: Progress | None = None,
        **options: Unpack[CallOptions],
    ) -> Upserted:
        """As `Client.upsert`."""
        done = Upserted()
        source = _each(documents)
        while chunk := await _take(source, call_documents):
            outgoing = self._settings.outgoing(options, endless=True)
            requests = convert.upsert_requests(collection, chunk, done.documents)
            with convert.translated(outgoing.request_id):
                response = await self._index.UpsertDocuments(
                    iter(requests), timeout=outgoing.timeout_s, metadata=outgoing.metadata
                )
            done = convert.read_upserted(response, done, outgoing.request_id)
            if on_acknowledged is not None:
                on_acknowledged(done)
        return done

    async def get(self, collection: str, ids: Iterable[str], **options: Unpack[CallOptions]) -> Fetched:
        """As `Client.get`."""
        request = index_service_pb2.GetDocumentsRequest(collection=collection, ids=ids)
        return await self._call(self._index.GetDocuments, request, reader(Fetched), options)

    async def delete(self, collection: str, ids: Iterable[str], **options: Unpack[CallOptions]) -> Deleted:
        """As `Client.delete`."""
        request = index_service_pb2.DeleteDocumentsRequest(collection=collection, ids=ids)
        return await self._call(self._index.DeleteDocuments, request, reader(Deleted), options)

    # --- the catalogue ------------------------------------------------------------------------------------------

    async def list_pipelines(self, **options: Unpack[CallOptions]) -> tuple[Pipeline, ...]:
        """As `Client.list_pipelines`."""
        request = catalog_service_pb2.ListPipelinesRequest()
        return await self._pages(self._catalog.ListPipelines, request, "pipelines", Pipeline, options)

    async def list_strategies(self, **options: Unpack[CallOptions]) -> tuple[Strategy, ...]:
        """As `Client.list_strategies`."""
        request = catalog_service_pb2.ListStrategiesRequest()
        return await self._pages(self._catalog.ListStrategies, request, "strategies", Strategy, options)

    async def list_models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """As `Client.list_models`."""
        request = catalog_service_pb2.ListModelsRequest()
        return await self._pages(self._catalog.ListModels, request, "models", Model, options)

    async def limits(self, **options: Unpack[CallOptions]) -> Limits:
        """As `Client.limits`."""
        request = catalog_service_pb2.GetLimitsRequest()
        return await self._call(self._catalog.GetLimits, request, reader(Limits), options)

    # --- input and output ---------------------------------------------------------------------------------------

    async def _call(
        self,
        method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        result: Callable[[ResponseT, str], ResultT],
        options: CallOptions,
    ) -> ResultT:
        outgoing = self._settings.outgoing(options)
        with convert.translated(outgoing.request_id):
            response = await method(request, timeout=outgoing.timeout_s, metadata=outgoing.metadata)
        return result(response, outgoing.request_id)

    async def _pages(
        self,
        method: aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        items: str,
        cls: type[ResultT],
        options: CallOptions,
    ) -> tuple[ResultT, ...]:
        found: list[ResultT] = []
        while True:
            page = await self._call(method, request, convert.read_page(items, cls), options)
            found += page.items
            if not page.next_page_token:
                return tuple(found)
            request = convert.next_page(request, page.next_page_token)


async def _each(items: Iterable[ItemT] | AsyncIterable[ItemT]) -> AsyncIterator[ItemT]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def _take(items: AsyncIterator[ItemT], most: int) -> list[ItemT]:
    taken: list[ItemT] = []
    while len(taken) < most:
        try:
            taken.append(await anext(items))
        except StopAsyncIteration:
            break
    return taken
