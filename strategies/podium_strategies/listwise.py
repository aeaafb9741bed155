"""Strategies that show many candidates at once and ask for their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from podium_strategies.plan import Order, Plan, Question, Ranking, Strategy, ask, together, until
from podium_strategies.pool import Pool


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


@dataclass(frozen=True, slots=True)
class SlidingWindow(Strategy):
    """Carries the best candidates to the front, one window at a time, from the tail (RankGPT, arXiv 2304.09542).

    A following pass starts behind the one before as soon as its first window is settled, so that two passes over 100
    candidates are 18 questions and 11 rounds.

    Args:
        size: candidates in a window.
        stride: places between the starts of neighbouring windows.
        passes: how many times to walk over the whole list.

    """

    size: int = 20
    stride: int = 10
    passes: int = 1

    def __post_init__(self) -> None:
        if self.size < 2:
            raise ValueError(f"size is {self.size}: a window holds at least 2 candidates")
        if not 1 <= self.stride < self.size:
            raise ValueError(
                f"stride is {self.stride} and size is {self.size}: "
                "a stride from 1 to size - 1 lets neighbouring windows overlap, so that the best can move on"
            )
        if self.passes < 1:
            raise ValueError(f"passes is {self.passes}: at least 1")

    @property
    def asks(self) -> frozenset[type[Question[Any]]]:
        return frozenset({Order})

    def promised(self, n: int) -> int:
        return n if n <= self.size else min(self.size, self.passes * (self.size - self.stride))

    def plan(self, pool: Pool) -> Plan[Ranking]:
        order = list(range(pool.n))
        windows = list(windows_from_tail(pool.n, self.size, self.stride))
        done = [0] * self.passes  # windows that each pass has finished

        def left_by(number: int, window: slice) -> Callable[[], bool]:
            needed = sum(other.stop > window.start for other in windows)
            return lambda: done[number] >= needed

        def walk(number: int) -> Plan[None]:
            for window in windows:
                if number > 0:
                    yield from until(left_by(number - 1, window))
                order[window] = yield from ask(Order(tuple(order[window])), order)
                done[number] += 1

        yield from together(*(walk(number) for number in range(self.passes)))
        return Ranking(tuple(order))
