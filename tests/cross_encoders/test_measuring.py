"""The batch that is measured as the fastest: against machines whose speed is written down here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.cross_encoder import Capacity
from podium_server.backends.cross_encoders.measuring import measured


class Machine:
    """Takes `seconds(pairs)` for a batch, and has room for so many."""

    def __init__(self, seconds: Callable[[int], float], room: int = 10**9) -> None:
        self.now_s, self.asked = 0.0, list[int]()
        self._seconds, self._room = seconds, room

    def run(self, pairs: int, tokens: int) -> None:
        self.asked.append(pairs)
        if pairs > self._room:
            raise MemoryError
        self.now_s += self._seconds(pairs)

    def measured(self, *, batch_tokens: int | None = None) -> Capacity:
        return measured(self.run, tokens_per_pair=128, batch_tokens=batch_tokens, clock=lambda: self.now_s)


def test_a_machine_that_gains_nothing_from_batches_gets_single_pairs() -> None:
    capacity = Machine(lambda pairs: 0.01 * pairs).measured()
    assert (capacity.lanes, capacity.padded_tokens) == (1, 128)
    assert capacity.tokens_per_s == pytest.approx(12800)


def test_a_machine_with_a_fixed_cost_gets_the_batch_that_hides_it() -> None:
    capacity = Machine(lambda pairs: 0.002 + 0.0001 * pairs).measured()
    best = 128 / 0.0001
    assert capacity.padded_tokens >= 128 * 128
    assert capacity.tokens_per_s >= 0.9 * best * 128 / (128 + 20)


def test_what_slows_down_is_left_and_what_does_not_fit_is_not_asked_for_again() -> None:
    slowing = Machine(lambda pairs: 0.001 * (8 + max(0, pairs - 8) * 4) if pairs > 8 else 0.008)
    assert slowing.measured().padded_tokens == 8 * 128
    full = Machine(lambda pairs: 0.001, room=5)
    assert full.measured().padded_tokens == 4 * 128
    assert full.asked.count(8) == 1
    with pytest.raises(MemoryError):
        Machine(lambda pairs: 0.001, room=0).measured()


def test_a_batch_never_takes_long_and_the_search_ends() -> None:
    slow = Machine(lambda pairs: 0.2 * pairs)
    slow.measured()
    assert max(slow.asked) <= 2
    assert slow.now_s < 5


@given(fixed=st.floats(1e-5, 0.05), each=st.floats(1e-6, 0.05))
def test_the_choice_is_within_five_per_cent_of_the_best_that_was_seen(fixed: float, each: float) -> None:
    machine = Machine(lambda pairs: fixed + each * pairs)
    capacity = machine.measured()
    rates = {pairs: pairs * 128 / (fixed + each * pairs) for pairs in machine.asked}
    assert capacity.tokens_per_s >= 0.95 * max(rates.values()) * (1 - 1e-6)
    assert capacity.padded_tokens // 128 in rates


def test_a_batch_that_somebody_wants_is_taken_and_timed() -> None:
    machine = Machine(lambda pairs: 0.01 * pairs)
    capacity = machine.measured(batch_tokens=4096)
    assert capacity.padded_tokens == 4096
    assert capacity.tokens_per_s == pytest.approx(12800)
    assert set(machine.asked) == {1, 32}
