"""Hard negatives: what recall finds for a query and no person called relevant, less what the teacher thinks relevant.

The first ranks of recall hold most of what is worth learning, and most of what only seems wrong: unjudged passages that
answer the query as well as the known one does. A negative that the teacher scores as high as the positives, less a
margin, is dropped (positive-aware mining, arXiv 2407.15831; denoised negatives, arXiv 2010.08191).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.errors import InvalidRequest, NotFound, PodiumError
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Failed
from podium_server.judges.case import Candidate
from podium_server.labels.made import Bill, Bills, Incomplete, Made, made
from podium_server.limits import Limits
from podium_server.ranking.request import Completion, Outcome, RankRequest
from podium_server.ranking.reranker import Reranker
from podium_server.recall.document import Document
from podium_server.recall.retriever import RETRIEVERS, Hit, Recalled, RecallQuery

NO_POSITIVE = "NO_POSITIVE"


class Store(Protocol):
    """What mining needs of a store of documents (`recall.collections.Collections`)."""

    async def retrieve(self, query: RecallQuery) -> Recalled:
        """Return the best documents for a query."""

    async def get_documents(self, collection: str, ids: Sequence[str]) -> tuple[tuple[Document, ...], tuple[str, ...]]:
        """Return documents, and the ids that are not there."""


@dataclass(frozen=True, slots=True)
class MiningSettings:
    """Where negatives are looked for, and when one is believed.

    Args:
        collection: that is searched.
        first: rank of recall, from 1, from which negatives are taken.
        last: rank up to which they are.
        negatives: of a query at most: those that recall put highest, of those that are believed. None takes all.
        pipeline: of the teacher that checks them; None believes every one.
        margin: a negative is dropped if its score is at least that of the lowest positive less the margin. In the unit
            of the pipeline's scores. A pipeline without scores judges by rank: it drops what it puts above the lowest
            positive, and takes no margin.
        weights: of the retrievers.

    """

    collection: str
    first: int = 1
    last: int = 100
    negatives: int | None = 10
    pipeline: str | None = None
    margin: float = 0.0
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(RETRIEVERS, 1.0))

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(
                f"ranks from {self.first} to {self.last}: from 1 on, and the first one not behind the last"
            )
        if self.negatives is not None and self.negatives < 1:
            raise ValueError(f"negatives is {self.negatives}: at least 1")


@dataclass(frozen=True, slots=True)
class _Positive:
    docid: str | int
    text: str
    rank: int | None


@dataclass(frozen=True, slots=True)
class Checked:
    """What a teacher said of negatives.

    Args:
        believed: by place in the negatives given.
        false: likewise; as relevant as a positive.
        scores: of the negatives, by place; empty where the teacher gives none.
        positive_scores: of the positives, by place; likewise.

    """

    believed: tuple[int, ...]
    false: tuple[int, ...]
    scores: tuple[float, ...] = ()
    positive_scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Miner:
    """Mines for one query at a time; many calls run side by side. The list given holds a query's positives.

    A positive may come with its text, or with its id alone, where it is a document of the collection.

    Args:
        store: that holds the collection.
        reranker: with the teacher's pipeline.
        settings: of the mining.
        limits: of a request.

    """

    store: Store
    reranker: Reranker
    settings: MiningSettings
    limits: Limits
    _bills: Bills = field(init=False, default_factory=Bills, compare=False, repr=False)

    async def rank(self, given: CandidateList) -> Answer:
        """Return a query's list of positives and negatives, or the error in its place."""
        with self._bills.item() as bill:
            try:
                return await self._mine(given, bill)
            except Incomplete as incomplete:
                return bill.incomplete(given, incomplete.outcome)
            except PodiumError as error:
                return bill.failed(given, error)

    def unfinished(self) -> Ledger:
        """Return what was spent on queries that have no answer."""
        return self._bills.unfinished()

    async def _mine(self, given: CandidateList, bill: Bill) -> Made | Failed:
        settings = self.settings
        query = validate.query(given.query, self.limits)
        if given.docids:
            cleaned, _ = validate.columns(given.ids, given.texts, given.prior_scores, self.limits)
            given = given._replace(texts=tuple(candidate.text for candidate in cleaned))
        recalled = await self.store.retrieve(
            RecallQuery(settings.collection, query, k=settings.last, weights=settings.weights)
        )
        positives, missing = await self._positives(given, recalled.hits)
        if not positives:
            message = f"none of its {len(given.docids)} positives has a text or is in {settings.collection!r}"
            return Failed(given.line, given.qid, NO_POSITIVE, message, bill.total(), given.seal)
        hits = [(rank, hit) for rank, hit in enumerate(recalled.hits, start=1) if rank >= settings.first]
        known = known_positives([(str(one.docid), one.text) for one in positives] + [(name, "") for name in given.ids])
        unknown = [(rank, hit) for rank, hit in hits if not known(hit)]
        checked = await self._checked(query, positives, [hit for _, hit in unknown], bill)
        kept = checked.believed[: settings.negatives]
        rows = [_positive_row(one, place, checked) for place, one in enumerate(positives)]
        rows += [_negative_row(*unknown[place], place, checked) for place in kept]
        counts = {
            "queries": 1,
            "positives": len(positives),
            "positives that are not in the collection": missing,
            "recalled": len(hits),
            "known as positive": len(hits) - len(unknown),
            "dropped as false negatives": len(checked.false),
            "negatives": len(kept),
            "queries without a negative": int(not kept),
        }
        mined = {"recalled": len(hits), "known": len(hits) - len(unknown), "false": len(checked.false)}
        line = {"qid": given.qid, "query": query, "candidates": sorted(rows, key=_by_rank), "mined": mined}
        return made(given, (line,), counts, bill)

    async def _positives(self, given: CandidateList, hits: Sequence[Hit]) -> tuple[list[_Positive], int]:
        """Return the positives with a text each, and how many have none."""
        found = {hit.id: (rank, hit) for rank, hit in enumerate(hits, start=1)}
        wanted = [name for name, text in zip(given.ids, given.texts, strict=True) if not text and name not in found]
        stored: dict[str, str] = {}
        if wanted:
            documents, _ = await self.store.get_documents(self.settings.collection, wanted)
            stored = {document.id: document.full_text for document in documents}
        positives = []
        for docid, name, text in zip(given.docids, given.ids, given.texts, strict=True):
            rank, hit = found.get(name, (None, None))
            # Where it comes without a text: its rivals are judged by the passage that recall found, and so is it.
            shown = text or (hit.text if hit is not None else stored.get(name, ""))
            if shown:
                positives.append(_Positive(docid, shown, rank))
        return positives, len(given.docids) - len(positives)

    async def _checked(self, query: str, positives: Sequence[_Positive], hits: Sequence[Hit], bill: Bill) -> Checked:
        if self.settings.pipeline is None or not hits:
            return Checked(tuple(range(len(hits))), ())
        # Numbers for names: a positive's id may be any, and a document may be meant that has a rival's id.
        texts = [*(one.text for one in positives), *(hit.text for hit in hits)]
        candidates = tuple(Candidate(str(place), text) for place, text in enumerate(texts))
        request = RankRequest(query, candidates, pipeline=self.settings.pipeline)
        outcome = await self.reranker.rerank(request, on_ledger=bill.opened)
        if outcome.completion is not Completion.COMPLETE:
            raise Incomplete(outcome)
        return checked(outcome, len(positives), self.settings.margin)


