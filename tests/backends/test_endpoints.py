"""Places, buckets and rests, without a socket and on a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.backends.chat.endpoints import EndpointLimits, Endpoints
from podium_server.backends.chat.rate_limit import Bucket
from podium_server.errors import Overloaded
from tests.backends.conftest import VirtualTime


def endpoints(virtual: VirtualTime, n: int = 1, **limits: float) -> Endpoints:
    urls = [f"http://e{number}" for number in range(n)]
    return Endpoints(urls, EndpointLimits(**limits), clock=virtual.clock, sleep=virtual.sleep)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 300)), max_size=60), st.floats(1, 1000))
@settings(max_examples=200, deadline=None)
def test_a_bucket_never_lets_more_pass_than_its_rate(steps: list[tuple[float, float]], per_minute: float) -> None:
    now_s = passed = most = 0.0
    bucket = Bucket(per_minute, now_s)
    for wait_s, amount in steps:
        now_s += wait_s
        if bucket.wait_s(amount, now_s) == 0.0:
            bucket.take(amount, now_s)
            passed += amount
            most = max(most, amount)
    # A full bucket at the start, the rate since, and one debt of a single call that is larger than the bucket.
    assert passed <= per_minute + now_s / 60 * per_minute + max(0.0, most - per_minute) + 1e-3 * per_minute


def test_a_call_larger_than_a_minute_passes_when_the_bucket_is_full_and_leaves_a_debt() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.wait_s(180, 0.0) == 0.0
    bucket.take(180, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(121.0)
    assert bucket.wait_s(1, 121.0) == 0.0


async def test_first_come_first_served(virtual: VirtualTime) -> None:
    places = endpoints(virtual, concurrency=1)
    order: list[int] = []

    async def call(number: int) -> None:
        place = await places.place(1)
        order.append(number)
        await asyncio.sleep(0)
        places.leave(place)

    await asyncio.gather(*(call(number) for number in range(20)))
    assert order == list(range(20))
    assert (places.outstanding, places.waiting) == (0, 0)


async def test_a_cancelled_waiter_passes_its_place_on(virtual: VirtualTime) -> None:
    places = endpoints(virtual, concurrency=1)
    held = await places.place(1)
    waiters = [asyncio.create_task(places.place(1)) for _ in range(3)]
    await asyncio.sleep(0)
    # In the same turn of the loop the first is given the place and cancelled.
    places.leave(held)
    waiters[0].cancel()
    assert await asyncio.wait_for(waiters[1], 1.0) is held
    waiters[2].cancel()
    await asyncio.gather(waiters[0], waiters[2], return_exceptions=True)
    places.leave(held)
    assert (places.outstanding, places.waiting) == (0, 0)


async def test_no_place_is_ever_lost_or_given_twice(virtual: VirtualTime) -> None:
    places = endpoints(virtual, n=3, concurrency=2)
    most = 0

    async def call(number: int) -> None:
        nonlocal most
        place = await places.place(1)
        try:
            most = max(most, max(one.outstanding for one in places.all))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            if number % 5 == 0:
                places.failed(place)
            else:
                places.well(place)
        finally:
            places.leave(place)

    tasks = [asyncio.create_task(call(number)) for number in range(200)]
    for number, task in enumerate(tasks):
        if number % 7 == 3:
            await asyncio.sleep(0)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 2
    assert (places.outstanding, places.waiting) == (0, 0)


async def test_the_rest_doubles_and_ends(virtual: VirtualTime) -> None:
    places = endpoints(virtual, n=2, put_aside_s=1.0, put_aside_s_max=5.0)
    one = places.all[0]
    rests = []
    for _ in range(5):
        places.failed(one)
        places.failed(one)  # calls that were under way fail with it, and add nothing
        rests.append(one.aside_until_s - virtual.now_s)
        virtual.now_s = one.aside_until_s
    assert rests == [1.0, 2.0, 4.0, 5.0, 5.0]
    # Rested, it is tried with a single call; the rest goes to the other.
    taken = [await places.place(1) for _ in range(5)]
    assert taken.count(one) == 1
    places.well(one)
    taken += [await places.place(1) for _ in range(3)]
    assert taken.count(one) == 4


async def test_a_lone_endpoint_is_never_put_aside(virtual: VirtualTime) -> None:
    places = endpoints(virtual, concurrency=4)
    for _ in range(3):
        places.failed(places.all[0])
    assert [await places.place(1) for _ in range(4)] == [places.all[0]] * 4


async def test_who_failed_a_call_is_asked_last(virtual: VirtualTime) -> None:
    places = endpoints(virtual, n=3)
    assert await places.place(1, tried=places.all[:2]) is places.all[2]


async def test_a_full_queue_refuses(virtual: VirtualTime) -> None:
    places = endpoints(virtual, concurrency=1, queue_max=1)
    await places.place(1)
    waiting = asyncio.create_task(places.place(1))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await places.place(1)
    places.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_shorter_wait_overtakes_a_longer_alarm(virtual: VirtualTime) -> None:
    places = endpoints(virtual, n=2)
    for one, wait_s in zip(places.all, (60.0, 50.0), strict=True):
        places.hold(one, wait_s)
    first = asyncio.create_task(places.place(1))
    assert await first is places.all[1]
    assert virtual.now_s == pytest.approx(1050.0)
