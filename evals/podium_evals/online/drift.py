"""Whether live traffic is still like a reference: how scores are distributed, and how far a pipeline moves documents.

Two distances of distributions, each beside what chance makes of it (requests drawn from both logs together, 200 times,
the 99th percentile): the population stability index over tenths of the reference, and the Kolmogorov-Smirnov distance.
Below 0.1 a PSI is usually called stable, above 0.25 changed. A request is what is drawn: its documents are not
independent of each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podium_evals.online.traffic import Ranking, Request
from podium_evals.suite import SuiteError

TOP = 10
BINS = 10
GRID = 200
DRAWS = 200
CHANCE = 0.99
REQUESTS_MIN = 30
REQUESTS_MAX = 20_000
"""Of a log, evenly spaced where it has more: drawing them 200 times takes a few seconds."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far live values are from the reference's.

    Args:
        reference: their mean.
        live: likewise.
        psi: population stability index.
        psi_chance: what it comes to by chance in one of a hundred cases.
        ks: Kolmogorov-Smirnov distance, on a grid of 200 quantiles.
        ks_chance: as for the other.

    """

    reference: float
    live: float
    psi: float
    psi_chance: float
    ks: float
    ks_chance: float

    def exceeds(self, psi_max: float, ks_max: float) -> bool:
        """Tell whether a threshold is passed, and not by chance."""
        return (self.psi > max(psi_max, self.psi_chance)) or (self.ks > max(ks_max, self.ks_chance))


@dataclass(frozen=True, slots=True)
class SameQueries:
    """Queries that both logs have over the same candidates: how their orders changed.

    Args:
        queries: how many.
        kendall_tau: mean, of the newest order in each log; 1 is unchanged.
        changed: part of them whose order is another.
        top_10_kept: mean part of the first ten that are in the other's.

    """

    queries: int
    kendall_tau: float
    changed: float
    top_10_kept: float


@dataclass(frozen=True, slots=True)
class Drift:
    """What `podium eval drift` tells.

    Args:
        pipeline: whose rankings are compared.
        requests: of it in the reference, and live.
        distances: by what was measured.
        same: of queries that are in both; None where there are none.
        exceeded: the names of those distances that pass a threshold.

    """

    pipeline: str
    requests: tuple[int, int]
    distances: Mapping[str, Distance]
    same: SameQueries | None
    exceeded: tuple[str, ...]


def drift(
    reference: Sequence[Request],
    live: Sequence[Request],
    *,
    pipeline: str | None = None,
    psi_max: float = 0.25,
    ks_max: float = 0.15,
    tau_min: float | None = None,
    seed: int = 0,
) -> Drift:
    """Compare live rankings of a pipeline with a reference's.

    Args:
        reference: requests.
        live: likewise.
        pipeline: by name; None takes the one that ranked most of the reference and is in both.
        psi_max: above it a distance is exceeded.
        ks_max: likewise.
        tau_min: below it the mean Kendall tau of the queries that are in both is exceeded; None tests nothing.
        seed: of what chance makes.

    Raises:
        SuiteError: no such pipeline in both, too few requests, or scores of other kinds.

    """
    name = pipeline or _common(reference, live)
    before, now = _rankings(reference, name), _rankings(live, name)
    for which, found in (("reference", before), ("live log", now)):
        if len(found) < REQUESTS_MIN:
            raise SuiteError(
                f"the {which} has {len(found)} rankings by {name!r}; at least {REQUESTS_MIN} say something of a "
                "distribution"
            )
    requests = len(before), len(now)
    before, now = _spaced(before), _spaced(now)
    random = np.random.default_rng(seed)
    distances = {
        what: _distance([values(each) for _, each in before], [values(each) for _, each in now], random)
        for what, values in _measured(before, now).items()
    }
    same = _same_queries(before, now)
    exceeded = [what for what, distance in distances.items() if distance.exceeds(psi_max, ks_max)]
    if tau_min is not None and same is not None and same.kendall_tau < tau_min:
        exceeded.append("order of the same queries")
    return Drift(name, requests, distances, same, tuple(exceeded))


def _common(reference: Sequence[Request], live: Sequence[Request]) -> str:
    counted, there = (
        Counter(ranking.pipeline for request in log for ranking in request.rankings.values())
        for log in (reference, live)
    )
    for name, _ in counted.most_common():
        if name in there:
            return name
    raise SuiteError(f"no pipeline is in both logs: {', '.join(counted) or 'none'}, and {', '.join(there) or 'none'}")


def _rankings(requests: Sequence[Request], pipeline: str) -> list[tuple[Request, Ranking]]:
    return [
        (request, ranking)
        for request in requests
        for ranking in request.rankings.values()
        if ranking.pipeline == pipeline and ranking.ids
    ]


def _spaced(rankings: list[tuple[Request, Ranking]]) -> list[tuple[Request, Ranking]]:
    if len(rankings) <= REQUESTS_MAX:
        return rankings
    return [rankings[at] for at in np.linspace(0, len(rankings) - 1, REQUESTS_MAX).astype(int)]


def _measured(
    before: Sequence[tuple[Request, Ranking]], now: Sequence[tuple[Request, Ranking]]
) -> dict[str, Callable[[Ranking], list[float]]]:
    """Return what is measured of a ranking: its scores, where it has some, and how far it moved documents."""
    measured: dict[str, Callable[[Ranking], list[float]]] = {
        "Kendall tau with the first stage": lambda ranking: [kendall_tau(ranking.places)]
    }
    kinds = {ranking.score_kind for _, ranking in (*before, *now) if ranking.scores}
    if len(kinds) > 1:
        raise SuiteError(f"scores of kinds that cannot be compared: {', '.join(sorted(kinds))}")
    scored = [any(ranking.scores for _, ranking in rankings) for rankings in (before, now)]
    if all(scored):
        measured["best score"] = lambda ranking: _scores(ranking, 1)
        measured[f"scores of the first {TOP}"] = lambda ranking: _scores(ranking, TOP)
    return measured


def _scores(ranking: Ranking, n: int) -> list[float]:
    return [score for score in ranking.scores[:n] if score is not None]


def kendall_tau(places: Sequence[int]) -> float:
    """Return Kendall's tau of an order with the order of its places: 1 is unchanged, -1 the reverse; 1 for one alone.

    Knight's method (JASA 1966): inversions are counted while they are sorted, in n log n.
    """
    n = len(places)
    if n < 2:
        return 1.0
    return 1 - 4 * _inversions(list(places))[1] / (n * (n - 1))


def _inversions(given: list[int]) -> tuple[list[int], int]:
    if len(given) < 2:
        return given, 0
    middle = len(given) // 2
    left, left_count = _inversions(given[:middle])
    right, right_count = _inversions(given[middle:])
    merged, count, at = [], left_count + right_count, 0
    for value in right:
        while at < len(left) and left[at] <= value:
            merged.append(left[at])
            at += 1
        count += len(left) - at
        merged.append(value)
    return merged + left[at:], count


def _distance(reference: Sequence[list[float]], live: Sequence[list[float]], random: np.random.Generator) -> Distance:
    """Return the distance of values, some a request."""
    pooled = np.array([value for values in (*reference, *live) for value in values])
    before = np.array([value for values in reference for value in values])
    # Cells between the quantiles of all values, and among their edges those of the reference's tenths.
    tenths = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    edges = np.unique(np.concatenate([np.quantile(pooled, np.linspace(0, 1, GRID + 1)[1:-1]), tenths]))
    counts = np.zeros((len(reference) + len(live), len(edges) + 1), dtype=np.float64)
    for row, values in enumerate((*reference, *live)):
        np.add.at(counts[row], np.searchsorted(edges, values, side="left"), 1)
    is_tenth = np.searchsorted(edges, tenths) + 1
    is_live = np.arange(len(counts)) >= len(reference)
    psi, ks = _psi_ks(counts, is_live, is_tenth)
    by_chance = np.array([_psi_ks(counts, random.permutation(is_live), is_tenth) for _ in range(DRAWS)])
    psi_chance, ks_chance = np.quantile(by_chance, CHANCE, axis=0)
    after = [value for values in live for value in values]
    return Distance(float(before.mean()), float(np.mean(after)), psi, float(psi_chance), ks, float(ks_chance))


def _psi_ks(counts: Floats, is_live: NDArray[np.bool_], tenths: NDArray[np.intp]) -> tuple[float, float]:
    live, everything = is_live @ counts, counts.sum(axis=0)
    before = everything - live
    ks = float(np.abs(np.cumsum(before) / before.sum() - np.cumsum(live) / live.sum()).max())
    ends = np.concatenate([[0], tenths])
    # Half of a value in each, so that an empty tenth is far and not infinitely far.
    expected, seen = (np.add.reduceat(part, ends) + 0.5 for part in (before, live))
    expected, seen = expected / expected.sum(), seen / seen.sum()
    return float(((seen - expected) * np.log(seen / expected)).sum()), ks


def _same_queries(
    before: Sequence[tuple[Request, Ranking]], now: Sequence[tuple[Request, Ranking]]
) -> SameQueries | None:
    known: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
    for request, ranking in before:
        known[request.query, frozenset(ranking.ids)] = ranking.ids
    newest: dict[tuple[str, frozenset[str]], tuple[str, ...]] = {}
    for request, ranking in now:
        key = request.query, frozenset(ranking.ids)
        if key in known:
            newest[key] = ranking.ids
    if not newest:
        return None
    taus, kept, changed = [], [], 0
    for key, ids in newest.items():
        place = {docid: rank for rank, docid in enumerate(known[key])}
        taus.append(kendall_tau([place[docid] for docid in ids]))
        depth = min(TOP, len(ids))
        kept.append(sum(place[docid] < depth for docid in ids[:depth]) / depth)
        changed += ids != known[key]
    n = len(newest)
    return SameQueries(n, sum(taus) / n, changed / n, sum(kept) / n)
