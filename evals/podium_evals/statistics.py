"""Whether a difference between two systems is more than chance: paired tests, corrected for how many were made.

Randomisation over queries (sign flips; Smucker, Allan and Carterette, CIKM 2007, find it and the t-test the ones to
use), bootstrap intervals of the mean difference, and Holm's step-down correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FLIPS = 20_000
RESAMPLES = 10_000
CONFIDENCE = 0.95
SAME = 1e-9
"""Two values of a measure that differ by less are a tie."""


@dataclass(frozen=True, slots=True)
class Difference:
    """System minus baseline, query by query.

    Args:
        mean: of the differences.
        low: lower end of the 95 % interval of the mean (bootstrap, percentiles).
        high: its upper end.
        p: two-sided, of the sign-flip test; before correction.
        wins: queries on which the system is better.
        losses: on which it is worse.
        ties: on which they are equal.

    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int


def compare(system: NDArray[np.float64], baseline: NDArray[np.float64], *, seed: int = 0) -> Difference:
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
    differences = system - baseline
    low, high = interval(differences, seed=seed)
    return Difference(
        mean=float(differences.mean()),
        low=low,
        high=high,
        p=sign_flip_p(differences, seed=seed),
        wins=int((differences > SAME).sum()),
        losses=int((differences < -SAME).sum()),
        ties=int((np.abs(differences) <= SAME).sum()),
    )


def sign_flip_p(differences: NDArray[np.float64], *, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p of a mean this far from 0, were each query's sign a coin's; never below 1/(flips + 1)."""
    random = np.random.default_rng(seed)
    observed = abs(differences.sum())
    extreme = 0
    for begun in range(0, flips, 1000):  # a thousand at a time: 785 queries × 20,000 flips would be 126 MB
        signs = random.integers(0, 2, size=(min(1000, flips - begun), differences.size)) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed - SAME).sum())
    return (extreme + 1) / (flips + 1)


def interval(
    values: NDArray[np.float64], *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap's interval of the mean."""
    random = np.random.default_rng(seed)
    means = [
        values[random.integers(0, values.size, size=(min(500, resamples - begun), values.size))].mean(axis=1)
        for begun in range(0, resamples, 500)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are (Holm 1979), in the order given."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected
