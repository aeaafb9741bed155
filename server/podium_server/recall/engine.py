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
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from podium_server.accounting.usage import Usage
from podium_server.errors import FailedPrecondition, InvalidRequest, Overloaded, PodiumError
from podium_server.recall import filters, hybrid
from podium_server.recall.chunking import Chunker, Passage, estimated_spans
from podium_server.recall.document import Document, check_document, check_id, digest
from podium_server.recall.encoding import Codes, Encoder, Floats, Quantize, usage_of
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import BM25, RETRIEVERS, VECTOR, Found, Hit, Recalled, RecallQuery, Timings
from podium_server.recall.shard import Ranked, Shard, ShardCounts, Snapshot
from podium_server.recall.store import (
    OVERLAP_TOKENS,
    CollectionRow,
    CollectionSettings,
    PreparedChunk,
    PreparedDocument,
    Reader,
    Store,
    Written,
)
from podium_server.recall.text import document_terms, query_terms
from podium_server.recall.vectors import VectorSettings

FUSED_DEPTH = 100
"""Asked of each retriever at least where several are joined: rank 80 of one list may be rank 1 of the other."""

CHUNK_TOKENS_MIN = 16
RESERVED_TOKENS = 8
"""Of what an encoder reads, kept free for special tokens and a prefix."""

_NAME = re.compile("[a-z0-9][a-z0-9_-]{0,62}")
_ENCODED_AT_A_TIME = 256
"""Passages handed to the encoder at once: sorted by length, many fill its batches with less padding."""
_ENCODED_WITH_TOKENS_AT_A_TIME = 64
"""A vector a token is 50 MB for 256 passages, so fewer then."""
_LOSS_SAMPLE = 8
_FILTERS_KEPT = 64
_STATES_TRIED = 1_000


