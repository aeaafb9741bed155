"""Clients of gRPC: one for each shape of call, and one that opens a connection for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from podium.v1 import budget_pb2, catalog_service_pb2, rerank_service_pb2, search_service_pb2
from tests.soak.account import Outcome, answered
from tests.soak.world import Client, Stubs, check_ranking, completion

PARTIAL, FAIL = budget_pb2.ON_EXHAUSTED_PARTIAL, budget_pb2.ON_EXHAUSTED_FAIL


@dataclass
class Unary(Client):
    """Rerank, over one connection that stays, or over one each."""

    pipelines: tuple[str, ...] = ("fast",)
    documents: int = 12
    deadlines_s: tuple[float, float] = (2.0, 6.0)
    connections: str = "one"

    async def run(self) -> None:
        if self.connections == "one":
            async with self.world.stubs() as stubs:
                while not self.world.stop.is_set():
                    await self._once(stubs)
        while not self.world.stop.is_set():
            async with self.world.stubs() as stubs:
                await self._once(stubs)

    async def _once(self, stubs: Stubs) -> None:
        deadline_s = self.rng.uniform(*self.deadlines_s)
        await self.entered(deadline_s, self._ask, stubs, deadline_s)
        await self.pause()

    async def _ask(self, stubs: Stubs, deadline_s: float) -> Outcome:
        budget = budget_pb2.Budget(on_exhausted=self.rng.choice((PARTIAL, FAIL)))
        n = self.rng.randint(1, self.documents)
        request = self.request(n, self.rng.choice(self.pipelines), budget=budget)
        answer = await stubs.rerank.Rerank(request, timeout=deadline_s, metadata=self.world.metadata(self.tenant))
        check_ranking(answer.ranking, n)
        self.bill(answer.ledger)
        return completion(answer.completion)


@dataclass
class Streaming(Client):
    """StreamRerank: every snapshot is an order of all, and the last event is the answer."""

    async def run(self) -> None:
        async with self.world.stubs() as stubs:
            while not self.world.stop.is_set():
                deadline_s = self.rng.uniform(1.0, 5.0)
                await self.entered(deadline_s, self._ask, stubs, deadline_s)
                await self.pause()

    async def _ask(self, stubs: Stubs, deadline_s: float) -> Outcome:
        n = self.rng.randint(4, 10)
        request = rerank_service_pb2.StreamRerankRequest(
            request=self.request(n, self.rng.choice(("judged", "fallback")))
        )
        last: Any = None
        async for event in stubs.rerank.StreamRerank(
            request, timeout=deadline_s, metadata=self.world.metadata(self.tenant)
        ):
            assert last is None, "an event came behind the last one"
            if event.WhichOneof("event") == "response":
                last = event.response
            else:
                assert sorted(event.snapshot.order) == list(range(n)), f"a snapshot of {n} has {event.snapshot.order}"
        assert last is not None, "the stream ended without an answer"
        check_ranking(last.ranking, n)
        self.bill(last.ledger)
        return completion(last.completion)


@dataclass
class Batching(Client):
    """BatchRerank: each item is answered, or has an error of its own."""

    items: int = 6

    async def run(self) -> None:
        async with self.world.stubs() as stubs:
            while not self.world.stop.is_set():
                deadline_s = self.rng.uniform(3.0, 8.0)
                await self.entered(deadline_s, self._ask, stubs, deadline_s)
                await self.pause()

    async def _ask(self, stubs: Stubs, deadline_s: float) -> Outcome:
        sizes = {f"i{i}": self.rng.randint(2, 8) for i in range(self.items)}

        async def requests() -> AsyncIterator[rerank_service_pb2.BatchRerankRequest]:
            for item_id, n in sizes.items():
                request = self.request(n, self.rng.choice(("fast", "judged", "fallback", "recall")))
                yield rerank_service_pb2.BatchRerankRequest(item_id=item_id, request=request)

        seen: set[str] = set()
        refused: list[Outcome] = []
        call = stubs.rerank.BatchRerank(requests(), timeout=deadline_s, metadata=self.world.metadata(self.tenant))
        async for answer in call:
            assert answer.item_id in sizes.keys() - seen, f"the item {answer.item_id} came twice, or was never sent"
            seen.add(answer.item_id)
            if answer.WhichOneof("outcome") == "error":
                refused.append(self.world.account.of_status(answer.error))
            else:
                check_ranking(answer.response.ranking, sizes[answer.item_id])
                self.bill(answer.response.ledger)
        assert seen == sizes.keys(), f"{len(seen)} of {len(sizes)} items were answered, and the call ended well"
        worst = [each for each in refused if each.kind == "broken"]
        return worst[0] if worst else answered("batch with refused items" if refused else "batch")


@dataclass
class Searching(Client):
    """Search over a collection that is written meanwhile."""

    collection: str = "notes"

    async def run(self) -> None:
        async with self.world.stubs() as stubs:
            while not self.world.stop.is_set():
                deadline_s = self.rng.uniform(2.0, 5.0)
                await self.entered(deadline_s, self._ask, stubs, deadline_s)
                await self.pause()

    async def _ask(self, stubs: Stubs, deadline_s: float) -> Outcome:
        request = search_service_pb2.SearchRequest(
            collection=self.collection,
            query=self.question(),
            pipeline=self.rng.choice(("recall", "fast", "balanced", "fallback")),
            top_n=10,
            recall_depth=16,
        )
        answer = await stubs.search.Search(request, timeout=deadline_s, metadata=self.world.metadata(self.tenant))
        ids = [result.ranked.document_id for result in answer.results]
        assert len(set(ids)) == len(ids), f"a document was found twice: {ids}"
        assert len(ids) == min(10, answer.recalled), f"{answer.recalled} recalled, and {len(ids)} came back"
        self.bill(answer.ledger)
        return completion(answer.completion)


@dataclass
class Mistaken(Client):
    """Makes mistakes, each of which has its error."""

    async def run(self) -> None:
        async with self.world.stubs() as stubs:
            while not self.world.stop.is_set():
                await self.entered(3.0, self._ask, stubs)
                await self.pause()

    async def _ask(self, stubs: Stubs) -> Outcome:
        known = self.world.metadata(self.tenant)
        match self.rng.randrange(5):
            case 0:
                await stubs.rerank.Rerank(self.request(3, "nobody"), timeout=3, metadata=known)
            case 1:
                twins = self.request(2, "fast")
                twins.documents[1].id = "d0"
                await stubs.rerank.Rerank(twins, timeout=3, metadata=known)
            case 2:
                await stubs.rerank.Rerank(self.request(3, "fast"), timeout=3, metadata=(("x-api-key", "podium_no"),))
            case 3:
                lost = search_service_pb2.SearchRequest(collection="nowhere", query="q")
                await stubs.search.Search(lost, timeout=3, metadata=known)
            case _:
                await stubs.catalog.ListPipelines(catalog_service_pb2.ListPipelinesRequest(), timeout=3, metadata=known)
                return answered("list")
        raise AssertionError("a mistake was answered")
