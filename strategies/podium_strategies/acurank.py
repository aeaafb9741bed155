"""AcuRank: asks again only about those of whom it is not yet clear whether they belong to the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from podium_strategies.permutation import ahead, by_score
from podium_strategies.plan import Order, Permutation, Plan, Ranking, Scale, Strategy, ask, ask_all
from podium_strategies.pool import Pool
from podium_strategies.trueskill import MEAN, rated


@dataclass(frozen=True, slots=True)
class AcuRank(Strategy):
    """Keeps a belief in the relevance of each candidate and asks where it is uncertain (AcuRank, arXiv 2505.18512).

    Every candidate is ranked once, in windows side by side. Then those are ranked again whose probability to belong
    to the top k is neither near 0 nor near 1, until fewer than `tau` of them are left; a last time these are ranked
    together with all who stand above them. Beliefs are TrueSkill's, and their means make the order.

    A belief begins at the first stage's score, brought to TrueSkill's scale (the highest score becomes 25), with a
    third of it as deviation. Where the pool has no scores, or some that are not above 0 (logits), only the first
    stage's order is used: means fall from 25 by steps that are small against any deviation.

    Args:
        size: candidates in a window.
        k: how many belong to the top.
        epsilon: a probability is uncertain from epsilon to 1 - epsilon.
        tau: stop when fewer than this many are uncertain.
        repeats_max: most questions beyond the first ranking of every candidate; 20 make 25 in all for 100 candidates.

    """

    kinds = (Order,)

    size: int = 20
    k: int = 10
    epsilon: float = 0.01
    tau: int = 10
    repeats_max: int = 20

    def __post_init__(self) -> None:
        for name, value, least in (("size", self.size, 2), ("k", self.k, 1), ("tau", self.tau, 1)):
            if value < least:
                raise ValueError(f"{name} is {value}: at least {least}")
        if not 0 < self.epsilon < 0.5:
            raise ValueError(f"epsilon is {self.epsilon}: between 0 and 0.5")
        if self.repeats_max < 0:
            raise ValueError(f"repeats_max is {self.repeats_max}: 0 or more")

    @property
    def scale(self) -> Scale | None:
        return Scale.POINTS

    def promised(self, n: int) -> int:
        return n if n <= self.size else 0

    def ceiling(self, n: int) -> int | None:
        return None if n <= self.size else len(self._windows(range(n))) + self.repeats_max

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order: Permutation = tuple(range(pool.n))
        beliefs = prior(pool)
        if 2 <= pool.n <= self.size:
            order = yield from ask(Order(order), order)
            beliefs = _learnt(beliefs, [order])
            return Ranking(order, tuple(belief.mean for belief in beliefs))
        windows = self._windows(order)
        left = len(windows) + self.repeats_max
        last = False
        while windows:
            rulings = yield from ask_all([Order(window) for window in windows], order)
            left -= len(windows)
            beliefs = _learnt(beliefs, rulings)
            for ruling in rulings:
                order = ahead(order, ruling, ruling)
            if last:
                break
            chosen, last = self._next(beliefs)
            windows = self._windows(chosen)[:left]
        means = [belief.mean for belief in beliefs]
        return Ranking(by_score(means), tuple(means))

    def _windows(self, items: Sequence[int]) -> list[tuple[int, ...]]:
        """Cut `items` into windows; a last one with a single candidate is nothing to ask about."""
        cuts = [tuple(items[i : i + self.size]) for i in range(0, len(items), self.size)]
        return [window for window in cuts if len(window) >= 2]

    def _next(self, beliefs: Sequence[NormalDist]) -> tuple[list[int], bool]:
        """Return who is ranked next, most probable first, and whether that is for the last time."""
        chances = top_chances(beliefs, self.k)
        likely = [item for item in by_score(chances) if chances[item] > self.epsilon]
        uncertain = [item for item in likely if chances[item] < 1 - self.epsilon]
        last = len(uncertain) < self.tau
        return (likely if last else uncertain), last


def prior(pool: Pool) -> list[NormalDist]:
    """Return the belief in each candidate before anything was asked."""
    scores = pool.scores
    if scores and min(scores) > 0:
        means = [score * MEAN / max(scores) for score in scores]
    else:
        step = 0.5 / max(pool.n, 1)
        means = [MEAN - step * item for item in range(pool.n)]
    return [NormalDist(mean, mean / 3) for mean in means]


def top_chances(beliefs: Sequence[NormalDist], k: int) -> list[float]:
    """Return how probably each belongs to the top: to exceed the bar that `k` are expected to exceed."""
    if k >= len(beliefs):
        return [1.0] * len(beliefs)
    reach = max((6 * belief.stdev for belief in beliefs), default=0.0)
    low = min(belief.mean for belief in beliefs) - reach
    high = max(belief.mean for belief in beliefs) + reach
    for _ in range(60):
        bar = (low + high) / 2
        if sum(1 - belief.cdf(bar) for belief in beliefs) > k:
            low = bar
        else:
            high = bar
    return [1 - belief.cdf(low) for belief in beliefs]


def _learnt(beliefs: Sequence[NormalDist], rulings: Sequence[Sequence[int]]) -> list[NormalDist]:
    """Return the beliefs after rulings of which no two share a candidate."""
    changed = list(beliefs)
    for ruling in rulings:
        for item, belief in zip(ruling, rated([beliefs[item] for item in ruling]), strict=True):
            changed[item] = belief
    return changed
