"""The face of recall that the server uses: the engine, off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Generic, Self, TypeVar

from podium_server.errors import Overloaded, PodiumError
from podium_server.recall.batches import Acknowledged, Batch
from podium_server.recall.document import Document
from podium_server.recall.encoding import Encoder, Floats, Quantize
from podium_server.recall.engine import CollectionStats, Engine, new_stream
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import Recalled, RecallQuery
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.store.rows import CollectionRow
from podium_server.recall.token_vectors import TokenVectors
from podium_server.recall.vectors import VectorSettings

log = logging.getLogger(__name__)

LINGER_S = 0.02
"""A batch that is not full waits so long for the next document: long beside a message, short beside a commit."""

_RETRY_AFTER_S = 0.2
_BATCHES_AHEAD = 2

A = TypeVar("A")
B = TypeVar("B")


class Collections:
    """All collections of one data directory. A `Retriever`, and all that fills it.

    Searches, writes and encoding have threads of their own: none waits for the others. Opening blocks, but briefly:
    collections are loaded by `warm`, or by the first search of each.

    Args:
        data_dir: of this server alone; made where it is not there.
        encoder_of: gives the encoder of a configured name. Called in threads of ours, may block, raises NotFound.
        limits: bounds; None takes the defaults.
        vector_settings: how vectors are searched; None takes the defaults.
        quantize: token vectors to 8 bits; None refuses collections that keep them.

    Raises:
        StoreError: another server holds it, another version wrote it, it is damaged, or it cannot be reached.

    """

    def __init__(
        self,
        data_dir: Path,
        encoder_of: Callable[[str], Encoder],
        limits: RecallLimits | None = None,
        *,
        vector_settings: VectorSettings | None = None,
        quantize: Quantize | None = None,
    ) -> None:
        self.engine = Engine(
            data_dir, encoder_of, limits or RecallLimits(), vector_settings or VectorSettings(), quantize
        )
        self._waiting = 0
        self._searchers = ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="podium-recall-search")
        # One thread each: SQLite has one writer, and an encoder fills the cores by itself.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="podium-recall-write")
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="podium-recall-encode")
        self._purging: asyncio.Task[None] | None = None

    async def aclose(self) -> None:
        """Wait for what is under way, keep the indexes, and close the store."""
        if self._purging is not None:
            self._purging.cancel()
            await asyncio.wait((self._purging,))
        for pool in (self._preparer, self._writer, self._searchers):
            await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(self.engine.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def warm(self) -> None:
        """Load all collections into memory, and go on with removing what was being removed."""
        self._purge()
        await self._run(self._searchers, self.engine.warm)

    # --- collections --------------------------------------------------------------------------------------------

    async def create(self, name: str, settings: CollectionSettings, *, namespace: str = "") -> CollectionRow:
        """Make a collection. See `Engine.create`."""
        return await self._run(self._writer, lambda: self.engine.create(name, settings, namespace=namespace))

    async def get(self, name: str) -> CollectionRow:
        """Return a collection. See `Engine.get`."""
        return await self._run(self._searchers, lambda: self.engine.get(name))

    async def list(self) -> tuple[CollectionRow, ...]:
        """Return all collections, by name."""
        return await self._run(self._searchers, self.engine.list)

    async def delete(self, name: str) -> None:
        """Remove a collection. See `Engine.delete`."""
        await self._run(self._writer, lambda: self.engine.delete(name))
        self._purge()

    async def stats(self, name: str) -> CollectionStats:
        """Count what is in a collection. See `Engine.stats`."""
        return await self._run(self._searchers, lambda: self.engine.stats(name))

    # --- documents ----------------------------------------------------------------------------------------------

    async def upsert(self, collection: str, documents: AsyncIterator[Document]) -> AsyncGenerator[Acknowledged, None]:
        """Put documents into a collection, and yield an acknowledgement for each batch once it is on the disk.

        While one batch is written the next is encoded and the one after it gathered; no more is taken from
        `documents` than that. A refused document does not stop the others. Close the iterator to stop: what was
        acknowledged is kept, what was not may be.

        Raises:
            NotFound: there is no such collection.
            FailedPrecondition: it was made with another encoder.
            StoreFull: the disk is full. What was acknowledged is kept.
            PodiumError: the encoder failed.

        """
        # Also for a stream without documents.
        await self.get(collection)
        engine, stream = self.engine, new_stream()

        async def prepare(numbered: list[tuple[int, Document]]) -> Batch:
            return await self._run(self._preparer, lambda: engine.prepare(collection, numbered))

        async def write(batch: Batch) -> Acknowledged:
            return await self._run(self._writer, lambda: engine.write(batch, stream=stream))

        async with (
            _Stage(_batches(documents, engine.limits), prepare) as batches,
            _Stage(batches, write) as acknowledged,
        ):
            async for one in acknowledged:
                yield one

    async def get_documents(self, collection: str, ids: Sequence[str]) -> tuple[tuple[Document, ...], tuple[str, ...]]:
        """Return documents as they are stored, and the ids that are not there. See `Engine.get_documents`."""
        return await self._run(self._searchers, lambda: self.engine.get_documents(collection, ids))

    async def delete_documents(self, collection: str, ids: Sequence[str]) -> tuple[int, tuple[str, ...]]:
        """Remove documents; return how many, and the ids that were not there. See `Engine.delete_documents`."""
        return await self._run(self._writer, lambda: self.engine.delete_documents(collection, ids))

    # --- searching ----------------------------------------------------------------------------------------------

    async def retrieve(self, query: RecallQuery) -> Recalled:
        """Return the best documents for a query. See `Engine.search`."""
        return await self._run(self._searchers, lambda: self.engine.search(query))

    async def vectors(self, collection: str, chunks: Sequence[int]) -> Floats:
        """Return (n, dim) the pooled vectors of passages. See `Engine.vectors`."""
        return await self._run(self._searchers, lambda: self.engine.vectors(collection, chunks))

    async def token_vectors(self, collection: str, chunks: Sequence[int]) -> TokenVectors | None:
        """Return the token vectors of passages, or None where none are kept. See `Engine.token_vectors`."""
        return await self._run(self._searchers, lambda: self.engine.token_vectors(collection, chunks))

    # --- inside -------------------------------------------------------------------------------------------------

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], A]) -> A:
        if self._waiting >= self.engine.limits.waiting:
            raise Overloaded(
                f"{self._waiting} calls wait for the store, which is its limit; try again later",
                retry_after_s=_RETRY_AFTER_S,
                metadata={"limit": "waiting"},
            )
        self._waiting += 1
        try:
            # In the caller's context: an encoder behind an endpoint tells it of the caller's trace.
            return await asyncio.get_running_loop().run_in_executor(pool, copy_context().run, work)
        finally:
            self._waiting -= 1

    def _purge(self) -> None:
        if self._purging is None or self._purging.done():
            self._purging = asyncio.create_task(self._purge_all())

    async def _purge_all(self) -> None:
        # In small transactions, between which others write. What is left over goes when the store is opened again.
        try:
            while await self._run(self._writer, self.engine.purge):
                pass
        except PodiumError as error:
            log.warning("rows of deleted collections stay for now: %s", error.message)


class _Stage(Generic[A, B]):
    """Applies a function to what comes, one at a time and in order, ahead of whoever takes the results.

    An error of the source or of the function is raised after the results before it.
    """

    def __init__(self, source: AsyncIterator[A], function: Callable[[A], Awaitable[B]]) -> None:
        self._source = source
        self._function = function
        self._results: asyncio.Queue[tuple[B] | BaseException | None] = asyncio.Queue(_BATCHES_AHEAD)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncIterator[B]:
        self._task = asyncio.create_task(self._work())
        return self._taken()

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        # Not `suppress(CancelledError)`: whoever leaves may be cancelled, too, and has to hear of it.
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        try:
            async for item in self._source:
                await self._results.put((await self._function(item),))
        except Exception as error:  # noqa: BLE001 – handed on to whoever takes the results, not swallowed
            await self._results.put(error)
        else:
            await self._results.put(None)

    async def _taken(self) -> AsyncIterator[B]:
        while (result := await self._results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result[0]


async def _batches(
    documents: AsyncIterator[Document], limits: RecallLimits
) -> AsyncIterator[list[tuple[int, Document]]]:
    """Gather documents, numbered, until a batch is full or no more come for a moment."""

    async def same(document: Document) -> Document:
        return document

    batch: list[tuple[int, Document]] = []
    size = index = 0
    async with _Stage(documents, same) as coming:
        waiting: asyncio.Task[Document] | None = None
        try:
            while True:
                if waiting is None:
                    waiting = asyncio.ensure_future(anext(coming))
                done, _ = await asyncio.wait((waiting,), timeout=LINGER_S if batch else None)
                if done:
                    ended = isinstance(waiting.exception(), StopAsyncIteration)
                    if ended:
                        break
                    document = waiting.result()
                    waiting = None
                    batch.append((index, document))
                    index += 1
                    # Letters, not bytes: reading a text twice to know exactly is not worth it.
                    size += len(document.full_text)
                if batch and (not done or len(batch) >= limits.batch_documents or size >= limits.batch_bytes):
                    yield batch
                    batch, size = [], 0
        finally:
            if waiting is not None:
                waiting.cancel()
                # Its end is looked at, too: a writer that was cancelled at the same moment has not heard of it.
                await asyncio.gather(waiting, return_exceptions=True)
    if batch:
        yield batch
