"""Joining the lists of several retrievers by rank (reciprocal rank fusion, Cormack et al., SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

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
