"""The collections that are in memory: loaded when they are first needed, and read in step with the store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from podium_server.errors import NotFound, Overloaded
from podium_server.recall.shard import Shard, Snapshot
from podium_server.recall.store.reader import Reader
from podium_server.recall.store.rows import CollectionRow, Written
from podium_server.recall.store.store import Store
from podium_server.recall.vectors import VectorSettings

_STATES_TRIED = 1_000


class Shards:
    """The shards of a store. Thread-safe; who writes or deletes holds a lock of its own around both halves.

    Args:
        store: whose rows they are made of.
        indexes: the folder of their index files.
        settings: how vectors are searched.

    """

    def __init__(self, store: Store, indexes: Path, settings: VectorSettings) -> None:
        self._store = store
        self._indexes = indexes
        self._settings = settings
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="podium-recall-build")
        self._loaded: dict[int, Shard] = {}
        self._loading: dict[int, threading.Lock] = {}
        self._lock = threading.Lock()
        self._forget_files()

    def close(self) -> None:
        """Keep the indexes on the disk. No call may be under way."""
        for shard in self._loaded.values():
            shard.close()
        self._builder.shutdown()

    def of(self, row: CollectionRow) -> Shard:
        """Return a collection in memory, loading it where nobody has yet.

        Raises:
            NotFound: it was deleted meanwhile.

        """
        shard = self._loaded.get(row.id)
        if shard is not None:
            return shard
        with self._lock:
            lock = self._loading.setdefault(row.id, threading.Lock())
        with lock:
            shard = self._loaded.get(row.id)
            if shard is None:
                try:
                    shard = self._load(row.id)
                except NotFound:
                    self.forget(row.id)
                    raise
        return shard

    def state(self, name: str) -> tuple[CollectionRow, Snapshot]:
        """Return a collection's row and indexes of one and the same state; raises what `reading` raises."""
        with self.reading(name) as (_, row, snapshot):
            return row, snapshot

    @contextmanager
    def reading(self, name: str) -> Iterator[tuple[Reader, CollectionRow, Snapshot]]:
        """Read rows and indexes of one and the same state.

        Raises:
            NotFound: there is no collection of that name.
            Overloaded: it changes faster than it can be read.

        """
        for _ in range(_STATES_TRIED):
            with self._store.reading() as reader:
                row = reader.collection(name)
            shard = self.of(row)
            with self._store.reading() as reader:
                row = reader.collection(name)
                # A writer may have gone on between the two, or made the collection anew.
                snapshot = shard.at(row.generation) if shard is self._loaded.get(row.id) else None
                if snapshot is not None:
                    yield reader, row, snapshot
                    return
        raise Overloaded(f"the collection {name!r} changes faster than it can be read", retry_after_s=1.0)

    def publish(self, collection: int, shard: Shard, written: Written) -> None:
        """Show what was written to the next search."""
        if not written.delta.chunks and not written.delta.removed:
            return
        try:
            shard.publish(written.generation, written.delta)
        except BaseException:
            # What is in memory no longer is what is on the disk. The next search loads it again.
            self._loaded.pop(collection, None)
            shard.abandon()
            raise

    def forget(self, collection: int) -> None:
        """Let go of a collection that is gone, and remove its index file."""
        with self._lock:
            shard = self._loaded.pop(collection, None)
            self._loading.pop(collection, None)
        if shard is not None:
            shard.abandon()
        self._index_file(collection).unlink(missing_ok=True)

    def _load(self, collection: int) -> Shard:
        with self._store.reading() as reader:
            row = reader.by_id(collection)
            shard = Shard(
                row,
                reader.load(row),
                self._settings,
                file=self._index_file(collection),
                mark=lambda token: self._store.mark_index(collection, token),
                builder=self._builder,
            )
        with self._lock:
            self._loaded[collection] = shard
        # Whoever deleted it until now may have found nothing to forget; whoever deletes it from now on finds it.
        with self._store.reading() as reader:
            reader.by_id(collection)
        return shard

    def _index_file(self, collection: int) -> Path:
        return self._indexes / f"{collection}.faiss"

    def _forget_files(self) -> None:
        """Remove index files of collections that are gone, and halves of files."""
        with self._store.reading() as reader:
            known = {self._index_file(row.id) for row in reader.collections()}
        for file in self._indexes.glob("*"):
            if file not in known and file.suffix in (".faiss", ".tmp"):
                file.unlink(missing_ok=True)
