"""vLLM's `/score`: how well texts match, in the order in which they came.

One text against many is one rerank. Many against as many are pairs: a `BatchRerank` with an item for each first text,
whose scores have to stand alone, so that a pipeline that only orders is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from podium.v1 import ledger_pb2, ranking_pb2, rerank_service_pb2
from podium_server.errors import InvalidRequest
from podium_server.rest import asked, bodies, calls, faults, scores
from podium_server.rest.answers import Rest, answered, json_response
from podium_server.rest.asked import Asked
from podium_server.rest.calls import Faulted
from podium_server.rest.dialects.vllm import Common, Content, Usage, Vllm, text
from podium_server.rest.faults import Fault
from podium_server.rest.reranking import RERANK, said
from podium_server.transport.door import REQUEST_ID_KEY, Call

BATCH = "/podium.v1.RerankService/BatchRerank"

Texts = str | list[str | Content] | Content
_NAMES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
_RAW_KINDS = (ranking_pb2.SCORE_KIND_COSINE, ranking_pb2.SCORE_KIND_MAXSIM)


class ScoreBody(Common):
    """What `/score` takes: text_1 and text_2, or queries and documents (or items), or data_1 and data_2."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = Field(None)
    data_1: Texts | None = None
    data_2: Texts | None = None

    @model_validator(mode="after")
    def _one_pair(self) -> ScoreBody:
        if sum(getattr(self, one) is not None and getattr(self, other) is not None for one, other in _NAMES) != 1:
            raise ValueError("takes text_1 and text_2, or queries and documents: one pair of them")
        return self

    @property
    def pair(self) -> tuple[str, str]:
        """The names of the two that were given."""
        return next(pair for pair in _NAMES if all(getattr(self, name) is not None for name in pair))


class Score(TypedDict):
    """The score of one text, or of one pair."""

    index: int
    object: str
    score: float


class Scored(TypedDict):
    """The answer."""

    id: str
    object: str
    created: int
    model: str
    data: list[Score]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Group:
    """The texts that are scored against one text."""

    query: str
    places: Sequence[int]
    texts: Sequence[str]


@dataclass(slots=True)
class Scoring:
    """The endpoint."""

    rest: Rest
    dialect: Vllm = field(default_factory=Vllm)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        one = _Request(self.rest, request, calls.call(request, RERANK, self.dialect.name))
        await answered(scope, receive, send, one.call, one.work, lambda: self.dialect.refuse)


@dataclass(slots=True)
class _Request:
    rest: Rest
    request: Request
    call: Call
    body: ScoreBody = field(default_factory=lambda: ScoreBody(text_1="", text_2=""))
    groups: Sequence[Group] = ()
    mended: int = 0

    async def work(self) -> Response:
        """Return the answer."""
        held = await self.rest.bodies.read(self.request)
        try:
            self._read(held.data)
            if len(self.groups) == 1:
                responses = [await self._one()]
            else:
                self.call = self.call._replace(method=BATCH)
                responses = await self._pairs()
            return self._write(responses)
        finally:
            held.let_go()

    def _read(self, data: bytes) -> None:
        """Read the body. Which method is called depends on it, so that it is read before the door.

        Raises:
            Faulted: it cannot be read.

        """
        try:
            given = bodies.parse(data)
            self.mended = given.mended
            self.body = asked.read(ScoreBody, given.value)
            self.groups = groups(self.body, self.rest.limits.documents)
        except InvalidRequest as error:
            raise Faulted(faults.of_error(error, self.call.request_id)) from error

    def _message(self, group: Group) -> rerank_service_pb2.RerankRequest:
        return asked.message(self._asked(group), self.rest.pipelines)

    def _asked(self, group: Group) -> Asked:
        body = self.body
        return Asked(
            query=group.query,
            texts=group.texts,
            model=body.model or "",
            instruction=body.instruction or "",
            max_tokens=body.max_tokens,
            raw=body.raw,
            ignored=body.ignored,
        )

    async def _one(self) -> rerank_service_pb2.RerankResponse:
        door, message = self.rest.door, self._message(self.groups[0])
        made: Any = await calls.one(door, door.methods[RERANK], lambda: message, self.call, self.request.receive)
        return made  # type: ignore[no-any-return]

    async def _pairs(self) -> list[rerank_service_pb2.RerankResponse]:
        """Return the answers of all groups.

        Raises:
            Faulted: one of them failed.

        """

        async def items() -> AsyncIterator[rerank_service_pb2.BatchRerankRequest]:
            for number, group in enumerate(self.groups):
                yield rerank_service_pb2.BatchRerankRequest(item_id=str(number), request=self._message(group))

        door = self.rest.door
        found: dict[int, rerank_service_pb2.RerankResponse] = {}
        for each in await calls.all_of(door, door.methods[BATCH], items, self.call, self.request.receive):
            answer: Any = each
            if answer.HasField("error"):
                raise Faulted(faults.of_status(answer.error))
            found[int(answer.item_id)] = answer.response
        return [found[number] for number in range(len(self.groups))]

    def _write(self, responses: Sequence[rerank_service_pb2.RerankResponse]) -> Response:
        values: dict[int, float] = {}
        given = scores.Scores((), ranking_pb2.SCORE_KIND_NONE, 0)
        for group, response in zip(self.groups, responses, strict=True):
            kind = response.ranking[0].score_kind
            # An encoder's cosine is what vLLM answers with for one, too.
            raw = self.body.raw or kind in _RAW_KINDS
            given = scores.scores(response.ranking, len(group.texts), raw=raw)
            if len(self.groups) > 1 and (kind in scores.WITHIN_A_LIST or given.own < len(given.values)):
                raise Faulted(_no_scores(response, kind))
            for ranked, score in zip(response.ranking, given.values, strict=True):
                values[group.places[ranked.input_index]] = score
        spent = added([response.ledger for response in responses])
        whole = rerank_service_pb2.RerankResponse()
        whole.CopyFrom(responses[0])
        whole.ledger.CopyFrom(spent)
        tokens = spent.total.prompt_tokens
        scored = Scored(
            id=f"score-{uuid4().hex}",
            object="list",
            created=int(time.time()),
            model=self.body.model or whole.pipeline,
            data=[Score(index=index, object="score", score=values[index]) for index in sorted(values)],
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens + spent.total.output_tokens),
        )
        headers = said(self._asked(self.groups[0]), whole, given, self.mended)
        return json_response(scored, headers=headers | {REQUEST_ID_KEY: self.call.request_id})


