"""Joining the lists of several retrievers by rank (reciprocal rank fusion, Cormack et al., SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from podium_server.recall.retriever import RETRIEVERS, Found, Hit
from podium_server.recall.shard import Ranked, Snapshot
from podium_server.recall.store.reader import Reader

RRF_K = 60
"""From the paper: how little the very first ranks stand out."""

Item = TypeVar("Item", bound=int)


def fuse(
    lists: Mapping[str, Sequence[Item]], weights: Mapping[str, float], *, k: int = RRF_K
) -> list[tuple[Item, float]]:
    """Return all items of all lists with their scores, the best first; ties by item.

    Args:
        lists: of each retriever, the best first, each item once.
        weights: of each retriever.
        k: as in Σ weight / (k + rank).

    """
    scores: dict[Item, float] = {}
    for name, items in lists.items():
        for rank, item in enumerate(items, start=1):
            scores[item] = scores.get(item, 0.0) + weights[name] / (k + rank)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))


def hits(
    reader: Reader, snapshot: Snapshot, lists: Mapping[str, Ranked], weights: Mapping[str, float], k: int
) -> tuple[Hit, ...]:
    """Join the lists by document, and read what was found."""
    documents = {name: snapshot.documents[slots].tolist() for name, (slots, _) in lists.items()}
    found: dict[int, list[tuple[float, Found, int]]] = {}
    for name, (slots, scores) in lists.items():
        for place, document in enumerate(documents[name]):
            weighed = weights[name] / (RRF_K + place + 1)
            found.setdefault(document, []).append(
                (weighed, Found(name, place + 1, float(scores[place])), int(slots[place]))
            )
    if len(lists) == 1:
        (only,) = lists
        ranked = list(zip(documents[only], map(float, lists[only][1]), strict=True))
    else:
        ranked = fuse(documents, weights)
    ranked = ranked[:k]
    # The passage by which whoever counted most found it.
    chunks = {
        document: int(snapshot.chunks[max(found[document], key=lambda each: each[0])[2]]) for document, _ in ranked
    }
    rows = reader.chunks(tuple(chunks.values()))
    order = {name: place for place, name in enumerate(RETRIEVERS)}
    joined = []
    for document, score in ranked:
        row = rows[chunks[document]]
        by = sorted((each for _, each, _ in found[document]), key=lambda each: order[each.retriever])
        joined.append(
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
    return tuple(joined)
