"""How rerank endpoints are spoken to: one table of dialects, what is asked in each, and the reading of what comes back.

A reply is foreign data: its scores, each by the index of its document, or `Unreadable`. No I/O here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from podium_server.backends.json_errors import error_body
from podium_server.errors import known_names

Scale: TypeAlias = Literal["probability", "logit", "cosine"]
"""What an endpoint's number is. A probability lies between 0 and 1, whatever it was trained to mean."""

_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to ask for relevance scores over HTTP.

    Args:
        name: in the configuration.
        path: behind the endpoint's address.
        documents_max: that one request may have; more are split.
        home: the provider's own address; empty for what people run themselves.
        key_variable: the environment variable that holds a key for that address.
        documents: the field with the texts.
        results: the field with the list of scores; empty where the reply is that list.
        score: the field with a document's score.
        takes_model: whether a request names a model.
        always: fields that every request has.
        raw: fields that ask for the score before its sigmoid; empty where the endpoint gives none.
        max_tokens: the field that says how much of a document is read; empty where there is none.
        instruction: the field for what counts as relevant; empty where there is none.
        tokens_header: of the reply, with the tokens that were read, where its body does not tell.
        tokens_max: of one request, the query counted once a document; None is unbounded.
        by_search_units: billed by searches: a query with up to 100 documents.
        scale: of the scores that are given without asking.

    """

    name: str
    path: str
    documents_max: int
    home: str = ""
    key_variable: str = ""
    documents: str = "documents"
    results: str = "results"
    score: str = "relevance_score"
    takes_model: bool = True
    always: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS, hash=False)
    raw: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS, hash=False)
    max_tokens: str = ""
    instruction: str = ""
    tokens_header: str = ""
    tokens_max: int | None = None
    by_search_units: bool = False
    scale: Scale = "probability"

    def address(self, base_url: str) -> str:
        """Return the whole address of the endpoint.

        The path is added to the address, of which it may repeat the end: `http://host`, `http://host/v1` and
        `http://host/v1/rerank` all lead to `/v1/rerank` there.
        """
        base = base_url.rstrip("/")
        if base.endswith("/rerank"):
            return base
        first, _, _ = self.path.rpartition("/rerank")
        return f"{base}/rerank" if first and base.endswith(first) else base + self.path

    def body(
        self,
        query: str,
        texts: Sequence[str],
        *,
        model: str,
        raw: bool = False,
        max_tokens: int | None = None,
        instruction: str = "",
    ) -> dict[str, Any]:
        """Return the fields of a request for the scores of all texts.

        Args:
            query: any string.
            texts: of the documents, one at least.
            model: as the endpoint calls it.
            raw: ask for scores before their sigmoid; only where the dialect has a field for it.
            max_tokens: of a document that the endpoint is to read; said where the dialect has a field for it.
            instruction: likewise.

        """
        fields: dict[str, Any] = {"query": query, self.documents: list(texts), **self.always}
        if self.takes_model:
            fields["model"] = model
        if raw:
            fields |= self.raw
        if self.max_tokens and max_tokens is not None:
            fields[self.max_tokens] = max_tokens
        if self.instruction and instruction:
            fields[self.instruction] = instruction
        return fields


# The limits are those that the providers document, or that are in the sources of what people run themselves:
# Cohere: 10,000 documents, more than 1,000 discouraged; v1: documents × max_chunks_per_doc (10) at most 10,000.
# Voyage: 1,000 documents, and 600,000 tokens (rerank-1: 300,000). infinity: ITEMS_LIMIT. TEI: --max-client-batch-size.
# Jina and vLLM say nothing of documents; a request of 1,000 is one that nobody else of these refuses.
_ALL = (
    Dialect(
        name="cohere-v2",
        path="/v2/rerank",
        documents_max=1_000,
        home="https://api.cohere.com",
        key_variable="CO_API_KEY",
        max_tokens="max_tokens_per_doc",
        by_search_units=True,
    ),
    Dialect(
        name="cohere-v1",
        path="/v1/rerank",
        documents_max=1_000,
        home="https://api.cohere.com",
        key_variable="CO_API_KEY",
        always={"return_documents": False},
        by_search_units=True,
    ),
    Dialect(
        name="jina",
        path="/v1/rerank",
        documents_max=1_000,
        home="https://api.jina.ai",
        key_variable="JINA_API_KEY",
        always={"return_documents": False},  # it returns them otherwise
    ),
    Dialect(
        name="voyage",
        path="/v1/rerank",
        documents_max=1_000,
        home="https://api.voyageai.com",
        key_variable="VOYAGE_API_KEY",
        results="data",
        always={"return_documents": False, "truncation": True},
        tokens_max=600_000,
    ),
    Dialect(
        name="tei",
        path="/rerank",
        documents_max=32,
        documents="texts",
        results="",
        score="score",
        takes_model=False,
        always={"truncate": True},  # it refuses longer ones otherwise
        raw={"raw_scores": True},
        tokens_header="x-compute-tokens",
    ),
    Dialect(
        name="infinity",
        path="/rerank",
        documents_max=2_048,
        always={"return_documents": False},
        raw={"raw_scores": True},
    ),
    Dialect(
        name="vllm",
        path="/rerank",
        documents_max=1_000,
        always={"truncate_prompt_tokens": -1},  # to what the model can hold; it refuses longer ones otherwise
        raw={"use_activation": False},
        max_tokens="max_tokens_per_doc",
        instruction="instruction",
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({one.name: one for one in _ALL})


def dialect(name: str) -> Dialect:
    """Return the dialect of that name.

    Raises:
        ValueError: there is none; with the names that there are.

    """
    try:
        return DIALECTS[name]
    except KeyError:
        raise ValueError(f"no dialect is named {name!r}{known_names(name, tuple(DIALECTS))}") from None


class Unreadable(Exception):
    """A reply is not the scores of what was asked. The text goes behind the endpoint's name, after `sent`."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an endpoint said of itself and of what it used; None or empty where it did not say."""

    model: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    search_units: int | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One reply: a score for each text, in the order in which they were sent."""

    scores: tuple[float, ...]
    told: Told


def read(spoken: Dialect, raw: bytes, count: int, headers: Mapping[str, str] = _NO_FIELDS) -> Scored:
    """Read the body of a reply for `count` texts, which is foreign data: any bytes at all.

    Raises:
        Unreadable: it does not have a finite score for each text, by its index, and no other.

    """
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        raise Unreadable(error_body(raw).message) from None
    results = body if not spoken.results else body.get(spoken.results) if isinstance(body, dict) else None
    if not isinstance(results, list):
        raise Unreadable(f"no list of {spoken.results or 'scores'}")
    return Scored(_scores(spoken, results, count), _told(spoken, body, headers))


def told_of(spoken: Dialect, raw: bytes, headers: Mapping[str, str]) -> Told:
    """Return what a reply says of what it used, even where its scores cannot be read."""
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    return _told(spoken, body, headers)


def _scores(spoken: Dialect, results: Sequence[Any], count: int) -> tuple[float, ...]:
    scores: list[float | None] = [None] * count
    for one in results:
        if not isinstance(one, dict):
            raise Unreadable("a result that is no object")
        index, score = one.get("index"), one.get(spoken.score)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count:
            raise Unreadable(f"a result with the index {_short(index)}, and {count} documents were sent")
        if scores[index] is not None:
            raise Unreadable(f"two results with the index {index}")
        scores[index] = _number(score, index)
    known = tuple(score for score in scores if score is not None)
    if len(known) < count:
        raise Unreadable(f"{len(known)} scores for {count} documents")
    return known


def _number(score: Any, index: int) -> float:
    if isinstance(score, int | float) and not isinstance(score, bool):
        try:
            if math.isfinite(value := float(score)):
                return value
        except OverflowError:
            pass
    raise Unreadable(f"the score {_short(score)} for the document {index}")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:39] + "…"


def _told(spoken: Dialect, body: Any, headers: Mapping[str, str]) -> Told:
    fields = body if isinstance(body, dict) else {}
    usage, meta = _table(fields, "usage"), _table(fields, "meta")
    tokens, billed = _table(meta, "tokens"), _table(meta, "billed_units")
    read_tokens = _first(usage.get("prompt_tokens"), usage.get("total_tokens"), tokens.get("input_tokens"))
    if read_tokens is None and spoken.tokens_header:
        read_tokens = _first(headers.get(spoken.tokens_header))
    cached = _first(meta.get("cached_tokens"))
    model = fields.get("model")
    return Told(
        model=model[:256] if isinstance(model, str) else "",
        prompt_tokens=read_tokens,
        cached_tokens=None if cached is None or read_tokens is None else min(cached, read_tokens),
        search_units=_first(billed.get("search_units")) if spoken.by_search_units else None,
    )


def _table(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> int | None:
    """Return the first that is an amount; Cohere writes its amounts as 1.0, and a header is text."""
    for value in values:
        if isinstance(value, str):
            value = int(value) if value.isascii() and value.isdigit() and len(value) < 16 else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _AMOUNT_MAX:
            return math.ceil(value)
    return None


# Beyond what any request uses; an amount that an endpoint tells must not be able to empty a budget for good.
_AMOUNT_MAX = 10**10
