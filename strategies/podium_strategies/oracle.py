"""A judge that knows the truth. Forecasts ask it, and so do the tests of the laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from podium_strategies.permutation import shuffled
from podium_strategies.plan import Grade, Liken, Order, Pick, PlanError, Prefer, Question


class Oracle:
    """Answers every question from the true utility of each item, higher is better; it is never wrong and never tied.

    Equal utilities are told apart by the item's number, so that there is one true order.
    """

    def __init__(self, utility: Sequence[float]) -> None:
        truth = sorted(range(len(utility)), key=lambda item: (-utility[item], item))
        self.truth = tuple(truth)
        """The one right order."""
        self._rank = {item: rank for rank, item in enumerate(truth)}

    @classmethod
    def seeded(cls, n: int, seed: int) -> Self:
        """Return an oracle over `n` items whose truth has nothing to do with the first-stage order."""
        return cls([-rank for rank in shuffled(range(n), seed)])

    def __call__(self, questions: Sequence[Question[Any]]) -> list[Any]:
        """Answer each question (a `podium_strategies.drive.Panel`)."""
        return [self.answer(question) for question in questions]

    def answer(self, question: Question[Any]) -> Any:
        """Answer one question truthfully."""
        rank = self._rank
        match question:
            case Grade(item):
                return float(-rank[item])
            case Prefer(a, b):
                return 1.0 if rank[a] < rank[b] else 0.0
            case Pick(candidates):
                return min(candidates, key=rank.__getitem__)
            case Order(candidates):
                return tuple(sorted(candidates, key=rank.__getitem__))
            case Liken(item, others):
                return tuple(1.0 / (1 + abs(rank[item] - rank[other])) for other in others)
        raise PlanError(f"a question of unknown kind: {type(question).__name__}")
