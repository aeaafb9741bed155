"""What tenants have used in each window, durably: one SQLite file for all processes of a server.

A process does not enter what each request used; it takes advances. What is advanced is entered as used, on the disk
(`synchronous=FULL`), before any of it can be spent, and what is left over is given back. So a crash never makes room:
it leaves the rest of an advance entered although nobody spent it. No request waits for the disk as long as its process
has an advance, and a thread of its own writes all that came in since its last commit as one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from podium_server.access.windows import Quota
from podium_server.errors import PodiumError, StoreError, StoreFull

log = logging.getLogger(__name__)

FILE_NAME = "quotas.sqlite"
# Of what is left of a window: small enough that four processes with an idle advance each hold back a quarter at most.
ADVANCE_PART = 16

_BUSY_S = 5.0
_TOGETHER_MAX = 512
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS used (
  tenant TEXT NOT NULL, unit TEXT NOT NULL, per TEXT NOT NULL, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
  amount INTEGER NOT NULL,
  PRIMARY KEY (tenant, unit, per, start_s)
) STRICT, WITHOUT ROWID
"""
# Longer than a month that is told of afterwards; minutes of a day ago tell nobody anything.
_KEPT_S = {"minute": 86_400, "hour": 7 * 86_400, "day": 400 * 86_400, "month": 1200 * 86_400}


@dataclass(frozen=True, slots=True)
class Place:
    """A quota in one window."""

    quota: Quota
    start_s: int
    end_s: int


@dataclass(frozen=True, slots=True)
class Advance:
    """What was asked of a place and got: at least `need`, or nothing, with what was left instead."""

    granted: int
    left: int


_Job: TypeAlias = Callable[[sqlite3.Connection], Advance]


@dataclass(frozen=True, slots=True)
class _Order:
    job: _Job
    done: asyncio.Future[Advance]
    loop: asyncio.AbstractEventLoop


class Treasury:
    """Keeps the file. Methods are called in the event loop, and do their work in the treasury's thread.

    Args:
        path: of the file, which is made where it is not there.

    Raises:
        StoreError: it cannot be opened.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = 0
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._prepare()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path}: quotas cannot be kept: {error}") from error
        self._thread = threading.Thread(target=self._work, name="podium-quotas", daemon=True)
        self._thread.start()

    def _prepare(self) -> None:
        # The first of several processes makes it; the others wait here.
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        with contextlib.closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            version = cursor.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _SCHEMA_VERSION):
                cursor.execute("ROLLBACK")
                raise StoreError(f"{self.path}: is version {version}, and this Podium reads {_SCHEMA_VERSION}")
            cursor.execute(_SCHEMA)
            cursor.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
            for per, kept_s in _KEPT_S.items():
                cursor.execute("DELETE FROM used WHERE per = ? AND end_s < unixepoch() - ?", (per, kept_s))
            cursor.execute("COMMIT")

    async def advance(self, place: Place, need: int) -> Advance:
        """Enter at least `need` as used, and a part of what is left beyond it, and return how much that is.

        Nothing is entered where less than `need` is left. When the caller is cancelled, it is done all the same.

        Raises:
            StoreFull, StoreError: nothing was entered, as far as is known.

        """

        def take(connection: sqlite3.Connection) -> Advance:
            left = place.quota.limit - _used(connection, place)
            if left < need:
                return Advance(0, max(left, 0))
            granted = min(left, need + (left - need) // ADVANCE_PART)
            _enter(connection, place, granted)
            return Advance(granted, left - granted)

        return await self._order(take)

    async def give_back(self, place: Place, amount: int) -> None:
        """Enter that so much of what was advanced was not used; a negative amount was used beyond it."""

        def give(connection: sqlite3.Connection) -> Advance:
            _enter(connection, place, -amount)
            return Advance(0, 0)

        await self._order(give)

    async def used(self, place: Place) -> int:
        """Return what is entered as used: spent, or advanced to a process."""

        def look(connection: sqlite3.Connection) -> Advance:
            return Advance(_used(connection, place), 0)

        return (await self._order(look)).granted

    async def aclose(self) -> None:
        """Do what was ordered, and close the file."""
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _order(self, job: _Job) -> asyncio.Future[Advance]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Advance] = loop.create_future()
        self._orders.put(_Order(job, done, loop))
        return done

    def _work(self) -> None:
        while (first := self._orders.get()) is not None:
            orders = [first]
            last = False
            with contextlib.suppress(queue.Empty):
                while len(orders) < _TOGETHER_MAX:
                    more = self._orders.get_nowait()
                    if more is None:
                        last = True
                        break
                    orders.append(more)
            self._commit(orders)
            if last:
                return

    def _commit(self, orders: list[_Order]) -> None:
        """Do what was ordered in one transaction, and tell everyone when it is on the disk."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = [order.job(self._connection) for order in orders]
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 – told to whoever waits; the thread works for others, too
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            failure = self._failure(error)
            for order in orders:
                _tell(order, failure)
            return
        self.commits += 1
        for order, result in zip(orders, results, strict=True):
            _tell(order, result)

    def _failure(self, error: Exception) -> PodiumError:
        log.error("quotas cannot be kept: %s", error, extra={"file": str(self.path)})
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return StoreFull("the disk is full, and what this request uses could not be entered; nothing was asked")
        return StoreError("what this request uses could not be entered; nothing was asked, and the log says more")


def _tell(order: _Order, result: Advance | PodiumError) -> None:
    def tell() -> None:
        if order.done.done():
            return
        if isinstance(result, PodiumError):
            # One for each, as each gets a traceback of its own.
            order.done.set_exception(type(result)(result.message))
        else:
            order.done.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        order.loop.call_soon_threadsafe(tell)


def _key(place: Place) -> tuple[str, str, str, int]:
    return place.quota.tenant, place.quota.unit, place.quota.per, place.start_s


def _used(connection: sqlite3.Connection, place: Place) -> int:
    row = connection.execute(
        "SELECT amount FROM used WHERE tenant = ? AND unit = ? AND per = ? AND start_s = ?", _key(place)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _enter(connection: sqlite3.Connection, place: Place, amount: int) -> None:
    connection.execute(
        "INSERT INTO used VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (tenant, unit, per, start_s) DO UPDATE SET amount = max(amount + excluded.amount, 0)",
        (*_key(place), place.end_s, amount),
    )
