"""The engine: every list once, in order; an outage is a matter of the job."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.accounting.ledger import Ledger
from podium_server.jobs.budget import BudgetSpent
from podium_server.jobs.engine import Engine, ListFailed, Outage
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import COMPLETE, Answer, Failed, Ranked

ANSWERED, DOWN, INVALID = "answered", "BACKEND_DOWN", "INVALID_REQUEST"
HALF = "an earlier stage answered, and the next one found nobody"


def a_list(place: int) -> CandidateList:
    return CandidateList(place + 1, f"q{place}", "a query", ("d",), ("d",), ("a text",), (None,))


@dataclass
class Scripted:
    """Answers each list as it was told, after as many turns of the loop as it was told."""

    fates: list[str]
    turns: list[int]
    asked: list[int] = field(default_factory=list)

    async def rank(self, given: CandidateList) -> Answer:
        place = given.line - 1
        self.asked.append(place)
        for _ in range(self.turns[place]):
            await asyncio.sleep(0)
        fate = self.fates[place]
        if fate == HALF:
            return Ranked(given, (0,), (1.0,), "partial_backend", Ledger(), cause=DOWN)
        return (
            Ranked(given, (0,), (1.0,), COMPLETE, Ledger())
            if fate == ANSWERED
            else Failed(given.line, given.qid, fate, "")
        )

    def unfinished(self) -> Ledger:
        return Ledger()


@given(
    st.lists(st.tuples(st.sampled_from([ANSWERED, DOWN, HALF, INVALID]), st.integers(0, 5)), max_size=60),
    st.integers(1, 8),
    st.integers(0, 10),
)
def test_what_is_written_ends_before_the_outage(script: list[tuple[str, int]], concurrency: int, patience: int) -> None:
    fates = [fate for fate, _ in script]
    written: list[Answer] = []
    engine = Engine(
        Scripted(fates, [turns for _, turns in script]), written.append, concurrency=concurrency, patience=patience
    )
    stopped = None
    try:
        asyncio.run(engine.run(iter([a_list(place) for place in range(len(script))])))
    except Outage as outage:
        stopped = outage

    begins = first_run_of_down(fates, patience) if patience else None
    assert (stopped is not None) == (begins is not None)
    assert [answer.list.line if isinstance(answer, Ranked) else answer.line for answer in written] == list(
        range(1, (len(fates) if begins is None else begins) + 1)
    )


def first_run_of_down(fates: list[str], length: int) -> int | None:
    return next((at for at in range(len(fates) - length + 1) if set(fates[at : at + length]) <= {DOWN, HALF}), None)


def test_patience_is_no_reason_to_wait_at_the_end() -> None:
    written: list[Answer] = []
    engine = Engine(Scripted([ANSWERED, DOWN], [0, 0]), written.append, patience=5)
    asyncio.run(engine.run(iter([a_list(0), a_list(1)])))
    assert len(written) == 2


def test_a_budget_that_ends_while_nobody_answers_ends_the_job() -> None:
    written: list[Answer] = []
    let_in = iter(["", ""])
    engine = Engine(
        Scripted([ANSWERED, DOWN, ANSWERED], [0, 0, 0]),
        written.append,
        patience=5,
        gate=lambda at_work: next(let_in, "the budget is spent"),
    )
    with pytest.raises(BudgetSpent):
        asyncio.run(asyncio.wait_for(engine.run(iter([a_list(place) for place in range(3)])), 20))
    assert len(written) == 1, "the second is asked again by the next run"


def test_what_ends_a_strict_job_was_paid_for_all_the_same() -> None:
    written: list[Answer] = []
    engine = Engine(Scripted([ANSWERED, INVALID], [0, 0]), written.append, strict=True)
    with pytest.raises(ListFailed):
        asyncio.run(engine.run(iter([a_list(0), a_list(1)])))
    assert [answer.line for answer in engine.unwritten() if isinstance(answer, Failed)] == [2]
    assert len(written) == 1


@pytest.mark.parametrize("concurrency", [0, -1])
def test_nobody_at_work_is_refused(concurrency: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Engine(Scripted([], []), print, concurrency=concurrency)
