"""The engine: every list once, in order; an outage is a matter of the job."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.accounting.ledger import Ledger
from podium_server.jobs.budget import BudgetSpent
from podium_server.jobs.engine import Engine, ListFailed, Outage
from podium_server.jobs.lists import BadLine, CandidateList
from podium_server.jobs.ranking import COMPLETE, Answer, Failed, Ranked

ANSWERED, DOWN, INVALID = "answered", "BACKEND_DOWN", "INVALID_REQUEST"
HALF = "an earlier stage answered, and the next one found nobody"
OUT = {DOWN, HALF}


def a_list(place: int) -> CandidateList:
    return CandidateList(place + 1, f"q{place}", "a query", ("d",), ("d",), ("a text",), (None,))


@dataclass
class Scripted:
    """Answers each list as it was told, after as many turns of the loop as it was told."""

    fates: list[str]
    turns: list[int]
    asked: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    async def rank(self, given: CandidateList) -> Answer:
        place = given.line - 1
        self.asked.append(place)
        for _ in range(self.turns[place]):
            await asyncio.sleep(0)
        self.ended.append(place)
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
    st.lists(st.tuples(st.sampled_from([ANSWERED, DOWN, DOWN, HALF, INVALID]), st.integers(0, 5)), max_size=80),
    st.integers(1, 8),
    st.integers(0, 25),
)
def test_no_list_is_given_up_while_nobody_answers(
    script: list[tuple[str, int]], concurrency: int, patience: int
) -> None:
    fates = [fate for fate, _ in script]
    written: list[Answer] = []
    ranker = Scripted(fates, [turns for _, turns in script])
    engine = Engine(ranker, written.append, concurrency=concurrency, patience=patience)
    stopped = None
    try:
        asyncio.run(asyncio.wait_for(engine.run(iter([a_list(place) for place in range(len(script))])), 20))
    except Outage as outage:
        stopped = outage

    # Every list once, in order; all of them, unless the job has stopped.
    places = [(answer.list.line if isinstance(answer, Ranked) else answer.line) - 1 for answer in written]
    assert places == list(range(len(written)))
    assert stopped is not None or len(written) == len(fates)
    if not patience:
        assert stopped is None
        return
    # What was written of an outage had an answer after it, by the clock; or what asked nobody took all places.
    window = concurrency + max(concurrency, patience)
    ended = {place: at for at, place in enumerate(ranker.ended)}
    answers = [ended[place] for place in ended if fates[place] == ANSWERED]
    for place in places if stopped else ():
        assert (
            fates[place] not in OUT
            or ended[place] < max(answers, default=-1)
            or INVALID in fates[place : place + window]
        )
    # It stops after as many failures as it was told, and where so many follow each other that no place is left
    # for anybody behind them.
    if stopped is not None:
        assert stopped.lists >= patience
        assert sum(at > max(answers, default=-1) for place, at in ended.items() if fates[place] in OUT) >= patience
    longest = max((len(list(run)) for out, run in groupby(fates, OUT.__contains__) if out), default=0)
    assert stopped is not None or longest < patience + 2 * concurrency


async def test_who_answered_before_the_outage_says_nothing_of_it() -> None:
    """The first list is the last to be asked: the others were answered, and then the endpoint went."""
    written: list[Answer] = []
    fates = [DOWN, ANSWERED, ANSWERED, DOWN, DOWN]
    engine = Engine(Scripted(fates, [9, 0, 0, 9, 9]), written.append, concurrency=5, patience=3)
    with pytest.raises(Outage):
        await engine.run(iter([a_list(place) for place in range(5)]))
    assert written == []


async def test_what_asks_nobody_does_not_end_an_outage() -> None:
    """A line that is no list, a list of nothing, a list that is refused: all done at once, and nobody was there."""
    written: list[Answer] = []
    nothing = a_list(2)._replace(docids=(), ids=(), texts=(), prior_scores=())
    lines = [a_list(0), BadLine(2, "is no JSON"), nothing, a_list(3), a_list(4), a_list(5)]
    fates = [DOWN, "", ANSWERED, INVALID, DOWN, DOWN]
    engine = Engine(Scripted(fates, [0] * 6), written.append, concurrency=3, patience=3)
    with pytest.raises(Outage):
        await engine.run(iter(lines))
    assert written == []


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


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("answered", range(1, 12))
def test_an_outage_is_known_however_few_places_there_are(concurrency: int, answered: int) -> None:
    """Lists that wait for each other leave few places, and the next line has to come all the same."""
    fates = [*[ANSWERED] * answered, *[DOWN] * 60]
    engine = Engine(Scripted(fates, [0] * len(fates)), lambda _: None, concurrency=concurrency, patience=20)
    with pytest.raises(Outage):
        asyncio.run(asyncio.wait_for(engine.run(iter([a_list(place) for place in range(len(fates))])), 10))
