"""Paths that several dialects share, at the root: told apart by their words, or answered with the fields of all.

A prefix (`/cohere`, `/jina`, `/voyage`, `/vllm`, `/tei`) says which dialect is meant. Without one, `/rerank`,
`/v1/rerank` and `/v2/rerank` look at what came: `texts` is TEI, keys and headers that only one dialect has are its own,
and what is left gets an answer that clients of Jina, vLLM, infinity and Cohere can all read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NotRequired
from uuid import uuid4

from pydantic import Field
from typing_extensions import TypedDict

from podium_server.rest.asked import Answer, Asked
from podium_server.rest.dialects import cohere, jina, vllm
from podium_server.rest.dialects.cohere import CohereV1, CohereV2
from podium_server.rest.dialects.dialect import Dialect, texts
from podium_server.rest.dialects.tei import Tei
from podium_server.rest.dialects.vllm import Vllm
from podium_server.rest.dialects.voyage import Voyage
from podium_server.rest.faults import Fault

_ONLY_COHERE_V1 = frozenset({"rank_fields", "max_chunks_per_doc"})
_ONLY_VOYAGE = frozenset({"top_k", "truncation"})


class SharedBody(cohere.V1Body):
    """What is common to the bodies of Jina, vLLM, infinity and Cohere."""

    query: str | jina.TextQuery  # type: ignore[assignment]  # wider
    return_documents: bool | None = Field(None, description="Unset: true, as Jina and vLLM have it.")
    top_n: int | None = Field(None, description="0 and unset: all.")
    user: str | None = None


class Reranked(TypedDict):
    """The answer, with the fields of all of them."""

    id: str
    object: str
    model: str
    usage: vllm.Usage
    results: list[jina.Result]
    meta: cohere.Meta


class Refused(TypedDict):
    """An error, with the fields of all of them."""

    id: str
    message: str
    detail: str
    error: vllm.ErrorInfo


class Shared(Dialect[SharedBody]):
    """`/rerank` and `/v1/rerank` where nothing says whose they are."""

    name = "shared"
    summary = "Jina, vLLM, infinity and Cohere at once"
    body = SharedBody
    answer = Reranked
    error = Refused

    def ask(self, body: SharedBody) -> Asked:
        """Return what a body asks for."""
        unread = ("priority", "max_chunks_per_doc", "user")
        return Asked(
            query=body.query if isinstance(body.query, str) else body.query.text,
            texts=texts(body.documents, body.rank_fields),
            model=body.model or "",
            top_n=body.top_n or None,
            instruction=body.instruction or "",
            max_tokens=body.max_tokens_per_doc,
            given=body.documents if body.return_documents is not False else None,
            ignored=(*(name for name in unread if getattr(body, name) is not None), *body.unknown),
        )

    def write(self, answer: Answer) -> Reranked:
        """Return the body of an answer."""
        return Reranked(
            id=f"rerank-{uuid4().hex}",
            object="list",
            model=answer.model,
            usage=vllm.usage(answer),
            results=jina.results(answer),
            meta=cohere.meta(answer, "1"),
        )

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Refused]:
        """Return the status and the body of an error."""
        return fault.http, refused(fault, request_id)


class RerankedV2(cohere.Reranked):
    """Cohere's answer, and what clients of vLLM look for in it."""

    model: NotRequired[str]
    usage: NotRequired[vllm.Usage]


class SharedV2(CohereV2):
    """`/v2/rerank` at the root: Cohere's, with `model` and `usage`, which clients of vLLM read on this path."""

    name = "shared-v2"
    summary = "Cohere v2, and vLLM on its path"
    answer = RerankedV2
    error: ClassVar[Any] = Refused

    def write(self, answer: Answer) -> RerankedV2:
        """Return the body of an answer."""
        made = super().write(answer)
        return RerankedV2(
            id=made["id"], results=made["results"], meta=made["meta"], model=answer.model, usage=vllm.usage(answer)
        )

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Any]:
        """Return the status and the body of an error."""
        return fault.http, refused(fault, request_id)


def refused(fault: Fault, request_id: str) -> Refused:
    """Return an error that clients of any dialect can read."""
    return Refused(id=request_id, message=fault.message, detail=fault.message, error=vllm.error(fault))


SHARED, SHARED_V2 = Shared(), SharedV2()
COHERE_V1, VOYAGE, VLLM, TEI = CohereV1(), Voyage(), Vllm(), Tei()


def of_rerank(body: Any, headers: Mapping[str, str]) -> Dialect[Any]:
    """Return whose body came to `/rerank`."""
    if isinstance(body, dict) and "texts" in body and "documents" not in body:
        return TEI
    return _of_common(body, headers)


def of_v1(body: Any, headers: Mapping[str, str]) -> Dialect[Any]:
    """Return whose body came to `/v1/rerank`."""
    return _of_common(body, headers)


def of_v2(body: Any, headers: Mapping[str, str]) -> Dialect[Any]:
    """Return whose body came to `/v2/rerank`."""
    return VLLM if isinstance(body, dict) and not vllm.WORDS.isdisjoint(body) else SHARED_V2


def _of_common(body: Any, headers: Mapping[str, str]) -> Dialect[Any]:
    if not isinstance(body, dict):
        return SHARED
    if not _ONLY_VOYAGE.isdisjoint(body):
        return VOYAGE
    if not vllm.WORDS.isdisjoint(body):
        return VLLM
    if not _ONLY_COHERE_V1.isdisjoint(body) or headers.get("x-fern-sdk-name") == "cohere":
        return COHERE_V1
    return SHARED
