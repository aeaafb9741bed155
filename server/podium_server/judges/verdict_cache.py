"""What chat models answered, kept in a SQLite file: a repeated or resumed job pays once.

Keys are hashes of everything that an answer depends on, so that nothing here ever goes stale; what is too much is
forgotten, the oldest first. A crash loses at most the verdicts of the last moments, and never the file. Several
processes may share a file: what one paid for, the others need not.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol

from podium_server.errors import StoreError, StoreFull

logger = logging.getLogger(__name__)

FORMAT = 1
APPLICATION_ID = 0x50_6F_64_56  # "PodV": the file is ours, whatever its name
WRITE_EVERY_S = 0.2
"""One transaction takes what came in this time: a disk's flush costs as much as a thousand rows."""
BATCH_ROWS_MAX = 2_000
WAITING_ROWS_MAX = 50_000
"""Verdicts that wait for the disk. Beyond it new ones are dropped: they cost one more call, one day."""
ROW_OVERHEAD_BYTES = 64
BUSY_WAIT_S = 5.0
"""For another process that writes the same file."""
OWN_SHARE_UNSEEN = 16
"""The file is measured again when we have added a sixteenth of its bounds: others add to it, and forget, too."""


class VerdictCache(Protocol):
    """Remembers what a model answered. Neither method waits for a disk's writing."""

    def get(self, key: bytes) -> tuple[Any, str] | None:
        """Return the answer and its note; None where there is none."""

    def put(self, key: bytes, answer: Any, note: str) -> None:
        """Remember an answer (numbers, and sequences of them)."""


