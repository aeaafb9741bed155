"""The ranker of a labelling job: asks the teacher about a list, as often as its agreement needs, and makes a label."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from math import fsum
from typing import Any

from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.errors import PodiumError
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer
from podium_server.judges.case import Candidate
from podium_server.labels.agreement import DIGITS, agreement
from podium_server.labels.format import Label, LabelledDocument, Order, Verdict, record
from podium_server.labels.made import Bill, Bills, Incomplete, Made
from podium_server.labels.teacher import TeacherCard
from podium_server.limits import Limits
from podium_server.ranking.request import Budget, Completion, Explain, Outcome, RankRequest, Warned
from podium_server.ranking.reranker import Reranker
from podium_strategies.consistency import local_kemeny
from podium_strategies.permutation import by_score, shuffled
from podium_strategies.plan import Prefer

PAIRS_STAGE = "pairs"
"""The name under which sampled pairs are asked, in the teacher and in the ledger."""

MEAN_SCORE, KEMENY = "mean-score", "kemeny"

# Pairs under way at once, of all lists together: a backend's queue is longer, and its own limit lower.
_PAIRS_IN_FLIGHT_MAX = 256


@dataclass(frozen=True, slots=True)
class Sampling:
    """Pairs that are asked about in both orders, beside what the pipeline asks.

    Args:
        model: that answers; a chat model.
        prompt: of pairs; None takes the usual one.
        pairs: how many of a list.
        depth: they are drawn from the first so many of the teacher's ranking, where a student has most to learn.

    """

    model: str
    prompt: str | None = None
    pairs: int = 0
    depth: int = 20

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(f"pairs is {self.pairs}: at least 1")
        if self.depth < 2:
            raise ValueError(f"depth is {self.depth}: a pair needs at least 2")

    @property
    def inline(self) -> dict[str, Any]:
        """The stage that asks about one pair: a round robin of two."""
        stage = {"strategy": "pairwise-round-robin", "name": PAIRS_STAGE, "model": self.model, "both_orders": True}
        return stage if self.prompt is None else {**stage, "prompt": self.prompt}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled(Made):
    """A list with its label."""

    label: Label


@dataclass(frozen=True, slots=True)
class _Heard:
    """One run of the teacher, in places of the list as given."""

    order: Order
    scores: tuple[float | None, ...]
    score_kind: str
    verdicts: frozenset[Verdict]
    questions: int
    rounds: int
    repaired: int
    warnings: tuple[Warned, ...] = ()


@dataclass(frozen=True, slots=True)
class Labeller:
    """Labels one list at a time; many calls run side by side.

    With shuffles the whole pipeline runs again over the candidates in another order, which depends on the seed and on
    the number of the run alone. Where every run scores every candidate the mean score decides the ranking; otherwise
    the order that agrees with most of the runs on neighbours (locally Kemeny-optimal, as in arXiv 2310.07712).

    Args:
        reranker: of this process.
        card: who the teacher is.
        limits: of a list.
        budget: of each run over a list. A run that it ends is a failure: half an order is no label.
        shuffles: runs beside the one over the list as given.
        top: how many of the first count for the agreement's overlap.
        sampling: of pairs; None asks about none beside what the pipeline asks.
        seed: of shuffles, sampled pairs and models that sample.
        texts: put the candidates' texts into the lines.

    """

    reranker: Reranker
    card: TeacherCard
    limits: Limits
    budget: Budget = field(default_factory=Budget)
    shuffles: int = 0
    top: int = 10
    sampling: Sampling | None = None
    seed: int = 0
    texts: bool = True
    _bills: Bills = field(init=False, default_factory=Bills, compare=False, repr=False)
    _places: asyncio.Semaphore = field(
        init=False, default_factory=lambda: asyncio.Semaphore(_PAIRS_IN_FLIGHT_MAX), compare=False, repr=False
    )

    async def rank(self, given: CandidateList) -> Answer:
        """Return a list's label, or the error in its place."""
        with self._bills.item() as bill:
            try:
                return await self._label(given, bill)
            except Incomplete as incomplete:
                return bill.incomplete(given, incomplete.outcome)
            except PodiumError as error:
                return bill.failed(given, error)

    def unfinished(self) -> Ledger:
        """Return what was spent on lists that have no answer."""
        return self._bills.unfinished()

    async def _label(self, given: CandidateList, bill: Bill) -> Labelled:
        query = validate.query(given.query, self.limits)
        candidates: tuple[Candidate, ...] = ()
        warnings: tuple[Warned, ...] = ()
        if given.docids:
            candidates, warnings = validate.columns(given.ids, given.texts, given.prior_scores, self.limits)
        async with self.reranker.admitted():
            runs = await self._runs(query, candidates, bill)
            order, scores, aggregate = joined_runs(runs)
            pairs = await self._sampled(given, query, candidates, order, bill)
        heard = [*runs, *pairs]
        label = Label(
            qid=given.qid,
            query=query,
            documents=tuple(
                LabelledDocument(docid, candidate.text, candidate.prior_score)
                for docid, candidate in zip(given.docids, candidates, strict=True)
            ),
            order=order,
            scores=scores,
            score_kind=runs[0].score_kind if scores else "",
            agreement=agreement([run.order for run in runs], top=self.top) if len(runs) > 1 else None,
            verdicts=sorted_verdicts(heard),
            teacher=self.card.teacher(aggregate),
            questions=sum(one.questions for one in heard),
            rounds=max((run.rounds for run in runs), default=0) + max((pair.rounds for pair in pairs), default=0),
            repaired=sum(one.repaired for one in heard),
        )
        ranked_scores = tuple(scores[place] for place in order) if scores else (None,) * len(order)
        return Labelled(
            list=given,
            order=order,
            scores=ranked_scores,
            completion=Completion.COMPLETE.value,
            ledger=bill.total(),
            warnings=tuple(dict.fromkeys((*warnings, *(warned for one in heard for warned in one.warnings)))),
            lines=(record(label, texts=self.texts),),
            counts=_counts(label),
            label=label,
        )

    # --- asking the teacher -----------------------------------------------------------------------------------

    async def _runs(self, query: str, candidates: tuple[Candidate, ...], bill: Bill) -> list[_Heard]:
        n = len(candidates)
        if n == 0:
            # Recall found nothing, and there is nothing to ask.
            return [_Heard((), (), "", frozenset(), 0, 0, 0)]
        shown = [tuple(range(n)), *(shuffled(range(n), self.seed, number) for number in range(1, self.shuffles + 1))]
        asked = [
            self._heard(
                RankRequest(
                    query,
                    tuple(candidates[place] for place in places),
                    pipeline=self.card.pipeline.name,
                    budget=self.budget,
                    # Only models that sample see it, and two samples with one seed would agree for no reason.
                    seed=self.seed + number,
                    explain=Explain.QUESTIONS,
                ),
                places,
                bill,
            )
            for number, places in enumerate(shown)
        ]
        return await _all(asked)

    async def _sampled(
        self, given: CandidateList, query: str, candidates: Sequence[Candidate], order: Order, bill: Bill
    ) -> list[_Heard]:
        sampling = self.sampling
        if sampling is None:
            return []

        async def ask(pair: tuple[int, int]) -> _Heard:
            async with self._places:
                request = RankRequest(
                    query,
                    tuple(candidates[place] for place in pair),
                    inline=(sampling.inline,),
                    seed=self.seed,
                    explain=Explain.QUESTIONS,
                )
                return await self._heard(request, pair, bill)

        chosen = sampled_pairs(order, sampling.pairs, sampling.depth, self.seed, salt_of(given.qid))
        return await _all([ask(pair) for pair in chosen])

    async def _heard(self, request: RankRequest, places: Sequence[int], bill: Bill) -> _Heard:
        """Run a pipeline over `places` of the list, and return what it said in these."""
        outcome = await self.reranker.rank(request, on_ledger=bill.opened)
        if outcome.completion is not Completion.COMPLETE:
            raise Incomplete(outcome)
        scores: list[float | None] = [None] * len(places)
        if sorted(places) == list(range(len(places))):
            for shown, place in enumerate(places):
                scores[place] = outcome.scores[shown]
        return _Heard(
            order=tuple(places[shown] for shown in outcome.order),
            scores=tuple(scores),
            score_kind=outcome.score_kind.value,
            verdicts=frozenset(_verdicts(outcome, places)),
            questions=outcome.ledger.questions,
            rounds=outcome.ledger.rounds,
            repaired=sum(
                asked.ruling is not None and asked.ruling.repaired
                for round_ in outcome.trace
                for asked in round_.questions
            ),
            warnings=outcome.warnings,
        )


