"""Strategies that give points for getting on: several tournaments of groups, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from podium_strategies.permutation import ahead, shuffled
from podium_strategies.plan import Order, Permutation, Plan, Ranking, Scale, Strategy, ask_all, together
from podium_strategies.pool import Pool


@dataclass(frozen=True, slots=True)
class Leg:
    """One stage of a tournament: `entrants` in `groups` groups as equal as can be, of whom `promoted` get on."""

    entrants: int
    groups: int
    promoted: int

    def share(self, group: int) -> int:
        """Return how many of a group get on; the first groups are the larger ones where they are not equal."""
        return self.promoted // self.groups + (group < self.promoted % self.groups)


def legs(n: int, size: int) -> list[Leg]:
    """Return the stages that bring `n` candidates down to two with groups of at most `size`.

    Half of the field gets on, until one group holds all that is left; where half would be hardly more than that, the
    field goes down to `size` at once. There are as few groups as `size` allows, or one or two more where that makes
    them equal. For 100 and 20 these are the paper's: 5 groups of 20 with 10 promoted, 5 of 10 with 4, then 20 to 10,
    10 to 5 and 5 to 2.
    """
    stages: list[Leg] = []
    while n > 2 or (n == 2 and not stages):
        half = n // 2
        promoted = half if n <= size or half >= 3 * size / 2 else min(size, n - 1)
        fewest = -(-n // size)
        groups = next((g for g in range(fewest, fewest + 3) if n % g == 0 and promoted % g == 0), fewest)
        stages.append(Leg(n, groups, promoted))
        n = promoted
    return stages


@dataclass(slots=True)
class _Table:
    """What all tournaments together have brought so far."""

    order: Permutation
    """First-stage order with every ruling sorted in on the places that its group holds: a whole order at any time,
    and never worse than the first stage's where the rulings are true."""
    points: list[int]
    places: list[list[int]] = field(default_factory=list)
    """By stage, by item: the sum of its places in its groups."""

    def enter(self, stage: int, group: Sequence[int], best: Sequence[int]) -> None:
        """Enter one group's ruling: `best` get on, in this order; who does not shares the place behind them."""
        self.order = ahead(self.order, best, group)
        for item in group:
            self.places[stage][item] += len(best)
        for place, item in enumerate(best):
            self.points[item] += 1
            self.places[stage][item] += place - len(best)

    def final(self) -> Permutation:
        def key(item: int) -> tuple[int, ...]:
            return (-self.points[item], *(places[item] for places in reversed(self.places)))

        return tuple(sorted(range(len(self.points)), key=key))


@dataclass(frozen=True, slots=True)
class TourRank(Strategy):
    """Plays tournaments of groups: who is promoted gets a point, and points make the order (arXiv 2406.11678).

    13 questions a tournament of 100, in 5 rounds however many tournaments run side by side. Group g of G takes the
    entrants g, g + G, g + 2G … in first-stage order, so that the favourites meet late, and shows them shuffled.

    Equal points are told apart by what is paid for already: the places that the rulings gave in the last stage, all
    tournaments together, then in the one before, and so on (whoever was not promoted shares the place behind those
    who were); then by first-stage order. So a truthful judge brings the best to rank 1, though both finalists have
    the same points.

    Args:
        r: tournaments.
        size: candidates in a group, at most.

    """

    kinds = (Order,)

    r: int = 1
    size: int = 20

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r is {self.r}: at least 1 tournament")
        if self.size < 3:
            raise ValueError(f"size is {self.size}: a group that promotes half of its members holds at least 3")

    @property
    def scale(self) -> Scale | None:
        return Scale.POINTS

    def promised(self, n: int) -> int:
        """Return how many of the best cannot fail to get on until one group ranks them all."""
        surest = n
        for leg in legs(n, self.size):
            surest = min(surest, leg.promoted // leg.groups)
            if leg.groups == 1:
                break
        return surest

    def plan(self, pool: Pool) -> Plan[Ranking]:
        stages = legs(pool.n, self.size)
        table = _Table(tuple(range(pool.n)), [0] * pool.n, [[0] * pool.n for _ in stages])
        yield from together(*(self._play(number, stages, table, pool) for number in range(self.r)))
        return Ranking(table.final(), tuple(float(points) for points in table.points))

    def _play(self, number: int, stages: Sequence[Leg], table: _Table, pool: Pool) -> Plan[None]:
        entrants: Sequence[int] = range(pool.n)
        for stage, leg in enumerate(stages):
            groups = [tuple(entrants[group :: leg.groups]) for group in range(leg.groups)]
            questions = [
                Order(shuffled(items, pool.seed, number, stage, group), top=leg.share(group))
                for group, items in enumerate(groups)
            ]
            rulings = yield from ask_all(questions, table.order)
            promoted = [ruling[: leg.share(group)] for group, ruling in enumerate(rulings)]
            for group, best in zip(groups, promoted, strict=True):
                table.enter(stage, group, best)
            entrants = sorted(item for best in promoted for item in best)