class SqliteVerdictCache:
    """A `VerdictCache` in a file. May be used from any thread; `get` reads a page or two, `put` never waits.

    Args:
        path: of the file; made where there is none.
        bytes_max: of answers, notes and keys together.
        rows_max: verdicts.

    Raises:
        StoreError: the file is corrupt, is no verdict cache, or was written by another version.

    """

    def __init__(self, path: str | Path, *, bytes_max: int = 256 * 1024 * 1024, rows_max: int = 5_000_000) -> None:
        if bytes_max < 1 or rows_max < 1:
            raise ValueError(f"bytes_max is {bytes_max} and rows_max is {rows_max}: at least 1 each")
        self.path = Path(path)
        self.hits = self.misses = 0
        self.dropped = 0
        """Verdicts that were not kept, because the disk was too slow or refused."""
        self._bytes_max = bytes_max
        self._rows_max = rows_max
        self._waiting: dict[bytes, tuple[str, str]] = {}
        self._inbox: SimpleQueue[bytes | threading.Event | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._broken: StoreError | None = None
        self._full = False
        self._reader = self._open()
        self._rows_added = self._bytes_added = 0
        try:
            self._rows, self._bytes = self._measure(self._reader)
        except sqlite3.DatabaseError as error:
            self._reader.close()
            raise self._refusal(error) from error
        self._writer = threading.Thread(target=self._write_until_closed, name="verdict-cache", daemon=True)
        self._writer.start()

    def get(self, key: bytes) -> tuple[Any, str] | None:
        """Return the answer and its note; None where there is none."""
        waiting = self._waiting.get(key)
        if waiting is None:
            with self._lock:
                if self._closed:
                    return None
                try:
                    row = self._reader.execute("SELECT answer, note FROM verdicts WHERE key = ?", (key,)).fetchone()
                except sqlite3.DatabaseError as error:
                    raise self._refusal(error) from error
            if row is None:
                self.misses += 1
                return None
            waiting = (row[0], row[1])
        self.hits += 1
        return json.loads(waiting[0]), waiting[1]

    def put(self, key: bytes, answer: Any, note: str) -> None:
        """Remember an answer (a number, or a sequence of them)."""
        if self._closed or self._broken is not None or len(self._waiting) >= WAITING_ROWS_MAX:
            self.dropped += 1
            return
        verdict = (json.dumps(answer), note.encode("utf-8", "replace").decode("utf-8"))
        if self._waiting.setdefault(key, verdict) is verdict:
            self._inbox.put(key)

    def flush(self) -> None:
        """Wait until everything that was put is in the file."""
        done = threading.Event()
        self._inbox.put(done)
        while not done.wait(0.1):
            if not self._writer.is_alive():
                return

    def close(self) -> None:
        """Write what waits, and close the file."""
        if self._closed:
            return
        self._closed = True
        self._inbox.put(None)
        self._writer.join()
        with self._lock:
            self._reader.close()

    @property
    def sizes(self) -> Mapping[str, int]:
        """Rows and bytes in the file, for metrics."""
        return {"rows": self._rows, "bytes": self._bytes}

    # --- the file ---------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=BUSY_WAIT_S, isolation_level=None, check_same_thread=False, cached_statements=16
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the verdict cache {self.path} cannot be opened: {error}") from error
        try:
            self._prepare(connection)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise self._refusal(error) from error
        except StoreError:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and owner != APPLICATION_ID:
            raise StoreError(f"{self.path} is a database, and no verdict cache; nothing was changed in it")
        if tables and version != FORMAT:
            raise StoreError(
                f"the verdict cache {self.path} has format {version}, and this version of Podium reads {FORMAT}; "
                "delete it or name another file"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL this loses the last transactions when the power goes, and nothing when only the process does.
        connection.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS verdicts (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, "
                    "answer TEXT NOT NULL, note TEXT NOT NULL, bytes INTEGER NOT NULL)"
                )
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _measure(self, connection: sqlite3.Connection) -> tuple[int, int]:
        rows, size = connection.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM verdicts").fetchone()
        return rows, size

    def _refusal(self, error: sqlite3.DatabaseError) -> StoreError:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return StoreFull(f"the disk of the verdict cache {self.path} is full; what was kept stays readable")
        return StoreError(
            f"the verdict cache {self.path} cannot be used: {error}. It holds nothing that cannot be asked again: "
            "delete it (and its -wal and -shm files) and start anew"
        )

    # --- the writer's thread ----------------------------------------------------------------------------------

    def _write_until_closed(self) -> None:
        connection: sqlite3.Connection | None = None
        going = True
        while going:
            keys, events, going = self._gather()
            if keys and self._broken is None:
                try:
                    connection = connection or self._open()
                    self._store(connection, keys)
                    self._full = False
                except sqlite3.DatabaseError as error:
                    self.dropped += len(keys)
                    if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                        self._suffer(self._refusal(error))
                except StoreError as error:
                    self.dropped += len(keys)
                    self._suffer(error)
            for key in keys:
                self._waiting.pop(key, None)
            for event in events:
                event.set()
        if connection is not None:
            connection.close()

    def _suffer(self, error: StoreError) -> None:
        """Keep serving what is in the file, and say once that nothing goes in: until there is room, or for good."""
        if isinstance(error, StoreFull):
            self._rows_added = self._rows_max + 1  # what was counted and rolled back: measure
            if not self._full:
                self._full = True
                logger.error("%s; no more verdicts are kept until there is room", error.message)
            return
        self._broken = error
        logger.error("%s No more verdicts are kept until the next start.", error.message)

    def _gather(self) -> tuple[list[bytes], list[threading.Event], bool]:
        """Wait for something to write, and a moment for more of it; the last value is False at the end."""
        keys: list[bytes] = []
        events: list[threading.Event] = []
        until_s: float | None = None
        while len(keys) < BATCH_ROWS_MAX:
            try:
                entry = self._inbox.get(timeout=None if until_s is None else max(0.0, until_s - monotonic()))
            except Empty:
                break
            if entry is None:
                return keys, events, False
            if isinstance(entry, threading.Event):
                events.append(entry)
                break
            keys.append(entry)
            until_s = until_s or monotonic() + WRITE_EVERY_S
        return keys, events, True

    def _store(self, connection: sqlite3.Connection, keys: list[bytes]) -> None:
        rows = []
        for key in keys:
            answer, note = self._waiting[key]
            rows.append((key, answer, note, len(key) + len(answer) + len(note.encode()) + ROW_OVERHEAD_BYTES))
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for row in rows:
                added = connection.execute(
                    "INSERT OR IGNORE INTO verdicts (key, answer, note, bytes) VALUES (?, ?, ?, ?)", row
                ).rowcount
                self._rows += added
                self._bytes += added * row[3]
                self._rows_added += added
                self._bytes_added += added * row[3]
            self._look_again(connection)
            self._forget(connection)

    def _look_again(self, connection: sqlite3.Connection) -> None:
        """Measure the file, where what we know of it may be far from what is in it."""
        many = self._rows_added > self._rows_max // OWN_SHARE_UNSEEN
        much = self._bytes_added > self._bytes_max // OWN_SHARE_UNSEEN
        if many or much or self._rows > self._rows_max or self._bytes > self._bytes_max:
            self._rows, self._bytes = self._measure(connection)
            self._rows_added = self._bytes_added = 0

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Delete the oldest rows until a tenth of the room is free again, if it was used up."""
        if self._rows <= self._rows_max and self._bytes <= self._bytes_max:
            return
        rows_left, bytes_left = self._rows_max * 9 // 10, self._bytes_max * 9 // 10
        oldest = connection.execute("SELECT number, bytes FROM verdicts ORDER BY number")
        last = None
        for number, size in oldest:
            if self._rows <= rows_left and self._bytes <= bytes_left:
                break
            last = number
            self._rows -= 1
            self._bytes -= size
        oldest.close()
        if last is not None:
            connection.execute("DELETE FROM verdicts WHERE number <= ?", (last,))
