"""Orders that do not say the same thing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from podium_strategies.permutation import front
from podium_strategies.plan import Grade, Liken, Plan, PlanTooLarge, Question, Ranking, Scale, Strategy, ask_all
from podium_strategies.pool import Pool


@dataclass(frozen=True, slots=True)
class Mmr(Strategy):
    """Maximal marginal relevance: relevant, and unlike what stands above it (Carbonell and Goldstein, SIGIR 1998).

    One round: n grades, where the pool brings no scores of its own, and n rows of similarities, which an embedding
    judge answers with one matrix product.

    Args:
        balance: the paper's lambda: 1 is relevance alone, 0 is difference alone. Relevance is scaled to 0 … 1 over the
            pool, so that it weighs against similarities whatever the unit of its scores.
        k: how many places to fill this way; the rest follows by relevance. None fills all.
        candidates_max: more than this is refused with `PlanTooLarge`: the similarities are n squared.

    """

    kinds = (Grade, Liken)

    balance: float = 0.7
    k: int | None = None
    candidates_max: int = 2_000

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance is {self.balance}: from 0 (difference alone) to 1 (relevance alone)")
        if self.k is not None and self.k < 1:
            raise ValueError(f"k is {self.k}: at least 1")
        if self.candidates_max < 1:
            raise ValueError(f"candidates_max is {self.candidates_max}: at least 1")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset({Grade, Liken})

    @property
    def scale(self) -> Scale | None:
        return Scale.MARGINAL

    def promised(self, n: int) -> int:
        return min(n, 1) if self.balance > 0 else 0

    def plan(self, pool: Pool) -> Plan[Ranking]:
        n = pool.n
        if n > self.candidates_max:
            raise PlanTooLarge(
                f"the similarities of {n} candidates to each other; candidates_max is {self.candidates_max}, so let a "
                "stage before keep fewer"
            )
        start = tuple(range(n))
        grades: list[Question[Any]] = [] if pool.scores is not None else [Grade(item) for item in start]
        rows: list[Question[Any]] = [Liken(item, start) for item in start]
        answers = yield from ask_all([*grades, *rows], start)
        relevance = _from_0_to_1(pool.scores if pool.scores is not None else answers[: len(grades)])
        alike = answers[len(grades) :]

        chosen: list[int] = []
        marginal: list[float | None] = [None] * n
        nearest = [float("-inf")] * n  # similarity to the most alike chosen item
        left = set(start)
        for _ in range(n if self.k is None else min(n, self.k)):

            def gain(item: int) -> float:
                echo = nearest[item] if chosen else 0.0
                return self.balance * relevance[item] - (1 - self.balance) * echo

            best = max(left, key=lambda item: (gain(item), -item))
            marginal[best] = gain(best)
            left.remove(best)
            chosen.append(best)
            for item in left:
                nearest[item] = max(nearest[item], alike[best][item])
        by_relevance = sorted(start, key=lambda item: -relevance[item])
        return Ranking(front(chosen, by_relevance), tuple(marginal))


def _from_0_to_1(values: Sequence[float]) -> list[float]:
    """Return values scaled so that the least is 0 and the greatest 1; all 0 where they do not differ."""
    least = min(values, default=0.0)
    span = max(values, default=0.0) - least
    return [(value - least) / span if span > 0 else 0.0 for value in values]
