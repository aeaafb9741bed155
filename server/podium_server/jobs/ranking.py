"""What a job knows of one list's answer, whoever gave it: this process or a server far away."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.errors import PodiumError
from podium_server.jobs.lists import CandidateList
from podium_server.limits import Limits
from podium_server.ranking.request import Budget, Completion, RankRequest
from podium_server.ranking.reranker import Reranker


@dataclass(frozen=True, slots=True)
class Ranked:
    """A list in order.

    Args:
        list: that was ranked.
        order: all places of the list, best first.
        scores: by rank; None where a candidate has none.
        completion: `complete`, or why the pipeline did not end (`partial_deadline`, `partial_budget`, …).
        ledger: what it cost.
        warnings: sentences.

    """

    list: CandidateList
    order: tuple[int, ...]
    scores: tuple[float | None, ...]
    completion: str
    ledger: Ledger
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A list that got no order, or a line that is no list.

    Args:
        line: of the input, counted from 1.
        qid: of the list; None where not even that could be read.
        reason: upper case, stable: `INVALID_LINE`, `INVALID_REQUEST`, `BACKEND_DOWN`, …
        message: a sentence.
        ledger: what was spent all the same.

    """

    line: int
    qid: str | int | None
    reason: str
    message: str
    ledger: Ledger = field(default_factory=Ledger)


Answer: TypeAlias = Ranked | Failed


class Ranker(Protocol):
    """Whoever puts one list in order. Many calls run side by side."""

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place; never raises a `PodiumError`."""


@dataclass(frozen=True, slots=True)
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

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        try:
            query = validate.query(given.query, self.limits)
            if not given.documents:
                # Recall found nothing. A caller of the server is told so; a job goes on, and the empty order is right.
                return Ranked(given, (), (), Completion.COMPLETE.value, Ledger())
            candidates, warnings = validate.documents(given.documents, self.limits)
            request = RankRequest(query, candidates, pipeline=self.pipeline, budget=self.budget)
            outcome = await self.reranker.rerank(request, warnings=warnings)
        except PodiumError as error:
            return failed(given, error)
        return Ranked(
            given,
            outcome.order,
            tuple(outcome.scores[place] for place in outcome.order),
            outcome.completion.value,
            outcome.ledger,
            tuple(warned.message for warned in outcome.warnings),
        )


def failed(given: CandidateList, error: PodiumError) -> Failed:
    """Return what a job writes of a list that could not be ranked."""
    spent = error.spent if isinstance(error.spent, Ledger) else Ledger()
    # The edge speaks of the request's documents; whoever wrote the file calls them candidates.
    message = error.message
    if message.startswith("documents"):
        message = re.sub(r"\bdocuments(?=\[|:)", "candidates", message)
    return Failed(given.line, given.qid, error.reason, message, spent)


Watcher: TypeAlias = Callable[[Answer], None]
"""Is shown every answer, in the order of the input, after it was written."""
