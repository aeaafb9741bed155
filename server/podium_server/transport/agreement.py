"""How far two orders of the same things agree."""

from __future__ import annotations

from collections.abc import Sequence


def kendall_tau(left: Sequence[int], right: Sequence[int]) -> float | None:
    """Return Kendall's tau of two permutations: 1 is the same order, -1 the reverse; None for fewer than two things.

    Counts the pairs that stand the other way round while it merges, in O(n log n): ten thousand documents have fifty
    million pairs.
    """
    n = len(left)
    if n < 2:
        return None
    place = {item: rank for rank, item in enumerate(right)}
    _, swapped = _sorted([place[item] for item in left])
    return 1 - 4 * swapped / (n * (n - 1))


def _sorted(ranks: list[int]) -> tuple[list[int], int]:
    """Return the ranks in order, and how many pairs were not."""
    if len(ranks) < 2:
        return ranks, 0
    middle = len(ranks) // 2
    left, before = _sorted(ranks[:middle])
    right, behind = _sorted(ranks[middle:])
    merged: list[int] = []
    swapped = before + behind
    i = 0
    for rank in right:
        while i < len(left) and left[i] < rank:
            merged.append(left[i])
            i += 1
        swapped += len(left) - i
        merged.append(rank)
    return merged + left[i:], swapped


def overlap(left: Sequence[int], right: Sequence[int], k: int) -> float:
    """Return the part of one's top `k` that is in the other's; of fewer things than `k`, all are in both."""
    tops = set(left[:k]), set(right[:k])
    return len(tops[0] & tops[1]) / len(tops[0]) if tops[0] else 1.0
