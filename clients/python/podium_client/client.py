"""The synchronous client."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

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


class Client:
    """Calls a Podium server. May be used by many threads at once; close it, or use it in a `with`.

    Every method takes `timeout_s`, `request_id` and `metadata` (see `CallOptions`), and raises `PodiumError`.

    Args:
        target: such as `localhost:50051` or `dns:///podium.internal:443`.
        credentials: of the channel, such as `grpc.ssl_channel_credentials()`; without them nothing is encrypted.
        token: sent with each call as a bearer token.
        timeout_s: of each call that does not name its own, but for `batch_rerank` and `upsert`; None for none.
        service_config: as JSON, in place of `default_service_config()`.
        options: of the gRPC channel, over ours.

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
            self.channel = grpc.insecure_channel(target, arguments)
        else:
            self.channel = grpc.secure_channel(target, credentials, arguments)
        self._settings = Settings(timeout_s, token)
        self._rerank = rerank_service_pb2_grpc.RerankServiceStub(self.channel)
        self._search = search_service_pb2_grpc.SearchServiceStub(self.channel)
        self._index = index_service_pb2_grpc.IndexServiceStub(self.channel)
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel. Calls that are running are cancelled."""
        self.channel.close()

    def wait_ready(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a server is connected and says that it is serving."""
        ready = grpc.channel_ready_future(self.channel)
        try:
            ready.result(timeout_s)
        except grpc.FutureTimeoutError as error:
            raise convert.not_ready(timeout_s) from error
        finally:
            ready.cancel()

    # --- ranking ------------------------------------------------------------------------------------------------

    def rerank(self, query: str, documents: Iterable[DocumentLike], **options: Unpack[RerankOptions]) -> RerankResult:
        """Put the documents in order. A document is a string, a mapping or a `Document`."""
        request = convert.rerank_request(query, documents, options)
        return self._call(self._rerank.Rerank, request, reader(RerankResult), options)

    def stream_rerank(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        *,
        min_interval_s: float | None = None,
        **options: Unpack[RerankOptions],
    ) -> Iterator[Snapshot | RerankResult]:
        """Yield the orders on the way, and the result as the last. Leaving the loop stops the work."""
        request = convert.stream_request(query, documents, min_interval_s, options)
        outgoing = self._settings.outgoing(options)
        with convert.translated(outgoing.request_id):
            call = self._rerank.StreamRerank(request, timeout=outgoing.timeout_s, metadata=outgoing.metadata)
            try:
                for event in call:
                    yield convert.read_event(event, outgoing.request_id)
            finally:
                call.cancel()

    def batch_rerank(
        self, items: Iterable[BatchItem], *, window: int = 64, **options: Unpack[RerankOptions]
    ) -> Iterator[BatchAnswer]:
        """Yield answers as they are done, in any order, while reading `items` on.

        Args:
            items: may be endless; read in another thread, and an error in it is raised here once what was sent is
                answered.
            window: of items that are sent and not yet answered, at most. What the caller does between two answers
                holds the reading back.
            options: of all items.

        """
        outgoing = self._settings.outgoing(options, endless=True)
        feed = _Feed((convert.batch_request(item, options) for item in items), window)
        with convert.translated(outgoing.request_id):
            call = self._rerank.BatchRerank(feed, timeout=outgoing.timeout_s, metadata=outgoing.metadata)
            try:
                for answer in call:
                    yield read(BatchAnswer, answer, outgoing.request_id)
                    feed.answered()
            finally:
                call.cancel()
                feed.close()
        if feed.error is not None:
            raise feed.error

    def estimate(
        self,
        query: str = "",
        documents: Iterable[DocumentLike] = (),
        *,
        candidates: int | None = None,
        tokens_per_document: int | None = None,
        query_tokens: int | None = None,
        **options: Unpack[RerankOptions],
    ) -> Estimate:
        """Tell what a rerank would cost, for these documents or for as many as `candidates`. Costs nothing."""
        request = convert.estimate_request(query, documents, candidates, tokens_per_document, query_tokens, options)
        return self._call(self._rerank.Estimate, request, reader(Estimate), options)

    def compare(
        self,
        query: str,
        documents: Iterable[DocumentLike],
        contenders: Sequence[str | Sequence[Stage] | Contender],
        *,
        overlap_at: Sequence[int] = (),
        **options: Unpack[SharedOptions],
    ) -> Comparison:
        """Set pipelines side by side. A contender is the name of one, stages, or either with a label."""
        request = convert.compare_request(query, documents, contenders, overlap_at, options)
        return self._call(self._rerank.Compare, request, reader(Comparison), options)

    def search(self, collection: str, query: str, **options: Unpack[SearchOptions]) -> SearchResult:
        """Find documents of a collection and put them in order."""
        request = convert.search_request(collection, query, options)
        return self._call(self._search.Search, request, reader(SearchResult), options)

    # --- collections --------------------------------------------------------------------------------------------

    def create_collection(
        self,
        name: str,
        *,
        encoder: str = "",
        token_vectors: bool = False,
        chunking: Chunking | None = None,
        **options: Unpack[CallOptions],
    ) -> Collection:
        """Make a collection, or return the one that is there with these settings."""
        request = convert.create_request(Collection(name, encoder, token_vectors, chunking))
        return self._call(self._index.CreateCollection, request, convert.read_collection, options)

    def get_collection(self, name: str, **options: Unpack[CallOptions]) -> Collection:
        """Tell of a collection."""
        request = index_service_pb2.GetCollectionRequest(name=name)
        return self._call(self._index.GetCollection, request, convert.read_collection, options)

    def list_collections(self, **options: Unpack[CallOptions]) -> tuple[Collection, ...]:
        """Tell of all collections, by name."""
        request = index_service_pb2.ListCollectionsRequest()
        return self._pages(self._index.ListCollections, request, "collections", Collection, options)

    def delete_collection(self, name: str, **options: Unpack[CallOptions]) -> None:
        """Remove a collection and all that is in it."""
        request = index_service_pb2.DeleteCollectionRequest(name=name)
        self._call(self._index.DeleteCollection, request, convert.read_nothing, options)

    def stats(self, collection: str, **options: Unpack[CallOptions]) -> CollectionStats:
        """Count what is in a collection."""
        request = index_service_pb2.GetCollectionStatsRequest(name=collection)
        return self._call(self._index.GetCollectionStats, request, reader(CollectionStats), options)

    def upsert(
        self,
        collection: str,
        documents: Iterable[DocumentLike],
        *,
        call_documents: int = 1024,
        on_acknowledged: Progress | None = None,
        **options: Unpack[CallOptions],
    ) -> Upserted:
        """Put documents into a collection, in place of those with the same ids.

        Documents that are refused do not stop the others; `errors` has them. Sending all of them again after an error
        does no harm.

        Args:
            collection: that exists.
            documents: any number; each needs an id.
            call_documents: how many go in one call. What a call acknowledges is on the disk.
            on_acknowledged: called after each call with what is done so far.
            options: of each of the calls.

        """
        done = Upserted()
        source = iter(documents)
        while chunk := list(itertools.islice(source, call_documents)):
            outgoing = self._settings.outgoing(options, endless=True)
            requests = convert.upsert_requests(collection, chunk, done.documents)
            with convert.translated(outgoing.request_id):
                response = self._index.UpsertDocuments(
                    iter(requests), timeout=outgoing.timeout_s, metadata=outgoing.metadata
                )
            done = convert.read_upserted(response, done, outgoing.request_id)
            if on_acknowledged is not None:
                on_acknowledged(done)
        return done

    def get(self, collection: str, ids: Iterable[str], **options: Unpack[CallOptions]) -> Fetched:
        """Give documents back as they are stored."""
        request = index_service_pb2.GetDocumentsRequest(collection=collection, ids=ids)
        return self._call(self._index.GetDocuments, request, reader(Fetched), options)

    def delete(self, collection: str, ids: Iterable[str], **options: Unpack[CallOptions]) -> Deleted:
        """Remove documents."""
        request = index_service_pb2.DeleteDocumentsRequest(collection=collection, ids=ids)
        return self._call(self._index.DeleteDocuments, request, reader(Deleted), options)

    # --- the catalogue ------------------------------------------------------------------------------------------

    def list_pipelines(self, **options: Unpack[CallOptions]) -> tuple[Pipeline, ...]:
        """Tell of the pipelines, by name."""
        request = catalog_service_pb2.ListPipelinesRequest()
        return self._pages(self._catalog.ListPipelines, request, "pipelines", Pipeline, options)

    def list_strategies(self, **options: Unpack[CallOptions]) -> tuple[Strategy, ...]:
        """Tell of the strategies that are installed, by name."""
        request = catalog_service_pb2.ListStrategiesRequest()
        return self._pages(self._catalog.ListStrategies, request, "strategies", Strategy, options)

    def list_models(self, **options: Unpack[CallOptions]) -> tuple[Model, ...]:
        """Tell of the models that are configured, by name."""
        request = catalog_service_pb2.ListModelsRequest()
        return self._pages(self._catalog.ListModels, request, "models", Model, options)

    def limits(self, **options: Unpack[CallOptions]) -> Limits:
        """Tell how much of everything a request may have."""
        return self._call(self._catalog.GetLimits, catalog_service_pb2.GetLimitsRequest(), reader(Limits), options)

    # --- input and output ---------------------------------------------------------------------------------------

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        result: Callable[[ResponseT, str], ResultT],
        options: CallOptions,
    ) -> ResultT:
        outgoing = self._settings.outgoing(options)
        with convert.translated(outgoing.request_id):
            response = method(request, timeout=outgoing.timeout_s, metadata=outgoing.metadata)
        return result(response, outgoing.request_id)

    def _pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        items: str,
        cls: type[ResultT],
        options: CallOptions,
    ) -> tuple[ResultT, ...]:
        found: list[ResultT] = []
        while True:
            page = self._call(method, request, convert.read_page(items, cls), options)
            found += page.items
            if not page.next_page_token:
                return tuple(found)
            request = convert.next_page(request, page.next_page_token)


class _Feed(Iterator[rerank_service_pb2.BatchRerankRequest]):
    """Hands requests to gRPC's thread while fewer than a window of them wait for their answers."""

    def __init__(self, requests: Iterator[rerank_service_pb2.BatchRerankRequest], window: int) -> None:
        self._requests = requests
        self._places = threading.Semaphore(convert.checked_window(window))
        self._closed = False
        self.error: Exception | None = None

    def __next__(self) -> rerank_service_pb2.BatchRerankRequest:
        self._places.acquire()
        if self._closed:
            raise StopIteration
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:  # the caller's own; it is raised again where the caller can see it
            self.error = error
            raise StopIteration from error

    def answered(self) -> None:
        self._places.release()

    def close(self) -> None:
        """Let go of the thread that waits for a place."""
        self._closed = True
        self._places.release()
