"""Walks over the places of a list, from the tail to the head: which windows, and how closely walks may follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from podium_strategies.plan import Plan, together, until


def windows_from_tail(n: int, size: int, stride: int) -> Iterator[slice]:
    """Yield windows over `n` places from the last to the first; the one that starts at 0 always ends the walk.

    Nothing is yielded for fewer than two places: there is nothing to order.
    """
    end = n
    while n >= 2:
        start = max(0, end - size)
        yield slice(start, end)
        if start == 0:
            return
        end -= stride


def climb(n: int, size: int, goal: int) -> Iterator[slice]:
    """Yield windows that share one place with the next, from the last place up to `goal`.

    The last one is cut where it would reach over the goal. Nothing is yielded where fewer than two places are left.
    """
    start = n - size
    while n - goal >= 2:
        yield slice(max(start, goal), start + size)
        if start <= goal:
            return
        start -= size - 1


def following(walks: Sequence[Sequence[slice]], visit: Callable[[int, slice], Plan[None]]) -> Plan[None]:
    """Take several walks over the same places, each as close behind the one before as their windows allow.

    A walk, by its number, visits a window once the walk before has left all of its places for good.
    """
    done = [0] * len(walks)

    def left(number: int, window: slice) -> Callable[[], bool]:
        needed = sum(other.stop > window.start for other in walks[number])
        return lambda: done[number] >= needed

    def walk(number: int) -> Plan[None]:
        for window in walks[number]:
            if number > 0:
                yield from until(left(number - 1, window))
            yield from visit(number, window)
            done[number] += 1

    yield from together(*(walk(number) for number in range(len(walks))))
