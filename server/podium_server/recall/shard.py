"""A collection in memory: which passages there are, their vectors and their words, and the indexes over them.

A search takes one immutable `Snapshot` and never waits. Whoever writes appends rows, marks removed ones as dead, and
publishes the next snapshot; it carries the generation of the store that it shows, so that a search reads rows and
indexes of the very same state. FAISS indexes are made in the background, over rows that are there already: until one
is ready, and for the newest rows always, vectors are compared one by one.

`python bench/recall.py search` prints (100,000 passages of 49 words, k = 100, two EPYC cores that others use too):

    search, vector                p50 5.9 ms
    search, bm25                  p50 3.9 ms
    search, both                  p50 8.2 ms: vectors 2.1, words 1.6, reading 100 documents 2.0, the rest Python
    both, a tenth allowed         p50 6.3 ms
    opening                       2 ms, and 1.5 s to load
    memory                        201 MiB, of which 146 are the float32 vectors
    on the disk                   277 MiB
    token vectors of 100 passages p50 1.4 ms (130 tokens × 384, int8)
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from podium_server.errors import StoreError
from podium_server.recall import lexical
from podium_server.recall.encoding import Floats
from podium_server.recall.store.rows import CollectionRow, Delta, LoadedRows
from podium_server.recall.vectors import BuildStopped, IndexFileRefused, Proposals, VectorSettings, products

log = logging.getLogger(__name__)

Slots = NDArray[np.int64]
Mask = NDArray[np.bool_]
Ranked = tuple[Slots, Floats]
"""Slots and their scores, the best first; ties by slot."""

PUBLISHED_WITHIN_S = 30.0
"""A transaction is published right after its commit; only a writer that died in between takes longer."""

_GROWTH = 1.5
_EXTENDED_BY = 1 / 8
"""An index takes new rows in when they are this part of it, so that each is copied 8 times at most."""
_FILTERED_ONE_BY_ONE = 20_000
"""Up to so many allowed rows are compared one by one: 20,000 × 384 floats take 3 ms, and miss nothing."""
_SPARSE = 16
"""A graph whose allowed nodes are fewer than one in so many leads nowhere."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of a collection. A slot is a row; slots are numbered anew when dead ones are cleared away.

    Args:
        generation: of the store that it shows.
        epoch: one up when slots are numbered anew.
        chunks: (n,) ids of passages, ascending.
        documents: (n,) whose they are.
        lengths: (n,) in terms.
        vectors: (n, dim) float32.
        alive: (n,) False where the passage is gone.
        dead: how many are.
        postings: the words.
        proposals: FAISS over the first rows; None where there is no index (yet).

    """

    generation: int
    epoch: int
    chunks: NDArray[np.int64]
    documents: NDArray[np.int64]
    lengths: NDArray[np.int32]
    vectors: Floats
    alive: Mask
    dead: int
    postings: tuple[lexical.Postings, ...]
    proposals: Proposals | None

    @property
    def n(self) -> int:
        """Rows, dead ones included."""
        return len(self.chunks)

    @property
    def bytes(self) -> int:
        """About what it takes in memory."""
        index = 0
        if self.proposals is not None:
            graph_bytes = 8 * 32 + 16 if self.proposals.graph else 0
            index = self.proposals.count * (self.vectors.shape[1] + graph_bytes)
        arrays = (self.chunks, self.documents, self.lengths, self.vectors, self.alive)
        return index + sum(array.nbytes for array in arrays) + sum(postings.bytes for postings in self.postings)

    def slots_of(self, chunks: NDArray[np.int64]) -> Slots:
        """Return the slots of passages; -1 where there is none any more. Dead ones are found until they are cleared."""
        if not self.n:
            return np.full(len(chunks), -1, np.int64)
        places = np.minimum(np.searchsorted(self.chunks, chunks), self.n - 1)
        return np.where(self.chunks[places] == chunks, places, -1)

    def allowed(self, documents: NDArray[np.int64] | None) -> Mask | None:
        """Return which slots may be found: alive, and of one of `documents` (None: of any). None allows all."""
        if documents is None:
            return self.alive if self.dead else None
        return self.alive & np.isin(self.documents, documents)

    # --- searching ----------------------------------------------------------------------------------------------

    def nearest(self, query: Floats, k: int, allowed: Mask | None, settings: VectorSettings) -> Ranked:
        """Return the best passages of the k documents nearest to `query` (dim,), each document once.

        All k are found where there are that many. Which ones is exact where all vectors are looked at.
        """
        total = self.n if allowed is None else int(np.count_nonzero(allowed))
        if not total:
            return _nothing()
        wanted = min(k, total)
        while True:
            ranked = self._nearest_chunks(query, wanted, total, allowed, settings)
            best = self._one_for_each_document(ranked, k)
            if len(best[0]) >= k or wanted >= total:
                return best
            # Several passages of one document came: ask for more of them.
            wanted = min(4 * wanted, total)

    def _nearest_chunks(
        self, query: Floats, k: int, total: int, allowed: Mask | None, settings: VectorSettings
    ) -> Ranked:
        proposals = self.proposals
        candidates = settings.rescored * k
        one_by_one = (
            proposals is None
            or candidates >= proposals.count
            or (allowed is not None and total <= _FILTERED_ONE_BY_ONE)
            or (allowed is not None and proposals.graph and total * _SPARSE < self.n)
        )
        if not one_by_one:
            assert proposals is not None
            proposed = proposals.search(query, candidates, allowed)
            # A graph may lose its way among nodes that are not allowed; then nothing is left to chance.
            tail = np.arange(proposals.count, self.n)
            if allowed is not None:
                tail = tail[allowed[proposals.count :]]
            if len(proposed) >= min(candidates, total - len(tail)):
                return _best(
                    np.concatenate((proposed, tail)),
                    np.concatenate((products(self.vectors[proposed], query), self._products(tail, query))),
                    k,
                )
        slots = np.arange(self.n) if allowed is None else np.flatnonzero(allowed)
        return _best(slots, self._products(slots, query), k)

    def _products(self, slots: Slots, query: Floats) -> Floats:
        # Rows that stand together are read where they are, others are copied first.
        if len(slots) and slots[-1] - slots[0] + 1 == len(slots):
            return products(self.vectors[slots[0] : slots[-1] + 1], query)
        return products(self.vectors[slots], query)

    def matching(self, query: NDArray[np.uint64], k: int, allowed: Mask | None) -> Ranked:
        """Return the best passages of the k documents that match words best (BM25), each document once.

        Fewer than k where fewer hold any of the words.
        """
        scores = lexical.scores(self.postings, query, self.lengths)
        found = scores > 0
        if allowed is not None:
            found &= allowed
        slots = np.flatnonzero(found)
        wanted = k
        while True:
            best = self._one_for_each_document(_best(slots, scores[slots], wanted), k)
            if len(best[0]) >= k or wanted >= len(slots):
                return best
            wanted *= 4

    def _one_for_each_document(self, ranked: Ranked, k: int) -> Ranked:
        slots, scores = ranked
        _, first = np.unique(self.documents[slots], return_index=True)
        first = np.sort(first)[:k]
        return slots[first], scores[first]


def _nothing() -> Ranked:
    return np.empty(0, np.int64), np.empty(0, np.float32)


def _best(slots: Slots, scores: Floats, k: int) -> Ranked:
    if len(slots) > k:
        # All that tie with the last are kept for the sort, so that the same state always gives the same order.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least)
        slots, scores = slots[kept], scores[kept]
    order = np.lexsort((slots, -scores))[:k]
    return slots[order], scores[order]


@dataclass(slots=True)
class ShardCounts:
    """What happened to the indexes of a collection since it was opened."""

    built: int = 0
    files_refused: int = 0
    files_loaded: int = 0
    failed: int = 0


@dataclass(slots=True)
class _Columns:
    """Arrays with room behind their end, so that snapshots of different length share them."""

    chunks: NDArray[np.int64]
    documents: NDArray[np.int64]
    lengths: NDArray[np.int32]
    vectors: Floats
    n: int = field(default=0)

    def append(self, delta: Delta) -> None:
        if not delta.chunks:
            return
        end = self.n + len(delta.chunks)
        if end > len(self.chunks):
            room = max(end, int(len(self.chunks) * _GROWTH), 1024)
            for name in ("chunks", "documents", "lengths", "vectors"):
                old = getattr(self, name)
                new = np.empty((room, *old.shape[1:]), old.dtype)
                new[: self.n] = old[: self.n]
                setattr(self, name, new)
        # Nobody reads behind the end that they know.
        self.chunks[self.n : end] = delta.chunks
        self.documents[self.n : end] = delta.documents
        self.lengths[self.n : end] = delta.lengths
        self.vectors[self.n : end] = delta.vectors
        self.n = end


class Shard:
    """A collection in memory. Any thread may search; writers come one at a time, in the order of their commits.

    Args:
        row: the collection, as of the state in `loaded`.
        loaded: its rows.
        settings: of the vector index.
        file: where the index is kept.
        mark: tells the store which index file belongs to the collection.
        builder: a thread in the background.

    """

    def __init__(
        self,
        row: CollectionRow,
        loaded: LoadedRows,
        settings: VectorSettings,
        *,
        file: Path,
        mark: Callable[[str], None],
        builder: Executor,
    ) -> None:
        self.settings = settings
        self.counts = ShardCounts()
        self._name = row.name
        self._file = file
        self._mark = mark
        self._builder = builder
        self._changed = threading.Condition()
        self._building: Future[None] | None = None
        self._saved: tuple[int, int] | None = None
        self._closed = False
        self._columns, alive, proposals = self._restore(row, loaded)
        dead = int(len(alive) - np.count_nonzero(alive))
        terms, counts = loaded.terms, loaded.counts
        if dead:
            nothing = (np.empty(0, np.uint64), np.empty(0, np.uint16))
            places = iter(zip(loaded.terms, loaded.counts, strict=True))
            both = [next(places) if lives else nothing for lives in alive]
            terms, counts = [one for one, _ in both], [other for _, other in both]
        postings = (lexical.transpose(0, terms, counts),) if len(alive) else ()
        self._snapshot = self._shown(row.generation, 0, alive, dead, postings, proposals)
        self._build_if_due()

    @property
    def snapshot(self) -> Snapshot:
        """The newest state."""
        return self._snapshot

    def at(self, generation: int) -> Snapshot | None:
        """Return the state that shows `generation` of the store; None where it has gone by.

        Raises:
            StoreError: it was committed and never published.

        """
        snapshot = self._snapshot
        if snapshot.generation < generation:
            with self._changed:
                published = self._changed.wait_for(
                    lambda: self._snapshot.generation >= generation or self._closed, PUBLISHED_WITHIN_S
                )
                snapshot = self._snapshot
            if not published or snapshot.generation < generation:
                raise StoreError(f"the index of {self._name!r} has not followed the store; restart the server")
        return snapshot if snapshot.generation == generation else None

    def publish(self, generation: int, delta: Delta) -> None:
        """Show what a transaction changed. Called once for each generation, in order, by one thread at a time."""
        with self._changed:
            now = self._snapshot
            self._columns.append(delta)
            alive = np.concatenate((now.alive, np.ones(len(delta.chunks), np.bool_)))
            gone = now.slots_of(np.asarray(delta.removed, np.int64))
            gone = gone[gone >= 0]
            alive[gone] = False
            postings = now.postings
            if delta.chunks:
                postings = lexical.appended(postings, lexical.transpose(now.n, delta.terms, delta.counts))
            dead = now.dead + len(gone)
            self._snapshot = self._shown(generation, now.epoch, alive, dead, postings, now.proposals)
            if dead > self.settings.dead_share * len(alive) and dead >= self.settings.plain_rows // 4:
                self._clear_dead()
            self._changed.notify_all()
        self._build_if_due()

    def close(self) -> None:
        """Wait for a build, keep the index on the disk, and let nobody wait any more."""
        with self._changed:
            self._closed = True
            building = self._building
            self._changed.notify_all()
        if building is not None and not building.cancel():
            building.result()
        self._save()

    def abandon(self) -> None:
        """Let nobody wait any more, and keep nothing: the collection is gone, or will be loaded again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until no index is being built. For tests and benchmarks."""
        while (building := self._building) is not None:
            building.result()

    # --- inside -------------------------------------------------------------------------------------------------

    def _shown(
        self,
        generation: int,
        epoch: int,
        alive: Mask,
        dead: int,
        postings: tuple[lexical.Postings, ...],
        proposals: Proposals | None,
    ) -> Snapshot:
        columns = self._columns
        return Snapshot(
            generation,
            epoch,
            columns.chunks[: columns.n],
            columns.documents[: columns.n],
            columns.lengths[: columns.n],
            columns.vectors[: columns.n],
            alive,
            dead,
            postings,
            proposals,
        )

    def _clear_dead(self) -> None:
        """Number the slots anew without the dead ones. Searches go on with the state that they have."""
        now = self._snapshot
        alive = now.alive
        self._columns = _Columns(
            now.chunks[alive],
            now.documents[alive],
            now.lengths[alive],
            now.vectors[alive],
            int(np.count_nonzero(alive)),
        )
        postings = lexical.compacted(now.postings, alive)
        self._snapshot = self._shown(
            now.generation, now.epoch + 1, np.ones(self._columns.n, np.bool_), 0, postings, None
        )

    def _build_if_due(self) -> None:
        with self._changed:
            if self._building is not None or self._closed or not self._due(self._snapshot):
                return
            self._building = self._builder.submit(self._build)

    def _due(self, snapshot: Snapshot) -> bool:
        covered = 0 if snapshot.proposals is None else snapshot.proposals.count
        return snapshot.n - covered > max(self.settings.plain_rows, covered * _EXTENDED_BY)

    def _build(self) -> None:
        """Make an index over the rows that there are, and show it. Runs in the background."""
        try:
            before = self._snapshot
            rows, settings = before.vectors, self.settings
            old = before.proposals
            if old is not None and old.graph == (len(rows) > settings.exact_up_to):
                proposals = old.extended(rows[old.count :], settings, self._stopped)
            else:
                proposals = Proposals.of(rows, settings, self._stopped)
            with self._changed:
                # Rows that were numbered anew meanwhile are other rows.
                if self._snapshot.epoch == before.epoch:
                    self._snapshot = replace(self._snapshot, proposals=proposals)
                    self.counts.built += 1
            if proposals.graph:
                self._save()
        except BuildStopped:
            return
        except (RuntimeError, MemoryError):
            # FAISS says RuntimeError for whatever it could not do. Searching goes on without an index, only slower.
            log.exception("the vector index of %r could not be made; searching without it", self._name)
            self.counts.failed += 1
            with self._changed:
                self._building = None
            return
        with self._changed:
            self._building = None
        self._build_if_due()

    def _stopped(self) -> bool:
        return self._closed

    def _save(self) -> None:
        now = self._snapshot
        proposals = now.proposals
        if proposals is None or self._saved == (now.epoch, proposals.count):
            return
        token = secrets.token_hex(16)
        try:
            proposals.save(self._file, now.chunks[: proposals.count], token)
            self._mark(token)
        except (OSError, StoreError) as error:
            # It can be made again from the store; a server that stops must not fail for it.
            log.warning("the vector index of %r is not kept, and will be made again: %s", self._name, error)
            return
        self._saved = (now.epoch, proposals.count)

    def _restore(self, row: CollectionRow, loaded: LoadedRows) -> tuple[_Columns, Mask, Proposals | None]:
        """Return the rows, those of the index file first; without a file that can be trusted, just the rows.

        A file that the store knows may be older than the rows: passages never change and their ids are never used
        twice, so that what is missing in it is new, and what it has too many is dead.
        """
        n = len(loaded.chunks)
        plain = _Columns(loaded.chunks, loaded.documents, loaded.lengths, loaded.vectors, n), np.ones(n, np.bool_), None
        try:
            proposals, ids = Proposals.load(self._file, row.index_token, row.dim, self.settings)
            newer = loaded.chunks > ids[-1]
            if not np.isin(loaded.chunks[~newer], ids).all():
                raise IndexFileRefused("it lacks passages that it should have")
        except FileNotFoundError:
            return plain
        except (OSError, IndexFileRefused) as error:
            log.warning("the index file %s is not used: %s; the index is made again", self._file, error)
            self.counts.files_refused += 1
            return plain
        self.counts.files_loaded += 1
        self._saved = (0, proposals.count)
        if len(ids) + int(newer.sum()) == n:
            return plain[0], plain[1], proposals
        chunks = np.concatenate((ids, loaded.chunks[newer]))
        alive = np.isin(chunks, loaded.chunks)
        columns = _Columns(
            chunks,
            np.zeros(len(chunks), np.int64),
            np.zeros(len(chunks), np.int32),
            np.zeros((len(chunks), row.dim), np.float32),
            len(chunks),
        )
        columns.documents[alive] = loaded.documents
        columns.lengths[alive] = loaded.lengths
        columns.vectors[alive] = loaded.vectors
        return columns, alive, proposals
