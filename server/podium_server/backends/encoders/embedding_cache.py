"""Vectors of texts that were seen before, kept in memory within a bound of bytes."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from podium_server.backends.encoders.encoder import Encoded, Encoder, Floats
from podium_server.errors import ConfigInvalid

_ENTRY_BYTES = 400
"""What an entry takes beside its numbers: the key, two arrays' headers, the row of the table."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of one text: its vector (dim,) float32, its token vectors (tokens, dim) or None, and its counts.

    Token vectors are kept as float16, which halves them and moves no cosine by more than 0.001.
    """

    vector: Floats
    token_vectors: NDArray[np.float16] | None
    tokens: int
    truncated: bool

    @property
    def size_bytes(self) -> int:
        """Memory that the entry takes, about."""
        of_tokens = self.token_vectors.nbytes if self.token_vectors is not None else 0
        return _ENTRY_BYTES + self.vector.nbytes + of_tokens


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made, for metrics."""

    hits: int
    misses: int
    evictions: int
    entries: int
    size_bytes: int


class EmbeddingCache:
    """Keeps what was used last, by the hash of what decides it. Thread-safe; several encoders may share one.

    Args:
        bytes_max: the bound. What alone is larger is not kept; 0 keeps nothing.

    """

    def __init__(self, bytes_max: int = 64 << 20) -> None:
        if bytes_max < 0:
            raise ConfigInvalid(f"the cache's size is {bytes_max} bytes; it must be 0 or more")
        self.bytes_max = bytes_max
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._size = self._hits = self._misses = self._evictions = 0

    def get(self, key: bytes, *, token_vectors: bool = False) -> Entry | None:
        """Return what is kept under `key`, or None; an entry without token vectors is none where they are wanted."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or (token_vectors and entry.token_vectors is None):
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: Entry) -> None:
        """Keep `entry`, unless it is larger than the cache or says less than what is kept."""
        with self._lock:
            old = self._entries.get(key)
            if old is not None and entry.token_vectors is None and old.token_vectors is not None:
                return
            if entry.size_bytes > self.bytes_max:
                return
            if old is not None:
                self._size -= old.size_bytes
            self._entries[key] = entry
            self._entries.move_to_end(key)
            self._size += entry.size_bytes
            while self._size > self.bytes_max:
                _, oldest = self._entries.popitem(last=False)
                self._size -= oldest.size_bytes
                self._evictions += 1

    def stats(self) -> CacheStats:
        """Return the counts of now."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._evictions, len(self._entries), self._size)


def key_of(revision: str, kind: str, text: str) -> bytes:
    """Return the key of a text: the revision says all else that decides a vector, prefixes included."""
    said = hashlib.blake2b(digest_size=16)
    for part in (revision, kind):
        said.update(len(part).to_bytes(4, "big"))
        said.update(part.encode())
    said.update(text.encode("utf-8", "surrogatepass"))
    return said.digest()


class CachedEncoder:
    """An encoder that asks another one only for what it has not seen (`backends.encoders.encoder.Encoder`).

    Token vectors come rounded to float16, from the cache or not, so that an answer does not depend on what the cache
    happens to hold.

    Args:
        inner: the encoder that is asked.
        cache: where its vectors are kept.

    """

    def __init__(self, inner: Encoder, cache: EmbeddingCache | None = None) -> None:
        self.inner = inner
        self.cache = EmbeddingCache() if cache is None else cache

    @property
    def name(self) -> str:
        """The configured name."""
        return self.inner.name

    @property
    def revision(self) -> str:
        """The inner encoder's."""
        return self.inner.revision

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.inner.dim

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that the model sees."""
        return self.inner.max_tokens

    @property
    def has_token_vectors(self) -> bool:
        """Whether `token_vectors=True` is possible."""
        return self.inner.has_token_vectors

    @property
    def token_spans(self) -> Callable[[str], Sequence[tuple[int, int]]]:
        """The inner encoder's method of that name, where it has one; else there is none here either."""
        spans: Callable[[str], Sequence[tuple[int, int]]] = self.inner.token_spans  # type: ignore[attr-defined]
        return spans

    def encode_queries(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is looked for; see `Encoder`."""

        def ask(new: Sequence[str]) -> Encoded:
            return self.inner.encode_queries(new, token_vectors=token_vectors)

        return self._encode(texts, "query", ask, token_vectors=token_vectors)

    def encode_documents(self, texts: Sequence[str], *, token_vectors: bool = False) -> Encoded:
        """Encode what is searched; see `Encoder`."""

        def ask(new: Sequence[str]) -> Encoded:
            return self.inner.encode_documents(new, token_vectors=token_vectors)

        return self._encode(texts, "document", ask, token_vectors=token_vectors)

    def close(self) -> None:
        """Free the inner encoder. The cache may be shared, and stays."""
        self.inner.close()

    def _encode(
        self,
        texts: Sequence[str],
        kind: str,
        ask: Callable[[Sequence[str]], Encoded],
        *,
        token_vectors: bool,
    ) -> Encoded:
        keys = [key_of(self.revision, kind, text) for text in texts]
        known: dict[bytes, Entry] = {}
        new: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key not in known and key not in new:
                entry = self.cache.get(key, token_vectors=token_vectors)
                if entry is None:
                    new[key] = text
                else:
                    known[key] = entry
        hits = len(texts) - len(new)
        if texts and not new:
            encoded = _NOTHING_ASKED
        else:
            encoded = ask(list(new.values()))
        for place, key in enumerate(new):
            known[key] = _entry(encoded, place)
            self.cache.put(key, known[key])
        entries = [known[key] for key in keys]
        vectors = np.stack([entry.vector for entry in entries]) if entries else encoded.vectors
        return replace(
            encoded,
            vectors=vectors,
            token_vectors=tuple(_widened(entry.token_vectors) for entry in entries) if token_vectors else None,
            tokens=tuple(entry.tokens for entry in entries),
            truncated=tuple(entry.truncated for entry in entries),
            cache_hits=encoded.cache_hits + hits,
        )


_NOTHING_ASKED = Encoded(np.empty((0, 0), np.float32), None, (), (), prompt_tokens=0)


def _entry(encoded: Encoded, place: int) -> Entry:
    of_tokens = None if encoded.token_vectors is None else encoded.token_vectors[place].astype(np.float16)
    # A copy: a row of a batch would keep the whole batch alive, which no bound counts.
    return Entry(encoded.vectors[place].copy(), of_tokens, encoded.tokens[place], encoded.truncated[place])


def _widened(kept: NDArray[Any] | None) -> Floats:
    assert kept is not None  # an entry without token vectors is no hit where they are wanted
    return kept.astype(np.float32)
