"""Scores of documents that were asked for before, kept in memory within a bound of bytes.

A key says all that decides a score: the model's revision, how long documents are read, the query, the instruction and
the document's text. So a hit costs no tokens either, and nothing here ever goes stale.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

_ENTRY_BYTES = 256
"""What one entry takes: the key, a number, a tuple and the row of the table. Measured: 242."""


class Entry(NamedTuple):
    """The score of one document, as the model gave it, and whether the model did not see all of the document."""

    score: float
    truncated: bool


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts since the cache was made, for metrics."""

    hits: int
    misses: int
    evictions: int
    entries: int
    size_bytes: int


class ScoreCache:
    """Keeps what was used last. Thread-safe.

    Args:
        bytes_max: the bound; 0 keeps nothing.

    """

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 0:
            raise ValueError(f"bytes_max is {bytes_max}: 0 or more")
        self.bytes_max = bytes_max
        self._entries_max = bytes_max // _ENTRY_BYTES
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._hits = self._misses = self._evictions = 0

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """Return what is kept of these keys."""
        found: dict[bytes, Entry] = {}
        with self._lock:
            for key in keys:
                entry = self._entries.get(key)
                if entry is None:
                    self._misses += 1
                else:
                    self._hits += 1
                    self._entries.move_to_end(key)
                    found[key] = entry
        return found

    def put(self, entries: Iterable[tuple[bytes, Entry]]) -> None:
        """Keep these, and forget what was not used for longest where there is no room."""
        with self._lock:
            for key, entry in entries:
                self._entries[key] = entry
                self._entries.move_to_end(key)
            while len(self._entries) > self._entries_max:
                self._entries.popitem(last=False)
                self._evictions += 1

    def stats(self) -> CacheStats:
        """Return the counts of now."""
        with self._lock:
            size = len(self._entries) * _ENTRY_BYTES
            return CacheStats(self._hits, self._misses, self._evictions, len(self._entries), size)


def keys_of(said: Sequence[str], texts: Iterable[str]) -> list[bytes]:
    """Return the key of each text; `said` is all else that decides its score. Equal keys, equal scores."""
    begun = blake2b(digest_size=16)
    for part in said:
        raw = part.encode("utf-8", "surrogatepass")
        begun.update(len(raw).to_bytes(8, "little"))
        begun.update(raw)
    keys = []
    for text in texts:
        digest = begun.copy()
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys
