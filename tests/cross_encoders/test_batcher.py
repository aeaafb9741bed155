"""One model, many requests: each gets its own scores, whatever comes between."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.batcher import Batcher
from podium_server.backends.cross_encoders.cross_encoder import Capacity, Pair
from podium_server.backends.cross_encoders.place import Place
from podium_server.errors import BackendDown, DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from tests.cross_encoders.toy import ToyCrossEncoder, toy_score


@asynccontextmanager
async def batching(toy: ToyCrossEncoder, **more: float) -> AsyncIterator[Batcher]:
    batcher = Batcher(toy, **more)  # type: ignore[arg-type]
    try:
        yield batcher
    finally:
        toy.let.set()
        await asyncio.to_thread(batcher.close)


def admitted(batcher: Batcher, pairs: Sequence[Pair], **more: float) -> Place:
    return batcher.admit(sum(pair.tokens for pair in pairs), pairs=len(pairs), **more)  # type: ignore[arg-type]


async def scored(batcher: Batcher, pairs: Sequence[Pair], **more: float) -> list[float]:
    """Return the scores by place, each of which must come once."""
    scores: dict[int, float] = {}
    with admitted(batcher, pairs, **more) as place:
        place.put(pairs)
        while parts := await place.scored():
            for part in parts:
                assert not set(part.places) & set(scores)
                scores.update(zip(part.places, part.scores, strict=True))
                assert part.queue_s >= 0
                assert part.backend_s >= 0
    return [scores[place] for place in range(len(pairs))]


def expected(pairs: Sequence[Pair]) -> list[float]:
    return [toy_score(*pair.input) for pair in pairs]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.001)


WORKLOADS = st.lists(st.lists(st.integers(0, 80), min_size=1, max_size=25), min_size=1, max_size=8)


@settings(deadline=None, max_examples=40)
@given(WORKLOADS, st.integers(1, 3), st.sets(st.integers(0, 7)), st.integers(0, 2**32))
def test_each_request_gets_exactly_its_own_scores(
    workload: list[list[int]], lanes: int, leaving: set[int], seed: int
) -> None:
    chance = random.Random(seed)

    async def one(batcher: Batcher, toy: ToyCrossEncoder, number: int, lengths: list[int]) -> bool:
        await asyncio.sleep(chance.random() * 0.004)
        pairs = toy.pairs(f"query {number}", [" ".join(["word"] * n + [str(i)]) for i, n in enumerate(lengths)])
        task = asyncio.create_task(scored(batcher, pairs))
        if number in leaving:
            await asyncio.sleep(chance.random() * 0.004)
            task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, asyncio.CancelledError):
            return number in leaving
        return outcome == expected(pairs)

    async def all_of_them() -> None:
        toy = ToyCrossEncoder(capacity=Capacity(lanes, 64, 8, 1e6))
        async with batching(toy) as batcher:
            assert all(await asyncio.gather(*(one(batcher, toy, i, row) for i, row in enumerate(workload))))
            await until(lambda: batcher.state().under_way == 0)
            state = batcher.state()
        assert (state.pairs, state.tokens, state.requests) == (0, 0, 0)
        assert state.scored + state.dropped <= sum(map(len, workload))
        assert state.scored == sum(map(len, toy.batches))
        for batch in toy.batches:
            longest = max(pair.tokens for pair in batch)
            assert len(batch) == 1 or (longest * len(batch) <= 64 and len(batch) <= 8)

    asyncio.run(all_of_them())


async def test_a_batch_mixes_requests() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 8, 1e4))
    async with batching(toy) as batcher:
        toy.let.clear()
        first = asyncio.create_task(scored(batcher, toy.pairs("a", ["x"])))
        await until(lambda: len(toy.batches) == 1)
        rest = [asyncio.create_task(scored(batcher, toy.pairs(name, ["x y", "z w"]))) for name in "bc"]
        await until(lambda: batcher.state().pairs == 4)
        toy.let.set()
        await asyncio.gather(first, *rest)
    assert sorted(pair.input[0] for pair in toy.batches[1]) == ["b", "b", "c", "c"]


async def test_who_has_gone_costs_nothing_more_and_what_was_at_work_is_told() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 4, 1e4))
    async with batching(toy) as batcher:
        toy.let.clear()
        pairs = toy.pairs("q", [f"word {i}" for i in range(10)])
        place = admitted(batcher, pairs)
        with place:
            place.put(pairs)
            await until(lambda: batcher.state().under_way > 0)
            at_work = batcher.state().under_way
        assert place.abandoned.pairs == at_work
        assert place.abandoned.tokens == at_work * pairs[0].tokens
        assert place.abandoned.backend_s > 0
        state = batcher.state()
        assert (state.pairs, state.requests, state.dropped) == (0, 0, 10 - at_work)
        toy.let.set()
        assert await scored(batcher, pairs[:2]) == expected(pairs[:2])
        assert place.parts == [], "what was told as abandoned does not come a second time"
        place.put(pairs)
        assert batcher.state().requests == 0, "whoever has gone puts nothing in the queue any more"
    assert sum(map(len, toy.batches)) == at_work + 2


async def test_what_is_late_is_refused_and_never_reaches_the_model() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 8, 1e6))
    async with batching(toy) as batcher:
        toy.let.clear()
        first = asyncio.create_task(scored(batcher, toy.pairs("a", ["x"])))
        await until(lambda: len(toy.batches) == 1)
        with pytest.raises(DeadlineExceeded, match="1 of 1 pairs"):
            await scored(batcher, toy.pairs("late", ["x"]), deadline_at=time.monotonic() + 0.02)
        # Put without anybody who waits: the queue itself drops it.
        with admitted(batcher, toy.pairs("late", ["x"]), deadline_at=time.monotonic() + 0.02) as place:
            place.put(toy.pairs("late", ["x"]))
            await asyncio.sleep(0.03)
            toy.let.set()
            await first
            await scored(batcher, toy.pairs("b", ["x"]))
            assert batcher.state().dropped == 2
    assert {pair.input[0] for batch in toy.batches for pair in batch} == {"a", "b"}


async def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 100, 100, 100.0))
    async with batching(toy, wait_s_max=1.0) as batcher:
        toy.let.clear()
        waiting = []
        refused: Overloaded | None = None
        while refused is None:
            try:
                pairs = toy.pairs(f"q{len(waiting)}", ["one two three four five six"] * 4)
                place = admitted(batcher, pairs)
            except Overloaded as error:
                refused = error
            else:
                place.put(pairs)
                waiting.append(place)
        # 100 tokens a second and 40 a request: a second of waiting work, what comes, and half of what is under way.
        assert 2 <= len(waiting) <= 5
        assert "limits.cross_encoder_wait_s" in refused.message
        assert 0 < refused.retry_after_s < 10
        assert batcher.state().refused == 1
        toy.let.set()
        for place in waiting:
            with place:
                while await place.scored():
                    pass
        assert await scored(batcher, pairs) == expected(pairs)


async def test_a_huge_request_keeps_no_small_one_out() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 8, 200.0))
    async with batching(toy, wait_s_max=1.0) as batcher:
        toy.let.clear()
        huge = toy.pairs("huge", ["one two three four"] * 2_000)
        with admitted(batcher, huge) as place:
            # Its tokens are being made, and then it waits: neither stands in the way.
            with admitted(batcher, toy.pairs("s", ["x"])):
                pass
            place.put(huge)
            await until(lambda: toy.at_work == 1)
            small = asyncio.create_task(scored(batcher, toy.pairs("s", ["x"] * 4)))
            await until(lambda: batcher.state().requests == 2)
            toy.let.set()
            assert len(await small) == 4
            assert [pair.input[0] for pair in toy.batches[1]] == ["s"] * 4, "right behind what was at work"


async def test_nothing_that_cannot_begin_in_time_is_let_in() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 8, 100.0))
    async with batching(toy, wait_s_max=100.0) as batcher:
        toy.let.clear()
        pairs = toy.pairs("q", ["one two three"] * 20)
        with admitted(batcher, pairs) as place:
            place.put(pairs)
            with pytest.raises(Overloaded, match="its deadline is in"):
                admitted(batcher, pairs, deadline_at=time.monotonic() + 0.5)


async def test_the_number_of_waiting_pairs_is_bounded() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 8, 1e9))
    async with batching(toy, pairs_max=10) as batcher:
        toy.let.clear()
        with pytest.raises(InvalidRequest, match="cross_encoder_pairs"):
            batcher.admit(1, pairs=11)
        pairs = toy.pairs("q", ["x"] * 8)
        with batcher.admit(1, pairs=8), pytest.raises(Overloaded, match="cross_encoder_pairs"):
            batcher.admit(1, pairs=3)
        # More pairs than were said: passages are only known once tokens are made.
        with batcher.admit(1, pairs=1) as place:
            with pytest.raises(InvalidRequest, match="cross_encoder_pairs"):
                place.put(toy.pairs("q", ["x"] * 11))
            place.put(pairs)


async def test_a_failure_is_of_the_requests_in_its_batch_alone() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 2, 1e6))
    async with batching(toy) as batcher:
        outcomes = await asyncio.gather(
            scored(batcher, toy.pairs("a", ["one", "two"])),
            scored(batcher, toy.pairs("b", ["x", "explode"])),
            scored(batcher, toy.pairs("c", ["explode", "y"])),
            scored(batcher, toy.pairs("d", ["three", "four"])),
            return_exceptions=True,
        )
        assert [isinstance(outcome, BackendDown) for outcome in outcomes] == [False, True, True, False]
        assert outcomes[1] is not outcomes[2], "each request writes what it spent into its own"
        assert batcher.state().failed == 4
        assert await scored(batcher, toy.pairs("e", ["fine"])) == expected(toy.pairs("e", ["fine"]))


async def test_what_one_request_sent_does_not_fail_those_in_its_batch() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 4, 1e6))
    before, fine, bad = toy.pairs("p", ["plug"]), toy.pairs("a", ["one", "two"]), toy.pairs("b", ["x", "explode"])
    toy.let.clear()
    async with batching(toy) as batcher:
        plug = asyncio.create_task(scored(batcher, before))
        await until(lambda: toy.at_work == 1)
        both = [asyncio.create_task(scored(batcher, pairs)) for pairs in (fine, bad)]
        await until(lambda: batcher.state().pairs == 4)
        toy.let.set()
        assert await plug == expected(before)
        assert await both[0] == expected(fine)
        with pytest.raises(BackendDown):
            await both[1]
        assert batcher.state().failed == 2
    assert [len(batch) for batch in toy.batches] == [1, 4, 2, 2]


async def test_the_rest_of_a_failed_request_never_reaches_the_model() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 1, 1e6))
    async with batching(toy) as batcher:
        pairs = toy.pairs("q", ["explode is the longest", *"abcdef"])
        with admitted(batcher, pairs) as place:
            place.put(pairs)
            await until(lambda: batcher.state().failed == 1)
            assert (batcher.state().pairs, batcher.state().dropped) == (0, 6)
            with pytest.raises(BackendDown):
                await place.scored()
    assert len(toy.batches) == 1


async def test_a_model_that_raises_what_it_should_not_stops_no_lane() -> None:
    class Defective(ToyCrossEncoder):
        def score(self, batch: Sequence[Pair]) -> object:  # type: ignore[override]
            if len(self.batches) == 0:
                self.batches.append([])
                raise ZeroDivisionError("oops")
            return super().score(batch)[: len(batch) - (len(self.batches) == 2)]

    toy = Defective(capacity=Capacity(1, 64, 2, 1e6))
    async with batching(toy) as batcher:
        with pytest.raises(BackendDown, match="oops"):
            await scored(batcher, toy.pairs("a", ["x"]))
        with pytest.raises(BackendDown, match="0 scores for 1 pairs"):
            await scored(batcher, toy.pairs("b", ["x"]))
        assert await scored(batcher, toy.pairs("c", ["x"])) == expected(toy.pairs("c", ["x"]))


async def test_closing_fails_what_waits_and_lets_what_is_at_work_end() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(1, 64, 1, 1e6))
    batcher = Batcher(toy)
    toy.let.clear()
    at_work = asyncio.create_task(scored(batcher, toy.pairs("a", ["x"])))
    await until(lambda: toy.at_work == 1)
    waits = asyncio.create_task(scored(batcher, toy.pairs("b", ["x"])))
    await until(lambda: batcher.state().pairs == 1)
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    with pytest.raises(Unavailable):
        await waits
    toy.let.set()
    assert await at_work == expected(toy.pairs("a", ["x"]))
    await closing
    assert toy.closed
    with pytest.raises(Unavailable):
        batcher.admit(1, pairs=1)


async def test_times_add_up_to_those_of_the_lanes() -> None:
    toy = ToyCrossEncoder(capacity=Capacity(2, 64, 4, 1e6))
    async with batching(toy) as batcher:
        seconds = 0.0
        for name in "abc":
            pairs = toy.pairs(name, ["x y z"] * 9)
            with admitted(batcher, pairs) as place:
                place.put(pairs)
                while parts := await place.scored():
                    seconds += sum(part.backend_s for part in parts)
        assert seconds == pytest.approx(batcher.state().busy_s / 2)
