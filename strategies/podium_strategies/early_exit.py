"""Two-step grading: a cheap judge looks at everybody, a dear one only at those who can still reach the top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from podium_strategies.plan import Grade, Permutation, Plan, Ranking, Scale, Strategy, ask_all
from podium_strategies.pool import Pool

FAST = "fast"
STRONG = "strong"


@dataclass(frozen=True, slots=True)
class EarlyExit(Strategy):
    """Grades all by the role `fast`, then by the role `strong` only those who can still change the top k.

    The law: where strong - (slope · fast + intercept) ≤ bound for every candidate of a pool, the first k of the order,
    and their scores, are those that grading everybody by `strong` would give, ties included. It is enough that it
    holds for those first k; errors to the other side cost questions and nothing else. The idea is the threshold
    algorithm's (Fagin et al., PODS 2001), with an error bound in the place of monotone parts. `podium calibrate` finds
    slope, intercept and bound on labelled lists, and says how often a bound that is no maximum is broken and what that
    costs.

    Strong grades are asked in the order of the fast ones: k of them first, then waves of `wave`, until the k-th best
    strong grade is out of reach of all who are left. Those with a strong grade stand in front, by it; the others behind
    them, by the fast one, without a score: grades of two judges cannot be compared.

    Without a bound nobody is out of reach, so all are graded by `strong` and none by `fast`, which is what
    `pointwise` does; unless `strong_max` says how many may be, which promises nothing of the top k and costs the same
    for every answer.

    Args:
        k: how many first places have to be right.
        bound: on how far a strong grade lies above what the fast one lets expect, in the unit of the strong one; None
            where none is known.
        slope: of the map from fast grades to strong ones; above 0.
        intercept: of the map.
        wave: strong grades asked side by side, after the first k.
        strong_max: strong grades at most; beyond it the exactness ends. None is as many as the bound asks for.

    """

    kinds = (Grade,)

    k: int = 10
    bound: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    wave: int = 10
    strong_max: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("wave", self.wave)):
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1")
        if self.bound is not None and not (isfinite(self.bound) and self.bound >= 0):
            raise ValueError(f"bound is {self.bound}: a number of at least 0, or unset where none is known")
        if not (isfinite(self.slope) and self.slope > 0):
            raise ValueError(f"slope is {self.slope}: a number above 0, or the fast grades say nothing of the strong")
        if not isfinite(self.intercept):
            raise ValueError(f"intercept is {self.intercept}: a number")
        if self.strong_max is not None and self.strong_max < 1:
            raise ValueError(f"strong_max is {self.strong_max}: at least 1, or unset for no maximum")

    @property
    def scale(self) -> Scale | None:
        return Scale.JUDGE

    @property
    def graded_by(self) -> str:
        return STRONG

    def promised(self, n: int) -> int:
        return min(n, self.k)

    def ceiling(self, n: int) -> int | None:
        if self._all_strong(n):
            return None
        return n + self._strong_most(n)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order: Permutation = tuple(range(pool.n))
        strong: dict[int, float] = {}
        most = self._strong_most(pool.n)
        if self._all_strong(pool.n):
            yield from self._grade(order, order, strong)
            return _ranking(order, strong)

        fast: dict[int, float] = {}
        yield from self._grade(order, order, fast, FAST)
        order = _placed(order, fast)
        expected = [self.slope * fast[item] + self.intercept for item in order]
        while len(strong) < most:
            graded = len(strong)
            size = self.k if not strong else self.wave
            reach = self._reach(expected, strong)
            wave = order[graded : min(graded + size, reach, most)]
            if not wave:
                break
            yield from self._grade(wave, order, strong)
        return _ranking(order, strong)

    def _all_strong(self, n: int) -> bool:
        """Tell whether everybody is graded by `strong` whatever `fast` says, so that nobody needs to ask it."""
        return self._strong_most(n) == n and (self.bound is None or n <= self.k)

    def _strong_most(self, n: int) -> int:
        return n if self.strong_max is None else min(n, self.strong_max)

    def _reach(self, expected: Sequence[float], strong: Mapping[int, float]) -> int:
        """Return how many of the fast order, from its head, can belong to the top k."""
        if self.bound is None or len(strong) < self.k:
            return len(expected)
        bar = sorted(strong.values(), reverse=True)[self.k - 1]
        place = len(strong)
        # Written as the law is: whoever is calibrated by the very difference that is compared here is not lost to a
        # rounding. At the bar itself a tie is possible, which the first stage decides: it still counts.
        while place < len(expected) and not bar - expected[place] > self.bound:
            place += 1
        return place

    def _grade(
        self, items: Sequence[int], order: Permutation, known: dict[int, float], role: str = STRONG
    ) -> Plan[None]:
        """Ask for the grades of `items` and enter them in `known`. `order` is what stands, but for `known`."""
        before = dict(known)

        def salvage(grades: Mapping[int, float]) -> Permutation:
            return _placed(order, before | {items[i]: grade for i, grade in grades.items()})

        grades = yield from ask_all([Grade(item, role) for item in items], _placed(order, before), salvage)
        known.update(zip(items, grades, strict=True))


def _placed(order: Sequence[int], grades: Mapping[int, float]) -> Permutation:
    """Sort those that have a grade among the places that they hold, equal ones in the first stage's order."""
    best = iter(sorted(grades, key=lambda item: (-grades[item], item)))
    return tuple(next(best) if item in grades else item for item in order)


def _ranking(order: Permutation, strong: Mapping[int, float]) -> Ranking:
    """Return the order with the strongly graded in front: they hold its first places already, but not by grade."""
    return Ranking(_placed(order, strong), tuple(strong.get(item) for item in range(len(order))))
