"""Servers that rank the lists of a job: each list goes to the least busy, and from one that dies to the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import podium_client
from podium_client import AsyncClient, BatchAnswer, BatchItem, RerankOptions, RerankResult
from podium_server.accounting.ledger import Ledger
from podium_server.cli.display import console as look
from podium_server.cli.reaching import connecting
from podium_server.cli.reaching.ledgers import ledger_of
from podium_server.cli.reaching.local_server import reaching
from podium_server.errors import NotFound, Unavailable
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import COMPLETE, Answer, Failed, Ranked
from podium_server.jobs.seats import SENT_MAX, Seat, free
from podium_server.ranking.request import Budget, Warned


class _Gone(Exception):
    """A server did not answer a list: it died, is stopping, or cannot be reached. The list may be sent elsewhere."""


@dataclass(slots=True)
class _Server(Seat):
    """One server, and the stream of lists to it."""

    target: str
    client: AsyncClient
    options: RerankOptions
    window: int
    _queue: asyncio.Queue[BatchItem] = field(default_factory=asyncio.Queue)
    _waiting: dict[str, asyncio.Future[BatchAnswer]] = field(default_factory=dict)
    _sent: int = 0
    _stream: asyncio.Task[None] | None = None

    async def ask(self, given: CandidateList) -> RerankResult | podium_client.PodiumError:
        """Return what the server says of a list.

        Raises:
            _Gone: it says nothing.

        """
        if self._stream is None or self._stream.done():
            # The first list, or the stream broke: whoever waited has been told, and a new one is tried.
            self._queue = asyncio.Queue()
            self._stream = asyncio.create_task(self._converse(self._queue))
        self._sent += 1
        item_id = str(self._sent)
        answer: asyncio.Future[BatchAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[item_id] = answer
        documents = [
            podium_client.Document(name, text, prior_score=score)
            for name, text, score in zip(given.ids, given.texts, given.prior_scores, strict=True)
        ]
        self._queue.put_nowait(BatchItem(item_id, given.query, documents))
        self.at_work += 1
        try:
            outcome: RerankResult | podium_client.PodiumError = (await answer).outcome
        except (podium_client.PodiumError, ConnectionError) as error:
            self.failed()
            raise _Gone(f"{self.target}: {error}") from error
        finally:
            self.at_work -= 1
            self._waiting.pop(item_id, None)
        if isinstance(outcome, podium_client.Unavailable) and not outcome.ledger:
            # It is stopping, and has not begun with this list.
            self.failed()
            raise _Gone(f"{self.target}: {outcome.message}")
        self.answered()
        return outcome

    async def _converse(self, queue: asyncio.Queue[BatchItem]) -> None:
        """Hold one stream: send what is queued, and hand every answer to whoever waits for it."""

        async def items() -> AsyncIterator[BatchItem]:
            while True:
                yield await queue.get()

        failure: Exception = ConnectionError("the server ended the stream")
        try:
            async for answer in self.client.batch_rerank(items(), window=self.window, **self.options):
                waiting = self._waiting.get(answer.item_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except Exception as error:  # noqa: BLE001  # whatever broke the stream, everybody who waits must hear of it
            failure = error
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(failure)

    async def close(self) -> None:
        """End the stream and the connection."""
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)
        await self.client.close()


@dataclass(slots=True)
class Servers:
    """Sends the lists of a job to servers, over one stream each (a `jobs.ranking.Ranker`).

    A list has one answer, however often it was sent: the one that came.
    """

    servers: Sequence[_Server]
    resent: int = 0
    """Lists that went to another server, or to the same once more, because the first did not answer."""

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        if not given.docids:
            return Ranked(given, (), (), COMPLETE, Ledger())
        trouble = ""
        for sent in range(SENT_MAX):
            self.resent += sent > 0
            server = await free(self.servers)
            try:
                return _answer(given, await server.ask(given))
            except _Gone as gone:
                trouble = str(gone)
        return Failed(given.line, given.qid, "UNAVAILABLE", f"sent {SENT_MAX} times; {trouble}", seal=given.seal)

    def unfinished(self) -> Ledger:
        """Return nothing: only a server knows what it spends on lists that it has not answered."""
        return Ledger()


@contextlib.asynccontextmanager
async def ranking_servers(
    targets: Sequence[str], pipeline: str | None, budget: Budget, concurrency: int
) -> AsyncIterator[Servers]:
    """Connect to servers and ask them for the pipeline.

    Args:
        targets: HOST:PORT of each.
        pipeline: by name; None is the default of each server.
        budget: of each list.
        concurrency: lists on the way to all of them together.

    Raises:
        Unavailable: no server answers.
        NotFound: one that does has no such pipeline.

    """
    bounds = podium_client.Budget(
        max_cost_nano_usd=budget.max_cost_nano_usd, max_calls=budget.max_calls, max_tokens=budget.max_tokens
    )
    given: RerankOptions = {"budget": bounds} if budget.counts else {}
    if pipeline is not None:
        given["pipeline"] = pipeline
    servers = [
        _Server(target, AsyncClient(target, **connecting.arguments(target)), given, concurrency) for target in targets
    ]
    try:
        absent = [error for server in servers if (error := await _absence(server, pipeline)) is not None]
        if len(absent) == len(servers):
            raise absent[0]
        for error in absent:
            look.stderr().print(f"[yellow]{error.message}[/] (its lists go to the others)", soft_wrap=True)
        ranking = Servers(servers)
        yield ranking
        if ranking.resent:
            look.stderr().print(f"{look.plural(ranking.resent, 'list')} were sent again, as a server did not answer")
    finally:
        await asyncio.gather(*(server.close() for server in servers), return_exceptions=True)


async def _absence(server: _Server, pipeline: str | None) -> Unavailable | None:
    """Return why a server cannot be asked for now, if it cannot."""
    try:
        with reaching(server.target):
            known = [each.name for each in await server.client.list_pipelines()]
    except Unavailable as error:
        server.failed()
        return error
    if pipeline is not None and pipeline not in known:
        raise NotFound("pipeline", pipeline, known)
    return None


def _answer(given: CandidateList, outcome: RerankResult | podium_client.PodiumError) -> Answer:
    if isinstance(outcome, podium_client.PodiumError):
        reason = outcome.reason or outcome.code.name
        return Failed(given.line, given.qid, reason, outcome.message, ledger_of(outcome.ledger), given.seal)
    return Ranked(
        given,
        outcome.order,
        tuple(document.score for document in outcome.ranking),
        outcome.completion,
        ledger_of(outcome.ledger),
        tuple(Warned(warning.code, warning.message) for warning in outcome.warnings),
        (outcome.partial_reason or "").upper(),
    )
