"""Text Embeddings Inference: `/rerank`, `/info`, `/health` (huggingface.github.io/text-embeddings-inference)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, NotRequired

import grpc
from pydantic import Field, field_validator
from typing_extensions import TypedDict

from podium_server.rest.asked import Answer, Asked, Body
from podium_server.rest.calls import milliseconds
from podium_server.rest.dialects.dialect import Dialect, plain
from podium_server.rest.faults import Fault


class TeiBody(Body):
    """What `/rerank` takes."""

    query: str
    texts: list[str]
    raw_scores: bool | None = Field(None, description="True: on the model's own scale.")
    return_text: bool | None = None
    truncate: bool | None = Field(None, description="False: a text longer than the model reads is an error.")
    truncation_direction: Literal["Left", "Right"] | None = Field(None, description="The end that is cut off.")

    @field_validator("truncation_direction", mode="before")
    @classmethod
    def _any_case(cls, given: object) -> object:
        return given.capitalize() if isinstance(given, str) else given


class Rank(TypedDict):
    """The place of a text."""

    index: int
    score: float
    text: NotRequired[str]


class Refused(TypedDict):
    """An error."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class Tei(Dialect[TeiBody]):
    """`/rerank`: all texts come back, the best first."""

    name = "tei"
    summary = "Text Embeddings Inference"
    body = TeiBody
    answer = list[Rank]
    error = Refused
    names: ClassVar[Mapping[str, str]] = {"documents": "texts"}

    def ask(self, body: TeiBody) -> Asked:
        """Return what a body asks for."""
        return Asked(
            query=body.query,
            texts=body.texts,
            keep_end=body.truncation_direction == "Left",
            must_fit=body.truncate is False,
            raw=bool(body.raw_scores),
            given=body.texts if body.return_text else None,
            ignored=body.unknown,
        )

    def write(self, answer: Answer) -> list[Rank]:
        """Return the body of an answer."""
        if answer.asked.given is None:
            return [Rank(index=index, score=score) for index, score in answer.placed]
        return [Rank(index=index, text=plain(answer.asked.texts[index]), score=score) for index, score in answer.placed]

    def headers(self, answer: Answer) -> Mapping[str, str]:
        """Return TEI's times, in milliseconds, and counts."""
        total = answer.response.ledger.total
        characters = len(answer.asked.query) * len(answer.asked.texts) + sum(map(len, map(plain, answer.asked.texts)))
        return {
            "x-compute-characters": str(characters),
            "x-compute-tokens": str(answer.prompt_tokens),
            "x-compute-time": str(round(milliseconds(total.backend_time))),
            "x-total-time": str(round(milliseconds(total.wall_time))),
            "x-tokenization-time": str(round(milliseconds(total.tokenize_time))),
            "x-queue-time": str(round(milliseconds(total.queue_time))),
            "x-inference-time": str(round(milliseconds(total.backend_time))),
        }

    def refuse(self, fault: Fault, request_id: str) -> tuple[int, Refused]:
        """Return the status and the body of an error, as TEI divides them up."""
        http, kind = _KINDS.get(fault.http, (fault.http, "Backend" if fault.http >= 500 else "Validation"))
        if fault.fields == ("texts",) and "none" in fault.message:
            http, kind = 400, "Empty"
        elif fault.code is grpc.StatusCode.INVALID_ARGUMENT and fault.http == 400:
            http = 413 if "limits." in fault.message else 422
        elif fault.reason in ("BACKEND_DOWN", "BACKEND_REFUSED", "UNREADABLE_REPLY"):
            http, kind = 424, "Backend"
        return http, Refused(error=fault.message, error_type=kind)  # type: ignore[typeddict-item]  # of the table


_KINDS = {429: (429, "Overloaded"), 503: (503, "Unhealthy")}
