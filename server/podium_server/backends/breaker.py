"""When a backend that fails is asked no more, and how it is tried again: a value, and functions that return another.

Closed, rounds pass. After so many failures in a row, or so large a part of the latest ones, it opens: everything is
refused at once, instead of after all retries, and the backend has its rest. When that is over it is half-open: one
round is let through, and its fate decides. Each rest that did not help is followed by one of twice the length. (Nygard,
"Release It!", 2007, chapter 5.) No clock in it: time is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

_SLOTS = 10
"""The window is counted in tenths, so that a value does not grow with the traffic."""


class Phase(IntEnum):
    """Where a breaker stands; the numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When to open, and for how long.

    Args:
        failures: in a row.
        rate: of failures among the rounds of the window, or
        rounds: that the window must have, for its rate to say anything.
        window_s: of the rate.
        open_s: the first rest; doubled with each that did not help.
        open_s_max: the longest.

    """

    failures: int = 5
    rate: float = 0.5
    rounds: int = 20
    window_s: float = 30.0
    open_s: float = 5.0
    open_s_max: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 1 or self.rounds < 1:
            raise ValueError(f"failures is {self.failures} and rounds {self.rounds}: 1 at least each")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate}: above 0, and 1 at most")
        if not (self.window_s > 0 and 0 < self.open_s <= self.open_s_max):
            raise ValueError(
                f"window_s is {self.window_s}, open_s {self.open_s} and open_s_max {self.open_s_max}: all above 0, and "
                "the last the largest"
            )


class _Slot(NamedTuple):
    """A tenth of the window."""

    number: int
    rounds: int
    failures: int


@dataclass(frozen=True, slots=True)
class Breaker:
    """A breaker at one moment.

    Args:
        settings: when it opens.
        phase: where it stands.
        in_a_row: failures since the last success.
        slots: of the window, the oldest first.
        until: open: when the rest is over.
        rests: in a row that did not help.
        probing: half-open: whether a round is out to try.
        generation: counts changes of phase: what was admitted before one says nothing after it.

    """

    settings: BreakerSettings
    phase: Phase = Phase.CLOSED
    in_a_row: int = 0
    slots: tuple[_Slot, ...] = ()
    until: float = 0.0
    rests: int = 0
    probing: bool = False
    generation: int = 0


class Refused(NamedTuple):
    """A round is not let through; it is worth another try after so many seconds."""

    retry_after_s: float


def admit(breaker: Breaker, now: float) -> tuple[int | Refused, Breaker]:
    """Ask for a round. What it is let through with is given back to `ended`; now is `time.monotonic()` or the like."""
    if breaker.phase is Phase.CLOSED:
        return breaker.generation, breaker
    if breaker.phase is Phase.OPEN:
        if now < breaker.until:
            return Refused(breaker.until - now), breaker
        breaker = replace(breaker, phase=Phase.HALF_OPEN, generation=breaker.generation + 1)
    if breaker.probing:
        # Nobody knows when it comes back; the first rest is the measure of this backend's patience.
        return Refused(breaker.settings.open_s), breaker
    breaker = replace(breaker, probing=True)
    return breaker.generation, breaker


def ended(breaker: Breaker, generation: int, well: bool | None, now: float) -> Breaker:
    """Return the breaker after a round that was let through has ended; None says nothing about the backend."""
    if generation != breaker.generation:
        return breaker
    if breaker.phase is Phase.HALF_OPEN:
        if well is None:
            return replace(breaker, probing=False, generation=breaker.generation + 1)
        return _closed(breaker) if well else _opened(breaker, now)
    if well is None:
        return breaker
    breaker = replace(
        breaker, in_a_row=0 if well else breaker.in_a_row + 1, slots=_counted(breaker, well=well, now=now)
    )
    return _opened(breaker, now) if not well and _too_many(breaker) else breaker


def _too_many(breaker: Breaker) -> bool:
    settings = breaker.settings
    if breaker.in_a_row >= settings.failures:
        return True
    rounds = sum(slot.rounds for slot in breaker.slots)
    return rounds >= settings.rounds and sum(slot.failures for slot in breaker.slots) >= settings.rate * rounds


def _counted(breaker: Breaker, *, well: bool, now: float) -> tuple[_Slot, ...]:
    """Return the slots of the window with one round more."""
    number = int(now / breaker.settings.window_s * _SLOTS)
    slots = [slot for slot in breaker.slots if number - _SLOTS < slot.number <= number]
    last = slots.pop() if slots and slots[-1].number == number else _Slot(number, 0, 0)
    return (*slots, _Slot(number, last.rounds + 1, last.failures + (not well)))


def _opened(breaker: Breaker, now: float) -> Breaker:
    settings = breaker.settings
    rest_s = min(settings.open_s * 2.0 ** min(breaker.rests, 30), settings.open_s_max)
    return Breaker(
        settings,
        Phase.OPEN,
        in_a_row=breaker.in_a_row,
        until=now + rest_s,
        rests=breaker.rests + 1,
        generation=breaker.generation + 1,
    )


def _closed(breaker: Breaker) -> Breaker:
    return Breaker(breaker.settings, generation=breaker.generation + 1)
