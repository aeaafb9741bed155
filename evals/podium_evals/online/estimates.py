"""What traffic proves: differences with intervals where a user's requests depend on each other, and checks of chance.

A key (a user, as a rule) is the unit that was assigned, so it is the unit that is drawn in a bootstrap: requests of one
key are not independent, and treating them so makes intervals too narrow (Deng, Knoblich and Lu, KDD 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 2_000
MISMATCH_P = 0.001
"""Below it a sample ratio is no accident (Fabijan et al., KDD 2019)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference of means over requests, challenger minus incumbent.

    Args:
        incumbent: its mean.
        challenger: likewise.
        difference: of the two.
        low: lower end of the 95 % interval of the difference (bootstrap by key, percentiles).
        high: its upper end.
        p: two-sided, by the normal approximation with an error that is robust to keys.
        detectable: the least true difference that traffic like this finds in 80 of 100 cases, at 5 % false alarms.
        requests: by arm.
        keys: by arm.

    """

    incumbent: float
    challenger: float
    difference: float
    low: float
    high: float
    p: float
    detectable: float
    requests: tuple[int, int]
    keys: tuple[int, int]

    @property
    def found(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def effect_by_key(
    keys: Sequence[str],
    challenged: Sequence[bool],
    values: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Effect:
    """Compare the requests of two arms.

    Args:
        keys: of each request; one key may be in both arms.
        challenged: whether it is the challenger's.
        values: of each request.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: an arm has no requests, or there are fewer than two keys.

    """
    _, index = np.unique(np.asarray(keys), return_inverse=True)
    arm, given = np.asarray(challenged, dtype=bool), np.asarray(values, dtype=np.float64)
    n_keys = int(index.max()) + 1 if index.size else 0
    sums: Floats = np.zeros((2, n_keys))
    counts: Floats = np.zeros((2, n_keys))
    for which in (0, 1):
        mine = arm == bool(which)
        sums[which] = np.bincount(index[mine], weights=given[mine], minlength=n_keys)
        counts[which] = np.bincount(index[mine], minlength=n_keys)
    requests = int(counts[0].sum()), int(counts[1].sum())
    if not all(requests):
        raise ValueError(f"the incumbent has {requests[0]} requests and the challenger {requests[1]}; both need some")
    return _effect(sums, counts, requests, seed, resamples)


def paired_effect_by_key(
    keys: Sequence[str],
    incumbent: Sequence[float],
    challenger: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Effect:
    """Compare two arms that both ranked every request; as `effect_by_key`."""
    _, index = np.unique(np.asarray(keys), return_inverse=True)
    n_keys = int(index.max()) + 1 if index.size else 0
    counts: Floats = np.bincount(index, minlength=n_keys).astype(np.float64)
    sums: Floats = np.zeros((2, n_keys))
    for which, values in enumerate((incumbent, challenger)):
        sums[which] = np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=n_keys)
    requests = int(counts.sum())
    return _effect(sums, np.stack([counts, counts]), (requests, requests), seed, resamples)


def _effect(sums: Floats, counts: Floats, requests: tuple[int, int], seed: int, resamples: int) -> Effect:
    """Return the effect of sums and counts, (arms, keys) each."""
    n_keys = sums.shape[1]
    if n_keys < 2:
        raise ValueError(f"{n_keys} key says nothing of chance; at least 2 are needed")
    totals = counts.sum(axis=1)
    means = sums.sum(axis=1) / totals
    difference = float(means[1] - means[0])
    # The delta method: what one key adds to the error of the difference of two ratios.
    residuals = (sums[1] - means[1] * counts[1]) / totals[1] - (sums[0] - means[0] * counts[0]) / totals[0]
    error = math.sqrt(float((residuals**2).sum()) * n_keys / (n_keys - 1))
    low, high = _bootstrap(sums, counts, seed, resamples)
    return Effect(
        incumbent=float(means[0]),
        challenger=float(means[1]),
        difference=difference,
        low=low,
        high=high,
        p=_two_sided(difference / error) if error else float(difference == 0),
        detectable=detectable(error),
        requests=requests,
        keys=(int((counts[0] > 0).sum()), int((counts[1] > 0).sum())),
    )


def _bootstrap(sums: Floats, counts: Floats, seed: int, resamples: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    n_keys = sums.shape[1]
    stacked = np.concatenate([sums, counts])  # (4, keys)
    at_once = max(1, 4_000_000 // n_keys)
    differences = []
    for begun in range(0, resamples, at_once):
        drawn = random.integers(0, n_keys, size=(min(at_once, resamples - begun), n_keys))
        drawn += np.arange(len(drawn))[:, None] * n_keys  # a row of its own for each draw, so that one count does
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
        totals = weights @ stacked.T  # (resamples, 4)
        with np.errstate(invalid="ignore", divide="ignore"):
            differences.append(totals[:, 1] / totals[:, 3] - totals[:, 0] / totals[:, 2])
    # A draw without any key of an arm says nothing of it.
    low, high = np.nanquantile(np.concatenate(differences), [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def detectable(error: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the least true difference that is found with this power, where an estimate has this standard error."""
    normal = NormalDist()
    return error * (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power))


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p of so many wins and losses, were each a coin's: exact, ties left out."""
    n, least = wins + losses, min(wins, losses)
    if n == 0:
        return 1.0
    logs = [_log_choose(n, k) - n * math.log(2) for k in range(least + 1)]
    highest = max(logs)
    return min(1.0, 2 * math.exp(highest) * sum(math.exp(each - highest) for each in logs))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def mismatch_p(observed: Sequence[int], shares: Sequence[float], of: Sequence[int]) -> float:
    """Return the p of a chi-squared test of sample ratios, one degree of freedom.

    Args:
        observed: keys of the challenger, for each share that was configured.
        shares: that it should have.
        of: keys of both arms.

    """
    variance = sum(share * (1 - share) * n for share, n in zip(shares, of, strict=True))
    off = sum(seen - share * n for seen, share, n in zip(observed, shares, of, strict=True))
    if variance == 0:
        return 1.0 if off == 0 else 0.0
    return math.erfc(math.sqrt(off**2 / variance / 2))