def _counts(label: Label) -> dict[str, float]:
    counts: dict[str, float] = {"questions": label.questions, "repaired": label.repaired, "pairs": len(label.verdicts)}
    if label.agreement is not None:
        counts |= {"agreements": 1, "kendall_tau": label.agreement.kendall_tau}
        counts["top_overlap"] = label.agreement.top_overlap
    return counts


async def _all(asked: Sequence[Any]) -> list[_Heard]:
    """Await all of them, so that the bill of each is known, and raise the first error then."""
    heard = await asyncio.gather(*asked, return_exceptions=True)
    for one in heard:
        if isinstance(one, BaseException):
            raise one
    return [one for one in heard if isinstance(one, _Heard)]


def _verdicts(outcome: Outcome, places: Sequence[int]) -> list[Verdict]:
    return [
        Verdict(places[asked.question.a], places[asked.question.b], round(float(asked.ruling.answer), DIGITS))
        for round_ in outcome.trace
        for asked in round_.questions
        if isinstance(asked.question, Prefer) and asked.ruling is not None
    ]


def sorted_verdicts(heard: Sequence[_Heard]) -> tuple[Verdict, ...]:
    """Return every verdict of all runs once, in an order that does not depend on which reply came first."""
    every = frozenset[Verdict]().union(*(one.verdicts for one in heard))
    return tuple(
        sorted(
            every, key=lambda one: (min(one.first, one.second), max(one.first, one.second), one.first, one.first_wins)
        )
    )


