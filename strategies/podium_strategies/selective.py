"""Reranking left out where the first stage is sure already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite
from typing import Any

from podium_strategies.cascade import most_asked
from podium_strategies.plan import Plan, Question, Ranking, Scale, Strategy
from podium_strategies.pointwise import Pointwise
from podium_strategies.pool import Pool


def margin(scores: Sequence[float] | None, k: int) -> float | None:
    """Return which part of the fall from the first score to the last lies within the first k: from 0 to 1.

    (s_1 - s_{k+1}) / (s_1 - s_n): near 1 the first k stand out from a tail that is all alike, near k / n nobody does.
    It does not change when all scores are scaled or shifted, so it is the same for BM25, cosines and logits; it does
    grow as lists get shorter. Of sixteen such statistics (first gaps, z-scores, deviations, the greatest gap) it told
    best where reranking gained little, over three sets together, and no single one by much.

    Returns:
        None where there is none: no scores, scores that contradict the order or do not differ, or a list so short that
        all but one of it are among the first k.

    """
    if scores is None or len(scores) < k + 2:
        return None
    fall = scores[0] - scores[-1]
    falling = all(one >= other for one, other in pairwise(scores))
    if not (falling and isfinite(fall) and fall > 0):
        return None
    return (scores[0] - scores[k]) / fall


@dataclass(frozen=True, slots=True)
class Selective(Strategy):
    """Runs `base`, unless the first stage's margin says that it would not change the top: then it asks nothing.

    The first stage is whatever gave the pool its scores: recall, or the stage before. A pool without scores is always
    reranked. That a margin says anything has to be seen in the data of one's own: `podium calibrate` sets the threshold
    on labelled lists of the same first stage, and tells the loss on lists that it was not chosen on.

    Left out, a stage returns the order that it was given, without scores: the first stage's are of another scale than
    those of `base`. In the ledger it has no question, where a stage that cost nothing has questions and no call; and
    the answer carries the warning STAGE_SKIPPED.

    Args:
        base: the strategy.
        threshold: leave `base` out where `margin` is at least that much; None never does.
        k: of the margin.

    """

    base: Strategy = field(default_factory=Pointwise)
    threshold: float | None = None
    k: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.base, Strategy):
            raise ValueError(f"base is {self.base!r}, which is no strategy")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}: above 0 and at most 1, or unset to leave out nothing")
        if self.k < 1:
            raise ValueError(f"k is {self.k}: at least 1")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return self.base.asks

    @property
    def scale(self) -> Scale | None:
        return self.base.scale

    @property
    def graded_by(self) -> str:
        return self.base.graded_by

    def promised(self, n: int) -> int:
        """Return what the base promises: a first stage that is trusted is a truthful judge, too."""
        return self.base.promised(n)

    def ceiling(self, n: int) -> int | None:
        # Never None: the number varies with the scores, which inside a cascade are answers of the stage before.
        return most_asked(self.base, n)

    def skips(self, pool: Pool) -> bool:
        """Tell whether the base is left out for this pool."""
        found = margin(pool.scores, self.k)
        return self.threshold is not None and found is not None and found >= self.threshold

    def plan(self, pool: Pool) -> Plan[Ranking]:
        if self.skips(pool):
            return Ranking(tuple(range(pool.n)))
        return (yield from self.base.plan(pool))
