"""Jina: `/v1/rerank` (api.jina.ai/redoc)."""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from podium_server.errors import InvalidRequest
from podium_server.rest.asked import Answer, Asked, Body
from podium_server.rest.dialects.dialect import Dialect, TextDocument, shown_text, texts
from podium_server.rest.faults import Fault


class TextQuery(BaseModel):
    """A query that is an object."""

    text: str


class JinaBody(Body):
    """What `/v1/rerank` takes."""

    model: str | None = Field(None, description="A pipeline, or a name that [rest.models] maps to one.")
    query: str | TextQuery
    documents: list[str | dict[str, Any]] = Field(description="Texts, or objects with `text`. Images are refused.")
    top_n: int | None = None
    return_documents: bool | None = Field(None, description="Unset: true.")
    max_doc_length: int | None = Field(None, description="Tokens of a document; longer ones are cut there.")
    return_embeddings: bool | None = Field(None, description="True is refused: there are none to return.")


class Usage(TypedDict):
    """Tokens of models."""

    total_tokens: int
    prompt_tokens: NotRequired[int]


class Result(TypedDict):
    """The place of a document."""

    index: int
    relevance_score: float
    document: NotRequired[TextDocument]


class Reranked(TypedDict):
    """The answer."""

    model: str
    object: str
    usage: Usage
    results: list[Result]


class Refused(TypedDict):
    """An error. Clients read `detail`."""

    detail: str


class Jina(Dialect[JinaBody]):
    """`/v1/rerank`."""

    name = "jina"
    summary = "Jina"
    body = JinaBody
    answer = Reranked
    error = Refused

    def ask(self, body: JinaBody) -> Asked:
        """Return what a body asks for."""
        if body.return_embeddings:
            raise InvalidRequest("return_embeddings", "is true, and a ranking has no embeddings to return")
        return Asked(
            query=body.query if isinstance(body.query, str) else body.query.text,
            texts=texts(body.documents),
            model=body.model or "",
            top_n=body.top_n,
            max_tokens=body.max_doc_length,
            given=body.documents if body.return_documents is not False else None,
            ignored=body.unknown,
        )

    def write(self, answer: Answer) -> Reranked:
        """Return the body of an answer."""
        return Reranked(model=answer.model, object="list", usage=usage(answer), results=results(answer))

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Refused]:
        """Return the status and the body of an error."""
        return fault.http, Refused(detail=fault.message)


def usage(answer: Answer) -> Usage:
    """Return the tokens."""
    return Usage(total_tokens=answer.total_tokens, prompt_tokens=answer.prompt_tokens)


def results(answer: Answer) -> list[Result]:
    """Return the places, with the documents where they are wanted."""
    if answer.asked.given is None:
        return [Result(index=index, relevance_score=score) for index, score in answer.placed]
    return [
        Result(index=index, relevance_score=score, document=shown_text(answer.asked, index))
        for index, score in answer.placed
    ]
