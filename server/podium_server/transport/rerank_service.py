"""`podium.v1.RerankService`: one request, a watched one, many over one stream, a quote, a comparison."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from podium.v1 import rerank_service_pb2 as wire
from podium_server import validate
from podium_server.accounting.usage import Usage
from podium_server.errors import InvalidRequest
from podium_server.limits import Limits
from podium_server.ranking.pipeline import Estimate, Pipeline, sketched_case
from podium_server.ranking.request import Outcome, RankRequest, Snapshot, Warned
from podium_server.ranking.reranker import Reranker
from podium_server.transport import status
from podium_server.transport.agreement import kendall_tau, overlap
from podium_server.transport.convert import answers, ledgers, requests, values
from podium_server.transport.door import Call

_OVERLAP_AT = (1, 3, 5, 10)
_OVERLAPS_MAX = 16
_LABEL_BYTES_MAX = 128
_SKETCHED_TOKENS = 128
_SKETCHED_QUERY_TOKENS = 16


@dataclass(frozen=True, slots=True)
class RerankService:
    """The methods of the contract, over a `Reranker`."""

    reranker: Reranker
    limits: Limits

    async def rerank(self, message: wire.RerankRequest, call: Call) -> wire.RerankResponse:
        """Put the documents in order."""
        return await self.answer(message, call)

    async def answer(self, message: wire.RerankRequest, call: Call, item_id: str = "") -> wire.RerankResponse:
        """Answer one request, alone or (`item_id`) out of a batch."""
        request, warned, top = requests.rank_request(message, self.limits)
        request = requests.live(request, call, item_id)
        outcome = await self.reranker.rerank(request, deadline_at=call.deadline_at, warnings=warned)
        return answers.rerank_response(outcome, request, top)

    async def stream_rerank(
        self, message: wire.StreamRerankRequest, call: Call
    ) -> AsyncGenerator[wire.StreamRerankResponse]:
        """Put the documents in order, and show every order on the way, as fast as the reader reads."""
        interval_s = values.seconds(message.min_interval) if message.HasField("min_interval") else 0.0
        if interval_s < 0:
            raise InvalidRequest("min_interval", f"is {interval_s} s; at least 0, or unset for none")
        if not message.HasField("request"):
            raise InvalidRequest("request", "is missing")
        request, warned, top = requests.rank_request(message.request, self.limits)
        request = requests.live(request, call)
        latest = _Latest()
        work = asyncio.create_task(
            self.reranker.rerank(request, deadline_at=call.deadline_at, warnings=warned, on_snapshot=latest.put)
        )
        work.add_done_callback(lambda _: latest.end())
        try:
            while (snapshot := await latest.next(interval_s)) is not None:
                yield wire.StreamRerankResponse(snapshot=answers.snapshot(snapshot))
            yield wire.StreamRerankResponse(response=answers.rerank_response(await work, request, top))
        finally:
            await _cancelled([work])

    async def batch_rerank(
        self, messages: AsyncIterator[wire.BatchRerankRequest], call: Call
    ) -> AsyncGenerator[wire.BatchRerankResponse]:
        """Answer many requests as they are done. What is not read here stays with the writer: HTTP/2 holds it back."""
        batch = _Batch(self, call, asyncio.Semaphore(self.limits.batch_in_flight))
        reading = asyncio.create_task(batch.read(messages))
        # Wakes the loop below: nothing more will come in, or what came in could not be read.
        reading.add_done_callback(lambda _: batch.answers.put_nowait(None))
        try:
            while not reading.done() or batch.unanswered:
                answer = await batch.answers.get()
                if answer is None:
                    reading.result()
                    continue
                yield answer
                batch.taken()
            reading.result()
        finally:
            await _cancelled([reading, *batch.working])

    async def estimate(self, message: wire.EstimateRequest, _call: Call) -> wire.EstimateResponse:
        """Say what a rerank would cost. To try a plan over ten thousand documents takes a while: a thread does it."""
        if not message.HasField("request"):
            raise InvalidRequest("request", "is missing")
        request = self._sketched(message) if message.HasField("sketch") else self._given(message)
        pipeline, quote = await asyncio.to_thread(self.reranker.estimate, request)
        return _estimate_response(pipeline, quote)

    def _given(self, message: wire.EstimateRequest) -> RankRequest:
        if not message.request.documents:
            raise InvalidRequest("request.documents", "are none, and sketch is not set; one of them is needed")
        request, _, _ = requests.rank_request(message.request, self.limits)
        return request

    def _sketched(self, message: wire.EstimateRequest) -> RankRequest:
        sketch, inner = message.sketch, message.request
        if inner.documents:
            raise InvalidRequest("sketch", "is set, and so is request.documents; only one of them can count")
        if not 1 <= sketch.candidates <= self.limits.documents:
            raise InvalidRequest("sketch.candidates", f"is {sketch.candidates:,}; 1 to {self.limits.documents:,}")
        requests.top_n(inner)
        # A token is a byte at least, so that no document of the server has more.
        tokens = _tokens(sketch, "tokens_per_document", _SKETCHED_TOKENS, self.limits.document_bytes)
        query_tokens = _tokens(sketch, "query_tokens", _SKETCHED_QUERY_TOKENS, self.limits.query_bytes)
        if inner.query and not sketch.HasField("query_tokens"):
            query = validate.query(inner.query, self.limits)
        else:
            query = sketched_case("", 1, query_tokens).candidates[0].text
        case = sketched_case(query, sketch.candidates, tokens)
        return requests.ranked_request(inner, query, tuple(case.candidates), self.limits)

    async def compare(self, message: wire.CompareRequest, call: Call) -> wire.CompareResponse:
        """Set several pipelines side by side, all at once."""
        if not message.HasField("request"):
            raise InvalidRequest("request", "is missing")
        if message.request.pipeline or message.request.HasField("inline"):
            raise InvalidRequest("request.ranker", "is set; the contenders say who ranks")
        if not 1 <= len(message.contenders) <= self.limits.contenders:
            raise InvalidRequest(
                "contenders",
                f"are {len(message.contenders)}; 1 to {self.limits.contenders}",
                metadata={"limit": "contenders"},
            )
        depths = _depths(message.overlap_at)
        labels = _labels(message.contenders, self.reranker.default_pipeline)
        request, warned, top = requests.rank_request(message.request, self.limits)

        async def contend(contender: wire.Contender) -> Outcome:
            given = contender.HasField("inline")
            ranked = replace(
                request,
                pipeline=requests.name(contender.pipeline, self.limits),
                inline=requests.inline(contender.inline) if given else None,
            )
            return await self.reranker.rerank(ranked, deadline_at=call.deadline_at, warnings=warned)

        outcomes = await asyncio.gather(*map(contend, message.contenders), return_exceptions=True)
        response = wire.CompareResponse()
        orders: list[tuple[str, Sequence[int]]] = []
        for label, outcome in zip(labels, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                response.rankings.add(label=label, response=answers.rerank_response(outcome, request, top))
                orders.append((label, outcome.order))
            elif isinstance(outcome, Exception):
                response.rankings.add(label=label, error=status.failure(outcome, call.request_id).status)
            else:
                raise outcome  # a cancellation is nobody's answer
        response.agreements.extend(await asyncio.to_thread(_agreements, orders, depths))
        return response


# --- watching ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Latest:
    """Holds the latest snapshot for a reader that may be slow; earlier ones are dropped."""

    snapshot: Snapshot | None = None
    ended: bool = False
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    next_at: float = 0.0

    def put(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.moved.set()

    def end(self) -> None:
        self.ended = True
        self.moved.set()

    async def next(self, interval_s: float) -> Snapshot | None:
        """Return the latest snapshot once there is a new one and the interval is over; None at the end."""
        while not self.ended:
            wait_s = self.next_at - time.monotonic()
            if self.snapshot is not None and wait_s <= 0:
                snapshot, self.snapshot = self.snapshot, None
                self.next_at = time.monotonic() + interval_s
                return snapshot
            self.moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s if self.snapshot is not None else None):
                    await self.moved.wait()
        return None


# --- batches ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Batch:
    """The items of one stream that were read and whose answers the caller has not taken yet."""

    service: RerankService
    call: Call
    places: asyncio.Semaphore
    unanswered: int = 0
    working: set[asyncio.Task[None]] = field(default_factory=set)
    answers: asyncio.Queue[wire.BatchRerankResponse | None] = field(default_factory=asyncio.Queue)
    open_ids: set[str] = field(default_factory=set)

    async def read(self, messages: AsyncIterator[wire.BatchRerankRequest]) -> None:
        """Begin with items while there are places."""
        while True:
            await self.places.acquire()
            try:
                message = await anext(messages)
            except StopAsyncIteration:
                return
            self.unanswered += 1
            task = asyncio.create_task(self._work(message))
            self.working.add(task)
            task.add_done_callback(self.working.discard)

    def taken(self) -> None:
        """Give back the place of an item whose answer the caller has taken."""
        self.unanswered -= 1
        self.places.release()

    async def _work(self, message: wire.BatchRerankRequest) -> None:
        item_id = message.item_id
        try:
            validate.identify(item_id, self.service.limits, field="item_id")
            if item_id in self.open_ids:
                raise InvalidRequest("item_id", f"{item_id!r} is at work already; use another, or wait for its answer")
            self.open_ids.add(item_id)
            try:
                if not message.HasField("request"):
                    raise InvalidRequest("request", "is missing")
                response = await self.service.answer(message.request, self.call, item_id)
            finally:
                self.open_ids.discard(item_id)
            answer = wire.BatchRerankResponse(item_id=item_id, response=response)
        except Exception as error:  # noqa: BLE001  # an item that fails is answered, and does not end the stream
            failure = status.failure(error, self.call.request_id)
            answer = wire.BatchRerankResponse(item_id=item_id, error=failure.status)
        self.answers.put_nowait(answer)


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and wait until it has stopped and entered what it spent."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- quotes -----------------------------------------------------------------------------------------------------


def _tokens(sketch: wire.CandidateSketch, name: str, unset: int, at_most: int) -> int:
    if not sketch.HasField(name):  # type: ignore[arg-type]  # our own names
        return unset
    given: int = getattr(sketch, name)
    if not 0 <= given <= at_most:
        raise InvalidRequest(f"sketch.{name}", f"is {given:,}; 0 to {at_most:,}")
    return given


def _estimate_response(pipeline: Pipeline, quote: Estimate) -> wire.EstimateResponse:
    forecast = quote.forecast
    total = _estimated(quote.usage, forecast.questions)
    total.rounds = round(forecast.rounds)
    if forecast.questions_max is not None:
        total.questions_max = forecast.questions_max
    if forecast.exact:
        total.rounds_max = total.rounds
    if quote.usage_max is not None:
        _bound(total, quote.usage_max)
    response = wire.EstimateResponse(total=total, pipeline=pipeline.name)
    versions = set()
    for voice in quote.voices:
        account = voice.account
        usage = _estimated(voice.usage, voice.questions)
        usage.rounds = voice.rounds
        if forecast.exact:
            usage.questions_max = usage.questions
            _bound(usage, voice.usage)
        if voice.usage.calls and account.price_table_version:
            usage.price_table_version = account.price_table_version
            versions.add(account.price_table_version)
        response.stages.add(
            stage=account.stage,
            strategy=account.strategy,
            model=account.model,
            candidates_in=account.candidates_in,
            candidates_out=account.candidates_out,
            usage=usage,
        )
    if quote.time_s is not None:
        total.time.CopyFrom(values.duration(quote.time_s))
    total.price_table_version = ",".join(sorted(versions))
    response.total.CopyFrom(total)
    if quote.usage.cost_nano_usd is None:
        models = ", ".join(sorted({v.account.model for v in quote.voices if v.usage.cost_nano_usd is None}))
        unknown = Warned("PRICE_UNKNOWN", f"no prices are configured for {models}, so the cost is unset")
        response.warnings.extend(answers.warnings([unknown], ()))
    return response


def _estimated(usage: Usage, questions: float) -> wire.EstimatedUsage:
    return wire.EstimatedUsage(
        questions=round(questions),
        calls=usage.calls,
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        cost_nano_usd=usage.cost_nano_usd,
        cost_basis=ledgers.COST_BASES[usage.cost_basis],
    )


def _bound(message: wire.EstimatedUsage, usage: Usage) -> None:
    """Set the upper bounds."""
    message.prompt_tokens_max = usage.prompt_tokens
    message.output_tokens_max = usage.output_tokens
    if usage.cost_nano_usd is not None:
        message.cost_nano_usd_max = usage.cost_nano_usd


# --- comparisons ------------------------------------------------------------------------------------------------


def _depths(given: Sequence[int]) -> tuple[int, ...]:
    if len(given) > _OVERLAPS_MAX:
        raise InvalidRequest("overlap_at", f"are {len(given)}; at most {_OVERLAPS_MAX}")
    for place, depth in enumerate(given):
        if depth < 1:
            raise InvalidRequest(f"overlap_at[{place}]", f"is {depth}; at least 1")
    return tuple(given) or _OVERLAP_AT


def _labels(contenders: Sequence[wire.Contender], default_pipeline: str) -> list[str]:
    """Return what to call each contender: what it wants to be called, or a name made up of who ranks."""
    given = [contender.label for contender in contenders]
    for place, label in enumerate(given):
        if len(label.encode()) > _LABEL_BYTES_MAX:
            raise InvalidRequest(
                f"contenders[{place}].label", f"has {len(label.encode())} bytes; at most {_LABEL_BYTES_MAX}"
            )
        if label and label in given[:place]:
            raise InvalidRequest(f"contenders[{place}].label", f"{label!r} is there twice; each label once a request")
    taken = {label for label in given if label}
    labels = []
    for contender in contenders:
        label = contender.label
        if not label:
            strategies = "+".join(stage.strategy for stage in contender.inline.stages)
            base = (contender.pipeline or strategies or default_pipeline)[:_LABEL_BYTES_MAX]
            label, number = base, 1
            while label in taken:
                number += 1
                label = f"{base}#{number}"
            taken.add(label)
        labels.append(label)
    return labels


def _agreements(orders: Sequence[tuple[str, Sequence[int]]], depths: Sequence[int]) -> list[wire.Agreement]:
    """Return how far each two orders agree."""
    return [
        wire.Agreement(
            left=left,
            right=right,
            kendall_tau=kendall_tau(one, other),
            overlaps=[wire.Overlap(k=k, share=overlap(one, other, k)) for k in depths],
        )
        for place, (left, one) in enumerate(orders)
        for right, other in orders[place + 1 :]
    ]
