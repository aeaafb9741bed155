"""What a strategy will ask, found by letting it ask: nothing is stated twice, so nothing can disagree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from podium_strategies.drive import Execution
from podium_strategies.oracle import Oracle
from podium_strategies.plan import Question, Strategy
from podium_strategies.pool import Pool


@dataclass(frozen=True, slots=True)
class Forecast:
    """A quote in questions and rounds.

    Args:
        questions: expected number; exact where `exact`.
        rounds: expected length of the longest chain of rounds, which is what latency follows.
        documents: expected number of documents shown, all questions together.
        questions_max: no answers can bring about more; None where the strategy states no bound.
        exact: every seeded oracle led to the same number of questions, so the strategy does not adapt here.

    """

    questions: float
    rounds: float
    documents: float
    questions_max: int | None
    exact: bool


def forecast(
    strategy: Strategy,
    pool: Pool,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    see: Callable[[int, Question[Any], int], None] | None = None,
) -> Forecast:
    """Run the plan against truthful oracles, one a seed, and return the means. No model is called.

    Args:
        strategy: whose plan to try.
        pool: over which it would run.
        seeds: of the oracles.
        see: is shown every question with the seed of its run and the depth of its round, so that a caller can weigh
            them (tokens, money, time).

    """
    questions: list[int] = []
    rounds: list[int] = []
    documents = 0
    for seed in seeds:
        oracle = Oracle.seeded(pool.n, seed)
        execution = Execution(strategy.plan(pool), pool.n)
        while batch := execution.take():
            for asked in batch:
                for index, question in enumerate(asked.questions):
                    documents += len(question.items)
                    if see is not None:
                        see(seed, question, asked.depth)
                    execution.answer(asked.id, index, oracle.answer(question))
        questions.append(execution.asked)
        rounds.append(execution.depth)
    exact = len(set(questions)) == 1
    ceiling = strategy.ceiling(pool.n)
    return Forecast(
        questions=sum(questions) / len(seeds),
        rounds=sum(rounds) / len(seeds),
        documents=documents / len(seeds),
        questions_max=ceiling if ceiling is not None else (questions[0] if exact else None),
        exact=exact,
    )
