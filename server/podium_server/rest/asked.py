"""What a dialect asks for, in no dialect's words, and the message of the contract that it becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from podium.v1 import document_pb2, rerank_service_pb2, strategy_pb2
from podium_server.errors import InvalidRequest
from podium_server.rest import scores
from podium_server.transport.door import Call

Text: TypeAlias = str | tuple[tuple[str, str], ...]
"""A document: a text, or named parts in the order in which they are read."""

INT32_MAX = 2**31 - 1
_IGNORED_SHOWN_MAX = 10
_NOT_FOR_HEADERS = re.compile(r"[^\w.\[\]-]")


class Body(BaseModel):
    """A body of a dialect. What it does not know it keeps, to say that it was not read."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The keys that this dialect does not have."""
        return tuple(self.model_extra or ())


B = TypeVar("B", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Asked:
    """A rerank.

    Args:
        query: what is looked for.
        texts: of the documents, in first-stage order.
        model: as the client named it; empty for the default pipeline.
        top_n: how many of the best to answer with; None for all.
        instruction: for models that take one.
        max_tokens: of one document; None for what the model reads.
        keep_end: cut documents at their beginning.
        must_fit: a document that does not fit is an error.
        raw: scores on the models' own scale.
        given: the documents as they came, where the answer shall show them.
        ignored: what was asked for and has no meaning here.

    """

    query: str
    texts: Sequence[Text]
    model: str = ""
    top_n: int | None = None
    instruction: str = ""
    max_tokens: int | None = None
    keep_end: bool = False
    must_fit: bool = False
    raw: bool = False
    given: Sequence[Any] | None = None
    ignored: tuple[str, ...] = ()

    @property
    def said_ignored(self) -> str:
        """What was not read, for a header."""
        # A key of JSON may be empty, and no value of a header may end in a blank.
        shown = [_NOT_FOR_HEADERS.sub("?", name[:40], 0) or '""' for name in self.ignored[:_IGNORED_SHOWN_MAX]]
        more = [f"and {len(self.ignored) - len(shown)} more"] if len(self.ignored) > len(shown) else []
        return ", ".join([*shown, *more])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it.

    Args:
        asked: the question.
        response: of the contract.
        scores: of each document of the ranking, as the dialect promises them.
        model: as the client named it, or the pipeline that was used.
        call: whose answer it is.
        notes: what to know, for people.

    """

    asked: Asked
    response: rerank_service_pb2.RerankResponse
    scores: scores.Scores
    model: str
    call: Call
    notes: tuple[str, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """That were read."""
        return self.response.ledger.total.prompt_tokens

    @property
    def total_tokens(self) -> int:
        """That were read and written."""
        return self.prompt_tokens + self.response.ledger.total.output_tokens

    @property
    def placed(self) -> list[tuple[int, float]]:
        """The places in the request, the best first, with their scores."""
        return [(ranked.input_index, score) for ranked, score in zip(self.response.ranking, self.scores.values)]  # noqa: B905


def read(kind: type[B], value: Any) -> B:
    """Return a body as its dialect has it.

    Raises:
        InvalidRequest: with the path of each field, and without what stood there: it may be a document.

    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        # A union tells of each of its kinds; the first says it.
        told: dict[str, str] = {}
        for mistake in found:
            told.setdefault(path(mistake["loc"]), mistake["msg"].removeprefix("Value error, "))
        first, *also = told.items()
        raise InvalidRequest(*first, also=also[:20]) from None


_TAG = re.compile(r"^(?:str|int|float|bool|dict\[.*|list\[.*|function-.*|constrained-.*|[A-Z]\w*)$")


def path(location: Sequence[int | str]) -> str:
    """Return `documents[3].text` for what pydantic calls ("documents", 3, "TextDocument", "text")."""
    said = ""
    for place, part in enumerate(location):
        if isinstance(part, int):
            said += f"[{part}]"
        elif place == 0 or not _TAG.match(part):
            said += f".{part}" if said else part
    return said[:200] or "body"


def message(asked: Asked, pipelines: Mapping[str, str]) -> rerank_service_pb2.RerankRequest:
    """Return the request of the contract.

    Args:
        asked: by a dialect.
        pipelines: what each name that clients send stands for; another is a pipeline's own.

    """
    made = rerank_service_pb2.RerankRequest(
        query=asked.query,
        instruction=asked.instruction,
        documents=[_document(text) for text in asked.texts],
        pipeline=pipelines.get(asked.model, asked.model),
        # More than there are is as good as all, in every dialect.
        top_n=None if asked.top_n is None else max(-1, min(asked.top_n, INT32_MAX)),
    )
    if asked.max_tokens is not None:
        made.truncation.max_tokens_per_document = max(-1, min(asked.max_tokens, INT32_MAX))
    if asked.keep_end:
        made.truncation.side = strategy_pb2.TRUNCATION_SIDE_START
    return made


def _document(text: Text) -> document_pb2.Document:
    if isinstance(text, str):
        return document_pb2.Document(text=text)
    fields = [document_pb2.Field(name=name, text=part) for name, part in text]
    return document_pb2.Document(fields=document_pb2.Fields(fields=fields))


def as_text(value: Any) -> str:
    """Return a value of a document's field as text: a string as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
