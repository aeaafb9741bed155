"""nDCG as trec_eval has it: linear gain, the logarithm of rank + 1, and the ideal order of all known labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log2


def dcg(labels: Sequence[float], k: int) -> float:
    """Return the discounted cumulative gain of the first k labels; one below 0 counts as 0."""
    return sum(max(label, 0.0) / log2(rank + 1) for rank, label in enumerate(labels[:k], 1))


def ndcg(labels: Sequence[float], ideal: Iterable[float], k: int) -> float:
    """Return nDCG@k (Järvelin and Kekäläinen, TOIS 2002, with the gain and discount of trec_eval's `ndcg_cut`).

    Args:
        labels: of the ranked documents, best rank first; 0 for one that nobody judged.
        ideal: all labels of the query, in any order, of documents that were not ranked too.
        k: ranks that count.

    Returns:
        from 0 to 1; 0 where nothing is relevant.

    """
    if k < 1:
        raise ValueError(f"k is {k}: at least 1")
    best = dcg(sorted(ideal, reverse=True), k)
    return dcg(labels, k) / best if best > 0 else 0.0
