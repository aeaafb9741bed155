"""Requests of the contract as the ranking works with them. Values are judged in `validate`.

The loop over documents is written for speed: a hundred documents come in well under half a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from podium.v1 import budget_pb2, document_pb2, rerank_service_pb2, strategy_pb2
from podium_server import validate
from podium_server.errors import InvalidRequest, NotFound
from podium_server.judges.case import Candidate, Side, Truncation
from podium_server.limits import Limits
from podium_server.ranking.request import Budget, Caller, Explain, OnExhausted, RankRequest, Warned
from podium_server.transport.convert.values import seconds, struct
from podium_strategies import prompts

if TYPE_CHECKING:
    from podium_server.transport.door import Call

_FIELDS_MAX = 32
_FIELD_NAME_BYTES_MAX = 64
_STAGES_MAX = 16
# What a person writes for a pipeline has a kilobyte or two.
_INLINE_BYTES_MAX = 64 * 1024

_ON_EXHAUSTED = {0: OnExhausted.PARTIAL, 1: OnExhausted.PARTIAL, 2: OnExhausted.FAIL}
_SIDES = {0: Side.END, 1: Side.END, 2: Side.START}
_EXPLAIN = {0: Explain.NONE, 1: Explain.NONE, 2: Explain.ROUNDS, 3: Explain.QUESTIONS}


class Ranked(Protocol):
    """What a rerank and a search have in common: all but where the candidates come from."""

    @property
    def pipeline(self) -> str: ...
    @property
    def inline(self) -> strategy_pb2.InlinePipeline: ...
    @property
    def instruction(self) -> str: ...
    @property
    def budget(self) -> budget_pb2.Budget: ...
    @property
    def truncation(self) -> strategy_pb2.Truncation: ...
    @property
    def seed(self) -> int: ...
    @property
    def explain(self) -> strategy_pb2.ExplainLevel.ValueType: ...


def rank_request(
    message: rerank_service_pb2.RerankRequest, limits: Limits
) -> tuple[RankRequest, tuple[Warned, ...], int | None]:
    """Return a request as the server works with it, what was mended in it, and how many of the best to answer with.

    Raises:
        InvalidRequest: with the path of the field.

    """
    query = validate.query(message.query, limits)
    top = top_n(message)
    candidates, warnings = validate.columns(*_columns(message.documents), limits)
    return ranked_request(message, query, candidates, limits), warnings, top


def ranked_request(
    message: rerank_service_pb2.RerankRequest | Any, query: str, candidates: tuple[Candidate, ...], limits: Limits
) -> RankRequest:
    """Return the request over candidates that are known already (or are not known yet, in a search)."""
    return RankRequest(
        query=query,
        candidates=candidates,
        pipeline=name(message.pipeline, limits),
        inline=inline(message.inline) if message.HasField("inline") else None,
        instruction=validate.instruction(message.instruction, limits) if message.instruction else "",
        budget=budget(message.budget) if message.HasField("budget") else _UNBOUNDED,
        truncation=truncation(message.truncation) if message.HasField("truncation") else _UNCUT,
        seed=message.seed,
        explain=explained(message),
    )


def explained(message: Ranked) -> Explain:
    """Return how much an answer shall tell."""
    explain: Explain = _known("explain", _EXPLAIN, message.explain)
    return explain


def live(request: RankRequest, call: Call, item_id: str = "") -> RankRequest:
    """Return the request as one that a caller waits for, so that it takes part in experiments."""
    name = f"{call.request_id}/{item_id}" if item_id else call.request_id
    return replace(request, caller=Caller(name, call.metadata))


def within_collection(request: RankRequest, collection: str) -> RankRequest:
    """Return the request over whatever a collection will bring."""
    return replace(request, collection=collection)


_UNBOUNDED = Budget()
_UNCUT = Truncation()


def top_n(message: Any) -> int | None:
    """Return how many of the best a request wants; None for all."""
    return validate.top_n(message.top_n) if message.HasField("top_n") else None


def name(given: str, limits: Limits) -> str:
    """Return the name of something of ours. Nothing has one that is longer than an id, so the rest is left out."""
    return given if len(given) <= limits.id_bytes else f"{given[:64]}…"


def _columns(messages: Sequence[document_pb2.Document]) -> tuple[list[str], list[str], list[float | None]]:
    """Return the ids, the texts (fields joined) and the prior scores of documents."""
    # Every look at the list makes a new object of each message that nobody holds.
    held = list(messages)
    ids = [message.id for message in held]
    texts = [message.text for message in held]
    prior_scores = [message.prior_score if message.HasField("prior_score") else None for message in held]
    if not all(texts):
        texts = [text(message, f"documents[{place}]") for place, message in enumerate(held)]
    return ids, texts, prior_scores


def text(message: document_pb2.Document, where: str) -> str:
    """Return the text of a document: its own, or its fields joined by a line feed each."""
    return "\n".join(part for _, part in fields(message, where)) if message.HasField("fields") else message.text


def fields(message: document_pb2.Document, where: str) -> tuple[tuple[str, str], ...]:
    """Return the fields of a document in their order, as name and text.

    Raises:
        InvalidRequest: too many, a name that is empty, too long or there twice.

    """
    parts = tuple((part.name, part.text) for part in message.fields.fields)
    if len(parts) > _FIELDS_MAX:
        raise InvalidRequest(f"{where}.fields", f"are {len(parts)}; at most {_FIELDS_MAX}. Join some of them")
    seen: set[str] = set()
    for place, (part, _) in enumerate(parts):
        path = f"{where}.fields.fields[{place}].name"
        size = len(part.encode())
        if not 1 <= size <= _FIELD_NAME_BYTES_MAX:
            raise InvalidRequest(path, f"has {size} bytes; 1 to {_FIELD_NAME_BYTES_MAX}")
        if part in seen:
            raise InvalidRequest(path, f"{part!r} is there twice; each name once a document")
        seen.add(part)
    return parts


def budget(message: budget_pb2.Budget, where: str = "budget") -> Budget:
    """Return what a request may spend."""

    def bound(field: str) -> int | None:
        given = getattr(message, field) if message.HasField(field) else None  # type: ignore[arg-type]  # our own names
        return validate.amount(given, field=f"{where}.{field}")

    soft_deadline_s = seconds(message.soft_deadline) if message.HasField("soft_deadline") else None
    return Budget(
        soft_deadline_s=validate.duration(soft_deadline_s, field=f"{where}.soft_deadline"),
        max_cost_nano_usd=bound("max_cost_nano_usd"),
        max_calls=bound("max_calls"),
        max_tokens=bound("max_tokens"),
        on_exhausted=_known(f"{where}.on_exhausted", _ON_EXHAUSTED, message.on_exhausted),
    )


def truncation(message: strategy_pb2.Truncation) -> Truncation:
    """Return how documents are cut."""
    tokens = message.max_tokens_per_document if message.HasField("max_tokens_per_document") else None
    if tokens is not None and tokens < 1:
        raise InvalidRequest(
            "truncation.max_tokens_per_document", f"is {tokens}; at least 1, or unset for what the model reads"
        )
    return Truncation(tokens, _known("truncation.side", _SIDES, message.side))


def inline(message: strategy_pb2.InlinePipeline, where: str = "inline") -> tuple[Mapping[str, Any], ...]:
    """Return the stages of an inline pipeline as a configuration file writes them."""
    if not 1 <= len(message.stages) <= _STAGES_MAX:
        raise InvalidRequest(f"{where}.stages", f"are {len(message.stages)}; 1 to {_STAGES_MAX}")
    if message.ByteSize() > _INLINE_BYTES_MAX:
        raise InvalidRequest(where, f"has {message.ByteSize():,} bytes; at most {_INLINE_BYTES_MAX:,}")
    return tuple(_inline_stage(stage, f"{where}.stages[{place}]") for place, stage in enumerate(message.stages))


def _inline_stage(message: strategy_pb2.InlineStrategy, where: str) -> dict[str, Any]:
    if not message.strategy:
        raise InvalidRequest(f"{where}.strategy", "is empty; CatalogService.ListStrategies names those there are")
    stage: dict[str, Any] = {"strategy": message.strategy}
    if message.model:
        stage["model"] = message.model
    if message.prompt:
        stage["prompt"] = message.prompt
    if message.HasField("keep"):
        if message.keep < 1:
            raise InvalidRequest(f"{where}.keep", f"is {message.keep}; at least 1, or unset for all")
        stage["keep"] = message.keep
    for key, value in struct(message.options).items():
        if key in ("strategy", "model", "prompt", "keep"):
            raise InvalidRequest(f"{where}.options.{key}", f"is no option of a strategy; set {where}.{key}")
        stage[key] = value
    _refuse_files(stage)
    return stage


def _refuse_files(given: Any) -> None:
    """Refuse prompts by path, at any depth: a configuration may name files of the server, a caller may not."""
    match given:
        case dict():
            prompt = given.get("prompt")
            if isinstance(prompt, str) and prompt.endswith(".toml"):
                raise NotFound("prompt", prompt, prompts.names())
            for entry in given.values():
                _refuse_files(entry)
        case list():
            for entry in given:
                _refuse_files(entry)


def _known(field: str, table: Mapping[int, Any], number: int) -> Any:
    try:
        return table[number]
    except KeyError:
        raise InvalidRequest(field, f"is {number}, which stands for nothing") from None
