"""Endpoints that rank: a dialect's body in, `RerankService.Rerank` through the door, the dialect's body out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from podium.v1 import ranking_pb2, rerank_service_pb2
from podium_server.rest import asked, bodies, calls, scores
from podium_server.rest.answers import LEDGER_KEY, Rest, answered, json_response
from podium_server.rest.asked import Answer, Asked
from podium_server.rest.calls import Faulted, shown_ledger
from podium_server.rest.dialects.dialect import Dialect
from podium_server.rest.faults import Fault
from podium_server.transport.convert import reasons
from podium_server.transport.door import REQUEST_ID_KEY, Call

RERANK = "/podium.v1.RerankService/Rerank"

# Names come from configurations, where they may be anything.
_NOT_IN_HEADERS = re.compile(r"[^\x20-\x7e]")

Choose = Callable[[Any, Mapping[str, str]], Dialect[Any]]
"""Returns whose a body is, from it and the headers."""


@dataclass(slots=True)
class Reranking:
    """An endpoint.

    Args:
        rest: what endpoints share.
        dialect: of the endpoint; of its errors until the body tells more.
        choose: where several dialects share the path.

    """

    rest: Rest
    dialect: Dialect[Any]
    choose: Choose | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        one = _Request(self.rest, request, calls.call(request, RERANK, self.dialect.name), self.dialect, self.choose)
        await answered(scope, receive, send, one.call, one.work, lambda: one.refuse)


@dataclass(slots=True)
class _Request:
    """One request on its way."""

    rest: Rest
    request: Request
    call: Call
    dialect: Dialect[Any]
    choose: Choose | None
    asked: Asked = field(default_factory=lambda: Asked("", ()))
    mended: int = 0

    async def work(self) -> Response:
        """Return the answer."""
        held = await self.rest.bodies.read(self.request)
        try:
            method = self.rest.door.methods[RERANK]
            receive = self.request.receive
            response: Any = await calls.one(self.rest.door, method, lambda: self.read(held.data), self.call, receive)
            return self.write(response)
        finally:
            held.let_go()

    def read(self, data: bytes) -> rerank_service_pb2.RerankRequest:
        """Return the message that a body is. This happens inside the door: whoever may not enter has nothing read."""
        given = bodies.parse(data)
        if self.choose is not None:
            self.dialect = self.choose(given.value, self.call.metadata)
        self.mended = given.mended
        self.asked = self.dialect.ask(asked.read(self.dialect.body, given.value))
        if model := self.request.path_params.get("model", ""):
            self.asked = replace(self.asked, model=model)
        return asked.message(self.asked, self.rest.pipelines)

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Any]:
        """Return the status and the body of an error."""
        if fault.code is grpc.StatusCode.NOT_FOUND and fault.reason and self.rest.pipelines:
            names = ", ".join(sorted(self.rest.pipelines))
            fault = replace(fault, message=f"{fault.message}; names of [rest.models]: {names}")
        return self.dialect.refuse(fault.renamed(self.dialect.names), request_id)

    def write(self, response: rerank_service_pb2.RerankResponse) -> Response:
        """Return the answer of the dialect."""
        if self.asked.must_fit:
            _check_fit(response)
        given = scores.scores(response.ranking, len(self.asked.texts), raw=self.asked.raw)
        answer = Answer(
            asked=self.asked,
            response=response,
            scores=given,
            model=self.asked.model or response.pipeline,
            call=self.call,
            notes=notes(self.asked, response, given, self.mended),
        )
        headers = said(self.asked, response, given, self.mended) | {REQUEST_ID_KEY: self.call.request_id}
        return json_response(self.dialect.write(answer), headers=headers | dict(self.dialect.headers(answer)))


def said(
    asked: Asked, response: rerank_service_pb2.RerankResponse, given: scores.Scores, mended: int
) -> dict[str, str]:
    """Return what an answer says beside its body, because no dialect has a place for it."""
    codes = [_code(warning) for warning in response.warnings] + (["text_cleaned"] if mended else [])
    made = {
        "x-podium-pipeline": response.pipeline,
        "x-podium-completion": ranking_pb2.Completion.Name(response.completion).removeprefix("COMPLETION_").lower(),
        "x-podium-partial-reason": reasons.of_response(response),
        "x-podium-scores": given.said,
        "x-podium-warnings": ", ".join(dict.fromkeys(codes)),
        "x-podium-ignored": asked.said_ignored,
        LEDGER_KEY: shown_ledger(response.ledger),
    }
    return {key: _NOT_IN_HEADERS.sub("?", value) for key, value in made.items() if value}


def notes(
    asked: Asked, response: rerank_service_pb2.RerankResponse, given: scores.Scores, mended: int
) -> tuple[str, ...]:
    """Return the same for people."""
    made = [warning.message for warning in response.warnings]
    if mended:
        made.append(f"{mended} strings had lone surrogates, which were replaced by U+FFFD")
    if given.own < len(given.values):
        placed = "all documents" if not given.own else f"{len(given.values) - given.own} documents"
        made.append(f"the scores of {placed} follow from their places: the pipeline gives none from 0 to 1")
    if asked.ignored:
        made.append(f"not read: {asked.said_ignored}")
    return tuple(made)


def _code(warning: ranking_pb2.Warning) -> str:
    return ranking_pb2.WarningCode.Name(warning.code).removeprefix("WARNING_CODE_").lower()


def _check_fit(response: rerank_service_pb2.RerankResponse) -> None:
    """Refuse an answer over documents that were cut, where they had to fit.

    Raises:
        Faulted: with what was spent to find out.

    """
    for warning in response.warnings:
        if warning.code == ranking_pb2.WARNING_CODE_TRUNCATED:
            sentence = f"are longer than the model reads: {warning.message}. Send shorter ones, or let them be cut"
            raise Faulted(
                Fault(
                    400,
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"documents: {sentence}",
                    reason="INVALID_REQUEST",
                    violations=(("documents", sentence),),
                    spent=response.ledger,
                )
            )
