"""The engine of jobs: order, bounds, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from podium_server.accounting.ledger import Ledger
from podium_server.jobs.engine import Engine, ListFailed
from podium_server.jobs.lists import BadLine, CandidateList, Line
from podium_server.jobs.ranking import Answer, Failed, Ranked


class Waiting:
    """Ranks by waiting, each list as long as it says; counts who is at work."""

    def __init__(self, wait_s: dict[int, float] | None = None) -> None:
        self.wait_s = wait_s or {}
        self.running = self.most = 0

    async def rank(self, given: CandidateList) -> Answer:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.wait_s.get(given.line, 0))
        finally:
            self.running -= 1
        return Ranked(given, (), (), "complete", Ledger())

    def unfinished(self) -> Ledger:
        return Ledger()


def a_line(number: int) -> CandidateList:
    return CandidateList(number, f"q{number}", "query", (), (), (), (), seal=number)


def number_of(answer: Answer) -> int:
    return answer.line if isinstance(answer, Failed) else answer.list.line


class Read:
    """Lines, and how many of them were taken."""

    def __init__(self, n: int) -> None:
        self.n, self.taken = n, 0

    def __iter__(self) -> Iterator[Line]:
        for number in range(1, self.n + 1):
            self.taken = number
            yield a_line(number)


async def test_answers_are_written_in_the_order_of_the_lines() -> None:
    ranker = Waiting({number: (7 * number % 5) / 500 for number in range(1, 101)})
    written: list[Answer] = []

    await Engine(ranker, written.append, concurrency=8).run(iter(Read(100)))

    assert [number_of(answer) for answer in written] == list(range(1, 101))
    assert ranker.most == 8


async def test_a_slow_head_holds_the_reading_back() -> None:
    read = Read(1000)
    written: list[Answer] = []
    engine = Engine(Waiting({1: 60.0}), written.append, concurrency=5)
    running = asyncio.create_task(engine.run(iter(read)))
    await asyncio.sleep(0.3)

    # Nine lists stand behind the head; the tenth place is the head's own.
    assert read.taken == 10
    assert written == []
    assert sorted(number_of(answer) for answer in engine.unwritten()) == list(range(2, 11))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    # What is done behind it has to wait there: an answer that is written out of turn could not be gone on behind.
    assert written == []


async def test_no_list_is_at_work_after_an_interruption() -> None:
    ranker = Waiting(dict.fromkeys(range(1, 100), 60.0))
    running = asyncio.create_task(Engine(ranker, lambda answer: None, concurrency=5).run(iter(Read(99))))
    await asyncio.sleep(0.1)
    assert ranker.running == 5

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ranker.running == 0


async def test_a_pipe_that_nobody_writes_to_does_not_keep_a_job_alive() -> None:
    never = threading.Event()

    def silent() -> Iterator[Line]:
        yield a_line(1)
        never.wait()

    written: list[Answer] = []
    running = asyncio.create_task(Engine(Waiting(), written.append, concurrency=5).run(silent()))
    await asyncio.sleep(0.1)
    assert len(written) == 1  # what is there is not held back by what is not

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)
    never.set()


async def test_a_bad_line_has_its_place_and_its_number() -> None:
    written: list[Answer] = []
    given: list[Line] = [a_line(1), BadLine(2, "is no JSON"), a_line(3)]

    await Engine(Waiting({1: 0.05}), written.append).run(iter(given))

    assert [number_of(answer) for answer in written] == [1, 2, 3]
    assert isinstance(written[1], Failed)
    assert written[1].reason == "INVALID_LINE"


async def test_a_strict_job_stops_and_says_where() -> None:
    written: list[Answer] = []
    given: list[Line] = [a_line(1), BadLine(2, "is no JSON"), *map(a_line, range(3, 1000))]

    with pytest.raises(ListFailed) as stopped:
        await Engine(Waiting(dict.fromkeys(range(3, 1000), 60.0)), written.append, strict=True).run(iter(given))

    assert stopped.value.answer.line == 2
    # The failure itself is not written: the job that goes on begins with it.
    assert [number_of(answer) for answer in written] == [1]


async def test_an_error_of_the_reading_is_raised_after_what_was_read() -> None:
    def broken() -> Iterator[Line]:
        yield a_line(1)
        raise OSError("the disk is gone")

    written: list[Answer] = []
    with pytest.raises(OSError, match="the disk is gone"):
        await Engine(Waiting(), written.append).run(broken())
    assert len(written) == 1


async def test_nothing_in_nothing_out() -> None:
    written: list[Answer] = []
    await Engine(Waiting(), written.append).run(iter(()))
    assert written == []
