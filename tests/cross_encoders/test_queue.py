"""Which pairs are taken next: nothing is lost, budgets hold, and nobody waits for the size of others."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.backends.cross_encoders.queue import (
    TOLERABLE,
    Batch,
    Budget,
    Lengths,
    Queue,
    ahead,
    drop,
    expired,
    put,
    take,
)

REQUESTS = st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=30), min_size=1, max_size=12)
BUDGETS = st.builds(Budget, st.integers(1, 200), st.integers(1, 16))
QUANTA = st.integers(1, 500)


def filled(requests: list[list[int]], quantum: int = 100) -> Queue:
    queue = Queue(quantum)
    for number, lengths in enumerate(requests):
        queue = put(queue, number, Lengths.of(lengths))
    return queue


def emptied(queue: Queue, budget: Budget) -> list[Batch]:
    batches = []
    while queue.line:
        batch, queue = take(queue, budget)
        batches.append(batch)
    return batches


@given(REQUESTS, BUDGETS, QUANTA)
def test_every_pair_is_taken_once_within_the_budget(requests: list[list[int]], budget: Budget, quantum: int) -> None:
    taken = []
    for batch in emptied(filled(requests, quantum), budget):
        assert batch.shares
        lengths = [requests[share.request][place] for share in batch.shares for place in share.places]
        assert batch.longest == max(lengths)
        assert batch.tokens == sum(lengths)
        assert batch.pairs == len(lengths) <= budget.pairs
        assert len(lengths) == 1 or batch.longest * len(lengths) <= budget.padded_tokens
        assert min(lengths) >= TOLERABLE * batch.longest, "no pair is more padding than text"
        taken += [(share.request, place) for share in batch.shares for place in share.places]
    assert sorted(taken) == [(number, place) for number, row in enumerate(requests) for place in range(len(row))]


@given(REQUESTS, BUDGETS, QUANTA)
def test_taking_changes_no_value(requests: list[list[int]], budget: Budget, quantum: int) -> None:
    queue = filled(requests, quantum)
    assert take(queue, budget) == take(queue, budget)


@dataclass
class World:
    """A queue under arrivals, departures and batches, beside a machine that serves all at the same time."""

    quantum: int
    budget: Budget
    queue: Queue = field(init=False)
    sizes: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    shared: dict[int, float] = field(default_factory=dict)
    """What the fair machine has left to do of each."""
    done_at: dict[int, float] = field(default_factory=dict)
    fair_at: dict[int, float] = field(default_factory=dict)
    led: dict[int, set[int]] = field(default_factory=dict)
    """Whom each request has seen begin a batch while it waited."""
    served: float = 0.0
    largest: int = 0

    def __post_init__(self) -> None:
        self.queue = Queue(self.quantum)

    def come(self, lengths: list[int]) -> None:
        number = len(self.sizes)
        self.queue = put(self.queue, number, Lengths.of(lengths))
        self.sizes[number] = self.left[number] = sum(lengths)
        self.shared[number] = float(sum(lengths))

    def serve(self) -> None:
        batch, self.queue = take(self.queue, self.budget)
        for share in batch.shares:
            self.left[share.request] -= share.tokens
        self.share(batch.tokens)
        self.served += batch.tokens
        self.largest = max(self.largest, batch.tokens)
        for number, left in self.left.items():
            if not left:
                self.done_at.setdefault(number, self.served)

    def share(self, tokens: float) -> None:
        """Let the fair machine do as much, a request getting by its claim, in small steps from end to end."""
        now = self.served
        while tokens > 1e-9:
            claims = {number: min(self.sizes[number], self.quantum) for number, left in self.shared.items() if left > 0}
            if not claims:
                return
            total = sum(claims.values())
            step = min(tokens, *(self.shared[number] * total / claim for number, claim in claims.items()))
            tokens -= step
            now += step
            for number, claim in claims.items():
                self.shared[number] -= step * claim / total
                if self.shared[number] <= 1e-6:
                    self.shared[number] = 0.0
                    self.fair_at[number] = now


EVENTS = st.lists(
    st.one_of(
        st.lists(st.integers(1, 40), min_size=1, max_size=6),
        st.lists(st.integers(1, 40), min_size=40, max_size=60),
        st.none(),
    ),
    min_size=2,
    max_size=40,
)


@given(EVENTS, st.integers(1, 400), st.integers(40, 120))
def test_nobody_is_done_later_than_by_fair_sharing_but_for_a_batch_each(
    events: list[list[int] | None], quantum: int, budget: int
) -> None:
    world = World(quantum, Budget(budget, 100))
    for event in events:
        if event is None:
            world.serve()
        else:
            world.come(event)
    while world.queue.line:
        world.serve()
    for number, fair_at in world.fair_at.items():
        others = len(world.sizes)
        assert world.done_at[number] <= fair_at + (others + 1) * world.largest + 1e-6


@given(EVENTS, st.integers(1, 400))
def test_fair_sharing_has_as_much_left_as_waits(events: list[list[int] | None], quantum: int) -> None:
    queue = Queue(quantum)
    gone = 0
    for number, event in enumerate(events):
        if event is not None:
            queue = put(queue, number, Lengths.of(event))
        else:
            _, queue = take(queue, Budget(60, 100))
        if event is not None and len(event) % 3 == 0:
            queue = drop(queue, {gone})
            gone = number
        imagined = sum((sharer.finish - queue.turn) * sharer.claim for sharer in queue.sharers)
        assert imagined <= queue.tokens + 1e-6, "what has gone is not served in imagination"
        assert queue.tokens == sum(waiting.tokens for waiting in queue.line)
        assert queue.pairs == sum(waiting.pairs for waiting in queue.line)
        assert queue.claims == pytest.approx(sum(sharer.claim for sharer in queue.sharers))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10), st.integers(1, 30))
def test_a_small_request_stands_behind_no_huge_one(small: list[int], batches_before: int) -> None:
    budget = Budget(64, 16)
    queue = put(Queue(quantum=500), 0, Lengths.of([20] * 5_000))
    for _ in range(batches_before):
        _, queue = take(queue, budget)
    assert ahead(queue, sum(small)) == 0
    queue = put(queue, 1, Lengths.of(small))
    taken = others = 0
    while taken < len(small):
        batch, queue = take(queue, budget)
        assert batch.shares[0].request == 1 or batch.shares[-1].request == 1, "each batch until then has some of it"
        taken += sum(len(share.places) for share in batch.shares if share.request == 1)
        others += sum(share.tokens for share in batch.shares if share.request == 0)
    assert others <= 64 * (1 + len(set(small)))


def test_a_huge_request_is_not_starved_by_small_ones() -> None:
    budget = Budget(100, 100)
    queue = put(Queue(quantum=100), 0, Lengths.of([10] * 1_000))
    served = 0
    number = 1
    while any(waiting.request == 0 for waiting in queue.line):
        # Half of what is served comes anew, and all of it stands before the huge one at first.
        queue = put(queue, number, Lengths.of([10] * 10))
        number += 1
        for _ in range(2):
            batch, queue = take(queue, budget)
            served += batch.tokens
        assert served <= 2 * 10_000


@given(st.lists(st.lists(st.integers(10, 11), min_size=1, max_size=9), min_size=2, max_size=10))
def test_requests_up_to_the_quantum_are_served_in_the_order_in_which_they_came(requests: list[list[int]]) -> None:
    first = [batch.shares[0].request for batch in emptied(filled(requests, quantum=100), Budget(22, 2))]
    assert first == sorted(first)


def test_others_fill_the_room_with_pairs_of_about_the_same_length() -> None:
    queue = filled([[40, 39], [12, 38, 20], [37, 11]])
    batch, queue = take(queue, Budget(160, 16))
    assert {share.request: share.places for share in batch.shares} == {0: (0, 1), 1: (1,), 2: (0,)}
    assert [share.request for share in take(queue, Budget(160, 16))[0].shares] == [1, 2]


@given(REQUESTS, st.sets(st.integers(0, 11)), BUDGETS)
def test_what_was_dropped_is_never_taken(requests: list[list[int]], gone: set[int], budget: Budget) -> None:
    queue = drop(take(filled(requests), budget)[1], gone)
    taken = {share.request for batch in emptied(queue, budget) for share in batch.shares}
    assert taken.isdisjoint(gone)


def test_who_is_late_is_told() -> None:
    queue = put(Queue(100), 0, Lengths.of([1]), deadline_at=5.0)
    queue = put(queue, 1, Lengths.of([1]))
    assert expired(queue, 4.9) == frozenset()
    assert expired(queue, 5.0) == {0}


def test_little_work_is_spread_over_all_lanes() -> None:
    budget = Budget(1_000, 64)
    assert budget.evened(10_000, 2) is budget
    assert budget.evened(1_000, 2).padded_tokens == 500
    assert budget.evened(10, 2).padded_tokens == 250, "and no batch gets tiny"


@pytest.mark.parametrize(
    "make", [lambda: Budget(0, 1), lambda: Queue(0), lambda: Lengths.of([]), lambda: Lengths.of([0])]
)
def test_what_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()  # type: ignore[operator]
