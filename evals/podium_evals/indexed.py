"""Pipelines over a corpus that is indexed as a server would: they recall for themselves, from stored vectors."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from podium_evals.runner import Here, narrowed
from podium_evals.suite import Suite
from podium_server import validate
from podium_server.accounting.ledger import Ledger
from podium_server.compose import Podium
from podium_server.errors import PodiumError
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Ranked, Ranker, failed
from podium_server.limits import Limits
from podium_server.ranking.request import Budget, RankRequest
from podium_server.ranking.searcher import Searcher, SearchRequest
from podium_server.recall.batches import Refused
from podium_server.recall.document import Document
from podium_server.recall.settings import CollectionSettings

COLLECTION = "corpus"


@dataclass(frozen=True, slots=True)
class Indexed:
    """Pipelines of a configuration, in this process, over collections made of the suites' corpora.

    A corpus is indexed once, by the default encoder and with token vectors; every pipeline opens the store with models
    of its own. A suite without a corpus is ranked as `Here` ranks it.

    Args:
        here: whose pipelines they are.
        folder: of the stores; theirs alone.
        depth: documents that recall brings.
        say: is told what takes a while.

    """

    here: Here
    folder: Path
    depth: int
    say: Callable[[str], None]
    _refused: dict[str, int] = field(init=False, default_factory=dict)
    """Documents that the index refused, by suite: of those that are indexed to their end."""

    async def check(self, pipelines: Sequence[str]) -> None:
        """Refuse names that there are not. See `Here.check`."""
        await self.here.check(pipelines)

    def told(self, name: str, suite: Suite) -> tuple[str, tuple[str, ...]]:
        """Return a pipeline's description, and each of its stages in a line; the first is what it recalls from."""
        description, stages = self.here.told(name, suite)
        if not suite.corpus:
            return description, stages
        refused = self._refused.get(suite.name, 0)
        without = f", without {refused:,} that the index refused" if refused else ""
        recalls = f"recalls {self.depth:,} of {len(suite.corpus):,} indexed documents by itself{without}"
        return description, (recalls, *stages)

    @contextlib.asynccontextmanager
    async def ranker(self, name: str, concurrency: int, suite: Suite) -> AsyncIterator[Ranker]:
        """Index the suite's corpus unless it is, load the pipeline's models, and hand out who searches with them.

        Raises:
            PodiumError: a model cannot be loaded, the store cannot be used.

        """
        if not suite.corpus:
            async with self.here.ranker(name, concurrency, suite) as ranker:
                yield ranker
            return
        config = narrowed(self.here.config, name, concurrency, also=(self.here.config.server.default_encoder,))
        # What models said of other suites stays with them: figures must not depend on what ran before.
        config = config.model_copy(update={"server": config.server.model_copy(update={"verdict_cache": False})})
        # Quoted: a suite may be called anything, and two that differ must not share a store.
        podium = Podium(config, data_dir=self.folder / f"suite-{quote(suite.name, safe='')}")
        try:
            await podium.start()
            await self._index(podium, suite)
            assert podium.searcher is not None
            yield _Searching(podium.searcher, podium.limits, name, self.here.budget, self.depth)
        finally:
            await podium.aclose()

    async def _index(self, podium: Podium, suite: Suite) -> None:
        collections = podium.collections
        assert collections is not None
        if suite.name in self._refused:
            return
        if COLLECTION in {row.name for row in await collections.list()}:
            await collections.delete(COLLECTION)  # an attempt before this one broke off in the middle
        self.say(f"{suite.name}: indexing {len(suite.corpus):,} documents")
        encoder = podium.config.server.default_encoder
        await collections.create(COLLECTION, CollectionSettings(encoder, token_vectors=True))
        refused: list[Refused] = []
        acknowledged = collections.upsert(COLLECTION, _documents(suite))
        async with contextlib.aclosing(acknowledged):
            async for one in acknowledged:
                refused += one.refused
        self._refused[suite.name] = len(refused)
        if refused:
            first = refused[0]
            self.say(f"{suite.name}: {len(refused):,} documents cannot be indexed; {first.id}: {first.error.message}")


async def _documents(suite: Suite) -> AsyncIterator[Document]:
    for docid, text in suite.corpus.items():
        yield Document(docid, text)


@dataclass(frozen=True, slots=True)
class _Searching:
    """Recalls and ranks; of a list it takes the query alone."""

    searcher: Searcher
    limits: Limits
    pipeline: str
    budget: Budget
    depth: int

    async def rank(self, given: CandidateList) -> Answer:
        try:
            query = validate.query(given.query, self.limits)
            ranked = RankRequest(query, (), pipeline=self.pipeline, budget=self.budget, collection=COLLECTION)
            found = await self.searcher.search(SearchRequest(ranked, recall_depth=self.depth))
        except PodiumError as error:
            return failed(given, error)
        hits, outcome = found.recalled.hits, found.outcome
        ids = tuple(hit.id for hit in hits)
        recalled = given._replace(
            docids=ids,
            ids=ids,
            texts=tuple(hit.text for hit in hits),
            prior_scores=tuple(hit.score for hit in hits),
        )
        scores = tuple(outcome.scores[place] for place in outcome.order)
        completion, cause = outcome.completion.value, outcome.cause_reason
        return Ranked(recalled, outcome.order, scores, completion, outcome.ledger, outcome.warnings, cause)

    def unfinished(self) -> Ledger:
        """Return nothing: nobody asks what an interrupted evaluation has spent."""
        return Ledger()
