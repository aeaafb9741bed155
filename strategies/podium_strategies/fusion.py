"""Several orders of the same candidates, made into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from podium_strategies.cascade import Cascade, Stage
from podium_strategies.permutation import by_score
from podium_strategies.plan import Permutation, Plan, Question, Ranking, Scale, Strategy, together, within
from podium_strategies.pool import Pool

METHODS = ("rrf", "z-score")


def reciprocal_ranks(order: Sequence[int], rank_constant: int) -> list[float]:
    """Return 1 / (rank_constant + rank) by item, ranks from 1."""
    values = [0.0] * len(order)
    for rank, item in enumerate(order, 1):
        values[item] = 1.0 / (rank_constant + rank)
    return values


def z_scores(values: Sequence[float]) -> list[float]:
    """Return values less their mean, over their standard deviation; all 0 where they do not differ."""
    largest = max(map(abs, values), default=0.0)
    if largest == 0:
        return [0.0] * len(values)
    scaled = [value / largest for value in values]  # squares of what a backend may call a score can overflow
    mean = sum(scaled) / len(scaled)
    deviation = sqrt(sum((value - mean) ** 2 for value in scaled) / len(scaled))
    return [(value - mean) / deviation if deviation > 0 else 0.0 for value in scaled]


@dataclass(frozen=True, slots=True)
class Fusion(Strategy):
    """Lets several strategies order the same pool side by side and joins their orders.

    Args:
        of: the voices, each a strategy with its role and weight.
        method: `rrf`, weighted reciprocal ranks (Cormack et al., SIGIR 2009), or `z-score`, the weighted sum of the
            scores, each voice's standardised over the pool. A voice that has no scores for this pool (a first stage
            that came without any) adds its standardised reciprocal ranks.
        rank_constant: the k of reciprocal rank fusion.

    """

    of: tuple[Stage, ...]
    method: str = "rrf"
    rank_constant: int = 60

    def __post_init__(self) -> None:
        if not self.of:
            raise ValueError("a fusion needs at least one voice")
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}: one of {', '.join(METHODS)}")
        if self.rank_constant < 1:
            raise ValueError(f"rank_constant is {self.rank_constant}: at least 1")
        for voice in self.of:
            if not isinstance(voice, Stage):
                raise ValueError(f"a voice is {voice!r}, which is no Stage")
            if not voice.weight > 0:
                raise ValueError(f"weight is {voice.weight}: above 0")
            if voice.keep is not None:
                raise ValueError("keep has no meaning inside a fusion: every voice orders the whole pool")
            if self.method == "z-score" and voice.strategy.scale is None:
                raise ValueError(f"{type(voice.strategy).__name__} gives no scores to standardise; use method = 'rrf'")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset().union(*(voice.strategy.asks for voice in self.of))

    @property
    def scale(self) -> Scale | None:
        return Scale.FUSED

    def promised(self, n: int) -> int:
        return n if all(voice.strategy.promised(n) == n for voice in self.of) else 0

    def ceiling(self, n: int) -> int | None:
        bounds = [voice.strategy.ceiling(n) for voice in self.of]
        return Cascade(self.of).ceiling(n) if any(bound is not None for bound in bounds) else None

    def plan(self, pool: Pool) -> Plan[Ranking]:
        items = range(pool.n)
        rankings = yield from together(
            *(within(voice.strategy.plan(pool), items, role=voice.role) for voice in self.of), join=self._join
        )
        total = [0.0] * pool.n
        for voice, ranking in zip(self.of, rankings, strict=True):
            for item, value in enumerate(self._values(ranking)):
                total[item] += voice.weight * value
        return Ranking(by_score(total), tuple(total))

    def _values(self, ranking: Ranking) -> list[float]:
        """Return what one voice says of each item, made comparable with the other voices."""
        ranks = reciprocal_ranks(ranking.order, self.rank_constant)
        if self.method == "rrf":
            return ranks
        scores = [score for score in ranking.scores or () if score is not None]
        return z_scores(scores if len(scores) == len(ranks) else ranks)

    def _join(self, orders: Sequence[Permutation]) -> Permutation:
        """Join what stands in the middle: scores are not known yet, ranks are."""
        total = [0.0] * len(orders[0])
        for voice, order in zip(self.of, orders, strict=True):
            for item, value in enumerate(reciprocal_ranks(order, self.rank_constant)):
                total[item] += voice.weight * value
        return by_score(total)
