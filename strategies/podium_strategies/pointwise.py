"""Strategies that look at one candidate at a time, or at none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podium_strategies.permutation import by_score, resorted
from podium_strategies.plan import Grade, Permutation, Plan, Question, Ranking, Scale, Strategy, ask_all
from podium_strategies.pool import Pool


@dataclass(frozen=True, slots=True)
class FirstStage(Strategy):
    """Keeps the order that the candidates came in. Asks nothing: the baseline that every other strategy must beat."""

    @property
    def scale(self) -> Scale | None:
        return Scale.PRIOR

    def plan(self, pool: Pool) -> Plan[Ranking]:
        yield from ()
        return Ranking(tuple(range(pool.n)), pool.scores)


@dataclass(frozen=True, slots=True)
class Pointwise(Strategy):
    """Grades every candidate on its own and sorts by grade: n questions in one round.

    What the grade is, the judge decides: a cosine, a late interaction (ColBERT, arXiv 2004.12832), a cross-encoder's
    logit (arXiv 1901.04085), the probability of "yes" (arXiv 2306.17563, section 2), the expected value of a graded
    label (arXiv 2310.14122), or the likelihood of the query (arXiv 2204.07496).
    """

    kinds = (Grade,)

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset({Grade})

    @property
    def scale(self) -> Scale | None:
        return Scale.JUDGE

    def promised(self, n: int) -> int:
        return n

    def plan(self, pool: Pool) -> Plan[Ranking]:
        start = tuple(range(pool.n))

        def salvage(grades: Mapping[int, float]) -> Permutation:
            return resorted(start, grades)

        grades = yield from ask_all([Grade(item) for item in start], start, salvage)
        return Ranking(by_score(grades), tuple(grades))
