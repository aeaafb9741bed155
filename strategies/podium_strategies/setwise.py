"""Strategies that ask which of a few candidates is the best (setwise prompting, arXiv 2310.09497)."""

from __future__ import annotations

from dataclasses import dataclass

from podium_strategies.heap import Heap, most_steps
from podium_strategies.permutation import exchanged
from podium_strategies.plan import Permutation, Pick, Plan, Ranking, Strategy, ask
from podium_strategies.pool import Pool
from podium_strategies.walks import climb, following


def _pick(items: tuple[int, ...], order: Permutation) -> Plan[int]:
    best = yield from ask(Pick(items), order)
    return best


def _check(c: int, k: int) -> None:
    if c < 2:
        raise ValueError(f"c is {c}: a set holds at least 2 candidates")
    if k < 1:
        raise ValueError(f"k is {k}: at least 1")


@dataclass(frozen=True, slots=True)
class SetwiseHeapsort(Strategy):
    """Takes the best k out of a heap whose nodes have c - 1 children, so that one question settles one node.

    The others follow in first-stage order, not in heap order.

    Args:
        c: candidates in a question: a node and its children.
        k: how many to sort out.

    """

    kinds = (Pick,)

    c: int = 3
    k: int = 10

    def __post_init__(self) -> None:
        _check(self.c, self.k)

    def promised(self, n: int) -> int:
        return min(self.k, n)

    def ceiling(self, n: int) -> int:
        return most_steps(n, self.c - 1, self.k)

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = yield from Heap(pool.n, self.c - 1, self.k, _pick).plan()
        return Ranking(order)


@dataclass(frozen=True, slots=True)
class SetwiseBubble(Strategy):
    """Carries the best up k times, from the tail: the best of c changes places with the first of them.

    Neighbouring sets share one place. Pass i ends at place i, and runs two questions behind the pass before. It begins
    where the sets are no longer those that the pass before has settled: nobody pays for an answer that is known.

    Args:
        c: candidates in a question.
        k: how many passes.

    """

    kinds = (Pick,)

    c: int = 3
    k: int = 10

    def __post_init__(self) -> None:
        _check(self.c, self.k)

    def promised(self, n: int) -> int:
        return n if self.k >= n - 1 else self.k

    def ceiling(self, n: int) -> int:
        return sum(len(windows) for windows in self._passes(n))

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = list(range(pool.n))
        settled: set[tuple[int, ...]] = set()
        begun: set[int] = set()

        def visit(number: int, window: slice) -> Plan[None]:
            items = tuple(order[window])
            if items in settled and number not in begun:
                return
            begun.add(number)
            best = yield from ask(Pick(items), order)
            order[window] = exchanged(items, [(best, items[0])] if best != items[0] else [])
            settled.add(tuple(order[window]))

        yield from following(self._passes(pool.n), visit)
        return Ranking(tuple(order))

    def _passes(self, n: int) -> list[list[slice]]:
        return [list(climb(n, self.c, goal)) for goal in range(min(self.k, max(n - 1, 0)))]
