"""Cohere: `/v2/rerank` and `/v1/rerank` (docs.cohere.com/reference/rerank)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NotRequired
from uuid import uuid4

from pydantic import Field
from typing_extensions import TypedDict

from podium_server.rest.asked import Answer, Asked, Body
from podium_server.rest.dialects.dialect import Dialect, plain, texts
from podium_server.rest.faults import Fault

_DOCUMENTS_OF_A_UNIT = 100


class V2Body(Body):
    """What `/v2/rerank` takes."""

    model: str | None = Field(None, description="A pipeline, or a name that [rest.models] maps to one.")
    query: str
    documents: list[str | dict[str, Any]] = Field(
        description="Texts (structured data as YAML), or objects, of which rank_fields or `text` are read."
    )
    top_n: int | None = None
    max_tokens_per_doc: int | None = Field(None, description="Longer documents are cut there.")
    return_documents: bool | None = None
    rank_fields: list[str] | None = None
    instruction: str | None = None
    priority: int | None = None


class V1Body(V2Body):
    """What `/v1/rerank` takes."""

    max_chunks_per_doc: int | None = Field(None, description="Not read: how long documents are read is the pipeline's.")


class Result(TypedDict):
    """The place of a document."""

    index: int
    relevance_score: float
    document: NotRequired[dict[str, Any]]


class ApiVersion(TypedDict):
    """Which of Cohere's interfaces this is."""

    version: str
    is_experimental: NotRequired[bool]


class BilledUnits(TypedDict):
    """A unit is a query with up to 100 documents, as Cohere counts them."""

    search_units: int


class Tokens(TypedDict):
    """Tokens of models that were read and written."""

    input_tokens: int
    output_tokens: int


class Meta(TypedDict):
    """What else to know."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens
    warnings: NotRequired[list[str]]


class Reranked(TypedDict):
    """The answer."""

    id: str
    results: list[Result]
    meta: Meta


class Refused(TypedDict):
    """An error."""

    id: str
    message: str


class CohereV2(Dialect[V2Body]):
    """`/v2/rerank`."""

    name = "cohere-v2"
    summary = "Cohere, v2"
    body: type[Any] = V2Body
    answer: ClassVar[Any] = Reranked
    error: ClassVar[Any] = Refused
    version: ClassVar[str] = "2"

    def ask(self, body: V2Body) -> Asked:
        """Return what a body asks for."""
        unread = ("priority", "max_chunks_per_doc")
        return Asked(
            query=body.query,
            texts=texts(body.documents, body.rank_fields),
            model=body.model or "",
            top_n=body.top_n,
            instruction=body.instruction or "",
            max_tokens=body.max_tokens_per_doc,
            given=body.documents if body.return_documents else None,
            ignored=(*(name for name in unread if getattr(body, name, None) is not None), *body.unknown),
        )

    def write(self, answer: Answer) -> Reranked:
        """Return the body of an answer."""
        return Reranked(id=str(uuid4()), results=results(answer), meta=meta(answer, self.version))

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Refused]:
        """Return the status and the body of an error."""
        return fault.http, Refused(id=request_id, message=fault.message)


class CohereV1(CohereV2):
    """`/v1/rerank`."""

    name = "cohere-v1"
    summary = "Cohere, v1"
    body = V1Body
    version = "1"


def results(answer: Answer) -> list[Result]:
    """Return the places, with the documents where they are wanted: an object as it came, a text in one."""
    given = answer.asked.given
    if given is None:
        return [Result(index=index, relevance_score=score) for index, score in answer.placed]
    return [
        Result(index=index, relevance_score=score, document=_document(answer.asked, index))
        for index, score in answer.placed
    ]


def _document(asked: Asked, index: int) -> dict[str, Any]:
    assert asked.given is not None  # for mypy: `results` looked
    given = asked.given[index]
    return given if isinstance(given, dict) else {"text": plain(asked.texts[index])}


def meta(answer: Answer, version: str) -> Meta:
    """Return what it cost, in Cohere's units, and what to know."""
    made = Meta(
        api_version=ApiVersion(version=version)
        if version == "1"
        else ApiVersion(version=version, is_experimental=False),
        billed_units=BilledUnits(search_units=math.ceil(len(answer.asked.texts) / _DOCUMENTS_OF_A_UNIT)),
        tokens=Tokens(input_tokens=answer.prompt_tokens, output_tokens=answer.response.ledger.total.output_tokens),
    )
    if answer.notes:
        made["warnings"] = list(answer.notes)
    return made
