"""Voyage: `/v1/rerank` (docs.voyageai.com/reference/reranker-api)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NotRequired

import grpc
from pydantic import Field
from typing_extensions import TypedDict

from podium_server.rest.asked import Answer, Asked, Body
from podium_server.rest.dialects.dialect import Dialect, plain
from podium_server.rest.faults import Fault


class VoyageBody(Body):
    """What `/v1/rerank` takes."""

    query: str
    documents: list[str]
    model: str | None = Field(None, description="A pipeline, or a name that [rest.models] maps to one.")
    top_k: int | None = None
    return_documents: bool | None = None
    truncation: bool | None = Field(None, description="False: a document longer than the model reads is an error.")


class Usage(TypedDict):
    """Tokens of models."""

    total_tokens: int


class Result(TypedDict):
    """The place of a document."""

    relevance_score: float
    index: int
    document: NotRequired[str]


class Reranked(TypedDict):
    """The answer."""

    object: str
    data: list[Result]
    model: str
    usage: Usage


class Refused(TypedDict):
    """An error."""

    detail: str


class Voyage(Dialect[VoyageBody]):
    """`/v1/rerank`."""

    name = "voyage"
    summary = "Voyage"
    body = VoyageBody
    answer = Reranked
    error = Refused
    names: ClassVar[Mapping[str, str]] = {"top_n": "top_k"}

    def ask(self, body: VoyageBody) -> Asked:
        """Return what a body asks for."""
        return Asked(
            query=body.query,
            texts=body.documents,
            model=body.model or "",
            top_n=body.top_k,
            must_fit=body.truncation is False,
            given=body.documents if body.return_documents else None,
            ignored=body.unknown,
        )

    def write(self, answer: Answer) -> Reranked:
        """Return the body of an answer."""
        asked = answer.asked
        data = [Result(relevance_score=score, index=index) for index, score in answer.placed]
        if asked.given is not None:
            for result in data:
                result["document"] = plain(asked.texts[result["index"]])
        usage = Usage(total_tokens=answer.total_tokens)
        return Reranked(object="list", data=data, model=answer.model, usage=usage)

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Refused]:
        """Return the status and the body of an error. A model that is not there is a bad request, as at Voyage."""
        http = 400 if fault.code is grpc.StatusCode.NOT_FOUND and fault.reason else fault.http
        return http, Refused(detail=fault.message)
