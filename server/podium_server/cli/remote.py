"""A server as the command line sees it: its ledgers as ours, and a job's ranker that sends lists to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import podium_client
from podium_client import AsyncClient, BatchAnswer, BatchItem, RerankOptions, RerankResult
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Failed, Ranked

_BASES = {basis.value: basis for basis in CostBasis}


def ledger_of(given: podium_client.Ledger | None) -> Ledger:
    """Return a server's ledger as the one that our tables and jobs know."""
    ledger = Ledger()
    if given is None:
        return ledger
    for stage in given.stages:
        ledger.open(
            Account(
                stage=stage.stage,
                strategy=stage.strategy,
                model=stage.model,
                revision=stage.revision,
                prompt_id=stage.prompt_id,
                price_table_version=stage.usage.price_table_version,
                candidates_in=stage.candidates_in,
                candidates_out=stage.candidates_out,
                questions=stage.usage.questions,
                rounds=stage.usage.rounds,
                wall_s=stage.usage.wall_time_s,
                critical_path_s=stage.usage.critical_path_s,
                usage=_usage_of(stage.usage),
            )
        )
    ledger.rounds = given.total.rounds
    ledger.critical_path_s = given.total.critical_path_s
    ledger.wall_s = given.total.wall_time_s
    return ledger


def _usage_of(usage: podium_client.Usage) -> Usage:
    replies = {
        name: amount
        for name in ("ok", "repetition", "missing", "wrong_format", "unreadable")
        if (amount := getattr(usage.replies, name))
    }
    return Usage(
        calls=usage.calls,
        retries=usage.retries,
        pairs=usage.pairs,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_prompt_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cache_hits=usage.cache_hits,
        truncated_documents=usage.truncated_documents,
        queue_s=usage.queue_time_s,
        tokenize_s=usage.tokenize_time_s,
        backend_s=usage.backend_time_s,
        cost_nano_usd=usage.cost_nano_usd,
        cost_basis=_BASES.get(usage.cost_basis, CostBasis.UNKNOWN),
        repairs=replies,
    )


@dataclass(slots=True)
class RemoteRanker:
    """Sends the lists of a job to a server, all of them over one stream (a `jobs.ranking.Ranker`).

    Args:
        client: of the server; closed with this.
        options: of every list.
        window: lists on the way at most.

    """

    client: AsyncClient
    options: RerankOptions
    window: int
    _queue: asyncio.Queue[BatchItem] = field(init=False, default_factory=asyncio.Queue)
    _waiting: dict[str, asyncio.Future[BatchAnswer]] = field(init=False, default_factory=dict)
    _sent: int = field(init=False, default=0)
    _stream: asyncio.Task[None] | None = field(init=False, default=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)
        await self.client.close()

    async def rank(self, given: CandidateList) -> Answer:
        """Return the order of a list, or the error in its place."""
        if not given.documents:
            return Ranked(given, (), (), "complete", Ledger())
        if self._stream is None or self._stream.done():
            # The first list, or the stream broke: whoever waited has been told, and the next list tries anew.
            self._queue = asyncio.Queue()
            self._stream = asyncio.create_task(self._converse(self._queue))
        self._sent += 1
        item_id = str(self._sent)
        answer = self._waiting[item_id] = asyncio.get_running_loop().create_future()
        documents = [
            podium_client.Document(document.id, document.text, prior_score=document.prior_score)
            for document in given.documents
        ]
        self._queue.put_nowait(BatchItem(item_id, given.query, documents))
        try:
            outcome = (await answer).outcome
        except podium_client.PodiumError as error:
            outcome = error
        finally:
            self._waiting.pop(item_id, None)
        return _answer(given, outcome)

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


def _answer(given: CandidateList, outcome: RerankResult | podium_client.PodiumError) -> Answer:
    if isinstance(outcome, podium_client.PodiumError):
        reason = outcome.reason or outcome.code.name
        return Failed(given.line, given.qid, reason, outcome.message, ledger_of(outcome.ledger))
    return Ranked(
        given,
        outcome.order,
        tuple(document.score for document in outcome.ranking),
        outcome.completion,
        ledger_of(outcome.ledger),
        tuple(warning.message for warning in outcome.warnings),
    )