def groups(body: ScoreBody, pairs_max: int) -> list[Group]:
    """Return what is scored against what, each first text once.

    Raises:
        InvalidRequest: none, too many, or numbers of texts that do not pair.

    """
    one, other = body.pair
    queries, texts = _texts(getattr(body, one), one), _texts(getattr(body, other), other)
    if len(queries) not in (1, len(texts)):
        raise InvalidRequest(one, f"are {len(queries)}, and {other} are {len(texts)}; one, or as many")
    if not 1 <= len(texts) <= pairs_max:
        raise InvalidRequest(other, f"are {len(texts):,}; 1 to limits.documents, which is {pairs_max:,}")
    if len(queries) == 1:
        return [Group(queries[0], range(len(texts)), texts)]
    places: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        places.setdefault(query, []).append(place)
    return [Group(query, found, [texts[place] for place in found]) for query, found in places.items()]


def _texts(given: Texts, name: str) -> list[str]:
    if isinstance(given, list):
        return [text(each, f"{name}[{place}]") for place, each in enumerate(given)]
    return [text(given, name)]


def _no_scores(response: rerank_service_pb2.RerankResponse, kind: scores.Kind) -> Fault:
    message = (
        f"pipeline {response.pipeline!r} gives {scores.kind_name(kind)} scores, which mean nothing for a pair alone; "
        "name one whose scores are logits, probabilities, grades or cosines, or rank with /rerank"
    )
    made = faults.of_http(400, message, {})
    return Fault(400, grpc.StatusCode.FAILED_PRECONDITION, message, spent=response.ledger, status=made.status)


def added(ledgers: Sequence[ledger_pb2.Ledger]) -> ledger_pb2.Ledger:
    """Return what several requests cost together; one alone keeps its stages."""
    if len(ledgers) == 1:
        return ledgers[0]
    total = ledger_pb2.Usage(cost_basis=ledgers[0].total.cost_basis)
    counts = [one.name for one in total.DESCRIPTOR.fields if one.cpp_type == one.CPPTYPE_INT64]
    for name in counts:
        if name != "cost_nano_usd":
            setattr(total, name, sum(getattr(ledger.total, name) for ledger in ledgers))
    if all(ledger.total.HasField("cost_nano_usd") for ledger in ledgers):
        total.cost_nano_usd = sum(ledger.total.cost_nano_usd for ledger in ledgers)
    if len({ledger.total.cost_basis for ledger in ledgers}) > 1:
        total.cost_basis = ledger_pb2.COST_BASIS_MIXED
    return ledger_pb2.Ledger(total=total)
