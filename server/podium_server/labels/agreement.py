"""How far several orders of the same candidates agree.

A teacher that contradicts itself when the same candidates are shown in another order knows less than its one answer
pretends (permutation self-consistency, arXiv 2310.07712); a trainer can leave such queries out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import fsum

from podium_server.labels.format import Agreement, Order

DIGITS = 6
"""After the point, in a label file: enough for any threshold, and the same on every machine."""


def kendall_tau(one: Sequence[int], other: Sequence[int]) -> float:
    """Return Kendall's tau of two orders of the same items: 1 where they are equal, -1 where one is the other reversed.

    Takes n log n steps (Knight 1966): the pairs that stand the other way round are the inversions that a merge sort
    undoes. Orders of fewer than two items agree.

    Raises:
        ValueError: they do not order the same items, or an item stands twice.

    """
    n = len(one)
    rank = {item: place for place, item in enumerate(other)}
    if len(rank) != len(other) or n != len(other) or set(one) != set(rank):
        raise ValueError(f"an order of {n} items and one of {len(other)} do not order the same items")
    if n < 2:
        return 1.0
    _, discordant = _sorted_counting([rank[item] for item in one])
    return 1.0 - 4.0 * discordant / (n * (n - 1))


def top_overlap(one: Sequence[int], other: Sequence[int], top: int) -> float:
    """Return the share of the first `top` items of two orders that stand in both; fewer items are all looked at."""
    if top < 1:
        raise ValueError(f"top is {top}: at least 1")
    looked_at = min(top, len(one), len(other))
    return len(set(one[:looked_at]) & set(other[:looked_at])) / looked_at if looked_at else 1.0


def rank_variance(runs: Sequence[Order]) -> tuple[float, ...]:
    """Return by item the variance of its rank over the runs, in ranks squared."""
    ranks: list[list[int]] = [[] for _ in runs[0]]
    for run in runs:
        for rank, item in enumerate(run):
            ranks[item].append(rank)
    return tuple(_variance(of_item) for of_item in ranks)


def agreement(runs: Sequence[Order], *, top: int = 10) -> Agreement:
    """Return how far runs of a teacher over one list agree.

    Args:
        runs: at least two orders of the same places.
        top: how many of the first count for the overlap.

    Raises:
        ValueError: there is nothing to compare.

    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} runs: at least 2 can agree")
    pairs = list(combinations(runs, 2))
    taus = [kendall_tau(one, other) for one, other in pairs]
    overlaps = [top_overlap(one, other, top) for one, other in pairs]
    return Agreement(
        runs=tuple(tuple(run) for run in runs),
        kendall_tau=round(fsum(taus) / len(taus), DIGITS),
        kendall_tau_min=round(min(taus), DIGITS),
        top=min(top, len(runs[0])),
        top_overlap=round(fsum(overlaps) / len(overlaps), DIGITS),
        rank_variance=tuple(round(value, DIGITS) for value in rank_variance(runs)),
    )


def _variance(ranks: Sequence[int]) -> float:
    mean = sum(ranks) / len(ranks)
    return fsum((rank - mean) ** 2 for rank in ranks) / len(ranks)


def _sorted_counting(values: list[int]) -> tuple[list[int], int]:
    """Return the values sorted, and how many pairs stood the wrong way round."""
    if len(values) < 2:
        return values, 0
    middle = len(values) // 2
    left, in_left = _sorted_counting(values[:middle])
    right, in_right = _sorted_counting(values[middle:])
    merged: list[int] = []
    inversions = in_left + in_right
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] < right[j]:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
            inversions += len(left) - i
    return merged + left[i:] + right[j:], inversions