@dataclass(frozen=True, slots=True)
class Refused:
    """A document that was not written.

    Args:
        index: its place in the stream, from 0.
        id: its id, as it was given.
        error: why.

    """

    index: int
    id: str
    error: PodiumError


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A batch of which every document not in `refused` is on the disk, and is seen by the next search.

    Args:
        inserted: ids that were not there before.
        replaced: ids that were there with other content.
        unchanged: ids of documents that were there letter by letter; nothing was done for them.
        duplicates: documents whose id came again later in the same stream; the last one counts.
        refused: documents that were not written.
        usage: of encoding, not priced.

    """

    inserted: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    duplicates: int
    refused: tuple[Refused, ...]
    usage: Usage

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids that are kept."""
        return self.inserted + self.replaced + self.unchanged


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents on their way into a collection, encoded."""

    row: CollectionRow
    encoder: Encoder
    documents: tuple[PreparedDocument, ...]
    refused: tuple[Refused, ...]
    duplicates: int
    usage: Usage


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


class TokenVectors(Sequence[Floats]):
    """Token vectors of several passages, as they are stored and as floats.

    Args:
        codes: (tokens of all, width of a token's vector) int8.
        scales: (tokens of all,) float32; codes × scales are the vectors.
        offsets: (passages + 1,) where each passage's tokens begin.

    """

    def __init__(self, codes: Codes, scales: Floats, offsets: NDArray[np.int64]) -> None:
        self.codes = codes
        self.scales = scales
        self.offsets = offsets
        self._vectors: Floats | None = None

    @property
    def vectors(self) -> Floats:
        """(tokens of all, dim) float32."""
        if self._vectors is None:
            vectors = self.codes.astype(np.float32)
            vectors *= self.scales[:, None]
            self._vectors = vectors
        return self._vectors

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> Floats: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Floats]: ...

    def __getitem__(self, place: int | slice) -> Floats | Sequence[Floats]:
        """Return (tokens, dim) of one passage; (0, dim) where it has none or is gone."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return self.vectors[self.offsets[place] : self.offsets[place + 1]]


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
        self._quantize = quantize
        self._indexes = data_dir / "indexes"
        self._store = Store.open(data_dir, limits)
        self._builder = ThreadPoolExecutor(1, thread_name_prefix="podium-recall-build")
        self._shards: dict[int, Shard] = {}
        self._loading: dict[int, threading.Lock] = {}
        self._shards_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._filtered: OrderedDict[tuple[int, int, str], NDArray[np.int64]] = OrderedDict()
        self._filtered_lock = threading.Lock()
        self._forget_files()

    def close(self) -> None:
        """Keep the indexes on the disk and close the store. No call may be under way."""
        for shard in self._shards.values():
            shard.close()
        self._builder.shutdown()
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
        filled = settings
        if not settings.chunk_tokens:
            overlap = settings.overlap_tokens
            if overlap == OVERLAP_TOKENS:
                # The usual one is nobody's choice, and may be more than a small encoder has room for.
                overlap = min(overlap, max((encoder.max_tokens - 1) // 2, 0))
            filled = replace(settings, chunk_tokens=encoder.max_tokens, overlap_tokens=overlap)
        if not CHUNK_TOKENS_MIN <= filled.chunk_tokens <= encoder.max_tokens:
            raise InvalidRequest(
                "collection.chunking.max_tokens",
                f"is {filled.chunk_tokens}; {CHUNK_TOKENS_MIN} up to the {encoder.max_tokens} that "
                f"{encoder.name!r} reads, or 0 for these",
            )
        if not 0 <= 2 * filled.overlap_tokens < filled.chunk_tokens:
            raise InvalidRequest(
                "collection.chunking.overlap_tokens",
                f"is {filled.overlap_tokens}; from 0 to less than half of {filled.chunk_tokens}",
            )
        if filled.token_vectors and (self._quantize is None or not encoder.has_token_vectors):
            raise FailedPrecondition(
                f"the encoder {encoder.name!r} has no token vectors to keep; leave token_vectors out, or use another"
            )
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
            collection = self._store.drop(name)
            with self._shards_lock:
                shard = self._shards.pop(collection, None)
        if shard is not None:
            shard.abandon()
        self._index_file(collection).unlink(missing_ok=True)

    def purge(self) -> bool:
        """Remove some rows of deleted collections; return whether there are more."""
        with self._write_lock:
            return self._store.purge()

    def stats(self, name: str) -> CollectionStats:
        """Count what is in a collection.

        Raises:
            NotFound: there is none of that name.

        """
        row, snapshot = self._state(name)
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
            counts=replace(self._shard(row).counts),
        )

    def warm(self) -> None:
        """Load all collections into memory, so that the first search of each does not wait."""
        for row in self.list():
            self._shard(row)

    def settle(self, name: str) -> None:
        """Wait until a collection's index is built. For tests and benchmarks."""
        self._shard(self.get(name)).settle()

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
        encoded, beyond, usage = self._encode(row, encoder, changed)
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
            encoded, beyond, spent = self._encode(batch.row, batch.encoder, late)
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
            shard = self._shard(row)
            with self._write_lock:
                removed, written = self._store.remove(row.id, distinct[start : start + self.limits.batch_documents])
                self._publish(row.id, shard, written)
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
        weights = self._check_query(query)
        vector, token_vectors, usage, encode_s = self._encode_query(query, weights)
        with self._reading_state(query.collection) as (reader, row, snapshot):
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
            hits = _hits(reader, snapshot, lists, weights, query.k)
            fetched = time.perf_counter()
        timings = Timings(encode_s, filtered - begun, nearest - filtered, matched - nearest, fetched - matched)
        return Recalled(hits, timings, usage, vector, token_vectors)

    def vectors(self, name: str, chunks: Sequence[int]) -> Floats:
        """Return (n, dim) the pooled vectors of passages; zeros for one that was replaced since it was found.

        Raises:
            NotFound: there is no such collection.

        """
        row, snapshot = self._state(name)
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
        parts = [found.get(chunk, (b"", b"")) for chunk in chunks]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(scales) // 4 for scales, _ in parts], out=offsets[1:])
        joined = np.frombuffer(b"".join(codes for _, codes in parts), np.int8)
        # As wide as they were kept: a projection for late interaction is narrower than the vector that is searched.
        codes = joined.reshape(-1, len(joined) // int(offsets[-1]) if offsets[-1] else row.dim)
        scales = np.frombuffer(b"".join(scales for scales, _ in parts), "<f4")
        return TokenVectors(codes, scales.astype(np.float32, copy=False), offsets)

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

    def _shard(self, row: CollectionRow) -> Shard:
        """Return a collection in memory, loading it where nobody has yet."""
        shard = self._shards.get(row.id)
        if shard is not None:
            return shard
        with self._shards_lock:
            lock = self._loading.setdefault(row.id, threading.Lock())
        with lock:
            shard = self._shards.get(row.id)
            if shard is None:
                with self._store.reading() as reader:
                    now = reader.by_id(row.id)
                    shard = Shard(
                        now,
                        reader.load(now),
                        self._vector_settings,
                        file=self._index_file(row.id),
                        mark=lambda token: self._store.mark_index(row.id, token),
                        builder=self._builder,
                    )
                with self._shards_lock:
                    self._shards[row.id] = shard
        return shard

    def _state(self, name: str) -> tuple[CollectionRow, Snapshot]:
        with self._reading_state(name) as (_, row, snapshot):
            return row, snapshot

    @contextmanager
    def _reading_state(self, name: str) -> Iterator[tuple[Reader, CollectionRow, Snapshot]]:
        """Read rows and indexes of one and the same state."""
        for _ in range(_STATES_TRIED):
            shard = self._shard(self.get(name))
            with self._store.reading() as reader:
                row = reader.collection(name)
                # A writer may have gone on between the two, or made the collection anew.
                snapshot = shard.at(row.generation) if shard is self._shards.get(row.id) else None
                if snapshot is not None:
                    yield reader, row, snapshot
                    return
        raise Overloaded(f"the collection {name!r} changes faster than it can be read", retry_after_s=1.0)

    def _write(self, batch: Batch, documents: Sequence[PreparedDocument], stream: bytes) -> Written:
        shard = self._shard(batch.row)
        with self._write_lock:
            written = self._store.write(batch.row.id, documents, stream=stream)
            self._publish(batch.row.id, shard, written)
        return written

    def _publish(self, collection: int, shard: Shard, written: Written) -> None:
        if not written.delta.chunks and not written.delta.removed:
            return
        try:
            shard.publish(written.generation, written.delta)
        except BaseException:
            # What is in memory no longer is what is on the disk. The next search loads it again.
            self._shards.pop(collection, None)
            shard.abandon()
            raise

    def _encode(
        self, row: CollectionRow, encoder: Encoder, documents: Sequence[tuple[int, Document, bytes]]
    ) -> tuple[tuple[PreparedDocument, ...], tuple[Refused, ...], Usage]:
        """Cut documents and encode their passages, a few at a time: token vectors of many would fill the memory."""
        chunker = Chunker(
            max(min(row.settings.chunk_tokens, encoder.max_tokens - RESERVED_TOKENS), 1),
            min(row.settings.overlap_tokens, max(row.settings.chunk_tokens - RESERVED_TOKENS - 1, 0) // 2),
            # Asked for by name: an encoder around another one has it only where the inner one does.
            getattr(encoder, "token_spans", estimated_spans),
        )
        refused = []
        cut: list[tuple[int, Document, bytes, list[Passage]]] = []
        for index, document, its in documents:
            passages = chunker.passages(document)
            if len(passages) > self.limits.chunks_per_document:
                many = InvalidRequest(
                    f"documents[{index}].text",
                    f"makes {len(passages):,} passages; the limit is {self.limits.chunks_per_document:,}. Split it",
                )
                refused.append(Refused(index, document.id, many))
                continue
            cut.append((index, document, its, passages))
        flat = [passage for *_, passages in cut for passage in passages]
        usage = Usage()
        chunks: list[PreparedChunk] = []
        wants_tokens = row.settings.token_vectors
        at_a_time = _ENCODED_WITH_TOKENS_AT_A_TIME if wants_tokens else _ENCODED_AT_A_TIME
        for start in range(0, len(flat), at_a_time):
            part = flat[start : start + at_a_time]
            encoded = encoder.encode_documents([passage.text for passage in part], token_vectors=wants_tokens)
            usage += usage_of(encoded, documents=True)
            tokens = encoded.token_vectors if wants_tokens else None
            chunks.extend(
                self._chunk(passage, encoded.vectors[place], tokens[place] if tokens is not None else None)
                for place, passage in enumerate(part)
            )
        prepared = []
        at = 0
        for index, document, its, passages in cut:
            prepared.append(PreparedDocument(index, document, its, tuple(chunks[at : at + len(passages)])))
            at += len(passages)
        return tuple(prepared), tuple(refused), usage

    def _chunk(self, passage: Passage, vector: Floats, tokens: Floats | None) -> PreparedChunk:
        terms, counts, length = document_terms(passage.text)
        chunk = PreparedChunk(
            passage.start,
            passage.end,
            None if passage.whole else passage.text,
            terms,
            counts,
            length,
            np.ascontiguousarray(vector, np.float32),
        )
        if tokens is None:
            return chunk
        assert self._quantize is not None
        codes, scales = self._quantize(tokens)
        scales = np.asarray(scales, np.float32).reshape(-1)
        # How far the cosines with some of its own tokens move.
        towards = tokens[:_LOSS_SAMPLE].T
        kept = codes.astype(np.float32) * scales[:, None]
        loss = float(np.abs(tokens @ towards - kept @ towards).mean()) if len(tokens) else 0.0
        return replace(chunk, codes=np.ascontiguousarray(codes, np.int8), scales=scales, loss=loss)

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

    def _check_query(self, query: RecallQuery) -> Mapping[str, float]:
        try:
            size = len(query.text.encode())
        except UnicodeEncodeError:
            raise InvalidRequest("query", "has a lone surrogate, which is no text; send valid Unicode") from None
        if size > self.limits.query_bytes:
            raise InvalidRequest("query", f"has {size:,} bytes; the limit is {self.limits.query_bytes:,}")
        if not query.text.strip():
            raise InvalidRequest("query", "is empty; say what is looked for")
        if not 1 <= query.k <= self.limits.depth:
            raise InvalidRequest("recall_depth", f"is {query.k}; 1 to {self.limits.depth:,} can be asked for")
        unknown = sorted(set(query.weights) - set(RETRIEVERS))
        if unknown:
            raise InvalidRequest(
                "retriever_weights",
                f"{', '.join(unknown)}: there is no such retriever (known: {', '.join(RETRIEVERS)})",
            )
        weights = {name: query.weights[name] for name in RETRIEVERS if query.weights.get(name, 0.0) != 0.0}
        if not weights or not all(0 < weight < float("inf") for weight in weights.values()):
            raise InvalidRequest("retriever_weights", "must be finite, none below 0 and at least one above it")
        if query.filter is not None:
            filters.check(query.filter, self.limits)
        return weights

    def _check_ids(self, ids: Sequence[str]) -> tuple[str, ...]:
        if not 1 <= len(ids) <= self.limits.ids:
            raise InvalidRequest("ids", f"are {len(ids):,}; 1 to {self.limits.ids:,} can be given")
        for place, key in enumerate(ids):
            check_id(key, self.limits, field=f"ids[{place}]")
        return tuple(dict.fromkeys(ids))

    def _index_file(self, collection: int) -> Path:
        return self._indexes / f"{collection}.faiss"

    def _forget_files(self) -> None:
        """Remove index files of collections that are gone, and halves of files."""
        known = {self._index_file(row.id) for row in self.list()}
        for file in self._indexes.glob("*"):
            if file not in known and file.suffix in (".faiss", ".tmp"):
                file.unlink(missing_ok=True)


def new_stream() -> bytes:
    """Return 16 bytes that stand for a stream of documents."""
    return secrets.token_bytes(16)


def _hits(
    reader: Reader, snapshot: Snapshot, lists: Mapping[str, Ranked], weights: Mapping[str, float], k: int
) -> tuple[Hit, ...]:
    """Join the lists by document, and read what was found."""
    documents = {name: snapshot.documents[slots].tolist() for name, (slots, _) in lists.items()}
    found: dict[int, list[tuple[float, Found, int]]] = {}
    for name, (slots, scores) in lists.items():
        for place, document in enumerate(documents[name]):
            weighed = weights[name] / (hybrid.RRF_K + place + 1)
            found.setdefault(document, []).append(
                (weighed, Found(name, place + 1, float(scores[place])), int(slots[place]))
            )
    if len(lists) == 1:
        (only,) = lists
        ranked = list(zip(documents[only], map(float, lists[only][1]), strict=True))
    else:
        ranked = hybrid.fuse(documents, weights)
    ranked = ranked[:k]
    # The passage by which whoever counted most found it.
    chunks = {
        document: int(snapshot.chunks[max(found[document], key=lambda each: each[0])[2]]) for document, _ in ranked
    }
    rows = reader.chunks(tuple(chunks.values()))
    order = {name: place for place, name in enumerate(RETRIEVERS)}
    hits = []
    for document, score in ranked:
        row = rows[chunks[document]]
        by = sorted((each for _, each, _ in found[document]), key=lambda each: order[each.retriever])
        hits.append(
            Hit(
                row.document.id,
                score,
                row.text,
                row.chunk,
                row.ordinal,
                row.start,
                row.end,
                row.document.metadata,
                tuple(by),
            )
        )
    return tuple(hits)
