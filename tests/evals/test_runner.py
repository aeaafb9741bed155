"""Pipelines over suites: in this process, on a server, and stopped in the middle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from podium_evals.results import FAILED, Ranking
from podium_evals.runner import Here, Interrupted, There, run_pipeline, spent_of
from podium_evals.session import Session
from podium_evals.suite import Passage, Suite, Topic, checked
from podium_server import config
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.errors import NotFound
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Failed, Ranked
from podium_server.limits import Limits
from tests.wire.serving import serving, standing

QUERIES = 4


def suite(name: str = "small", query: str = "how do cats land") -> Suite:
    passages = (Passage("b", "a recipe for bread"), Passage("a", "cats land on their feet by turning in the air"))
    topics = tuple(Topic(str(number), query, passages) for number in range(QUERIES))
    return checked(Suite(name, topics, {topic.qid: {"a": 2, "b": 0} for topic in topics}))


class Quiet:
    """Watches and says nothing."""

    def begin(self, suite: str, system: str, queries: int) -> None: ...
    def advance(self, done: int, of: int) -> None: ...
    def end(self, suite: str, system: str, seconds: float) -> None: ...
    def say(self, sentence: str) -> None: ...


@dataclass
class Stand:
    """A place whose ranker reverses lists, fails at some, and waits for ever at one."""

    fails: frozenset[str] = frozenset()
    stops_at: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(self, pipelines: Any) -> None: ...

    def told(self, name: str, suite: Suite) -> tuple[str, tuple[str, ...]]:
        return "stands for a pipeline", ("reverse",)

    @contextlib.asynccontextmanager
    async def ranker(self, name: str, concurrency: int, suite: Suite) -> AsyncIterator[Stand]:
        yield self

    async def rank(self, given: CandidateList) -> Answer:
        ledger = Ledger(rounds=2, wall_s=0.5)
        usage = Usage(calls=3, cost_nano_usd=2_000_000_000, repairs={"ok": 2, "unreadable": 1})
        ledger.open(Account("stage", "reverse", usage=usage))
        if given.qid == self.stops_at:
            self.begun.set()
            await asyncio.Event().wait()
        if given.qid in self.fails:
            return Failed(given.line, given.qid, "BACKEND_DOWN", "nobody there", ledger)
        order = tuple(reversed(range(len(given.ids))))
        return Ranked(given, order, (None,) * len(order), "complete", ledger)

    def unfinished(self) -> Ledger:
        return Ledger()


async def test_what_was_asked_is_in_the_suites_order_with_what_it_took() -> None:
    told: list[int] = []
    system = await run_pipeline(suite(), Stand(frozenset("2")), "mine", tell=lambda done, of: told.append(done))  # type: ignore[arg-type]
    assert told == [1, 2, 3, 4]
    assert [ranking.qid for ranking in system.rankings] == ["0", "1", "2", "3"]
    assert system.rankings[0].docids == ("a", "b")
    spent = system.rankings[0].spent
    assert (spent.calls, spent.rounds, spent.cost_usd, spent.replies, spent.unreadable_replies) == (3, 2, 2.0, 3, 1)
    failed = system.rankings[2]
    assert (failed.completion, failed.docids, failed.error) == (FAILED, (), "BACKEND_DOWN: nobody there")
    assert failed.spent.calls == 3, "what a failed query took was taken all the same"


async def test_the_embedded_pipeline_ranks_in_this_process() -> None:
    fast, recall = [await run_pipeline(suite(), Here(config.load(None)), name) for name in ("fast", "recall")]
    assert fast.run == dict.fromkeys(map(str, range(QUERIES)), ("a", "b"))
    assert not any(ranking.unchanged for ranking in fast.rankings)
    assert all(ranking.unchanged for ranking in recall.rankings)
    assert fast.stages[0].startswith("fusion")
    assert all(ranking.spent.wall_s > 0 for ranking in fast.rankings)


async def test_a_query_that_the_server_would_refuse_fails_alone() -> None:
    whole = config.load(None)
    short = whole.model_copy(update={"limits": Limits(query_bytes=20)})
    of = suite()
    long = checked(
        Suite("s", (Topic("long", "x" * 21, of.topics[0].candidates), *of.topics), {**of.qrels, "long": {"a": 1}})
    )
    system = await run_pipeline(long, Here(short), "recall")
    assert [ranking.completion for ranking in system.rankings] == [FAILED, *["complete"] * QUERIES]
    assert "INVALID_REQUEST" in system.rankings[0].error


async def test_an_unknown_pipeline_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(NotFound, match="fast"):
        await Here(config.load(None)).check(["fasst"])


async def test_servers_rank_as_this_process_does() -> None:
    async with serving(standing()) as wire:
        place = There((wire.address,))
        points = await run_pipeline(suite(), place, "points", concurrency=2)
        with pytest.raises(NotFound, match="identity"):
            await place.check(["worst"])
    assert [ranking.completion for ranking in points.rankings] == ["complete"] * QUERIES
    assert {ranking.spent.questions for ranking in points.rankings} == {2}
    assert wire.address in points.description


async def test_what_was_done_outlives_an_interruption(tmp_path: Any) -> None:
    place = Stand(stops_at="2")
    of = [suite("one"), suite("two")]
    session = Session(of, Quiet(), tmp_path)
    work = asyncio.create_task(session.run(place, ["mine"]))  # type: ignore[arg-type]
    await place.begun.wait()
    work.cancel()
    await work
    assert session.interrupted
    whys = {missing.what: missing.why for missing in session.results().missing}
    assert whys == {
        "one × mine": "interrupted after 2 of 4 queries: not in the tables",
        "two × mine": "interrupted before it began",
    }
    assert [system.name for system in session.results().evaluations[0].systems] == ["first-stage"]
    partial = (tmp_path / "runs" / "one" / "mine.partial.trec").read_text()
    assert {line.split()[0] for line in partial.splitlines()} == {"0", "1"}


async def test_getting_ready_may_be_interrupted_too() -> None:
    """A corpus is indexed for minutes before the first query is ranked."""

    class Slow(Stand):
        @contextlib.asynccontextmanager
        async def ranker(self, name: str, concurrency: int, suite: Suite) -> AsyncIterator[Stand]:
            self.begun.set()
            await asyncio.Event().wait()
            yield self

    place, session = Slow(), Session([suite()], Quiet())
    work = asyncio.create_task(session.run(place, ["mine"]))  # type: ignore[arg-type]
    await place.begun.wait()
    work.cancel()
    await work
    assert session.interrupted
    assert [one.why for one in session.results().missing] == ["interrupted after 0 of 4 queries: not in the tables"]


async def test_a_system_that_was_done_stays_when_a_later_one_is_interrupted() -> None:
    place = Stand(stops_at="3")
    done = Session([suite()], Quiet())
    await done.run(Stand(), ["first"])  # type: ignore[arg-type]
    work = asyncio.create_task(done.run(place, ["second"]))  # type: ignore[arg-type]
    await place.begun.wait()
    work.cancel()
    await work
    evaluation = done.results().evaluations[0]
    assert [system.name for system in evaluation.systems] == ["first-stage", "first"]
    assert evaluation.summaries["first"].means["nDCG@10"].value == 1.0


async def test_an_interrupted_pipeline_hands_over_its_answers() -> None:
    place = Stand(stops_at="1")
    work = asyncio.create_task(run_pipeline(suite(), place, "mine"))  # type: ignore[arg-type]
    await place.begun.wait()
    work.cancel()
    with pytest.raises(Interrupted) as stopped:
        await work
    assert [ranking.qid for ranking in stopped.value.rankings] == ["0"]


async def test_a_baseline_that_is_not_there_is_named() -> None:
    session = Session([suite()], Quiet(), baseline="gone")
    results = session.results()
    assert results.evaluations[0].baseline == "first-stage"
    assert [missing.what for missing in results.missing] == ["small: the baseline gone"]


def test_an_unknown_cost_stays_unknown() -> None:
    ledger = Ledger()
    ledger.open(Account("stage", "x", usage=Usage(calls=1, cost_nano_usd=None)))
    assert spent_of(ledger).cost_usd is None
    assert Ranking("1", ()).spent.cost_usd == 0.0
