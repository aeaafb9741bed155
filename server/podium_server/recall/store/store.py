"""The durable truth: one SQLite file (WAL, synchronous=FULL) under the data directory.

What a committed transaction holds survives `kill -9` and the loss of power. One connection writes, under a lock; every
thread reads through its own, and never waits for the writer. Ids of passages are never used twice, and a passage never
changes: a document that is replaced gets new ones. That is what lets the indexes in memory follow by additions and
removals alone.

    collections   name, encoder and its revision, settings; counts; `generation`, one up with each change
    documents     id (`key`), digest, metadata as JSON; narrow, because filters read all of them
    contents      the text or the fields of each document
    chunks        passages: where they stand, and their text where a document has several
    chunk_index   of each passage the pooled vector (float32) and its terms with their counts
    chunk_tokens  of each passage the token vectors, int8 with a scale each, where the collection keeps them

Pages have 8 KiB and are read through mmap: 100 passages × 130 tokens × 384 dimensions come in 1.7 ms, against 3.3 ms
with SQLite's defaults.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from podium_server.errors import AlreadyExists, QuotaExceeded, StoreError, StoreFull
from podium_server.recall.limits import RecallLimits
from podium_server.recall.settings import CollectionSettings
from podium_server.recall.store.batch import Changes, remove_document
from podium_server.recall.store.reader import Reader
from podium_server.recall.store.rows import CollectionRow, PreparedDocument, Written

SCHEMA_VERSION = 1
FILE_NAME = "podium.sqlite"
LOCK_NAME = "podium.lock"

_APPLICATION_ID = 0x506F6469  # "Podi"
_PAGE_BYTES = 8192
_MMAP_BYTES = 1 << 40  # SQLite cuts it to what it was built for
_CHECKPOINT_PAGES = 4096  # 32 MiB
_PURGED_AT_A_TIME = 500

_SCHEMA = """
CREATE TABLE collections (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, encoder TEXT NOT NULL, revision TEXT NOT NULL,
    dim INTEGER NOT NULL, chunk_tokens INTEGER NOT NULL, overlap_tokens INTEGER NOT NULL,
    token_vectors INTEGER NOT NULL, created_s REAL NOT NULL, updated_s REAL, generation INTEGER NOT NULL DEFAULT 0,
    documents INTEGER NOT NULL DEFAULT 0, chunks INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0, loss_sum REAL NOT NULL DEFAULT 0, loss_count INTEGER NOT NULL DEFAULT 0,
    index_token TEXT);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,
    stream BLOB NOT NULL, chunks INTEGER NOT NULL, tokens INTEGER NOT NULL, bytes INTEGER NOT NULL,
    metadata TEXT NOT NULL, UNIQUE (collection, key));
CREATE TABLE contents (document INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, ordinal INTEGER NOT NULL, start INTEGER NOT NULL,
    stop INTEGER NOT NULL, text TEXT);
CREATE INDEX chunks_of_document ON chunks (document);
CREATE TABLE chunk_index (
    chunk INTEGER PRIMARY KEY, collection INTEGER NOT NULL, document INTEGER NOT NULL, length INTEGER NOT NULL,
    terms BLOB NOT NULL, counts BLOB NOT NULL, vector BLOB NOT NULL);
