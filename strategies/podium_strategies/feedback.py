"""What the best candidates have in common, found again in the others."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite
from typing import Any

from podium_strategies.fusion import z_scores
from podium_strategies.permutation import by_score
from podium_strategies.plan import Grade, Liken, Plan, Question, Ranking, Scale, Strategy, ask_all
from podium_strategies.pool import Pool


@dataclass(frozen=True, slots=True)
class Feedback(Strategy):
    """Pseudo-relevance feedback: whoever is like the best candidates moves up.

    Rocchio's idea (1971) with dense vectors (Li et al., arXiv 2108.11044): the query is taken for what the best
    candidates say it is about. Each candidate's score, standardised over the pool, gets `weight` times its
    standardised likeness to the best, who count by exp(sharpness × their own standardised score).

    Meant as the stage after one that scores: of that one it takes the scores, and asks n likenesses of each example,
    which an embedding judge answers from vectors that it has already. Alone it asks n grades before.

    Args:
        weight: of the likeness against the score.
        sharpness: how much more the best count than those after them; 0 lets all examples count alike.
        top: candidates that count as examples, at most.
        share: of the pool, rounded, that counts as examples at most; one always does. Of ten answer sentences one or
            two are right, and what all ten have in common says nothing.

    """

    kinds = (Grade, Liken)

    weight: float = 1.0
    sharpness: float = 1.5
    top: int = 20
    share: float = 0.2

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and isfinite(self.weight)):
            raise ValueError(f"weight is {self.weight}: 0 or more")
        if not (self.sharpness >= 0 and isfinite(self.sharpness)):
            raise ValueError(f"sharpness is {self.sharpness}: 0 or more")
        if self.top < 1:
            raise ValueError(f"top is {self.top}: at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}: above 0, 1 at most")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset({Grade, Liken})

    @property
    def scale(self) -> Scale | None:
        return Scale.FUSED

    def promised(self, n: int) -> int:
        """Return 0, unless the weight is: a candidate unlike all other good ones may fall behind them."""
        return 0 if self.weight > 0 else n

    def plan(self, pool: Pool) -> Plan[Ranking]:
        items = tuple(range(pool.n))
        grades: list[Question[float]] = [] if pool.scores is not None else [Grade(item) for item in items]
        given = yield from ask_all(grades, items)
        scores = z_scores(given if pool.scores is None else pool.scores)
        order = by_score(scores)
        examples = order[: max(1, min(self.top, round(self.share * pool.n)))]
        rows = yield from ask_all([Liken(item, items) for item in examples], order)
        counts = [exp(self.sharpness * (scores[item] - scores[examples[0]])) for item in examples]
        likeness = [sum(count * row[item] for count, row in zip(counts, rows, strict=True)) for item in items]
        total = [score + self.weight * like for score, like in zip(scores, z_scores(likeness), strict=True)]
        return Ranking(by_score(total), tuple(total))
