"""vLLM: `/rerank`, `/v1/rerank`, `/v2/rerank`, `/score`, `/v1/score` (docs.vllm.ai, pooling models)."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import grpc
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from podium_server.errors import InvalidRequest
from podium_server.rest.asked import Answer, Asked, Body
from podium_server.rest.dialects.dialect import Dialect
from podium_server.rest.faults import Fault

WORDS = frozenset({"truncate_prompt_tokens", "use_activation", "activation", "softmax", "mm_processor_kwargs"})
"""Keys that only vLLM has: they tell its bodies from others on a path that several share."""


class Content(BaseModel):
    """A text of several parts."""

    content: list[dict[str, Any]]


class Common(Body):
    """What both of its interfaces take."""

    model: str | None = Field(None, description="A pipeline, or a name that [rest.models] maps to one.")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Tokens of a document; longer ones are cut there. -1 and unset: what the model reads."
    )
    use_activation: bool | None = Field(None, description="False: scores on the model's own scale.")
    activation: bool | None = None
    softmax: bool | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    priority: int | None = None
    user: str | None = None
    instruction: str | None = None

    @property
    def raw(self) -> bool:
        """Whether scores are wanted as the model gives them."""
        said = next((flag for flag in (self.use_activation, self.activation, self.softmax) if flag is not None), True)
        return not said

    @property
    def max_tokens(self) -> int | None:
        """Of a document."""
        given = self.truncate_prompt_tokens
        return None if given is None or given < 1 else given

    @property
    def ignored(self) -> tuple[str, ...]:
        """What is not read."""
        unread = ("mm_processor_kwargs", "priority", "user")
        return (*(name for name in unread if getattr(self, name)), *self.unknown)


class RerankBody(Common):
    """What `/rerank` takes."""

    query: str | Content
    documents: list[str | Content] | Content
    top_n: int | None = Field(None, ge=0, description="0 and unset: all.")


class Document(TypedDict):
    """A document that is given back."""

    text: str
    multi_modal: None


class Result(TypedDict):
    """The place of a document."""

    index: int
    document: Document
    relevance_score: float


class Usage(TypedDict):
    """Tokens of models."""

    prompt_tokens: int
    total_tokens: int


class Reranked(TypedDict):
    """The answer."""

    id: str
    model: str
    usage: Usage
    results: list[Result]


class ErrorInfo(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: int


class Refused(TypedDict):
    """An error."""

    error: ErrorInfo


class Vllm(Dialect[RerankBody]):
    """`/rerank`, `/v1/rerank` and `/v2/rerank`: documents always come back."""

    name = "vllm"
    summary = "vLLM"
    body: type[Any] = RerankBody
    answer = Reranked
    error = Refused

    def ask(self, body: RerankBody) -> Asked:
        """Return what a body asks for."""
        documents = body.documents if isinstance(body.documents, list) else _parts(body.documents)
        texts = [text(document, f"documents[{place}]") for place, document in enumerate(documents)]
        return Asked(
            query=text(body.query, "query"),
            texts=texts,
            model=body.model or "",
            top_n=body.top_n or None,
            instruction=body.instruction or "",
            max_tokens=body.max_tokens,
            raw=body.raw,
            given=texts,
            ignored=body.ignored,
        )

    def write(self, answer: Answer) -> Reranked:
        """Return the body of an answer."""
        texts = answer.asked.texts
        results = [
            Result(index=index, document=Document(text=str(texts[index]), multi_modal=None), relevance_score=score)
            for index, score in answer.placed
        ]
        return Reranked(id=f"rerank-{uuid4().hex}", model=answer.model, usage=usage(answer), results=results)

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Refused]:
        """Return the status and the body of an error."""
        return fault.http, Refused(error=error(fault))


def error(fault: Fault) -> ErrorInfo:
    """Return an error as OpenAI's interfaces have it."""
    param = next(iter(fault.fields), None) or ("model" if fault.http == 404 and fault.reason else None)
    kind = _TYPES.get(fault.code, "InternalServerError" if fault.http >= 500 else "BadRequestError")
    return ErrorInfo(message=fault.message, type=kind, param=param, code=fault.http)


_TYPES = {
    grpc.StatusCode.NOT_FOUND: "NotFoundError",
    grpc.StatusCode.UNAUTHENTICATED: "AuthenticationError",
    grpc.StatusCode.PERMISSION_DENIED: "PermissionDeniedError",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "RateLimitError",
    grpc.StatusCode.UNAVAILABLE: "ServiceUnavailableError",
    grpc.StatusCode.DEADLINE_EXCEEDED: "TimeoutError",
}


def usage(answer: Answer) -> Usage:
    """Return the tokens."""
    return Usage(prompt_tokens=answer.prompt_tokens, total_tokens=answer.total_tokens)


def text(given: str | Content, where: str) -> str:
    """Return a text that may have several parts.

    Raises:
        InvalidRequest: a part is no text.

    """
    if isinstance(given, str):
        return given
    parts = [part.get("text") if part.get("type", "text") == "text" else None for part in given.content]
    for place, part in enumerate(parts):
        if not isinstance(part, str):
            raise InvalidRequest(f"{where}.content[{place}]", "is no text, which is all that pipelines read")
    return "\n".join(map(str, parts))


def _parts(given: Content) -> list[str | Content]:
    """Return the documents of one object: each part is one."""
    return [Content(content=[part]) for part in given.content]