CREATE INDEX chunk_index_of_collection ON chunk_index (collection);
CREATE TABLE chunk_tokens (chunk INTEGER PRIMARY KEY, scales BLOB NOT NULL, codes BLOB NOT NULL);
"""


class Store:
    """One open store. Thread-safe. Use `Store.open`."""

    def __init__(self, path: Path, lock_fd: int, limits: RecallLimits) -> None:
        self.path = path
        self._lock_fd = lock_fd
        self._limits = limits
        self._write_lock = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._readers_lock = threading.Lock()
        self._local = threading.local()
        self._closed = False
        self._writer = self._connect()

    @classmethod
    def open(cls, data_dir: Path, limits: RecallLimits) -> Store:
        """Open the store in a directory, making both where they are not there.

        Raises:
            StoreError: another server holds it, another version wrote it, it is damaged, or it cannot be reached.
            StoreFull: there is no room even to make it.

        """
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{data_dir}: the data directory cannot be used: {error.strerror}") from error
        try:
            _lock(lock_fd, data_dir)
            with _translated(data_dir / FILE_NAME):
                store = cls(data_dir / FILE_NAME, lock_fd, limits)
                try:
                    store._prepare()
                except BaseException:
                    store._writer.close()
                    raise
        except BaseException:
            os.close(lock_fd)
            raise
        # The names of the files must survive too.
        directory = os.open(data_dir, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return store

    def close(self) -> None:
        """Close the store and let others open it. No call may be under way."""
        if self._closed:
            return
        self._closed = True
        with self._readers_lock:
            for connection in self._readers:
                connection.close()
            self._readers.clear()
        with self._write_lock:
            self._writer.close()
        os.close(self._lock_fd)

    # --- connections --------------------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=10.0, cached_statements=256
        )
        connection.execute(f"PRAGMA mmap_size = {_MMAP_BYTES}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _prepare(self) -> None:
        version = int(self._writer.execute("PRAGMA user_version").fetchone()[0])
        application = int(self._writer.execute("PRAGMA application_id").fetchone()[0])
        empty = not self._writer.execute("SELECT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]
        if not empty and application != _APPLICATION_ID:
            raise StoreError(f"{self.path} is a database of another program; give Podium a data directory of its own")
        if not empty and version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by store version {version}, and this Podium reads version {SCHEMA_VERSION}. "
                "Run the Podium that wrote it, or index again into another data directory",
                metadata={"store_version": str(version), "supported_version": str(SCHEMA_VERSION)},
            )
        if empty:
            self._writer.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        self._writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        self._writer.execute(f"PRAGMA journal_size_limit = {4 * _CHECKPOINT_PAGES * _PAGE_BYTES}")
        if self._limits.store_bytes is not None:
            page_bytes = int(self._writer.execute("PRAGMA page_size").fetchone()[0])
            self._writer.execute(f"PRAGMA max_page_count = {max(self._limits.store_bytes // page_bytes, 1)}")
        if empty:
            with self._transaction() as writer:
                for statement in _SCHEMA.split(";"):
                    writer.execute(statement)
                writer.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write, all or nothing. When it ends without an error, it is on the disk."""
        with _translated(self.path), self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself, as it does when the disk is full.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Read one state of the store, whatever is written meanwhile, in the calling thread."""
        with _translated(self.path):
            reader: Reader | None = getattr(self._local, "reader", None)
            if reader is None:
                connection = self._connect()
                connection.execute("PRAGMA query_only = 1")
                with self._readers_lock:
                    self._readers.append(connection)
                reader = self._local.reader = Reader(connection)
            reader.connection.execute("BEGIN")
            try:
                yield reader
            finally:
                reader.connection.execute("ROLLBACK")

    # --- collections --------------------------------------------------------------------------------------------

    def create(self, name: str, settings: CollectionSettings, *, revision: str, dim: int) -> CollectionRow:
        """Make a collection; one that is there with the same settings is returned as it is.

        Raises:
            AlreadyExists: it is there with other settings.
            QuotaExceeded: there are too many.

        """
        with self._transaction() as writer:
            reader = Reader(writer)
            existing = reader.find(name)
            if existing is not None:
                if existing.settings != settings:
                    raise AlreadyExists(
                        f"the collection {name!r} exists with {existing.settings}, not {settings}; "
                        "delete it first, or choose another name"
                    )
                return existing
            if len(reader.names()) >= self._limits.collections:
                raise QuotaExceeded(
                    f"there are {self._limits.collections:,} collections, which is the limit; delete one",
                    metadata={"limit": "collections"},
                )
            writer.execute(
                "INSERT INTO collections (name, encoder, revision, dim, chunk_tokens, overlap_tokens, token_vectors,"
                " created_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name, settings.encoder, revision, dim, settings.chunk_tokens, settings.overlap_tokens,
                    settings.token_vectors, time.time(),
                ),
            )  # fmt: skip
            return reader.collection(name)

    def drop(self, name: str) -> int:
        """Make a collection disappear, and return its id. Its rows stay until `purge` has removed them.

        Raises:
            NotFound: there is none of that name.

        """
        with self._transaction() as writer:
            row = Reader(writer).collection(name)
            writer.execute("UPDATE collections SET name = NULL, index_token = NULL WHERE id = ?", (row.id,))
            return row.id

    def purge(self) -> bool:
        """Remove some rows of dropped collections, in one bounded transaction; return whether there are more."""
        with self._transaction() as writer:
            dropped = writer.execute("SELECT id FROM collections WHERE name IS NULL LIMIT 1").fetchone()
            if dropped is None:
                return False
            ids = [
                row[0]
                for row in writer.execute(
                    "SELECT id FROM documents WHERE collection = ? LIMIT ?", (dropped[0], _PURGED_AT_A_TIME)
                )
            ]
            for document in ids:
                remove_document(writer, document)
            if len(ids) < _PURGED_AT_A_TIME:
                writer.execute("DELETE FROM collections WHERE id = ?", dropped)
            return True

    def mark_index(self, collection: int, token: str) -> None:
        """Remember which index file belongs to a collection."""
        with self._transaction() as writer:
            writer.execute("UPDATE collections SET index_token = ? WHERE id = ?", (token, collection))

    # --- documents ----------------------------------------------------------------------------------------------

    def write(self, collection: int, prepared: Sequence[PreparedDocument], *, stream: bytes) -> Written:
        """Write a batch in one transaction. When this returns, it is on the disk.

        Args:
            collection: its id.
            prepared: the documents, each id once.
            stream: 16 bytes that stand for the caller's stream, to know what it wrote before.

        Raises:
            NotFound: the collection is gone.
            StoreFull: the disk is full; nothing of this batch is written.

        """
        with self._transaction() as writer:
            batch = Changes(writer, Reader(writer).by_id(collection), stream, self._limits)
            for document in prepared:
                batch.put(document)
            return batch.end()

    def remove(self, collection: int, keys: Sequence[str]) -> tuple[tuple[str, ...], Written]:
        """Remove documents in one transaction, and return the ids of those that were there.

        Raises:
            NotFound: the collection is gone.

        """
        with self._transaction() as writer:
            batch = Changes(writer, Reader(writer).by_id(collection), b"", self._limits)
            removed = tuple(key for key in keys if batch.take_out(key))
            return removed, batch.end()


def _lock(fd: int, data_dir: Path) -> None:
    """Take the directory for this process. The kernel gives it back when the process ends, however it ends."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise StoreError(
            f"{data_dir} is in use by process {holder}; stop that server, or give this one another data directory",
            metadata={"pid": holder},
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what SQLite says of the disk into errors of ours. A mistake in our SQL stays what it is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        match code and code & 0xFF:
            case sqlite3.SQLITE_FULL:
                raise StoreFull(
                    f"{path}: there is no room left on the disk (or limits.store_bytes is reached). Nothing that was "
                    "acknowledged is lost. Make room, and send again what was not"
                ) from error
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                raise StoreError(
                    f"{path} is damaged ({error}); restore the data directory from a backup, "
                    "or index again into another"
                ) from error
            case (
                sqlite3.SQLITE_IOERR
                | sqlite3.SQLITE_CANTOPEN
                | sqlite3.SQLITE_READONLY
                | sqlite3.SQLITE_PERM
                | sqlite3.SQLITE_BUSY
                | sqlite3.SQLITE_LOCKED
            ):
                raise StoreError(f"{path} cannot be used: {error} ({error.sqlite_errorname})") from error
        raise
