"""Permutation self-consistency: the same plan several times, every prompt shuffled, and one order of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from podium_strategies.fusion import reciprocal_ranks
from podium_strategies.listwise import SlidingWindow
from podium_strategies.permutation import by_score, risen, shuffled
from podium_strategies.plan import (
    Order,
    Permutation,
    Pick,
    Plan,
    Question,
    Ranking,
    Strategy,
    leave,
    reworded,
    together,
)
from podium_strategies.pool import Pool


def borda(orders: Sequence[Permutation]) -> Permutation:
    """Join orders by the sum of ranks; equal sums keep the order of the items' numbers."""
    total = [0.0] * len(orders[0])
    for order in orders:
        for rank, item in enumerate(order):
            total[item] -= rank
    return by_score(total)


def reciprocal(orders: Sequence[Permutation]) -> Permutation:
    """Join orders by the sum of reciprocal ranks, with the usual constant of 60 (Cormack et al., SIGIR 2009)."""
    return by_score([sum(values) for values in zip(*(reciprocal_ranks(order, 60) for order in orders), strict=True)])


def local_kemeny(orders: Sequence[Permutation]) -> Permutation:
    """Join orders by Borda, then let each item rise past neighbours behind whom a majority does not want it.

    What comes out is locally Kemeny-optimal (Dwork et al., WWW 2001): no exchange of two neighbours agrees with more
    of the orders.
    """
    ranks = []
    for order in orders:
        rank = [0] * len(order)
        for place, item in enumerate(order):
            rank[item] = place
        ranks.append(rank)

    def beats(item: int, other: int) -> bool:
        return 2 * sum(rank[item] < rank[other] for rank in ranks) > len(ranks)

    return risen(borda(orders), beats)


AGGREGATES: dict[str, Callable[[Sequence[Permutation]], Permutation]] = {
    "borda": borda,
    "rrf": reciprocal,
    "kemeny": local_kemeny,
}


@dataclass(frozen=True, slots=True)
class SelfConsistency(Strategy):
    """Runs a strategy m times side by side with the candidates of every prompt shuffled (PSC, arXiv 2310.07712).

    It costs m times what the base costs and takes as long as the base takes. What is shuffled is the order in which a
    question shows its candidates, never the pool: the base needs the first stage's order to know where to look first.
    Grades and pairs have no order to shuffle; pairs are shown in both orders by who asks about them.

    Args:
        base: the strategy.
        m: how many times.
        aggregate: how the m orders become one: `kemeny` (locally optimal, as in the paper), `borda` or `rrf`.

    """

    base: Strategy = field(default_factory=SlidingWindow)
    m: int = 20
    aggregate: str = "kemeny"

    def __post_init__(self) -> None:
        if not isinstance(self.base, Strategy):
            raise ValueError(f"base is {self.base!r}, which is no strategy")
        if self.m < 1:
            raise ValueError(f"m is {self.m}: at least 1")
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate is {self.aggregate!r}: one of {', '.join(AGGREGATES)}")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return self.base.asks

    def promised(self, n: int) -> int:
        return self.base.promised(n)

    def ceiling(self, n: int) -> int | None:
        most = self.base.ceiling(n)
        return None if most is None else self.m * most

    def plan(self, pool: Pool) -> Plan[Ranking]:
        join = AGGREGATES[self.aggregate]
        orders = yield from together(*(self._branch(number, pool) for number in range(self.m)), join=join)
        return Ranking(join(orders))

    def _branch(self, number: int, pool: Pool) -> Plan[Permutation]:
        def shuffle(question: Question[Any]) -> Question[Any]:
            match question:
                case Order(candidates) | Pick(candidates):
                    return replace(question, candidates=shuffled(candidates, pool.seed, number, *candidates))
            return question

        ranking = yield from reworded(self.base.plan(pool), shuffle)
        yield from leave(ranking.order)
        return ranking.order
