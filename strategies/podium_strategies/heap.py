"""The top k out of a heap whose sifts run side by side, and nothing runs before what it looks at is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from podium_strategies.permutation import front
from podium_strategies.plan import Permutation, Plan, together, until

Champion: TypeAlias = Callable[[tuple[int, ...], Permutation], Plan[int]]
"""Finds the best of some items, a node and its children, while an order stands."""


class Heap:
    """A heap of the items 0 … n-1, the best at the root, on its way from the first-stage order to its top `k`.

    A sift marks the place where its item stands. Every place below a mark may still change, and no other: so a sift
    goes on when no child of its place is marked, and an item is taken out when the root is not. In this way a node is
    sifted one step behind its children, and an extraction two steps behind the one before. It puts the last leaf that
    is settled at the root: waiting for the very last one would cost up to a whole way down, and helps nobody.
    """

    def __init__(self, n: int, arity: int, k: int, champion: Champion) -> None:
        self.arity = arity
        self.champion = champion
        self.places = list(range(n))
        self.gone: set[int] = set()  # places whose item was put at the root
        self.marks = {place for place in range(n) if self._children(place)}
        self.taken: list[int] = []
        self.wanted = min(k, n)
        self.order: Permutation = tuple(range(n))
        """The items that were taken out, then the others in first-stage order."""

    def plan(self) -> Plan[Permutation]:
        """Build the heap, take `k` items out, and return the order that this leaves."""
        yield from together(self._build(0), *(self._take_out(turn) for turn in range(self.wanted)))
        return self.order

    def _build(self, place: int) -> Plan[None]:
        below = [child for child in self._children(place) if self._children(child)]
        yield from together(*(self._build(child) for child in below), self._sift(place))

    def _take_out(self, turn: int) -> Plan[None]:
        yield from until(lambda: len(self.taken) == turn and 0 not in self.marks)
        self.taken.append(self.places[0])
        self.order = front(self.taken, range(len(self.order)))
        if len(self.taken) < self.wanted:
            self.marks.add(0)
            yield from until(lambda: self._last_leaf() is not None)
            leaf = self._last_leaf()
            assert leaf is not None  # for mypy: this is what was waited for
            self.gone.add(leaf)
            self.places[0] = self.places[leaf]
            yield from self._sift(0)

    def _sift(self, place: int) -> Plan[None]:
        while not self._found() and (children := self._children(place)):
            yield from until(self._settled(children))
            group = (self.places[place], *(self.places[child] for child in children))
            best = yield from self.champion(group, self.order)
            if best == group[0]:
                break
            winner = children[group.index(best) - 1]
            self.places[place], self.places[winner] = best, group[0]
            self.marks.add(winner)
            self.marks.remove(place)
            place = winner
        self.marks.discard(place)

    def _found(self) -> bool:
        """Tell whether the last item that is wanted stands at the root: nothing below matters then."""
        return len(self.taken) + (0 not in self.marks) >= self.wanted

    def _settled(self, places: Sequence[int]) -> Callable[[], bool]:
        return lambda: self.marks.isdisjoint(places)

    def _children(self, place: int) -> list[int]:
        first = place * self.arity + 1
        return [child for child in range(first, min(first + self.arity, len(self.places))) if child not in self.gone]

    def _last_leaf(self) -> int | None:
        """Return the last place, the root aside, that has no child and cannot change; None where there is none."""
        for place in range(len(self.places) - 1, 0, -1):
            if place not in self.gone and not self._children(place) and self.marks.isdisjoint(self._way_to(place)):
                return place
        return None

    def _way_to(self, place: int) -> Iterator[int]:
        """Yield the places from `place` up to, but not, the root."""
        while place > 0:
            yield place
            place = (place - 1) // self.arity


def most_steps(n: int, arity: int, k: int) -> int:
    """Return how many steps down all sifts together can take, when every one goes to the bottom."""

    def height(place: int) -> int:
        first_child = place * arity + 1
        return 1 + height(first_child) if first_child < n else 0

    build = sum(height(place) for place in range(n))
    return build + height(0) * max(min(k, n) - 1, 0)
