"""What a job knows of one list's answer, whoever gave it: this process or a server far away."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.errors import PodiumError
from podium_server.jobs.ledgers import enter
from podium_server.jobs.lists import CandidateList
from podium_server.limits import Limits
from podium_server.ranking.pipeline import Pipeline
from podium_server.ranking.request import Budget, Completion, RankRequest, Warned
from podium_server.ranking.reranker import Reranker
from podium_strategies.drive import Execution
from podium_strategies.pool import Pool

COMPLETE = Completion.COMPLETE.value
_NOTHING = Ledger()


@dataclass(frozen=True, slots=True)
class Ranked:
    """A list in order.

    Args:
        list: that was ranked.
        order: all places of the list, best first.
        scores: by rank; None where a candidate has none.
        completion: `complete`, or why the pipeline did not end (`partial_deadline`, `partial_budget`, …).
        ledger: what it cost; only to be read.
        warnings: what should be known of it.
        cause: the reason of the error that ended the pipeline early; empty where none did, or nobody says.

    """

    list: CandidateList
    order: tuple[int, ...]
    scores: tuple[float | None, ...]
    completion: str
    ledger: Ledger
    warnings: tuple[Warned, ...] = ()
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A list that got no order, or a line that is no list.

    Args:
        line: of the input, counted from 1.
        qid: of the list; None where not even that could be read.
        reason: upper case, stable: `INVALID_LINE`, `INVALID_REQUEST`, `BACKEND_DOWN`, …
        message: a sentence.
        ledger: what was spent all the same.
        seal: of the input up to this line (see `CandidateList`).
        cause: the reason of the error behind it, where `reason` is what became of the list; else empty.

    """

    line: int
    qid: str | int | None
    reason: str
    message: str
    ledger: Ledger = field(default_factory=Ledger)
    seal: int = 0
    cause: str = ""


Answer: TypeAlias = Ranked | Failed
LedgerWatcher: TypeAlias = Callable[[Ledger], None]


def seal_of(answer: Answer) -> int:
    """Return the seal of the input up to the list that this answers."""
    return answer.seal if isinstance(answer, Failed) else answer.list.seal


class Ranker(Protocol):
    """Whoever puts one list in order. Many calls run side by side."""

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place; never raises a `PodiumError`."""

    def unfinished(self) -> Ledger:
        """Return what was spent on lists that have no answer: those at work, and those that were cancelled."""


@runtime_checkable
class InstantRanker(Protocol):
    """A ranker that asks nobody, so that nothing is gained by lists side by side."""

    def rank_now(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place; never raises a `PodiumError`."""


@dataclass(slots=True)
class LocalRanker:
    """Ranks in this process.

    Args:
        reranker: of this process.
        pipeline: by name.
        budget: of each list.
        limits: of a list.

    """

    reranker: Reranker
    pipeline: str
    budget: Budget
    limits: Limits
    _at_work: dict[int, Ledger] = field(init=False, default_factory=dict)
    _cancelled: Ledger = field(init=False, default_factory=Ledger)

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        ledgers: list[Ledger] = []

        def opened(ledger: Ledger) -> None:
            ledgers.append(ledger)
            self._at_work[id(ledger)] = ledger

        answered = False
        try:
            answer = await self._rank(given, opened)
            answered = True
            return answer
        finally:
            for ledger in ledgers:
                del self._at_work[id(ledger)]
                if not answered:
                    enter(self._cancelled, ledger)

    async def _rank(self, given: CandidateList, opened: LedgerWatcher) -> Answer:
        try:
            query = validate.query(given.query, self.limits)
            if not given.docids:
                # Recall found nothing. A caller of the server is told so; a job goes on, and the empty order is right.
                return Ranked(given, (), (), COMPLETE, _NOTHING)
            candidates, warnings = validate.columns(given.ids, given.texts, given.prior_scores, self.limits)
            request = RankRequest(query, candidates, pipeline=self.pipeline, budget=self.budget)
            outcome = await self.reranker.rerank(request, warnings=warnings, on_ledger=opened)
        except PodiumError as error:
            return failed(given, error)
        scores = tuple(outcome.scores[place] for place in outcome.order)
        completion, cause = outcome.completion.value, outcome.cause_reason
        return Ranked(given, outcome.order, scores, completion, outcome.ledger, outcome.warnings, cause)

    def unfinished(self) -> Ledger:
        """Return what was spent on lists that have no answer."""
        whole = Ledger()
        for ledger in (self._cancelled, *self._at_work.values()):
            enter(whole, ledger)
        return whole


@dataclass(frozen=True, slots=True)
class PlainRanker:
    """Ranks in this process, through a pipeline that asks nobody (an `InstantRanker`).

    There is nothing to wait for, to charge or to bound, so nothing of that is set up: the plan runs to its end.
    """

    pipeline: Pipeline
    limits: Limits

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        return self.rank_now(given)

    def rank_now(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        try:
            validate.query(given.query, self.limits)
            n = len(given.docids)
            if not n:
                return Ranked(given, (), (), COMPLETE, _NOTHING)
            _, warnings = validate.columns(given.ids, given.texts, given.prior_scores, self.limits)
            known = None if None in given.prior_scores else given.prior_scores
            execution = Execution(self.pipeline.strategy.plan(Pool(n, known)), n)  # type: ignore[arg-type]
        except PodiumError as error:
            return failed(given, error)
        result = execution.result
        assert result is not None, "a strategy that asks nobody asked"
        by_place = result.scores or (None,) * n
        scores = tuple([by_place[place] for place in result.order])
        return Ranked(given, result.order, scores, COMPLETE, _NOTHING, warnings)

    def unfinished(self) -> Ledger:
        """Return nothing: nothing costs anything."""
        return _NOTHING


def local_ranker(reranker: Reranker, pipeline: str, budget: Budget, limits: Limits) -> LocalRanker | PlainRanker:
    """Return the ranker for a pipeline of this process.

    Raises:
        NotFound: no pipeline has that name.

    """
    found = reranker.pipeline(RankRequest("", (), pipeline=pipeline))
    if not found.strategy.asks:
        return PlainRanker(found, limits)
    return LocalRanker(reranker, pipeline, budget, limits)


def failed(given: CandidateList, error: PodiumError) -> Failed:
    """Return what a job writes of a list that could not be ranked."""
    spent = error.spent if isinstance(error.spent, Ledger) else Ledger()
    # The edge speaks of the request's documents; whoever wrote the file calls them candidates.
    message = error.message
    if message.startswith("documents"):
        message = re.sub(r"\bdocuments(?=\[|:)", "candidates", message)
    return Failed(given.line, given.qid, error.reason, message, spent, given.seal)
