"""Recall as blocking calls: the store, and over it what is in memory of each collection. Thread-safe.

A change goes store first, then memory, then the acknowledgement; so whatever was acknowledged is on the disk, and the
next search sees it. Encoding happens before the transaction, never within.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from podium_server.accounting.usage import Usage
from podium_server.errors import FailedPrecondition, InvalidRequest
from podium_server.recall import filters, hybrid
from podium_server.recall.batches import Acknowledged, Batch, Preparer, Refused
from podium_server.recall.document import Document, check_document, check_id, digest
from podium_server.recall.encoding import Encoder, Floats, Quantize, usage_of
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import BM25, VECTOR, Recalled, RecallQuery, Timings, weights_of
from podium_server.recall.settings import CollectionSettings, settled
from podium_server.recall.shard import Ranked, ShardCounts
from podium_server.recall.shards import Shards
from podium_server.recall.store.reader import Reader
from podium_server.recall.store.rows import CollectionRow, PreparedDocument, Written
from podium_server.recall.store.store import Store
from podium_server.recall.text import query_terms
from podium_server.recall.token_vectors import TokenVectors
from podium_server.recall.vectors import VectorSettings

FUSED_DEPTH = 100
"""Asked of each retriever at least where several are joined: rank 80 of one list may be rank 1 of the other."""

_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,62}")
_FILTERS_KEPT = 64


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """What is in a collection.

    Args:
        documents: how many.
        passages: into which they are cut.
        token_vectors: how many; 0 where none are kept.
        dimensions: numbers in a passage's vector.
        store_bytes: about what it takes on the disk.
        memory_bytes: about what it takes in memory.
        graph: whether an HNSW graph searches the vectors, rather than all being looked at.
        indexed: passages that the FAISS index holds; the rest is compared one by one.
        dead: passages that are deleted and not yet cleared from memory.
        token_vector_loss: mean absolute error of a cosine with 8-bit token vectors; None where there are none.
        updated_s: of the last change, seconds since the epoch; None where there was none.
        generation: one up with each change.
        counts: what happened to its indexes since it was opened.

    """

    documents: int
    passages: int
    token_vectors: int
    dimensions: int
    store_bytes: int
    memory_bytes: int
    graph: bool
    indexed: int
    dead: int
    token_vector_loss: float | None
    updated_s: float | None
    generation: int
    counts: ShardCounts


class Engine:
    """The store and the indexes of one data directory.

    Args:
        data_dir: where they are kept; made if it is not there.
        encoder_of: gives the encoder of a configured name. May block, is called often, and raises NotFound.
        limits: bounds.
        vector_settings: how vectors are searched.
        quantize: token vectors to 8 bits; None refuses collections that keep them.

    Raises:
        StoreError: the store cannot be opened.

    """

    def __init__(
        self,
        data_dir: Path,
        encoder_of: Callable[[str], Encoder],
        limits: RecallLimits,
        vector_settings: VectorSettings,
        quantize: Quantize | None,
    ) -> None:
        self.limits = limits
        self._encoder_of = encoder_of
        self._vector_settings = vector_settings
        self._preparer = Preparer(limits, quantize)
        self._store = Store.open(data_dir, limits)
        self._shards = Shards(self._store, data_dir / "indexes", vector_settings)
        self._write_lock = threading.Lock()
        self._filtered: OrderedDict[tuple[int, int, str], NDArray[np.int64]] = OrderedDict()
        self._filtered_lock = threading.Lock()

    def close(self) -> None:
        """Keep the indexes on the disk and close the store. No call may be under way."""
        self._shards.close()
        self._store.close()

    # --- collections --------------------------------------------------------------------------------------------

    def create(self, name: str, settings: CollectionSettings, *, namespace: str = "") -> CollectionRow:
        """Make a collection. One that is there with the same settings is returned as it is.

        In a namespace it is stored as `NAMESPACE.NAME`, and that is its name for all other methods. No name has a dot.

        Raises:
            InvalidRequest: the name, or how it is cut into passages.
            NotFound: there is no such encoder.
            FailedPrecondition: token vectors are wanted, and the encoder has none.
            AlreadyExists: it is there with other settings.

        """
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                "collection.name",
                f"{name!r} is no name; a letter or digit, then up to 62 letters, digits, '-' or '_', lower case",
            )
        encoder = self._encoder_of(settings.encoder)
        filled = settled(settings, encoder, token_vectors=self._preparer.quantize is not None)
        stored = f"{namespace}.{name}" if namespace else name
        return self._store.create(stored, filled, revision=encoder.revision, dim=encoder.dim)

    def get(self, name: str) -> CollectionRow:
        """Return a collection.

        Raises:
            NotFound: with the names that there are.

        """
        with self._store.reading() as reader:
            return reader.collection(name)

    def list(self) -> tuple[CollectionRow, ...]:
        """Return all collections, by name."""
        with self._store.reading() as reader:
            return reader.collections()

    def delete(self, name: str) -> None:
        """Remove a collection. It is gone when this returns; `purge` then gives its room back.

        Raises:
            NotFound: there is none of that name.

        """
        with self._write_lock:
            self._shards.forget(self._store.drop(name))

    def purge(self) -> bool:
        """Remove some rows of deleted collections; return whether there are more."""
        with self._write_lock:
            return self._store.purge()

    def stats(self, name: str) -> CollectionStats:
        """Count what is in a collection.

        Raises:
            NotFound: there is none of that name.

        """
        row, snapshot = self._shards.state(name)
        return CollectionStats(
            documents=row.documents,
            passages=row.chunks,
            token_vectors=row.tokens,
            dimensions=row.dim,
            store_bytes=row.bytes,
            memory_bytes=snapshot.bytes,
            graph=snapshot.proposals is not None and snapshot.proposals.graph,
            indexed=snapshot.proposals.count if snapshot.proposals is not None else 0,
            dead=snapshot.dead,
            token_vector_loss=row.token_loss,
            updated_s=row.updated_s,
            generation=row.generation,
            counts=replace(self._shards.of(row).counts),
        )

    def warm(self) -> None:
        """Load all collections into memory, so that the first search of each does not wait."""
        for row in self.list():
            self._shards.of(row)

    def settle(self, name: str) -> None:
        """Wait until a collection's index is built. For tests and benchmarks."""
        self._shards.of(self.get(name)).settle()

    # --- documents ----------------------------------------------------------------------------------------------

    def prepare(self, name: str, documents: Sequence[tuple[int, Document]]) -> Batch:
        """Check, cut and encode documents.

        Args:
            name: of the collection.
            documents: each with its place in the stream.

        Raises:
            NotFound: there is no such collection.
            FailedPrecondition: it was made with another encoder.
            PodiumError: the encoder failed.

        """
        with self._store.reading() as reader:
            row = reader.collection(name)
            encoder = self._encoder(row)
            refused: list[Refused] = []
            last: dict[str, tuple[int, Document]] = {}
            for index, document in documents:
                try:
                    check_document(document, self.limits, field=f"documents[{index}]")
                except InvalidRequest as error:
                    refused.append(Refused(index, document.id, error))
                    continue
                last[document.id] = (index, document)
            known = reader.digests(row.id, tuple(last))
        duplicates = len(documents) - len(refused) - len(last)
        prepared = []
        changed = []
        for index, document in last.values():
            its = digest(document)
            if known.get(document.id) == its:
                prepared.append(PreparedDocument(index, document, its, None))
            else:
                changed.append((index, document, its))
        encoded, beyond, usage = self._preparer.encoded(row, encoder, changed)
        return Batch(row, encoder, (*prepared, *encoded), (*refused, *beyond), duplicates, usage)

    def write(self, batch: Batch, *, stream: bytes) -> Acknowledged:
        """Write a batch: to the disk, then into memory.

        Args:
            batch: of `prepare`.
            stream: 16 bytes that stand for the stream that it came from.

        Raises:
            NotFound: the collection was deleted meanwhile.
            StoreFull: the disk is full; nothing of the batch is kept.

        """
        written = self._write(batch, batch.documents, stream)
        refused = list(batch.refused)
        usage = batch.usage
        rounds = [written]
        while rounds[-1].overtaken:
            # They were the same as what was there, until someone else changed that.
            late = [(one.index, one.document, one.digest) for one in rounds[-1].overtaken]
            encoded, beyond, spent = self._preparer.encoded(batch.row, batch.encoder, late)
            refused.extend(beyond)
            usage += spent
            rounds.append(self._write(batch, encoded, stream))
        refused.extend(
            Refused(prepared.index, prepared.document.id, error) for each in rounds for prepared, error in each.refused
        )
        return Acknowledged(
            inserted=tuple(key for each in rounds for key in each.inserted),
            replaced=tuple(key for each in rounds for key in each.replaced),
            unchanged=tuple(key for each in rounds for key in each.unchanged),
            duplicates=batch.duplicates + sum(each.duplicates for each in rounds),
            refused=tuple(sorted(refused, key=lambda one: one.index)),
            usage=usage,
        )

    def get_documents(self, name: str, ids: Sequence[str]) -> tuple[tuple[Document, ...], tuple[str, ...]]:
        """Return documents as they are stored, in the order of the ids, each once, and the ids that are not there.

        Raises:
            InvalidRequest: an id is none, or there are too many.
            NotFound: there is no such collection.

        """
        distinct = self._check_ids(ids)
        with self._store.reading() as reader:
            found = reader.documents(reader.collection(name).id, distinct)
        return tuple(found[key] for key in distinct if key in found), tuple(key for key in distinct if key not in found)

    def delete_documents(self, name: str, ids: Sequence[str]) -> tuple[int, tuple[str, ...]]:
        """Remove documents, and return how many there were and the ids that were not there.

        Raises:
            InvalidRequest: an id is none, or there are too many.
            NotFound: there is no such collection.

        """
        distinct = self._check_ids(ids)
        gone: set[str] = set()
        row = self.get(name)
        # Bounded transactions, so that nobody who writes waits long.
        for start in range(0, len(distinct), self.limits.batch_documents):
            shard = self._shards.of(row)
            with self._write_lock:
                removed, written = self._store.remove(row.id, distinct[start : start + self.limits.batch_documents])
                self._shards.publish(row.id, shard, written)
            gone.update(removed)
        return len(gone), tuple(key for key in distinct if key not in gone)

    # --- searching ----------------------------------------------------------------------------------------------

    def search(self, query: RecallQuery) -> Recalled:
        """Return the best documents for a query.

        Raises:
            InvalidRequest: the query, k, a weight or the filter is out of bounds.
            NotFound: there is no such collection.
            FailedPrecondition: it was made with another encoder, or token vectors are wanted that it has not.
            PodiumError: the encoder failed.

        """
        weights = weights_of(query, self.limits)
        vector, token_vectors, usage, encode_s = self._encode_query(query, weights)
        with self._shards.reading(query.collection) as (reader, row, snapshot):
            if vector is not None and vector.shape != (row.dim,):
                raise InvalidRequest("vector", f"has the shape {vector.shape}; ({row.dim},) is needed")
            begun = time.perf_counter()
            allowed = snapshot.allowed(self._matching(reader, row, query.filter) if query.filter is not None else None)
            filtered = time.perf_counter()
            depth = query.k if len(weights) == 1 else max(query.k, FUSED_DEPTH)
            lists: dict[str, Ranked] = {}
            if VECTOR in weights:
                assert vector is not None
                lists[VECTOR] = snapshot.nearest(vector, depth, allowed, self._vector_settings)
            nearest = time.perf_counter()
            if BM25 in weights:
                lists[BM25] = snapshot.matching(query_terms(query.text), depth, allowed)
            matched = time.perf_counter()
            hits = hybrid.hits(reader, snapshot, lists, weights, query.k)
            fetched = time.perf_counter()
        timings = Timings(encode_s, filtered - begun, nearest - filtered, matched - nearest, fetched - matched)
        return Recalled(hits, timings, usage, vector, token_vectors)

    def vectors(self, name: str, chunks: Sequence[int]) -> Floats:
        """Return (n, dim) the pooled vectors of passages; zeros for one that was replaced since it was found.

        Raises:
            NotFound: there is no such collection.

        """
        row, snapshot = self._shards.state(name)
        slots = snapshot.slots_of(np.asarray(chunks, np.int64))
        result = np.zeros((len(slots), row.dim), np.float32)
        there = slots >= 0
        result[there] = snapshot.vectors[slots[there]]
        return result

    def token_vectors(self, name: str, chunks: Sequence[int]) -> TokenVectors | None:
        """Return the token vectors of passages, none for one that was replaced since it was found.

        None where the collection keeps no token vectors.

        Raises:
            NotFound: there is no such collection.

        """
        with self._store.reading() as reader:
            row = reader.collection(name)
            if not row.settings.token_vectors:
                return None
            found = reader.token_vectors(tuple(dict.fromkeys(chunks)))
        return TokenVectors.read([found.get(chunk, (b"", b"")) for chunk in chunks], row.dim)

    # --- inside -------------------------------------------------------------------------------------------------

    def _encoder(self, row: CollectionRow) -> Encoder:
        encoder = self._encoder_of(row.settings.encoder)
        if (encoder.revision, encoder.dim) != (row.revision, row.dim):
            raise FailedPrecondition(
                f"the collection {row.name!r} was indexed with revision {row.revision!r} ({row.dim} dimensions) of the "
                f"encoder {row.settings.encoder!r}, which now is {encoder.revision!r} ({encoder.dim}). Their vectors "
                "do not compare: configure the old one again, or delete the collection and index it anew",
                metadata={"collection_revision": row.revision, "encoder_revision": encoder.revision},
            )
        return encoder

    def _write(self, batch: Batch, documents: Sequence[PreparedDocument], stream: bytes) -> Written:
        shard = self._shards.of(batch.row)
        with self._write_lock:
            written = self._store.write(batch.row.id, documents, stream=stream)
            self._shards.publish(batch.row.id, shard, written)
        return written

    def _encode_query(
        self, query: RecallQuery, weights: Mapping[str, float]
    ) -> tuple[Floats | None, Floats | None, Usage, float]:
        needed = query.vector is None and VECTOR in weights
        if not needed and not query.token_vectors:
            self.get(query.collection)
            return query.vector, None, Usage(), 0.0
        encoder = self._encoder(self.get(query.collection))
        if query.token_vectors and not encoder.has_token_vectors:
            raise FailedPrecondition(f"the encoder {encoder.name!r} has no token vectors; do not ask for them")
        begun = time.perf_counter()
        encoded = encoder.encode_queries([query.text], token_vectors=query.token_vectors)
        tokens = encoded.token_vectors[0] if encoded.token_vectors is not None else None
        vector = query.vector if query.vector is not None else encoded.vectors[0]
        return vector, tokens, usage_of(encoded, documents=False), time.perf_counter() - begun

    def _matching(self, reader: Reader, row: CollectionRow, filter: filters.Filter) -> NDArray[np.int64]:  # noqa: A002
        """Return the documents that a filter lets through; remembered until the collection changes."""
        # Python holds 1, 1.0 and True for equal, and a filter does not.
        key = (row.id, row.generation, repr(filter))
        with self._filtered_lock:
            known = self._filtered.get(key)
            if known is not None:
                self._filtered.move_to_end(key)
                return known
        found = reader.matching(row.id, *filters.condition(filter, "metadata"))
        with self._filtered_lock:
            self._filtered[key] = found
            while len(self._filtered) > _FILTERS_KEPT:
                self._filtered.popitem(last=False)
        return found

    def _check_ids(self, ids: Sequence[str]) -> tuple[str, ...]:
        if not 1 <= len(ids) <= self.limits.ids:
            raise InvalidRequest("ids", f"are {len(ids):,}; 1 to {self.limits.ids:,} can be given")
        for place, key in enumerate(ids):
            check_id(key, self.limits, field=f"ids[{place}]")
        return tuple(dict.fromkeys(ids))


def new_stream() -> bytes:
    """Return 16 bytes that stand for a stream of documents."""
    return secrets.token_bytes(16)
