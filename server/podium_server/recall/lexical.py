"""BM25 over passages, in memory, made from the terms that the store keeps.

Why not SQLite's FTS5: its ranking costs microseconds a matching row, and a question in English matches most rows.
`python bench/recall.py bm25`, 100,000 passages of 49 words, k = 100: FTS5 asked for any of the terms, p50 106 ms; this,
1.4 ms. FTS5 asked for the rarest terms only, up to 5,000 postings, takes 5 ms and leaves out most of what was asked.

The terms of each passage are stored with it, in the same transaction; what is here is only their transpose, as sorted
arrays, and is never the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

K1 = 1.2
B = 0.4
"""Passages are of nearly one length, so that length says little: Anserini's b rather than Lucene's."""

POSTINGS_MAX = 4_000_000
"""Read for one query, the rarest terms first; what is beyond are words that nearly every passage has."""


@dataclass(frozen=True, slots=True)
class Postings:
    """Which passages hold which terms: a sparse matrix by rows of terms.

    Args:
        first: the first slot of its range.
        last: the first slot beyond it.
        terms: (t,) distinct, ascending.
        starts: (t + 1,) where each term's postings begin.
        slots: (p,) the passages of each term, ascending.
        counts: (p,) how often the term occurs there.

    """

    first: int
    last: int
    terms: NDArray[np.uint64]
    starts: NDArray[np.int64]
    slots: NDArray[np.uint32]
    counts: NDArray[np.uint16]

    @property
    def bytes(self) -> int:
        """In memory."""
        return int(self.terms.nbytes + self.starts.nbytes + self.slots.nbytes + self.counts.nbytes)

    def of(self, term: np.uint64) -> slice:
        """Return where the postings of a term are; an empty slice where it has none."""
        place = int(np.searchsorted(self.terms, term))
        if place == len(self.terms) or self.terms[place] != term:
            return slice(0, 0)
        return slice(int(self.starts[place]), int(self.starts[place + 1]))


def transpose(first: int, terms: Sequence[NDArray[np.uint64]], counts: Sequence[NDArray[np.uint16]]) -> Postings:
    """Return the postings of passages that stand in slots from `first` on."""
    lengths = np.fromiter(map(len, terms), np.int64, len(terms))
    slots = np.repeat(np.arange(first, first + len(terms), dtype=np.uint32), lengths)
    return _grouped(
        first,
        first + len(terms),
        np.concatenate(terms) if len(terms) else np.empty(0, np.uint64),
        slots,
        np.concatenate(counts) if len(counts) else np.empty(0, np.uint16),
    )


def joined(one: Postings, other: Postings) -> Postings:
    """Return two neighbouring ranges as one."""
    return _grouped(
        one.first,
        other.last,
        np.concatenate((np.repeat(one.terms, np.diff(one.starts)), np.repeat(other.terms, np.diff(other.starts)))),
        np.concatenate((one.slots, other.slots)),
        np.concatenate((one.counts, other.counts)),
    )


def appended(segments: tuple[Postings, ...], new: Postings) -> tuple[Postings, ...]:
    """Return segments with one more, joined so that they stay few: each is more than twice as long as the next.

    A posting is moved log2(n) times in its life, and a search looks into log2(n) segments at most.
    """
    stack = [*segments, new]
    while len(stack) > 1 and (stack[-2].last - stack[-2].first) <= 2 * (stack[-1].last - stack[-1].first):
        last = stack.pop()
        stack.append(joined(stack.pop(), last))
    return tuple(stack)


def compacted(segments: Sequence[Postings], alive: NDArray[np.bool_]) -> tuple[Postings, ...]:
    """Return one segment of the slots that are alive, counted anew from 0."""
    renumbered = (np.cumsum(alive) - 1).astype(np.uint32)
    terms, slots, counts = [], [], []
    for segment in segments:
        kept = alive[segment.slots]
        terms.append(np.repeat(segment.terms, np.diff(segment.starts))[kept])
        slots.append(renumbered[segment.slots[kept]])
        counts.append(segment.counts[kept])
    if not terms:
        return ()
    total = int(alive.sum())
    return (_grouped(0, total, np.concatenate(terms), np.concatenate(slots), np.concatenate(counts)),)


def _grouped(
    first: int, last: int, terms: NDArray[np.uint64], slots: NDArray[np.uint32], counts: NDArray[np.uint16]
) -> Postings:
    # Stable, so that slots, which come in ascending order, stay so within a term.
    order = np.argsort(terms, kind="stable")
    ordered = terms[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else np.empty(0, int)
    starts = np.append(begins, len(ordered)).astype(np.int64)
    return Postings(first, last, ordered[begins], starts, slots[order], counts[order])


def scores(segments: Sequence[Postings], query: NDArray[np.uint64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the BM25 score of every slot; 0 where no term of the query occurs.

    Args:
        segments: that together cover all slots.
        query: (q,) distinct terms.
        lengths: (n,) of the passages, in terms.

    """
    n = len(lengths)
    result = np.zeros(n, np.float32)
    if not n or not len(query):
        return result
    places = [[(segment, segment.of(term)) for segment in segments] for term in query]
    frequencies = [sum(place.stop - place.start for _, place in of_term) for of_term in places]
    mean = max(float(lengths.mean()), 1.0)
    read = 0
    for at in sorted(range(len(query)), key=frequencies.__getitem__):
        frequency = frequencies[at]
        if not frequency:
            continue
        read += frequency
        if read > POSTINGS_MAX and read > frequency:
            break
        weight = np.float32(np.log1p((n - frequency + 0.5) / (frequency + 0.5)) * (K1 + 1))
        for segment, place in places[at]:
            if place.start == place.stop:
                continue
            slots = segment.slots[place]
            counts = segment.counts[place].astype(np.float32)
            norm = np.float32(K1 * (1 - B)) + np.float32(K1 * B / mean) * lengths[slots]
            result[slots] += weight * counts / (counts + norm)
    return result
