"""The order that scores make, and a paired test of two sets of queries' values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_PERMUTATIONS = 10_000


def order(scores: Sequence[float]) -> list[int]:
    """Return places from the highest score down; equal ones, and those that are no number, by place."""
    return sorted(range(len(scores)), key=lambda i: (scores[i] != scores[i], -scores[i], i))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same queries measured twice.

    Args:
        before: mean over the queries.
        after: likewise.
        queries: how many.
        better: of these, how many gained.
        worse: how many lost.
        p: the share of 10,000 random changes of sign whose mean difference is as far from 0, plus one in both numbers
            (a paired randomisation test, two-sided).

    """

    before: float
    after: float
    queries: int
    better: int
    worse: int
    p: float


def compared(before: Mapping[str, float], after: Mapping[str, float], *, seed: int = 0) -> Comparison:
    """Compare two measurements, by the names of the queries that both have."""
    names = [name for name in before if name in after]
    if not names:
        return Comparison(0.0, 0.0, 0, 0, 0, 1.0)
    old, new = (np.array([values[name] for name in names]) for values in (before, after))
    difference = new - old
    rng = np.random.default_rng(seed)
    as_far = 0
    for _ in range(_PERMUTATIONS // 500):  # in parts, so that many queries take no memory
        signs = rng.integers(0, 2, (500, len(names)), dtype=np.int8) * 2 - 1
        as_far += int((np.abs(signs @ difference) >= abs(difference.sum()) - 1e-12).sum())
    p = (as_far + 1) / (_PERMUTATIONS + 1)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return Comparison(float(old.mean()), float(new.mean()), len(names), better, worse, p)
