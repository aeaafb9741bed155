"""Places are never more than there are, nobody waits while one is free, and tenants that want have their share."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.access.fair_queue import FairQueue
from podium_server.access.identity import PRIORITIES, Tenant
from podium_server.access.refusals import Refusal
from podium_server.errors import Overloaded

TENANTS = st.lists(
    st.builds(
        Tenant,
        name=st.uuids().map(str),
        weight=st.sampled_from([0.5, 1.0, 2.0, 3.0]),
        priority=st.sampled_from(sorted(PRIORITIES.values())),
        concurrency=st.none() | st.integers(1, 3),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda tenant: tenant.name,
)
STEPS = st.lists(st.tuples(st.sampled_from(["enter", "leave", "cancel"]), st.integers(0, 99)), max_size=60)


async def turns(n: int = 3) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def check(queue: FairQueue) -> None:
    assert 0 <= queue.taken <= queue.places
    assert queue.taken == sum(line.held for line in queue.lines.values())
    for line in queue.lines.values():
        assert line.tenant.concurrency is None or line.held <= line.tenant.concurrency
        if any(not place.done() for place in line.waiting):
            assert queue.taken == queue.places or not line.may, "a place is free, and somebody waits who may have it"


@given(TENANTS, st.integers(1, 4), STEPS)
@settings(deadline=None, max_examples=150)
def test_places_are_conserved_whatever_comes(tenants: list[Tenant], places: int, steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        queue = FairQueue(places, waiting_max=100, wait_s=60)
        entering: list[asyncio.Task[Callable[[], None]]] = []
        inside: list[Callable[[], None]] = []
        for what, which in steps:
            if what == "enter":
                entering.append(asyncio.create_task(queue.enter(tenants[which % len(tenants)])))
            elif what == "cancel" and entering:
                # Sometimes in the very turn in which it is given a place.
                entering[which % len(entering)].cancel()
            elif what == "leave" and inside:
                inside.pop(which % len(inside))()
            if which % 3:
                await turns()
                inside += [one.result() for one in entering if one.done() and not one.cancelled()]
                entering = [one for one in entering if not one.done()]
                check(queue)
        for _ in range(len(steps) + 1):
            await turns()
            inside += [one.result() for one in entering if one.done() and not one.cancelled()]
            entering = [one for one in entering if not one.done()]
            check(queue)
            while inside:
                inside.pop()()
        assert not entering
        assert queue.taken == queue.waiting == 0

    asyncio.run(run())


@pytest.mark.parametrize("places", [1, 2, 7, 32])
@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 2, 5), (0.5, 4)])
@pytest.mark.parametrize("longer", [1, 5])
async def test_tenants_that_always_want_more_have_places_by_their_weights(
    places: int, weights: tuple[float, ...], longer: int
) -> None:
    tenants = [Tenant(f"t{i}", weight=weight) for i, weight in enumerate(weights)]
    # The first one's requests take longer, and earn it no larger part.
    held = await _saturated(places, tenants, {"t0": longer}, ticks=3000)
    for i, weight in enumerate(weights):
        assert held[f"t{i}"] / held.total() == pytest.approx(weight / sum(weights), abs=0.03)


async def _saturated(places: int, tenants: list[Tenant], lasts: dict[str, int], ticks: int) -> Counter[str]:
    """Let every tenant always have work waiting; return for how long each has held places, after a while."""
    now = 0
    queue = FairQueue(places, waiting_max=10_000, wait_s=1e6, clock=lambda: float(now))
    waiting: list[tuple[Tenant, asyncio.Task[Callable[[], None]]]] = []
    working: list[tuple[Tenant, int, Callable[[], None]]] = []
    held: Counter[str] = Counter()

    def come(tenant: Tenant) -> None:
        waiting.append((tenant, asyncio.create_task(queue.enter(tenant))))

    for _ in range(places + 2):
        for tenant in tenants:
            come(tenant)
    # Not all at once, or they would end all at once for ever.
    for now in range(1, ticks):
        await turns(2)
        for tenant, task in [each for each in waiting if each[1].done()]:
            waiting.remove((tenant, task))
            lasting = 4 * lasts.get(tenant.name, 1) + now % 3
            working.append((tenant, now + lasting, task.result()))
            come(tenant)
        if now > ticks // 5:
            held.update(tenant.name for tenant, _, _ in working)
        for done in [each for each in working if each[1] <= now]:
            working.remove(done)
            done[2]()
    for _, task in waiting:
        task.cancel()
    return held


async def test_one_tenants_crowd_moves_nobody_elses_turn() -> None:
    crowd, other = Tenant("crowd"), Tenant("other")
    queue = FairQueue(1, waiting_max=1000, wait_s=60)
    leave = await queue.enter(crowd)
    waiting = [asyncio.create_task(queue.enter(crowd)) for _ in range(500)]
    await turns()
    late = asyncio.create_task(queue.enter(other))
    await turns()
    leave()
    await turns()
    assert late.done(), "five hundred of another tenant stand before it"
    for task in waiting:
        task.cancel()


async def test_a_higher_priority_goes_first() -> None:
    low, high = Tenant("low", priority=PRIORITIES["low"]), Tenant("high", priority=PRIORITIES["high"])
    queue = FairQueue(1, waiting_max=10, wait_s=60)
    leave = await queue.enter(low)
    first, second = asyncio.create_task(queue.enter(low)), asyncio.create_task(queue.enter(high))
    await turns()
    leave()
    await turns()
    assert second.done()
    assert not first.done()
    first.cancel()


async def test_too_many_waiting_and_too_long_a_wait_are_refused_and_counted() -> None:
    tenant, other = Tenant("acme"), Tenant("other")
    queue = FairQueue(1, waiting_max=1, wait_s=0.02)
    leave = await queue.enter(tenant)
    waiting = asyncio.create_task(queue.enter(tenant))
    await turns()
    with pytest.raises(Overloaded, match=r"access\.queue is 1"):
        await queue.enter(tenant)
    elsewhere = asyncio.create_task(queue.enter(other))  # a queue of its own
    with pytest.raises(Overloaded, match=r"within 0\.02 s"):
        await waiting
    with pytest.raises(Overloaded):
        await elsewhere
    assert queue.refusals == {
        (Refusal.QUEUE_FULL, "acme"): 1,
        (Refusal.WAITED, "acme"): 1,
        (Refusal.WAITED, "other"): 1,
    }
    leave()
    assert queue.taken == queue.waiting == 0


async def test_nobody_waits_beyond_the_deadline() -> None:
    queue = FairQueue(1, waiting_max=10, wait_s=60)
    leave = await queue.enter(Tenant("a"))
    with pytest.raises(Overloaded):
        await queue.enter(Tenant("a"), deadline_at=0.0)
    leave()