def joined_runs(runs: Sequence[_Heard]) -> tuple[Order, tuple[float | None, ...], str]:
    """Return one order of several runs, its scores by place (empty for none), and how it was made."""
    first = runs[0]
    scored = any(score is not None for score in first.scores)
    if len(runs) == 1:
        return first.order, first.scores if scored else (), ""
    columns = [
        [score for score in column if score is not None] for column in zip(*(r.scores for r in runs), strict=True)
    ]
    if all(len(column) == len(runs) for column in columns):
        means = [fsum(column) / len(runs) for column in columns]
        return by_score(means), tuple(means), MEAN_SCORE
    # Scores that some candidates lack cannot be compared with an order that comes from ranks.
    return local_kemeny([run.order for run in runs]), (), KEMENY


def sampled_pairs(order: Order, pairs: int, depth: int, seed: int, salt: int) -> list[tuple[int, int]]:
    """Return at most `pairs` different pairs of places among the first `depth` of an order, drawn evenly.

    The same arguments give the same pairs on every machine for ever.
    """
    every = list(combinations(sorted(order[:depth]), 2))
    lots = shuffled(range(len(every)), seed, salt)
    return sorted(every[lot] for lot in lots[:pairs])


def salt_of(name: object) -> int:
    """Return a number that depends on a name alone."""
    return int.from_bytes(blake2b(str(name).encode("utf-8", "surrogatepass"), digest_size=15).digest(), "little")
