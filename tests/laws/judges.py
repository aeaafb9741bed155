"""Judges for the laws: truthful ones, and ones that are wrong in every way that a law must survive."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from podium_strategies.oracle import Oracle
from podium_strategies.plan import Grade, Liken, Order, Permutation, Pick, Prefer, Question

Answer = Callable[[Question[Any]], Any]


class LazyOracle(Oracle):
    """Tells the truth, and no more of it than is asked: behind `top` an order is left as it was shown."""

    def answer(self, question: Question[Any]) -> Any:
        answer = super().answer(question)
        if isinstance(question, Order) and question.top is not None:
            best = answer[: question.top]
            return (*best, *(item for item in question.candidates if item not in best))
        return answer


def truths(n: int, seeds: Sequence[int] = (1, 2)) -> list[LazyOracle]:
    """Return oracles whose truth is the order given, its reverse, and something else."""
    given = [LazyOracle([-item for item in range(n)]), LazyOracle(list(range(n)))]
    return [*given, *(LazyOracle.seeded(n, seed) for seed in seeds)]


def as_shown(question: Question[Any]) -> Any:
    """Prefer whatever is shown first: in two orders it contradicts itself."""
    match question:
        case Grade():
            return 0.0
        case Prefer():
            return 1.0
        case Pick(candidates) | Order(candidates):
            return candidates[0] if isinstance(question, Pick) else candidates
        case Liken(_, others):
            return tuple(0.0 for _ in others)
    raise AssertionError(question)


def undecided(question: Question[Any]) -> Any:
    """Tie wherever a tie can be said, and pick the last elsewhere."""
    match question:
        case Prefer():
            return 0.5
        case Pick(candidates):
            return candidates[-1]
        case Order(candidates):
            return candidates[::-1]
    return as_shown(question)


def contrary(n: int) -> Answer:
    """Say the opposite of the truth, which is that the given order is right."""
    return Oracle([float(item) for item in range(n)]).answer


def whimsical(seed: int) -> Answer:
    """Answer at random, and the same question differently each time."""
    lots = random.Random(seed)

    def answer(question: Question[Any]) -> Any:
        match question:
            case Grade():
                return lots.choice((lots.gauss(0, 1), 0.0, float("inf"), -1e300))
            case Prefer():
                return lots.choice((0.0, 0.5, 1.0, lots.random()))
            case Pick(candidates):
                return lots.choice(candidates)
            case Order(candidates):
                return tuple(lots.sample(candidates, len(candidates)))
            case Liken(_, others):
                return tuple(lots.uniform(-1, 1) for _ in others)
        raise AssertionError(question)

    return answer


def panel(answer: Answer) -> Callable[[Sequence[Question[Any]]], list[Any]]:
    """Make a panel of one judge."""
    return lambda questions: [answer(question) for question in questions]


def inversions(order: Permutation, truth: Permutation) -> int:
    """Count the pairs that stand the wrong way round."""
    rank = {item: place for place, item in enumerate(truth)}
    ranks = [rank[item] for item in order]
    return sum(ranks[i] > later for i in range(len(ranks)) for later in ranks[i + 1 :])
