"""Who takes the next list: nobody who rests while others do not, the least busy, one list for one that comes back."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from podium_server.jobs import seats
from podium_server.jobs.seats import Seat, free

LONG_S = 1000.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
def test_the_least_busy_of_those_who_do_not_rest(given_seats: list[tuple[int, int, bool]]) -> None:
    now = time.monotonic()
    made = [
        Seat(at_work=at_work, failures=failures, rests_until=now + LONG_S if rests else 0.0)
        for at_work, failures, rests in given_seats
    ]
    awake = [one for one in made if not one.rest_s]
    if not awake:
        return
    chosen = asyncio.run(free(made))
    trusted = [one for one in awake if not (one.failures and one.at_work)]
    assert any(chosen is one for one in trusted or awake)
    assert chosen.at_work == min(one.at_work for one in trusted or awake)


def test_a_rest_grows_until_it_answers_and_is_one_for_all_that_it_let_down() -> None:
    seat = Seat()
    rests = []
    for _ in range(20):
        seat.failed()
        seat.failed()
        rests.append(round(seat.rest_s, 1))
        seat.rests_until = 0.0
    assert rests[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert set(rests[5:]) == {seats.REST_S_MAX}
    seat.answered()
    seat.failed()
    assert round(seat.rest_s, 1) == seats.REST_S


async def test_who_comes_back_is_tried_with_one_list() -> None:
    trusted, back = Seat(), Seat(failures=1, rests_until=time.monotonic() + 0.01)
    await asyncio.sleep(0.02)
    for _ in range(10):
        (await free([trusted, back])).at_work += 1
    assert (trusted.at_work, back.at_work) == (9, 1)


async def test_where_all_rest_the_first_that_does_not_is_waited_for() -> None:
    now = time.monotonic()
    soon, late = Seat(failures=1, rests_until=now + 0.02), Seat(failures=5, rests_until=now + LONG_S)
    assert await asyncio.gather(*(free([late, soon]) for _ in range(5))) == [soon] * 5