def checked(outcome: Outcome, positives: int, margin: float) -> Checked:
    """Return which negatives a teacher believes; the first `positives` places of its list are the positives.

    Raises:
        InvalidRequest: a margin, and a pipeline that does not score every candidate.

    """
    scores = [score for score in outcome.scores if score is not None]
    if len(scores) == len(outcome.order):
        bar = min(scores[:positives]) - margin
        tops = [score >= bar for score in scores[positives:]]
        return Checked(*_parted(tops), tuple(scores[positives:]), tuple(scores[:positives]))
    if margin:
        raise InvalidRequest("margin", f"is {margin}, and the pipeline {outcome.pipeline!r} does not score all; use 0")
    rank = {place: number for number, place in enumerate(outcome.order)}
    lowest = max(rank[place] for place in range(positives))
    return Checked(*_parted([rank[place] < lowest for place in range(positives, len(outcome.order))]))


def _parted(false: Sequence[bool]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(i for i, one in enumerate(false) if not one), tuple(i for i, one in enumerate(false) if one)


class _Known(Protocol):
    def __call__(self, hit: Hit) -> bool: ...


def known_positives(positives: Sequence[tuple[str, str]]) -> _Known:
    """Return what tells whether a hit is one of the positives: by its id, or by saying the same in the same words."""
    names = {name for name, _ in positives}
    texts = {same(text) for _, text in positives if text}
    return lambda hit: hit.id in names or same(hit.text) in texts


def same(text: str) -> str:
    """Return what two texts have in common that differ in white space and case alone."""
    return " ".join(text.split()).casefold()


def _positive_row(one: _Positive, place: int, found: Checked) -> dict[str, Any]:
    row: dict[str, Any] = {"docid": one.docid, "text": one.text, "rel": 1}
    if one.rank is not None:
        row["rank"] = one.rank
    if found.positive_scores:
        row["teacher_score"] = round(found.positive_scores[place], 6)
    return row


def _negative_row(rank: int, hit: Hit, place: int, found: Checked) -> dict[str, Any]:
    row = {"docid": hit.id, "text": hit.text, "rel": 0, "rank": rank}
    if found.scores:
        row["teacher_score"] = round(found.scores[place], 6)
    return row


def _by_rank(row: Mapping[str, Any]) -> tuple[bool, int]:
    # In the order of recall; what recall did not find stands behind.
    return "rank" not in row, row.get("rank", 0)


def positives_of(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """Return a query with its positives as a list of candidates, from any of the forms in which they come.

    `{"qid", "query", "positives": [{"docid", "text"?} or docid, …]}`, or one positive a line:
    `{"query", "positive": text, "docid"?}`. A qid that is missing is the line's number; a docid, the text's own.

    """
    given = row.get("positives", row.get("positive"))
    if isinstance(given, str) and "positives" not in row:
        given = [{"docid": row.get("docid", f"line-{number}"), "text": given}]
    if isinstance(given, list):
        given = [one if isinstance(one, Mapping) else {"docid": one} for one in given]
        given = [{"text": "", **one} for one in given]
    qid = row.get("qid", f"line-{number}")
    return {"qid": qid, "query": row.get("query"), "candidates": given}


def check_exists(name: str, collections: Sequence[str]) -> None:
    """Refuse a collection that is not there.

    Raises:
        NotFound: with those that are.

    """
    if name not in collections:
        raise NotFound("collection", name, collections)
