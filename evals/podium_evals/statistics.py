"""Whether a difference between two systems is more than chance: paired tests, corrected for how many were made.

Randomisation over queries (sign flips; Smucker, Allan and Carterette, CIKM 2007, find it and the t-test the ones to
use), bootstrap intervals of the mean difference, and Holm's step-down correction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podium_evals.results import Difference

FLIPS = 20_000
RESAMPLES = 10_000
CONFIDENCE = 0.95
SAME = 1e-9
"""Two values of a measure that differ by less are a tie."""


Values = NDArray[np.float64]


def compare(system: Values, baseline: Values, *, seed: int = 0) -> Difference:
    """Return how a system differs from a baseline over the same queries.

    Args:
        system: (queries,) values of a measure.
        baseline: (queries,) of the other, in the same order.
        seed: of flips and resamples: equal seeds, equal figures.

    Raises:
        ValueError: the two have other lengths, or none.

    """
    if system.shape != baseline.shape or system.ndim != 1 or not system.size:
        raise ValueError(f"{system.shape} and {baseline.shape} values cannot be paired")
    return compare_all((system - baseline)[:, None], seed=seed)[0]


def compare_all(differences: Values, *, seed: int = 0) -> list[Difference]:
    """Return what differences of many pairs say; all are resampled and flipped alike.

    Args:
        differences: (queries, pairs), system minus baseline.
        seed: of flips and resamples.

    """
    lows, highs = intervals(differences, seed=seed)
    p_values = sign_flip_ps(differences, seed=seed)
    return [
        Difference(
            mean=float(column.mean()),
            low=float(low),
            high=float(high),
            p=float(p),
            wins=int((column > SAME).sum()),
            losses=int((column < -SAME).sum()),
            ties=int((np.abs(column) <= SAME).sum()),
        )
        for column, low, high, p in zip(differences.T, lows, highs, p_values, strict=True)
    ]


def sign_flip_ps(differences: Values, *, flips: int = FLIPS, seed: int = 0) -> Values:
    """Return the two-sided p of means this far from 0, were each query's sign a coin's; never below 1/(flips + 1).

    Args:
        differences: (queries, pairs).
        flips: of the coins.
        seed: of the coins, which are the same for all pairs.

    Returns:
        (pairs,).

    """
    random = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    extreme = np.zeros(differences.shape[1])
    for begun in range(0, flips, 1000):  # a thousand at a time: 785 queries × 20,000 flips would be 126 MB
        signs = random.integers(0, 2, size=(min(1000, flips - begun), len(differences))) * 2.0 - 1
        extreme += (np.abs(signs @ differences) >= observed - SAME).sum(axis=0)
    return (extreme + 1) / (flips + 1)


def sign_flip_p(differences: Values, *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the p of (queries,) differences; see `sign_flip_ps`."""
    return float(sign_flip_ps(differences[:, None], flips=flips, seed=seed)[0])


def intervals(
    values: Values, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[Values, Values]:
    """Return the percentile bootstrap's intervals of means; the same queries are drawn for all columns.

    Args:
        values: (queries, columns).
        resamples: of the queries.
        confidence: of the intervals.
        seed: of the resamples.

    Returns:
        The lower and the upper ends, (columns,) each.

    """
    random = np.random.default_rng(seed)
    n = len(values)
    means = []
    for begun in range(0, resamples, 500):
        drawn = random.integers(0, n, size=(min(500, resamples - begun), n))
        # How often each query was drawn, so that one product gives the means of all columns.
        places = (drawn + np.arange(len(drawn))[:, None] * n).ravel()
        means.append(np.bincount(places, minlength=drawn.size).reshape(drawn.shape) @ values / n)
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high


def interval(
    values: Values, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the mean of (queries,) values; see `intervals`."""
    low, high = intervals(values[:, None], resamples=resamples, confidence=confidence, seed=seed)
    return float(low[0]), float(high[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are (Holm 1979), in the order given."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
